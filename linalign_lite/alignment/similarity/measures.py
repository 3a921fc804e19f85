"""Similarity measures that are functions of sums of products."""

import numpy as np

from linalign_lite.alignment.moments import Float64


def hsic(cross: float, both: float, spread_x: float, spread_y: float, n: int) -> float:
    """Compute the unbiased HSIC of linear kernels times n(n − 3), without a kernel matrix.

    Song et al. 2012 (JMLR 13, eq. 5): with K̃, L̃ the kernel matrices without their diagonals,
    tr K̃L̃ + 1ᵀK̃1·1ᵀL̃1 / ((n − 1)(n − 2)) − 2·1ᵀK̃L̃1 / (n − 2). Centring the states changes none of
    it and makes K1 = 0. With a and b the rows' squared lengths, K̃1 = −a and L̃1 = −b, so

        ‖X_cᵀY_c‖² − aᵀb·n/(n − 2) + Σa·Σb / ((n − 1)(n − 2)).

    cross: ‖X_cᵀY_c‖², both: aᵀb, spread_x: Σa, spread_y: Σb. n ≥ 4.
    """
    return cross - both * n / (n - 2) + spread_x * spread_y / ((n - 1) * (n - 2))


def kept_directions(values: Float64, share: float, cutoff: float) -> int:
    """Count the leading directions that hold ``share`` of the variance, without rounding noise.

    values: (d,) eigenvalues, ascending.
    """
    leading = values[::-1]
    rank = int((leading > cutoff).sum())
    held = np.cumsum(leading)
    enough = int(np.searchsorted(held, share * held[-1])) + 1
    return min(enough, rank)


def whitener(values: Float64, vectors: Float64, kept: int) -> Float64:
    """V s^−½ of the ``kept`` leading directions, (d, kept): makes centred rows uncorrelated."""
    return np.asarray(vectors[:, -kept:] / np.sqrt(values[-kept:]))


def mean_correlation(white_x: Float64, cross: Float64, white_y: Float64) -> float:
    """Mean canonical correlation in the kept directions (Raghu et al. 2017, SVCCA).

    The singular values of s_x^−½V_xᵀ X_cᵀY_c V_y s_y^−½, as many as the smaller side keeps.
    white_x: (d_x, k_x), cross: (d_x, d_y) X_cᵀY_c, white_y: (d_y, k_y).
    """
    found = np.linalg.svd(white_x.T @ cross @ white_y, compute_uv=False)
    return float(np.minimum(found, 1.0).mean())
