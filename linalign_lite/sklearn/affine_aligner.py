"""Affine maps as a scikit-learn transformer."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.metrics import r2_score
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from linalign_lite.alignment.kl.divergence_fit import fit_kl
from linalign_lite.alignment.kl.report import KlReport
from linalign_lite.alignment.least_squares import FitReport, fit
from linalign_lite.alignment.unpaired.report import UnpairedReport
from linalign_lite.alignment.unpaired.unpaired_fit import fit_unpaired
from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.choices import MAP_FOLDS
from linalign_lite.core.head import Head
from linalign_lite.errors import InputError
from linalign_lite.sklearn.conversion import (
    DTYPES,
    Rows,
    as_given,
    fitted_states,
    rows_of,
    value_errors,
)


@dataclass(frozen=True, eq=False)
class _LeftInverse:
    """The pseudo-inverse of a weight (d_target, d_source), computed when it is first used."""

    weight: Array

    @cached_property
    def matrix(self) -> npt.NDArray[np.float64] | None:
        """W⁺ (d_source, d_target), with W⁺W = 1; None unless W has full column rank.

        Singular values below max(shape)·ε of the largest, ε that of the weight's dtype, are zero.
        """
        rows, columns = self.weight.shape
        if rows < columns:
            return None
        u, s, vt = np.linalg.svd(self.weight.astype(np.float64), full_matrices=False)
        if s[-1] <= rows * np.finfo(self.weight.dtype).eps * s[0]:
            return None
        inverse: npt.NDArray[np.float64] = (vt.T / s) @ u.T
        return inverse


def _has_inverse(aligner: AffineAligner) -> bool:
    return hasattr(aligner, "affine_") and aligner._inverse.matrix is not None


class AffineAligner(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Map rows of one space into another: `transform` computes X Wᵀ + b.

    `fit(X, y)` takes X (n, d_source) and y (n, d_target), row i of both the same text, and calls
    `linalign_lite.fit`; with ``head`` it calls `linalign_lite.fit_kl`. Both may be `HiddenStates`,
    whose spaces the map keeps and `transform` checks.
    method: "ridge", "lstsq" or "procrustes". penalty: relative, or "auto": by cross-validation.
    folds: of the cross-validation; ``random_state``: the seed that draws them.
    head: a head, or a fitted `HeadClassifier`, that reads the target's space; the map is fitted so
    that it predicts on mapped rows what it predicts on y. method must then be "ridge", the map that
    the fit starts from, and ``folds`` is not used. With rows that only one side has
    (``X_unshared`` and ``Y_unshared`` of `fit`) it calls `linalign_lite.fit_unpaired`, and only
    ``random_state`` is used.

    Fitted: ``affine_`` (AffineMap), ``report_`` (of the function called), ``n_features_in_``.
    `inverse_transform` exists after a fit whose weight W has full column rank, so never where
    d_target < d_source. Raises ValueError for data and options that `fit` refuses.
    """

    affine_: AffineMap
    report_: FitReport | KlReport | UnpairedReport

    def __init__(
        self,
        *,
        method: str = "ridge",
        penalty: float | str = "auto",
        folds: int = MAP_FOLDS,
        head: Head | BaseEstimator | None = None,
        random_state: int = 0,
    ) -> None:
        self.method = method
        self.penalty = penalty
        self.folds = folds
        self.head = head
        self.random_state = random_state

    def fit(
        self, X: Rows, y: Rows, *, X_unshared: Rows | None = None, Y_unshared: Rows | None = None
    ) -> Self:
        """Fit the map from X (n, d_source) to y (n, d_target), or (n,) for d_target = 1.

        X_unshared (m, d_source), Y_unshared (k, d_target): rows of other texts, of one side each.
        """
        rows, targets = validate_data(
            self, rows_of(X), rows_of(y), dtype=DTYPES, multi_output=True, y_numeric=True,
            ensure_min_samples=2,
        )  # fmt: skip
        if targets.ndim == 1:
            text = "y is one column: the map leads into one dimension, and a classifier after it "
            warnings.warn(f"{text}reads no more; fit them apart, then join them", stacklevel=2)
        with value_errors():
            states, target = as_given(X, rows), as_given(y, targets.reshape(len(targets), -1))
            if X_unshared is not None or Y_unshared is not None:
                self.affine_, self.report_ = self._fit_unpaired(
                    states, target, X_unshared, Y_unshared
                )
            elif self.head is None:
                self.affine_, self.report_ = fit(
                    states, target, method=self.method, penalty=self.penalty,
                    folds=self.folds, seed=self.random_state,
                )  # fmt: skip
            elif self.method != "ridge":
                raise InputError("a map for a head starts from ridge", got=f"method {self.method}")
            else:
                self.affine_, self.report_ = fit_kl(
                    states,
                    target,
                    getattr(self.head, "head_", self.head),
                    penalty=self.penalty,
                    seed=self.random_state,
                )
        self._inverse = _LeftInverse(self.affine_.weight)
        return self

    def _fit_unpaired(
        self, states: Any, target: Any, source_rows: Rows | None, target_rows: Rows | None
    ) -> tuple[AffineMap, UnpairedReport]:
        if source_rows is None or target_rows is None:
            raise InputError("X_unshared and Y_unshared go together")
        if self.head is not None or self.method != "ridge":
            raise InputError("rows that are not shared are fitted without method and head")
        own, theirs = (
            as_given(given, check_array(rows_of(given), dtype=DTYPES))
            for given in (source_rows, target_rows)
        )
        return fit_unpaired(own, theirs, (states, target), seed=self.random_state)

    @classmethod
    def from_map(cls, affine: AffineMap) -> Self:
        """Return an aligner that is fitted already, with this map. It has no ``report_``."""
        aligner = cls()
        aligner.affine_, aligner.n_features_in_ = affine, affine.source.dim
        aligner._inverse = _LeftInverse(affine.weight)
        return aligner

    def transform(self, X: Rows) -> Array:
        """Map rows (n, d_source) to (n, d_target)."""
        states = fitted_states(self, X, lambda: self.affine_.source)
        with value_errors():
            return self.affine_(states)

    @available_if(_has_inverse)
    def inverse_transform(self, X: npt.ArrayLike) -> Array:
        """Solve W x + b = z in the least-squares sense for each row z of X, (n, d_target).

        Returns (n, d_source). Exact for images of the map.
        """
        check_is_fitted(self)
        mapped = check_array(X, dtype=DTYPES)
        inverse = self._inverse.matrix
        if mapped.shape[1] != len(self.affine_.bias):
            expected = len(self.affine_.bias)
            raise ValueError(f"X has {mapped.shape[1]} features, but the map gives {expected}")
        assert inverse is not None
        back: Array = (mapped - self.affine_.bias) @ inverse.T
        return back.astype(mapped.dtype, copy=False)

    def score(self, X: Rows, y: Rows) -> float:
        """R² of the mapped rows, 1 − ‖Y − Ŷ‖² / ‖Y − Ȳ‖², as that of `linalign_lite.fit`."""
        return float(r2_score(rows_of(y), self.transform(X), multioutput="variance_weighted"))

    @property
    def _n_features_out(self) -> int:
        return len(self.affine_.bias)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        tags.target_tags.multi_output = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
