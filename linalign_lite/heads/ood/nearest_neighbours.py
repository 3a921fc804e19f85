"""Distances to nearest neighbours, in blocks: memory does not grow with bank or queries."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array

Float64 = npt.NDArray[np.float64]
QUERIES, BANK = 256, 8192  # rows of each that meet at once: 16 MB of distances


def unit(rows: Array) -> Float64:
    """Each row divided by its length, float64; a row of length 0 stays as it is. (n, d) → (n, d)"""
    wide = np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    result: Float64 = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    return result


def kth_distance(bank: Array, queries: Array, k: int) -> Float64:
    """Euclidean distance of each query to its k-th nearest row of the bank, (n,).

    bank: (m, d), k ≤ m; queries: (n, d). ‖q − b‖² = ‖q‖² − 2 q·b + ‖b‖², products in float64.
    """
    result = np.empty(len(queries))
    for start in range(0, len(queries), QUERIES):
        block = np.asarray(queries[start : start + QUERIES], dtype=np.float64)
        nearest = np.empty((len(block), 0))
        for first in range(0, len(bank), BANK):
            part = np.asarray(bank[first : first + BANK], dtype=np.float64)
            squares = np.einsum("ij,ij->i", part, part) - 2.0 * (block @ part.T)
            nearest = _smallest(np.hstack([nearest, squares]), k)
        largest = nearest.max(axis=1) + np.einsum("ij,ij->i", block, block)
        result[start : start + QUERIES] = np.sqrt(np.maximum(largest, 0.0))
    return result


def _smallest(values: Float64, k: int) -> Float64:
    """The k smallest of each row, in any order; all of them where there are fewer."""
    if values.shape[1] <= k:
        return values
    smallest: Float64 = np.partition(values, k - 1, axis=1)[:, :k]
    return smallest
