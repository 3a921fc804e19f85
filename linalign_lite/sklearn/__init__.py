"""scikit-learn estimators: maps as transformers, heads as classifiers, outlier detectors.

Needs the extra `sklearn`. The estimators call `fit`, `fit_kl`, `train_head` and `fit_detector` and
keep what these return in `affine_`, `head_` and `detector_`, which `save` writes to files.
"""

from linalign_lite.errors import import_extra

import_extra("sklearn", extra="sklearn", purpose="linalign_lite.sklearn")

from linalign_lite.sklearn.affine_aligner import AffineAligner  # noqa: E402
from linalign_lite.sklearn.head_classifier import HeadClassifier  # noqa: E402
from linalign_lite.sklearn.outlier_detector import OutlierDetector  # noqa: E402

__all__ = ["AffineAligner", "HeadClassifier", "OutlierDetector"]
