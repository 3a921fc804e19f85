"""Nearest neighbours by cosine, and the share that two models have in common."""

from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.moments import Float64
from linalign_lite.core.affine_map import Array

Ints = npt.NDArray[np.integer[Any]]
BLOCK = 1 << 22  # similarities held at a time


def nearest(states: Array, k: int) -> npt.NDArray[np.int32]:
    """Find the k rows of largest cosine to each row, without itself; (n, k), in no order.

    states: (n, d), 1 ≤ k < n. A zero row has cosine 0 to all others. Among equals any may be
    taken. O(n d) memory: similarities are made in blocks of rows.
    """
    n = len(states)
    unit: Float64 = states.astype(np.float64)
    norms = np.linalg.norm(unit, axis=1, keepdims=True)
    np.divide(unit, norms, out=unit, where=norms > 0)
    found = np.empty((n, k), dtype=np.int32)
    step = max(1, BLOCK // n)
    for start in range(0, n, step):
        close = unit[start : start + step] @ unit.T
        rows = np.arange(len(close))
        close[rows, start + rows] = -np.inf
        found[start : start + step] = np.argpartition(close, n - k, axis=1)[:, n - k :]
    return found


def overlap(first: Ints, second: Ints, order: Ints | None = None) -> float:
    """Compute the mean share of common neighbours (Huh et al. 2024, arXiv 2405.07987, mutual k-NN).

    first and second: (n, k), distinct within a row. ``order`` pairs row i of the first with row
    order[i] of the second; a neighbour is common when the two are a pair.
    """
    n, k = first.shape
    if order is not None:
        place = np.empty(n, dtype=np.int64)
        place[order] = np.arange(n)
        second = place[second[order]]
    # one number for each (row, neighbour): shared ones come twice
    base = np.arange(n, dtype=np.int64)[:, None] * n
    both = np.sort(np.concatenate([(base + first).ravel(), (base + second).ravel()]))
    return float((both[1:] == both[:-1]).sum() / (n * k))
