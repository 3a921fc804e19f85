"""Squared distances to class means under a shared covariance."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from linalign_lite.core.affine_map import Array
from linalign_lite.heads.ood.covariance import covariance_about, whitening_matrix
from linalign_lite.heads.ood.detectors import base


class Mahalanobis(base.ClassMeansRule):
    """minₖ ‖W(z − m) − cₖ‖²: squared distance to the nearest class mean, covariance (WᵀW)⁻¹.

    Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
    Adversarial Attacks", eq. 2.
    """

    method = "mahalanobis"

    @classmethod
    def fit(cls, data: base.FitData) -> tuple[Self, dict[str, Any]]:
        """Fit class means and covariance within classes; without classes, of all states."""
        mean, centres, white, used = data.whitening()
        return cls(mean, white, centres @ white.T), {"shrinkage": used}

    def score(self, states: base.Float64) -> base.Float64:
        return self._nearest(states - self.mean)

    def _nearest(self, moved: base.Float64) -> base.Float64:
        """Squared distance of states less the mean (n, d) to the nearest centre, (n,)."""
        rows, centres = moved @ base.as_float64(self.whitening).T, base.as_float64(self.centres)
        inner = np.einsum("ij,ij->i", centres, centres) - 2.0 * (rows @ centres.T)
        least = inner.min(axis=1) + np.einsum("ij,ij->i", rows, rows)
        return base.as_float64(np.maximum(least, 0.0))


@dataclass(frozen=True, eq=False)
class RelativeMahalanobis(Mahalanobis):
    """minₖ ‖W(z − m) − cₖ‖² − ‖B(z − m)‖²: less that to the mean of all, covariance (BᵀB)⁻¹.

    Ren et al. 2021, "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection".
    """

    background: Array  # shape: (q, d)

    method = "relative-mahalanobis"
    needs_classes = True
    arrays: ClassVar = {**base.ClassMeansRule.arrays, "background": 2}

    def __post_init__(self) -> None:
        super().__post_init__()
        base.require_shape("background", self.background, (None, len(self.mean)))

    @classmethod
    def fit(cls, data: base.FitData) -> tuple[Self, dict[str, Any]]:
        """Fit as Mahalanobis, and the covariance of all states about their mean."""
        mean, centres, white, used = data.whitening()
        around = covariance_about(data.training.states, mean)
        background, share = whitening_matrix(around, data.shrinkage)
        rule = cls(mean, white, centres @ white.T, background)
        return rule, {"shrinkage": used, "background_shrinkage": share}

    def score(self, states: base.Float64) -> base.Float64:
        moved = states - self.mean
        away = moved @ base.as_float64(self.background).T
        return base.as_float64(self._nearest(moved) - np.einsum("ij,ij->i", away, away))
