"""Sufficient statistics of pairs (x, y), kept per fold, in float64.

Least squares needs O(d²) numbers of n pairs of rows, whatever n is, and the moments of two parts of
the data merge exactly. Sums of squares are kept about the fold's own mean (Chan, Golub
and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979),
so a mean far from zero costs no digits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.float64_blocks import BlockReader, Float64Rows
from linalign_lite.core.affine_map import Array
from linalign_lite.errors import InputError

Float64 = npt.NDArray[np.float64]
CHUNK = 8192  # rows widened to float64 at a time
PRODUCT = 1024  # rows in one product: few enough to be in a cache for the second one


@dataclass(frozen=True, eq=False)
class Moments:
    """Means of n pairs, and sums of squares and products about the means. ``a + b`` merges.

    n is the total weight of the pairs where these have weights.
    """

    n: float
    mean_x: Float64  # shape: (d_source,)
    mean_y: Float64  # shape: (d_target,)
    xx: Float64  # shape: (d_source, d_source)
    xy: Float64  # shape: (d_source, d_target)
    yy: Float64  # shape: (d_target,)  sums of squares of each target dimension

    def __add__(self, other: Moments) -> Moments:
        """Merge the moments of two parts: exact up to rounding, in any order."""
        return merge((self, other))

    def scaled(self, factor: float) -> Moments:
        """Multiply the weight of every pair by ``factor``, which is finite and at least 0."""
        if not 0 <= factor < float("inf"):
            raise InputError("pairs cannot count so often", got=str(factor), expected="0 or more")
        products = {name: getattr(self, name) * factor for name in ("n", "xx", "xy", "yy")}
        return replace(self, **products)

    def about(self, mean_x: Float64, mean_y: Float64) -> Moments:
        """Return squares and products of the same data about other means."""
        gap_x, gap_y = self.mean_x - mean_x, self.mean_y - mean_y
        xx, xy = (np.outer(self.n * gap_x, gap) for gap in (gap_x, gap_y))
        xx += self.xx
        xy += self.xy
        return Moments(self.n, mean_x, mean_y, xx, xy, self.yy + self.n * gap_y**2)


class Accumulator:
    """Accumulates moments of blocks; nothing of size d² is copied until the end.

    With B_i the rows of block i about some s_i near their mean m_i, ΣᵢB_iᵀB_i grows in place (BLAS
    syrk and gemm). At the end Σᵢ nᵢ(m_i − s_i)(m_i − s_i)ᵀ is subtracted, which corrects for the
    shifts, and Σᵢ nᵢ(m_i − m)(m_i − m)ᵀ added, which merges the blocks: products of few rows.
    """

    def __init__(self, d_source: int, d_target: int) -> None:
        self._xx: Float64 = np.zeros((d_source, d_source))  # the upper triangle alone
        self._xy: Float64 = np.zeros((d_source, d_target))
        self._yy: Float64 = np.zeros(d_target)
        self._counts: list[int] = []
        self._means: list[tuple[Float64, Float64]] = []
        self._gaps: list[tuple[Float64, Float64]] = []

    def add(self, a: Float64Rows, b: Float64Rows) -> None:
        """Add a block of source rows and the target rows of the same pairs."""
        from scipy.linalg.blas import dgemm, dsyrk

        n = len(a.rows)
        for at in range(0, n, PRODUCT):
            # BLAS counts columns first, so it is given transposes: no array is copied
            p, q = a.rows[at : at + PRODUCT].T, b.rows[at : at + PRODUCT].T
            dsyrk(1.0, p, beta=1.0, c=self._xx.T, lower=1, overwrite_c=1)
            dgemm(1.0, q, p, beta=1.0, c=self._xy.T, trans_b=1, overwrite_c=1)
        self._yy += b.squares
        self._counts.append(n)
        self._gaps.append((a.sums / n, b.sums / n))
        self._means.append((a.shift + a.sums / n, b.shift + b.sums / n))

    def moments(self) -> Moments:
        """Return the moments of all rows added. Nothing may be added afterwards."""
        if not self._counts:
            no_x, no_y = map(np.zeros, self._xy.shape)
            return Moments(0, no_x, no_y, self._xx, self._xy, self._yy)
        _mirror(self._xx)
        counts = np.array(self._counts)
        root = np.sqrt(counts)[:, None]
        gap_x, gap_y = (root * np.stack(column) for column in zip(*self._gaps, strict=True))
        _add_product(self._xx, -gap_x, gap_x)
        _add_product(self._xy, -gap_x, gap_y)
        self._yy = np.maximum(self._yy - (gap_y**2).sum(axis=0), 0.0)
        means_x, means_y = (np.stack(column) for column in zip(*self._means, strict=True))
        return _merged(counts, means_x, means_y, self._xx, self._xy, self._yy)


def measure(x: Array, y: Array) -> Moments:
    """Compute the moments of the rows of x and y.

    x: (n, d_source), y: (n, d_target), any float dtype; products are made in float64.
    """
    if x.shape[0] != y.shape[0]:
        raise InputError("x and y differ in rows", got=f"{x.shape[0]} and {y.shape[0]}")
    total = Accumulator(x.shape[1], y.shape[1])
    for _, a, b in BlockReader(x.shape[1], y.shape[1]).blocks(x, y, [np.arange(len(x))]):
        total.add(a, b)
    return total.moments()


@dataclass(frozen=True, eq=False)
class FoldedMoments:
    """Moments of K disjoint parts of the data, for exact K-fold cross-validation."""

    folds: tuple[Moments, ...]

    def __add__(self, other: FoldedMoments) -> FoldedMoments:
        """Merge fold k of both, for every k. Raises InputError for another number of folds."""
        k, found = len(self.folds), len(other.folds)
        if k != found:
            raise InputError("moments in other folds", got=str(found), expected=str(k))
        return FoldedMoments(tuple(map(merge, zip(self.folds, other.folds, strict=True))))

    @property
    def n(self) -> int:
        return round(sum(f.n for f in self.folds))

    @cached_property
    def total(self) -> Moments:
        """Moments of all the data, merged once."""
        return merge(self.folds)

    def splits(self) -> Iterator[tuple[Moments, Moments]]:
        """(training moments, held-out moments) of each fold that holds any pair.

        Training moments are summed: a difference of nearly equal numbers would cost digits.
        """
        for k, held_out in enumerate(self.folds):
            rest = [f for i, f in enumerate(self.folds) if i != k and f.n]
            if held_out.n and rest:
                yield merge(rest), held_out


def merge(parts: Iterable[Moments]) -> Moments:
    """Merge the moments of all parts. Raises InputError for none, and for other dimensions."""
    parts = list(parts)
    if not parts:
        raise InputError("there are no moments to merge")
    for p in parts:
        if p.xy.shape != parts[0].xy.shape:
            raise InputError(
                "moments of other dimensions cannot be merged",
                got=str(p.xy.shape),
                expected=str(parts[0].xy.shape),
            )
    filled = [p for p in parts if p.n]
    if len(filled) < 2:
        return filled[0] if filled else parts[-1]
    first, second, *rest = filled
    xx, xy, yy = first.xx + second.xx, first.xy + second.xy, first.yy + second.yy
    for p in rest:
        xx += p.xx
        xy += p.xy
        yy += p.yy
    counts = np.array([p.n for p in filled])
    means_x, means_y = (np.stack([getattr(p, m) for p in filled]) for m in ("mean_x", "mean_y"))
    return _merged(counts, means_x, means_y, xx, xy, yy)


def _merged(
    counts: npt.NDArray[Any],  # shape: (parts,)
    means_x: Float64,  # shape: (parts, d_source)
    means_y: Float64,  # shape: (parts, d_target)
    xx: Float64,
    xy: Float64,
    yy: Float64,
) -> Moments:
    """Merge parts whose squares about their own means sum to xx, xy and yy, in place."""
    n = counts.sum().item()
    share = (counts / n)[:, None]
    mean_x, mean_y = (share * means_x).sum(axis=0), (share * means_y).sum(axis=0)
    root = np.sqrt(counts)[:, None]
    gap_x, gap_y = root * (means_x - mean_x), root * (means_y - mean_y)
    _add_product(xx, gap_x, gap_x)
    _add_product(xy, gap_x, gap_y)
    yy += (gap_y**2).sum(axis=0)
    return Moments(n, mean_x, mean_y, xx, xy, yy)


def _add_product(total: Float64, a: Float64, b: Float64) -> None:
    """total += aᵀb, without a temporary array where total is contiguous."""
    from scipy.linalg.blas import dgemm

    if total.flags.c_contiguous and total.flags.writeable:
        dgemm(1.0, b.T, a.T, beta=1.0, c=total.T, trans_b=1, overwrite_c=1)
    else:
        total += a.T @ b


def _mirror(square: Float64, size: int = 256) -> None:
    """Copy the upper triangle to the lower one, which holds zeros, a tile at a time."""
    for at in range(0, len(square), size):
        end = at + size
        square[end:, at:end] = square[at:end, end:].T
        tile = square[at:end, at:end]
        tile += np.triu(tile, 1).T


def folded(
    x: Array, y: Array, folds: int, groups: npt.NDArray[np.int64] | None = None, seed: int = 0
) -> FoldedMoments:
    """Compute the moments of K folds. Rows of one group (a document) share a fold.

    Raises InputError unless 2 ≤ folds ≤ the number of groups.
    """
    index = fold_index(np.arange(len(x)) if groups is None else groups, folds, seed)
    totals = FoldAccumulator(folds, x.shape[1], y.shape[1])
    totals.add(x, y, index)
    return totals.moments()


class FoldAccumulator:
    """Accumulates the moments of K folds."""

    def __init__(self, folds: int, d_source: int, d_target: int) -> None:
        self._reader = BlockReader(d_source, d_target)
        self._folds = [Accumulator(d_source, d_target) for _ in range(folds)]

    def add(self, x: Array, y: Array, index: npt.NDArray[np.integer[Any]]) -> None:
        """Add the rows of x and y; index: the fold of each, (n,)."""
        runs = [np.flatnonzero(index == k) for k in range(len(self._folds))]
        for k, a, b in self._reader.blocks(x, y, runs):
            self._folds[k].add(a, b)

    def moments(self) -> FoldedMoments:
        """Return the moments of all rows added. Nothing may be added afterwards."""
        return FoldedMoments(tuple(fold.moments() for fold in self._folds))


def fold_index(groups: npt.NDArray[np.int64], folds: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Assign a fold to each row, (n,): groups are shuffled and divided evenly."""
    names, inverse = np.unique(groups, return_inverse=True)
    result: npt.NDArray[np.int64] = assign_folds(len(names), folds, seed)[inverse].astype(np.int64)
    return result


def assign_folds(n: int, folds: int, seed: int = 0) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Assign a fold to each of n texts, (n,): even, shuffled, one byte per text."""
    if seed < 0:
        raise InputError("the seed is not usable", got=str(seed), expected="0 or more")
    if not 2 <= folds <= n:
        raise InputError(
            "the number of folds does not fit the data",
            got=f"{folds} folds for {n} texts",
            expected=f"2 to {n}",
        )
    small = np.uint8 if folds <= 256 else np.uint32
    dealt: npt.NDArray[np.unsignedinteger[Any]] = np.resize(np.arange(folds, dtype=small), n)
    np.random.default_rng(seed).shuffle(dealt)
    return dealt
