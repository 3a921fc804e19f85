"""Soft matches of two sets of unit vectors by entropic optimal transport (Cuturi 2013).

    maximise  Σ P_ij (a_i · b_j) − τ Σ P_ij log P_ij   over P ≥ 0 with equal row and column sums.

Equal column sums keep a few points of the target, the hubs, from being the match of many.
"""

import numpy as np

from linalign_lite.core.affine_map import Array

SCALINGS = 5  # of rows and columns in turn: more changed no map


def matches(scores: Array, temperature: float) -> Array:
    """P · n for scores (n, m) of at most 1: each row sums to about 1. Overwrites ``scores``."""
    n, m = scores.shape
    scores -= 1.0  # the largest that a product of unit vectors can be: no overflow
    scores *= 1.0 / temperature
    np.maximum(scores, -80.0, out=scores)  # float32: exp of less is denormal, and slow
    kernel: Array = np.exp(scores, out=scores)
    columns: Array = np.full(m, 1.0 / m, np.float32)
    for _ in range(SCALINGS):
        rows: Array = 1.0 / (kernel @ columns)
        columns = n / m / (rows @ kernel)
    kernel *= rows[:, None]
    kernel *= columns
    return kernel
