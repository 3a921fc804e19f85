"""Sufficient statistics of pairs (x, y), kept per fold, in float64.

What least squares needs to know of n pairs of rows fits in O(d²) numbers whatever n is, and two
parts of the data merge exactly. Sums of squares are kept about the fold's own mean (Chan, Golub
and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979),
so that a mean far from zero costs no digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
import numpy.typing as npt

from linalign_lite.errors import InputError
from linalign_lite.linear import Array

Float64 = npt.NDArray[np.float64]
CHUNK = 8192  # rows widened to float64 at a time


@dataclass(frozen=True, eq=False)
class Moments:
    """Of n pairs: means, and sums of squares and products about the means. ``a + b`` merges.

    n is what they weigh together where pairs count for more or less than one each.
    """

    n: float
    mean_x: Float64  # shape: (d_source,)
    mean_y: Float64  # shape: (d_target,)
    xx: Float64  # shape: (d_source, d_source)
    xy: Float64  # shape: (d_source, d_target)
    yy: Float64  # shape: (d_target,)  sums of squares of each target dimension

    def __add__(self, other: Moments) -> Moments:
        """Moments of both parts together: exact up to rounding, whatever the order."""
        if (self.xy.shape) != (other.xy.shape):
            raise InputError(
                "moments of other dimensions cannot be merged",
                got=str(other.xy.shape),
                expected=str(self.xy.shape),
            )
        if not self.n or not other.n:
            return other if not self.n else self
        n = self.n + other.n
        gap_x, gap_y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        share = self.n * other.n / n
        return Moments(
            n,
            self.mean_x + gap_x * (other.n / n),
            self.mean_y + gap_y * (other.n / n),
            self.xx + other.xx + share * np.outer(gap_x, gap_x),
            self.xy + other.xy + share * np.outer(gap_x, gap_y),
            self.yy + other.yy + share * gap_y**2,
        )

    def scaled(self, factor: float) -> Moments:
        """Moments of the same pairs, each counting ``factor`` times: 0 or more, not infinite."""
        if not 0 <= factor < float("inf"):
            raise InputError("pairs cannot count so often", got=str(factor), expected="0 or more")
        return Moments(
            self.n * factor,
            self.mean_x,
            self.mean_y,
            self.xx * factor,
            self.xy * factor,
            self.yy * factor,
        )

    def about(self, mean_x: Float64, mean_y: Float64) -> Moments:
        """The same data with squares and products taken about other means."""
        gap_x, gap_y = self.mean_x - mean_x, self.mean_y - mean_y
        return Moments(
            self.n,
            mean_x,
            mean_y,
            self.xx + self.n * np.outer(gap_x, gap_x),
            self.xy + self.n * np.outer(gap_x, gap_y),
            self.yy + self.n * gap_y**2,
        )


def empty_moments(d_source: int, d_target: int) -> Moments:
    """Moments of no pairs: the neutral element of +."""
    return Moments(
        0,
        np.zeros(d_source),
        np.zeros(d_target),
        np.zeros((d_source, d_source)),
        np.zeros((d_source, d_target)),
        np.zeros(d_target),
    )


def measure(x: Array, y: Array) -> Moments:
    """Moments of the rows of x and y.

    x: (n, d_source), y: (n, d_target), any float dtype; products are made in float64.
    """
    if x.shape[0] != y.shape[0]:
        raise InputError("x and y differ in rows", got=f"{x.shape[0]} and {y.shape[0]}")
    total = empty_moments(x.shape[1], y.shape[1])
    for start in range(0, x.shape[0], CHUNK):
        a = x[start : start + CHUNK].astype(np.float64)
        b = y[start : start + CHUNK].astype(np.float64)
        mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
        a -= mean_a
        b -= mean_b
        part = Moments(len(a), mean_a, mean_b, a.T @ a, a.T @ b, np.einsum("ij,ij->j", b, b))
        total = total + part
    return total


@dataclass(frozen=True, eq=False)
class FoldedMoments:
    """Moments of K disjoint parts of the data, for exact K-fold cross-validation."""

    folds: tuple[Moments, ...]

    @property
    def n(self) -> int:
        return round(sum(f.n for f in self.folds))

    @cached_property
    def total(self) -> Moments:
        """Moments of all the data, merged once."""
        return merge(self.folds)

    def splits(self) -> Iterator[tuple[Moments, Moments]]:
        """(training moments, held-out moments) of each fold that holds any pair.

        Training moments are summed from the other folds, not subtracted from the total: a
        difference of nearly equal numbers would cost digits.
        """
        for k, held_out in enumerate(self.folds):
            rest = [f for i, f in enumerate(self.folds) if i != k and f.n]
            if held_out.n and rest:
                yield merge(rest), held_out


def merge(parts: Iterable[Moments]) -> Moments:
    """Moments of all parts together. Raises InputError when there is none."""
    parts = list(parts)
    if not parts:
        raise InputError("there are no moments to merge")
    return reduce(lambda a, b: a + b, parts)


def folded(
    x: Array, y: Array, folds: int, groups: npt.NDArray[np.int64] | None = None, seed: int = 0
) -> FoldedMoments:
    """Moments of K folds. Rows of one group (a document) share a fold.

    Raises InputError unless 2 ≤ folds ≤ the number of groups.
    """
    index = fold_index(np.arange(len(x)) if groups is None else groups, folds, seed)
    return FoldedMoments(tuple(measure(x[index == k], y[index == k]) for k in range(folds)))


def fold_index(groups: npt.NDArray[np.int64], folds: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """The fold of each row, (n,): groups are shuffled and dealt out evenly."""
    if seed < 0:
        raise InputError("the seed is not usable", got=str(seed), expected="0 or more")
    names, inverse = np.unique(groups, return_inverse=True)
    if not 2 <= folds <= len(names):
        raise InputError(
            "the number of folds does not fit the data",
            got=f"{folds} folds for {len(names)} texts",
            expected=f"2 to {len(names)}",
        )
    dealt = np.arange(len(names)) % folds
    np.random.default_rng(seed).shuffle(dealt)
    result: npt.NDArray[np.int64] = dealt[inverse]
    return result
