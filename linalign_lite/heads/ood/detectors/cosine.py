"""Cosines with class means, whitened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from linalign_lite.core.affine_map import Array
from linalign_lite.heads.ood.detectors.base import (
    FitData,
    Float64,
    Rule,
    as_float64,
    require_unit_rows,
    require_whitening,
    unit,
)


@dataclass(frozen=True, eq=False)
class Cosine(Rule):
    """−maxₖ cos(W(z − m), cₖ), whitened as for Mahalanobis; lengths are not compared.

    The whitened cosine of Liu 2007, "The Bayes Decision Rule Induced Similarity Measures", with m
    the mean of all states.
    """

    mean: Array  # shape: (d,)
    whitening: Array  # shape: (r, d)
    centres: Array  # shape: (K, r)  rows of length 1

    method = "cosine"
    arrays: ClassVar = {"mean": 1, "whitening": 2, "centres": 2}

    def __post_init__(self) -> None:
        require_whitening(self.mean, self.whitening, self.centres)
        require_unit_rows("centres", self.centres)

    @classmethod
    def fit(cls, data: FitData) -> tuple[Self, dict[str, Any]]:
        """Directions of class means; a class mean that is the mean of all has none."""
        data.require_classes(cls.method)
        mean, centres, white, used = data.whitening()
        directions = unit(centres @ white.T)
        return cls(mean, white, directions[directions.any(axis=1)]), {"shrinkage": used}

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def width(self) -> int:
        return len(self.centres)

    def score(self, states: Float64) -> Float64:
        directions = unit((states - self.mean) @ as_float64(self.whitening).T)
        nearest: Float64 = (directions @ as_float64(self.centres).T).max(axis=1)
        return -nearest
