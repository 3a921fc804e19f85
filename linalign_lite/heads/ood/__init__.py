"""Out-of-distribution detection: score how far states lie from the training distribution.

In-distribution states go in; a `Detector` comes out, which scores states (higher is more outlying)
and applies a threshold. `detectors` has one file per family, `detector_training` fits,
`model_selection` compares methods, `report` has figures (AUROC and others).
"""
