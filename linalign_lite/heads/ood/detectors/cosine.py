"""Cosine to whitened class means."""

from typing import Any, Self

from linalign_lite.heads.ood.detectors.base import (
    ClassMeansRule,
    FitData,
    Float64,
    as_float64,
    require_unit_rows,
    unit,
)


class Cosine(ClassMeansRule):
    """−maxₖ cos(W(z − m), cₖ), whitened as for Mahalanobis, cₖ of length 1.

    The whitened cosine of Liu 2007, "The Bayes Decision Rule Induced Similarity Measures", with m
    the mean of all states.
    """

    method = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_unit_rows("centres", self.centres)

    @classmethod
    def fit(cls, data: FitData) -> tuple[Self, dict[str, Any]]:
        """Fit directions of class means; a class whose mean is the mean of all has none."""
        data.require_classes(cls.method)
        mean, centres, white, used = data.whitening()
        directions = unit(centres @ white.T)
        return cls(mean, white, directions[directions.any(axis=1)]), {"shrinkage": used}

    def score(self, states: Float64) -> Float64:
        directions = unit((states - self.mean) @ as_float64(self.whitening).T)
        nearest: Float64 = (directions @ as_float64(self.centres).T).max(axis=1)
        return -nearest
