"""Train and evaluate linear classifiers, and detect out-of-distribution texts.

Labelled hidden states go in; a `Head`, an `Evaluation` or a `Detector` comes out. `ood` holds the
detectors and their reports; `serialization` saves and loads all `.npz` files, detectors too.
"""
