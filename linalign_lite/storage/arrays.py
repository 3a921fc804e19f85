"""What arrays of any size have in common."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

PIECE = 16 << 20  # bytes read or checked at a time


def not_finite(array: npt.NDArray[Any]) -> int:
    """How many numbers are NaN or infinite, counted a piece at a time."""
    if array.nbytes <= PIECE or array.ndim == 0:
        return int(array.size - np.isfinite(array).sum())
    step = len(array) * PIECE // array.nbytes
    if not step:  # a row alone is larger
        return sum(map(not_finite, array))
    return sum(not_finite(array[start : start + step]) for start in range(0, len(array), step))


def let_go(array: npt.NDArray[Any]) -> None:
    """Drop from memory what was read of an array that lies in a mapped file; it is read again."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
