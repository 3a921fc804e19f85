"""Distance to the k-th nearest neighbour, in blocks: memory does not grow with the bank."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from linalign_lite.core.affine_map import Array
from linalign_lite.errors import InputError
from linalign_lite.heads.ood.detectors import base

QUERIES, BANK = 256, 8192  # rows of a block of each: 16 MB of distances


@dataclass(frozen=True, eq=False)
class NearestNeighbours(base.Rule):
    """‖u − b₍ₖ₎‖, u = z/‖z‖: the distance to the k-th nearest of the bank's normalised states.

    Sun et al. 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors", section 3.
    """

    bank: Array  # shape: (m, d)  rows of length 1
    k: int

    method = "knn"
    arrays: ClassVar = {"bank": 2}
    settings: ClassVar = {"k": int}

    def __post_init__(self) -> None:
        base.require_unit_rows("bank", self.bank)
        if not 1 <= self.k <= len(self.bank):
            raise InputError(
                "the number of neighbours does not fit the bank",
                got=str(self.k),
                expected=f"1 to {len(self.bank)}",
            )

    @classmethod
    def fit(cls, data: base.FitData) -> tuple[Self, dict[str, Any]]:
        """Keep at most ``data.bank`` of the states."""
        return cls(_bank(_drawn(data)), data.k), {}

    @property
    def width(self) -> int:
        return self.dim or 0  # distances have blocks of their own

    def score(self, states: base.Float64) -> base.Float64:
        return kth_distance(self.bank, base.unit(states), self.k)


@dataclass(frozen=True, eq=False)
class WhitenedNearestNeighbours(NearestNeighbours):
    """‖u − b₍ₖ₎‖, u = W(z − m)/‖W(z − m)‖, whitened as for Mahalanobis; the bank is (m, r)."""

    mean: Array  # shape: (d,)
    whitening: Array  # shape: (r, d)

    method = "whitened-knn"
    arrays: ClassVar = {"mean": 1, "whitening": 2, "bank": 2}

    def __post_init__(self) -> None:
        super().__post_init__()
        base.require_whitening(self.mean, self.whitening, self.bank)

    @classmethod
    def fit(cls, data: base.FitData) -> tuple[Self, dict[str, Any]]:
        """Whiten within classes and keep at most ``data.bank`` of the states."""
        mean, _, white, used = data.whitening()
        rows = (base.as_float64(_drawn(data)) - mean) @ white.T
        return cls(_bank(rows), data.k, mean, white), {"shrinkage": used}

    def score(self, states: base.Float64) -> base.Float64:
        return super().score((states - self.mean) @ base.as_float64(self.whitening).T)


def kth_distance(bank: Array, queries: Array, k: int) -> base.Float64:
    """Euclidean distance of each query to its k-th nearest row of the bank, (n,).

    bank: (m, d), k ≤ m; queries: (n, d). ‖q − b‖² = ‖q‖² − 2 q·b + ‖b‖², products in float64.
    """
    result = np.empty(len(queries))
    for start in range(0, len(queries), QUERIES):
        block = base.as_float64(queries[start : start + QUERIES])
        nearest = np.empty((len(block), 0))
        for first in range(0, len(bank), BANK):
            part = base.as_float64(bank[first : first + BANK])
            squares = np.einsum("ij,ij->i", part, part) - 2.0 * (block @ part.T)
            nearest = np.hstack([nearest, squares])
            if nearest.shape[1] > k:
                nearest = np.partition(nearest, k - 1, axis=1)[:, :k]
        largest = nearest.max(axis=1) + np.einsum("ij,ij->i", block, block)
        result[start : start + QUERIES] = np.sqrt(np.maximum(largest, 0.0))
    return result


def _drawn(data: base.FitData) -> Array:
    """Draw at most ``bank`` of the states with the seed; their order is kept."""
    states = data.training.states
    if len(states) <= data.bank:
        return states
    chosen = np.random.default_rng(data.seed).permutation(len(states))[: data.bank]
    return states[np.sort(chosen)]


def _bank(rows: Array) -> Array:
    """Normalise the rows, without those of length 0; float32."""
    normalised = base.unit(rows)
    kept = normalised[normalised.any(axis=1)].astype(np.float32)
    if not len(kept):
        raise InputError("every state has length 0")
    return kept
