"""Heads as a scikit-learn classifier."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import validate_data

from linalign_lite.core.affine_map import Array
from linalign_lite.core.choices import HEAD_FOLDS
from linalign_lite.core.head import Head
from linalign_lite.core.labels import require_all
from linalign_lite.errors import InputError
from linalign_lite.heads.ood.detectors.logits import calibrated_temperature
from linalign_lite.heads.training import HeadReport, train_head
from linalign_lite.sklearn.conversion import (
    DTYPES,
    Rows,
    as_given,
    fitted_states,
    labelled_states,
    rows_of,
    value_errors,
)


class HeadClassifier(ClassifierMixin, BaseEstimator):
    """Classify rows by a linear head, arg-max V z + c, trained by `linalign_lite.train_head`.

    method: "ridge", "logistic", or "auto": the better of the two by K-fold accuracy. penalty:
    "auto" or a number, which needs a method. folds, ``random_state``: of the cross-validation.

    Fitted: ``head_`` (Head), ``report_`` (HeadReport), ``classes_`` (the labels in their own type;
    those of ``head_`` are their names), ``temperature_``, ``n_features_in_``.
    `predict_proba` is softmax(scores / T). T = ``temperature_`` is 1 for logistic regression; for
    ridge, whose scores are no logarithms of probabilities, it is calibrated on the training rows
    (Guo et al. 2017). `sklearn.calibration.CalibratedClassifierCV` calibrates on held-out rows.
    Raises ValueError for data and options that `train_head` refuses.
    """

    classes_: npt.NDArray[Any]
    head_: Head
    report_: HeadReport
    temperature_: float

    def __init__(
        self,
        *,
        method: str = "auto",
        penalty: float | str = "auto",
        folds: int = HEAD_FOLDS,
        random_state: int = 0,
    ) -> None:
        self.method = method
        self.penalty = penalty
        self.folds = folds
        self.random_state = random_state

    def fit(self, X: Rows, y: npt.ArrayLike) -> Self:
        """Train the head on rows X (n, d), or `HiddenStates`, with labels y (n,)."""
        if getattr(getattr(y, "dtype", None), "kind", "") == "O":  # scikit-learn names no row
            with value_errors():
                require_all(np.ravel(y))
        rows, labels = validate_data(self, rows_of(X), y, dtype=DTYPES, ensure_min_samples=2)
        with value_errors():
            states, self.classes_ = labelled_states(as_given(X, rows), labels)
            self.head_, self.report_ = train_head(
                states, method=self.method, penalty=self.penalty,
                folds=self.folds, seed=self.random_state,
            )  # fmt: skip
            self.temperature_ = 1.0
            if self.report_.method == "ridge":
                assert states.label_ids is not None
                scores = self.head_(states.states)
                self.temperature_ = calibrated_temperature(scores, states.label_ids)
        return self

    @classmethod
    def from_head(cls, head: Head, *, temperature: float = 1.0) -> Self:
        """Return a classifier that is fitted already, with this head; classes are its labels.

        It has no ``report_``. Raises InputError for a head of fewer than two labels.
        """
        if len(head.labels) < 2:
            raise InputError("this head is no classifier", got=f"{len(head.labels)} labels")
        classifier = cls()
        classifier.head_, classifier.classes_ = head, np.array(head.labels)
        classifier.temperature_, classifier.n_features_in_ = temperature, head.space.dim
        return classifier

    def decision_function(self, X: Rows) -> Array:
        """Scores (n, classes); of two classes the difference of the second and the first, (n,)."""
        scores = self._scores(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict(self, X: Rows) -> npt.NDArray[Any]:
        """Class of the highest score of each row, (n,)."""
        best = self._scores(X).argmax(axis=1)
        predicted: npt.NDArray[Any] = self.classes_[best]
        return predicted

    def predict_proba(self, X: Rows) -> Array:
        """softmax(scores / T), (n, classes)."""
        probabilities: Array = np.exp(self.predict_log_proba(X))
        return probabilities

    def predict_log_proba(self, X: Rows) -> Array:
        """Logarithms of `predict_proba`, (n, classes)."""
        logs: Array = log_softmax(self._scores(X) / self.temperature_, axis=1)
        return logs

    def _scores(self, X: Rows) -> Array:
        states = fitted_states(self, X, lambda: self.head_.space)
        with value_errors():
            return self.head_(states)
