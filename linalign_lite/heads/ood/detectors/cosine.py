"""Cosine to whitened class means."""

from typing import Any, Self

from linalign_lite.heads.ood.detectors import base


class Cosine(base.ClassMeansRule):
    """−maxₖ cos(W(z − m), cₖ), whitened as for Mahalanobis, cₖ of length 1.

    The whitened cosine of Liu 2007, "The Bayes Decision Rule Induced Similarity Measures", with m
    the mean of all states.
    """

    method = "cosine"
    needs_classes = True

    def __post_init__(self) -> None:
        super().__post_init__()
        base.require_unit_rows("centres", self.centres)

    @classmethod
    def fit(cls, data: base.FitData) -> tuple[Self, dict[str, Any]]:
        """Fit directions of class means; a class whose mean is the mean of all has none."""
        mean, centres, white, used = data.whitening()
        directions = base.unit(centres @ white.T)
        return cls(mean, white, directions[directions.any(axis=1)]), {"shrinkage": used}

    def score(self, states: base.Float64) -> base.Float64:
        directions = base.unit((states - self.mean) @ base.as_float64(self.whitening).T)
        return base.as_float64(-(directions @ base.as_float64(self.centres).T).max(axis=1))
