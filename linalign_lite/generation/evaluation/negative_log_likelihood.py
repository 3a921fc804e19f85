"""What a head says on rows of states, the scores of all rows never held at once."""

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
    """Over positions, divided at the end; and texts that a model's context cut."""

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
    """What a head says on a target's own states and on mapped ones.

    true, mapped: (n, d); token: (n,), which came next. Characters and the source's nats stay 0.
    """
    k = min(TOP, head.n_outputs)
    sums = Sums()
    for rows in _blocks(len(true), 2 * head.n_outputs):
        p, q = log_softmax(head(true[rows])), log_softmax(head(mapped[rows]))
        came = np.arange(len(p)), token[rows]
        best, other = _first(p, k), _first(q, k)
        agreeing = int((p.argmax(axis=1) == q.argmax(axis=1)).sum())
        target_nats, hybrid_nats = (-float(x[came].sum(dtype=np.float64)) for x in (p, q))
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


def surprise(head: Head, states: Array, token: Ints) -> float:
    """Nats that a head spends on the tokens that came next. states: (n, d), token: (n,)."""
    nats = 0.0
    for rows in _blocks(len(states), head.n_outputs):
        logs = log_softmax(head(states[rows]))
        nats -= float(logs[np.arange(len(logs)), token[rows]].sum(dtype=np.float64))
    return nats


def log_softmax(scores: Array) -> Array:
    """In place, a row at a time. scores: (n, n_outputs)."""
    scores -= scores.max(axis=1, keepdims=True)
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True, dtype=np.float64))
    return scores


def _first(scores: Array, k: int) -> npt.NDArray[np.intp]:
    """The outputs with the k highest scores of each row, in no order, (n, k)."""
    return np.argpartition(scores, -k, axis=1)[:, -k:].copy()  # not a view of all the others


def _blocks(rows: int, numbers: int) -> Iterator[slice]:
    """Rows to score together, where each has as many ``numbers``."""
    step = max(1, BLOCK // (4 * numbers))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
