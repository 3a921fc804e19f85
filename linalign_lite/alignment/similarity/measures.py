"""Formulas of the symmetric measures: from sums of products, and from nearest neighbours."""

from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.moments import Float64
from linalign_lite.core.affine_map import Array

Ints = npt.NDArray[np.integer[Any]]
BLOCK = 1 << 22  # similarities held at a time


def hsic(cross: float, both: float, spread_x: float, spread_y: float, n: int) -> float:
    """Compute the unbiased HSIC of linear kernels times n(n − 3), without a kernel matrix.

    Song et al. 2012 (JMLR 13, eq. 5): with K̃, L̃ the kernel matrices without their diagonals,
    tr K̃L̃ + 1ᵀK̃1·1ᵀL̃1 / ((n − 1)(n − 2)) − 2·1ᵀK̃L̃1 / (n − 2). Centring the states changes none of
    it and makes K1 = 0. With a and b the rows' squared lengths, K̃1 = −a and L̃1 = −b, so

        ‖X_cᵀY_c‖² − aᵀb·n/(n − 2) + Σa·Σb / ((n − 1)(n − 2)).

    cross: ‖X_cᵀY_c‖², both: aᵀb, spread_x: Σa, spread_y: Σb. n ≥ 4.
    """
    return cross - both * n / (n - 2) + spread_x * spread_y / ((n - 1) * (n - 2))


def whitener(values: Float64, vectors: Float64, share: float, cutoff: float) -> Float64:
    """V s^−½ of the leading directions that hold ``share`` of the variance, (d, kept).

    It makes centred rows uncorrelated. values: (d,) eigenvalues, ascending, at most ``cutoff``
    where they are rounding noise; vectors: (d, d).
    """
    leading = values[::-1]
    held = np.cumsum(leading)
    enough = int(np.searchsorted(held, share * held[-1])) + 1
    kept = min(enough, int((leading > cutoff).sum()))
    return np.asarray(vectors[:, -kept:] / np.sqrt(values[-kept:]))


def mean_correlation(white_x: Float64, cross: Float64, white_y: Float64) -> float:
    """Mean canonical correlation in the kept directions (Raghu et al. 2017, SVCCA).

    The singular values of s_x^−½V_xᵀ X_cᵀY_c V_y s_y^−½, as many as the smaller side keeps.
    white_x: (d_x, k_x), cross: (d_x, d_y) X_cᵀY_c, white_y: (d_y, k_y).
    """
    found = np.linalg.svd(white_x.T @ cross @ white_y, compute_uv=False)
    return float(np.minimum(found, 1.0).mean())


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
