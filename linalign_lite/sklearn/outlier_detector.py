"""Out-of-distribution detectors as scikit-learn outlier detectors."""

from __future__ import annotations

import dataclasses
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_consistent_length, validate_data

from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import InputError
from linalign_lite.heads.ood.detector import TPR, Detector
from linalign_lite.heads.ood.detector_training import BANK, K, fit_detector
from linalign_lite.heads.ood.detectors import NEEDS_CLASSES, NEEDS_HEAD
from linalign_lite.heads.ood.detectors.base import Float64
from linalign_lite.heads.training import train_head
from linalign_lite.sklearn.conversion import (
    DTYPES,
    Rows,
    as_given,
    fitted_states,
    labelled_states,
    rows_of,
    value_errors,
)


class OutlierDetector(OutlierMixin, BaseEstimator):
    """Separate rows unlike the training rows, −1, from others, 1: `linalign_lite.fit_detector`.

    method: "mahalanobis", "knn" and "whitened-knn" need no labels; the first and last use those
    given; "relative-mahalanobis" and "cosine" need labels; "energy", "msp", "max-logit" and "vim"
    need ``head``, or labels, on which a head is trained (`train_head`).
    contamination: share of rows called outlying, above 0 and at most 0.5.
    validation_fraction: share of rows that are left out of the fit, on which the threshold is set
    instead of on all rows: a detector fits the rows that it has seen better than new ones, most of
    all where n is not far above d, and then calls too many new rows outlying.
    temperature, k, components, bank, shrinkage: as in `fit_detector`. ``random_state``: a seed.

    Fitted: ``detector_`` (Detector, with its threshold), ``offset_`` (−threshold),
    ``n_features_in_``. Raises ValueError for data and options that `fit_detector` refuses.
    """

    detector_: Detector
    offset_: float

    def __init__(
        self,
        *,
        method: str = "mahalanobis",
        contamination: float = round(1 - TPR, 9),
        head: Head | None = None,
        validation_fraction: float = 0.0,
        temperature: float | str = "auto",
        k: int = K,
        components: int | None = None,
        bank: int = BANK,
        shrinkage: float | str = "auto",
        random_state: int = 0,
    ) -> None:
        self.method = method
        self.contamination = contamination
        self.head = head
        self.validation_fraction = validation_fraction
        self.temperature = temperature
        self.k = k
        self.components = components
        self.bank = bank
        self.shrinkage = shrinkage
        self.random_state = random_state

    def fit(self, X: Rows, y: npt.ArrayLike | None = None) -> Self:
        """Fit the detector on rows X (n, d), or `HiddenStates`; y: their labels, (n,), if any."""
        least = 2 if self.method == "vim" else 1  # principal and other directions
        rows = validate_data(
            self, rows_of(X), dtype=DTYPES, ensure_min_samples=2, ensure_min_features=least
        )
        with value_errors():
            if not 0 < self.contamination <= 0.5:
                got, expected = str(self.contamination), "above 0 and at most 0.5"
                raise InputError("the contamination is not usable", got=got, expected=expected)
            states = as_given(X, rows)
            if y is not None:
                check_consistent_length(rows, y)
                states, _ = labelled_states(states, y)
            elif self._needs_labels and states.label_ids is None:
                need = "requires y to be passed, but the target y is None"
                raise InputError(f"{self.method} without a head {need}")
            training, validation = self._split(states)
            head = self.head
            if head is None and self.method in NEEDS_HEAD:
                head, _ = train_head(training, seed=self.random_state)
            detector = fit_detector(
                training, method=self.method, head=head, validation=validation,
                tpr=1 - self.contamination, temperature=self.temperature, k=self.k,
                components=self.components, bank=self.bank, shrinkage=self.shrinkage,
                seed=self.random_state,
            )  # fmt: skip
            if detector.threshold is None:
                scores = -detector.scores(training)
                offset = float(np.percentile(scores, 100 * self.contamination))
                detector = dataclasses.replace(
                    detector, threshold=-offset, tpr=1 - self.contamination
                )
        self._keep(detector)
        return self

    def _split(self, states: HiddenStates) -> tuple[HiddenStates, HiddenStates | None]:
        """Rows of the fit, and those that set the threshold, if these are others."""
        if not 0 <= self.validation_fraction < 1:
            got, expected = str(self.validation_fraction), "0 to below 1"
            raise InputError("the validation fraction is not usable", got=got, expected=expected)
        held_out = round(self.validation_fraction * len(states))
        if not held_out:
            return states, None
        order = np.random.default_rng(self.random_state).permutation(len(states))
        return states.rows(order[held_out:]), states.rows(order[:held_out])

    def _keep(self, detector: Detector) -> None:
        assert detector.threshold is not None
        self.detector_, self.offset_ = detector, -detector.threshold

    @classmethod
    def from_detector(cls, detector: Detector) -> Self:
        """Return an outlier detector that is fitted already. InputError without a threshold."""
        if detector.threshold is None or not detector.space.dim:
            raise InputError("this detector has no threshold, or reads scores alone")
        made = cls(method=detector.method)
        made._keep(detector)
        made.n_features_in_ = detector.space.dim
        return made

    def fit_predict(self, X: Rows, y: npt.ArrayLike | None = None) -> npt.NDArray[np.intp]:
        """Fit on X, with labels y if given, and return `predict(X)`."""
        return self.fit(X, y).predict(X)

    def score_samples(self, X: Rows) -> Float64:
        """Scores of rows, (n,): the detector's, negated, so that lower is more outlying."""
        states = fitted_states(self, X, lambda: self.detector_.space)
        with value_errors():
            return -self.detector_.scores(states)

    def decision_function(self, X: Rows) -> Float64:
        """`score_samples` − ``offset_``, (n,): below 0 for outlying rows."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Rows) -> npt.NDArray[np.intp]:
        """−1 for outlying rows, 1 for others, (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1).astype(np.intp)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = self._needs_labels
        return tags

    @property
    def _needs_labels(self) -> bool:
        """True if classes are needed; without labels, they are the head's predictions."""
        return self.head is None and self.method in (*NEEDS_CLASSES, *NEEDS_HEAD)
