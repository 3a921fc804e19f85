"""Metrics of next-token scores; the scores of all rows are never held at once."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array
from linalign_lite.core.head import Head

Ints = npt.NDArray[np.integer[Any]]
BLOCK = 64 << 20  # bytes of scores held at once
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
    k = min(TOP, head.n_outputs)
    sums = Sums()
    for rows in _blocks(len(true), 2 * head.n_outputs):
        p, q = log_softmax(head(true[rows])), log_softmax(head(mapped[rows]))
        actual = np.arange(len(p)), token[rows]
        best, other = _top(p, k), _top(q, k)
        agreeing = int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
        target_nats, hybrid_nats = (-float(x[actual].sum(dtype=np.float64)) for x in (p, q))
        q -= p
        np.exp(p, out=p)
        sums += Sums(
            positions=len(p),
            target_nats=target_nats,
            hybrid_nats=hybrid_nats,
            agreeing=agreeing,
            overlapping=int((best[:, :, None] == other[:, None, :]).sum()),
            divergence=-float(np.einsum("ij,ij->", p, q, dtype=np.float64)),
        )
    return sums


def negative_log_likelihood(head: Head, states: Array, token: Ints) -> float:
    """Sum of -log p(next token) in nats. states: (n, d); token: (n,), the next tokens."""
    nats = 0.0
    for rows in _blocks(len(states), head.n_outputs):
        logs = log_softmax(head(states[rows]))
        nats -= float(logs[np.arange(len(logs)), token[rows]].sum(dtype=np.float64))
    return nats


def log_softmax(scores: Array) -> Array:
    """Logarithm of each row's softmax, in place. scores: (n, n_outputs)."""
    scores -= scores.max(axis=1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True, dtype=np.float64))
    return scores


def _top(scores: Array, k: int) -> npt.NDArray[np.intp]:
    """The outputs with the k highest scores of each row, unordered, (n, k)."""
    return np.argpartition(scores, -k, axis=1)[:, -k:].copy()  # a view would keep all outputs


def _blocks(n_rows: int, numbers: int) -> Iterator[slice]:
    """Slices of rows that are scored together, each row taking so many ``numbers``."""
    step = max(1, BLOCK // (4 * numbers))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))
