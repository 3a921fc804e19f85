"""Rows in float64 and near their mean, ready for products, in memory that is used again.

Widening costs as much as the products that follow when whole blocks go through memory three times
over and into fresh pages each time. Here a strip of rows is gathered, widened, shifted and summed
while it is in the cache, and the block that strips make up is overwritten by the next one.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.linear import Array

Indices = npt.NDArray[np.intp]
STRIP = 128  # rows that go through the cache together
BLOCK = 4096  # rows widened before they are used, at most
BLOCK_BYTES = 32 << 20  # of one side, so that large states take fewer rows
LEAST = 256  # rows of a block, however large they are
ALONE = 1 << 20  # numbers of a block that are widened sooner than a thread has begun


@dataclass(frozen=True, eq=False)
class Wide:
    """Rows about ``shift``, which is near their mean: that of the first STRIP of them.

    ‖rows‖² is at most 1 + BLOCK / STRIP times what it would be about the mean itself, column by
    column, so that taking the difference off afterwards costs two digits of sixteen at most.
    """

    rows: Array  # shape: (n, d), C order; valid until the next block is asked for
    shift: Array  # shape: (d,)
    sums: Array  # shape: (d,)  Σ rows
    squares: Array  # shape: (d,)  Σ rows², column by column; of a source nobody asks


class Desk:
    """Where pairs of rows are widened, a block at a time."""

    def __init__(self, d_source: int, d_target: int) -> None:
        widest = max(d_source, d_target)
        self._most = min(BLOCK, max(LEAST, BLOCK_BYTES // (8 * widest)))
        self._x, self._y = np.empty((0, d_source)), np.empty((0, d_target))
        self._thread = ThreadPoolExecutor(1)  # begins with its first task, ends with the desk

    def blocks(self, x: Array, y: Array, rows: Indices) -> Iterator[tuple[Wide, Wide]]:
        """The rows of x and y that ``rows`` numbers, as many at a time as the desk holds."""
        most = min(len(rows), self._most)
        if len(self._x) < most:
            self._x = np.empty((most, self._x.shape[1]))
            self._y = np.empty((most, self._y.shape[1]))
        parts = [rows[at : at + self._most] for at in range(0, len(rows), self._most)]
        if most * max(x.shape[1], y.shape[1]) < ALONE:
            for part in parts:
                yield _widen(x, part, self._x), _widen(y, part, self._y, squared=True)
            return
        for part in parts:
            beside = self._thread.submit(_widen, x, part, self._x)
            target = _widen(y, part, self._y, squared=True)
            yield beside.result(), target


def _widen(states: Array, rows: Indices, out: Array, *, squared: bool = False) -> Wide:
    d = states.shape[1]
    strip = np.empty((min(STRIP, len(rows)), d), states.dtype)
    sums, squares = np.zeros(d), np.zeros(d)
    shift: Any = None
    for at in range(0, len(rows), STRIP):
        these = rows[at : at + STRIP]
        raw, wide = strip[: len(these)], out[at : at + len(these)]
        np.take(states, these, axis=0, out=raw, mode="clip")  # "raise" would copy once more
        wide[:] = raw
        if shift is None:
            shift = wide.mean(axis=0)
        wide -= shift
        sums += wide.sum(axis=0)
        if squared:
            squares += np.einsum("ij,ij->j", wide, wide)
    return Wide(out[: len(rows)], shift, sums, squares)
