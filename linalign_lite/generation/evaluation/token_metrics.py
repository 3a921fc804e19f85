"""Metrics of next-token scores in one pass over a head's outputs, a tile of scores at a time.

A row's log-sum-exp, its highest scores and its divergence are kept up to date from tile to tile
(Milakov and Gimelshein, arXiv 1805.02867), so every weight is read once for all rows, and a tile is
small enough for a processor's cache.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array, apply_affine
from linalign_lite.core.head import Head

Ints = npt.NDArray[np.integer[Any]]
ROWS, OUTPUTS = 512, 4096  # of a tile: products with fewer rows are slower
LEAST = -80.0  # exp of less is subnormal in float32, and many times as slow
TOP = 5


@dataclass(frozen=True)
class Sums:
    """Sums over positions, from which means are computed at the end; and the count of cut texts."""

    cut: int = 0
    positions: int = 0
    target_nats: float = 0.0
    hybrid_nats: float = 0.0
    source_nats: float = 0.0
    target_characters: int = 0
    source_characters: int = 0
    agreeing: int = 0
    overlapping: int = 0
    divergence: float = 0.0

    def __add__(self, other: Sums) -> Sums:
        return Sums(*map(operator.add, astuple(self), astuple(other)))


def compare(head: Head, true: Array, mapped: Array, token: Ints) -> Sums:
    """Compare a head's scores of a target's own states with those of mapped ones.

    true, mapped: (n, d); token: (n,), the next tokens. Characters and the source's nats stay 0.
    """
    p, q = (_Running(token, min(TOP, head.n_outputs)) for _ in range(2))
    gaps = np.zeros(len(token))  # sum of exp(p's score - p's highest) · (p's score - q's)
    with np.errstate(over="ignore", invalid="ignore"):  # `judge` refuses what is not finite
        for rows, start, scores in _tiles(head, true, mapped):
            mass, shrunk = p.add(rows, start, scores[0])
            q.add(rows, start, scores[1])
            apart = np.subtract(scores[0], scores[1], out=scores[1])
            gaps[rows] = gaps[rows] * shrunk + np.einsum("ij,ij->i", mass, apart)
        divergence = gaps / p.total - p.log_total() + q.log_total()
        return Sums(
            positions=len(token),
            target_nats=p.nats(),
            hybrid_nats=q.nats(),
            agreeing=int((p.first == q.first).sum()),
            overlapping=int((p.best[:, :, None] == q.best[:, None, :]).sum()),
            divergence=float(divergence.sum()),
        )


def negative_log_likelihood(head: Head, states: Array, token: Ints) -> float:
    """Sum of -log p(next token) in nats. states: (n, d); token: (n,), the next tokens."""
    found = _Running(token, 1)
    with np.errstate(over="ignore", invalid="ignore"):
        for rows, start, (scores,) in _tiles(head, states):
            found.add(rows, start, scores)
        return found.nats()


class _Running:
    """Sums and highest scores of each row after some of the outputs, (n,) unless stated."""

    def __init__(self, token: Ints, k: int) -> None:
        n = len(token)
        self.token = token
        self.actual = np.zeros(n)  # score of the next token
        self.highest = np.full(n, -np.inf)
        self.first = np.zeros(n, dtype=np.int64)  # the first output with the highest score
        self.total = np.zeros(n)  # sum of exp(score - highest)
        self.best = np.full((n, k), -1)  # outputs with the highest scores, (n, k), unordered
        self._scores = np.full((n, k), -np.inf)  # theirs

    def add(self, rows: slice, start: int, scores: Array) -> tuple[Array, Array]:
        """Add the scores of some rows' outputs from ``start`` on.

        Returns exp(score - highest), (rows, outputs), and the factor, (rows,), by which earlier
        sums of such terms shrink.
        """
        token, before, most = self.token[rows] - start, self.highest[rows], scores.max(axis=1)
        here = np.flatnonzero((token >= 0) & (token < scores.shape[1]))
        self.actual[rows.start + here] = scores[here, token[here]]
        above = np.flatnonzero(most > before)
        self.first[rows.start + above] = start + scores[above].argmax(axis=1)
        self._keep_best(
            rows.start, np.flatnonzero(most > self._scores[rows].min(axis=1)), start, scores
        )
        highest = np.maximum(before, most)
        shrunk = np.exp(before - highest)
        mass = scores - highest.astype(scores.dtype)[:, None]
        np.maximum(mass, LEAST, out=mass)
        np.exp(mass, out=mass)
        self.highest[rows] = highest
        self.total[rows] = self.total[rows] * shrunk + mass.sum(axis=1)
        return mass, shrunk

    def _keep_best(self, row: int, hit: Ints, start: int, scores: Array) -> None:
        """Merge the highest scores of the rows ``hit``, counted from ``row``, with those so far."""
        k, width = self.best.shape[1], scores.shape[1]
        found = scores[hit]
        index = np.broadcast_to(np.arange(width), found.shape)
        if k < width:
            index = np.argpartition(found, -k, axis=1)[:, -k:]
            found = np.take_along_axis(found, index, axis=1)
        index = np.hstack([self.best[row + hit], index + start])
        found = np.hstack([self._scores[row + hit], found])
        kept = np.argpartition(found, -k, axis=1)[:, -k:]
        self.best[row + hit] = np.take_along_axis(index, kept, axis=1)
        self._scores[row + hit] = np.take_along_axis(found, kept, axis=1)

    def log_total(self) -> Array:
        """Logarithm of the sum of exp(score), (n,)."""
        found: Array = self.highest + np.log(self.total)
        return found

    def nats(self) -> float:
        """Sum of -log p(next token)."""
        return float((self.log_total() - self.actual).sum())


def _tiles(head: Head, *states: Array) -> Iterator[tuple[slice, int, list[Array]]]:
    """Rows, first output and the scores, (rows, outputs), of each tile, for each of ``states``."""
    dtype = np.result_type(head.weight.dtype, *(x.dtype for x in states), np.float32)
    for start in range(0, head.n_outputs, OUTPUTS):
        outputs = slice(start, start + OUTPUTS)
        weight = np.require(head.weight[outputs], dtype, ["A"])
        bias = head.bias[outputs]
        for row in range(0, len(states[0]), ROWS):
            rows = slice(row, row + ROWS)
            found = [head.finish(apply_affine(weight, bias, x[rows], "head")) for x in states]
            yield rows, start, found
