"""Cross-validated measures of the ridge map between two models.

Folds, penalties and the choice of the penalty are those of `fit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from linalign_lite.alignment.moments import Float64
from linalign_lite.alignment.ridge import PENALTIES
from linalign_lite.alignment.similarity.measures import Ints
from linalign_lite.alignment.similarity.model_statistics import ModelStatistics, without_each


def splits(x: ModelStatistics, y: ModelStatistics, cross: Float64) -> tuple[Float64, Float64]:
    """Compute XᵀY of each split's training and held-out rows about the training means.

    cross, and both results: (folds, d_x, d_y); cross: XᵀY of each fold about the means of all rows.
    """
    training, held = without_each(cross), cross.copy()
    for i, fold in enumerate(x.folds):
        gap_x, gap_y = x.gaps[i], y.gaps[i]
        both = np.outer(gap_x, gap_y)
        training[i] -= (len(x) - len(fold)) * both
        held[i] += len(fold) * both
        held[i] -= np.outer(x.own.sums[i], gap_y) + np.outer(gap_x, y.own.sums[i])
    return training, held


@dataclass(frozen=True, eq=False)
class SplitMaps:
    """The ridge maps of all splits. With centred rows x Wᵀ = (x V) · slope."""

    x: ModelStatistics
    y: ModelStatistics
    slopes: Sequence[Float64]  # each (d_x, d_y): diag(1/(s + λ)) VᵀX_cᵀY_c of the training rows
    r2: float

    @cached_property
    def weights(self) -> list[Float64]:
        """Wᵀ of each split, (d_x, d_y)."""
        return [b.vectors @ slope for b, slope in zip(self.x.bases, self.slopes, strict=True)]


def fit_maps(x: ModelStatistics, y: ModelStatistics, training: Float64, held: Float64) -> SplitMaps:
    """Fit the maps from x to y at the penalty of the best held-out R². Products: see `splits`.

    With f = 1/(s + λ), A = VᵀX_cᵀY_c of the training rows, B and G the held-out XᵀY and XᵀX in that
    basis, ‖X Wᵀ − Y‖² = ‖Y‖² − 2 fᵀ(A∘B)1 + fᵀ(G ∘ AAᵀ)f on the held-out fold.
    """
    errors = np.full(len(PENALTIES), sum(np.trace(basis.held) for basis in y.bases))
    projected = []
    for i, basis in enumerate(x.bases):
        a = basis.vectors.T @ training[i]
        linear = np.einsum("ij,ij->i", a, basis.vectors.T @ held[i])
        quadratic = basis.held * (a @ a.T)
        f = basis.shrink(PENALTIES)
        errors += np.einsum("ij,ij->i", f @ quadratic - 2 * linear, f)
        projected.append(a)
    best = int(np.argmin(errors))
    slopes = [
        b.shrink(PENALTIES[best])[0][:, None] * a for b, a in zip(x.bases, projected, strict=True)
    ]
    return SplitMaps(x, y, slopes, float(1 - errors[best] / y.own.squares.sum()))


def held_out_cosine(maps: SplitMaps, order: Ints | None = None) -> float:
    """Mean cosine between mapped and true states (as they are, not centred); a zero counts as 0.

    Row i of x is paired with row order[i] of y. One pass over the rows of both.
    """
    x, y, total = maps.x, maps.y, 0.0
    for i, part in x.parts():
        weight = maps.weights[i]
        guess = x.rows(part) @ weight + (y.mean + y.gaps[i] - x.gaps[i] @ weight)
        truth = y.states[part if order is None else order[part]].astype(np.float64)
        norms = np.linalg.norm(guess, axis=1) * np.linalg.norm(truth, axis=1)
        dots = np.einsum("ij,ij->i", guess, truth)
        total += np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0).sum()
    return float(total / len(x))


def cycle_error(forth: SplitMaps, back: SplitMaps) -> float:
    """‖X − B A X‖² / ‖X_c‖² on held-out rows: there and back with maps of the other folds.

    Both maps of a split lead through the training means, so about those a row x becomes x M, with
    M = W_AᵀW_Bᵀ, and the error is tr((1 − M)ᵀ G (1 − M)), G the held-out XᵀX.
    """
    total = 0.0
    for basis, slope, weight in zip(forth.x.bases, forth.slopes, back.weights, strict=True):
        home = weight @ basis.vectors  # so that M = slope · home in the basis that G is in
        d_x, d_y = slope.shape
        if d_y < d_x:  # M has few directions: d_x·d_x matrices are multiplied by narrow ones only
            bent = basis.held @ slope
            mixed = float(np.einsum("ij,ji->", bent, home))
            square = float(np.einsum("ij,ij->", slope.T @ bent, home @ home.T))
            total += float(np.trace(basis.held)) - 2 * mixed + square
        else:
            error = np.eye(d_x) - slope @ home
            total += float(np.einsum("ij,ij->", error, basis.held @ error))
    return max(total, 0.0) / float(forth.x.own.squares.sum())
