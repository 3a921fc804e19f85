"""Train and evaluate linear classifiers, and detect texts unlike those they were trained on.

Labelled hidden states go in; a `Head`, an `Evaluation` or a `Detector` comes out. `ood` holds the
detectors and their reports; `serialization` saves and loads all `.npz` files, detectors too.
"""
