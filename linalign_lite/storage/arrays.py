"""Helpers for arrays of any size, in memory or mapped from a file."""

import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 16 << 20  # bytes read or checked at a time
FEW_COLUMNS = 16


def count_nonfinite(array: npt.NDArray[Any]) -> int:
    """Count the values that are NaN or infinite, block by block."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.add.reduce(array, axis=None)):  # then so is every value
            return 0
    if array.nbytes <= BLOCK or array.ndim == 0:
        return int(array.size - np.isfinite(array).sum())
    step = len(array) * BLOCK // array.nbytes
    if not step:  # one row alone is larger
        return sum(map(count_nonfinite, array))
    return sum(count_nonfinite(array[start : start + step]) for start in range(0, len(array), step))


def unit_rows(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Divide each row by its length, (n, d), in its own precision; a row of length 0 stays 0."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: npt.NDArray[Any] = np.zeros_like(rows)
    np.divide(rows, lengths, out=scaled, where=lengths > 0)
    return scaled


def repeated_rows(rows: npt.NDArray[Any]) -> int:
    """Count the rows, (n, d), that equal an earlier one."""
    count = 0
    for part in (rows[:, :FEW_COLUMNS], rows):  # hardly any rows agree in the first few by chance
        packed = np.ascontiguousarray(part)
        whole = packed.view(np.dtype((np.void, packed.itemsize * packed.shape[1])))
        if not (count := len(rows) - len(np.unique(whole))):
            break
    return count


def drop_pages(array: npt.NDArray[Any]) -> None:
    """Drop the pages of a memory-mapped array from memory; they are read again when used."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
