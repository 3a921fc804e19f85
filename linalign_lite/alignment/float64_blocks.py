"""Convert rows to float64, shifted near their mean, in buffers that are reused.

Conversion costs as much as the products that follow if whole blocks pass through memory three times
and into new pages each time. Here a strip of rows is gathered, converted, shifted and summed while
it is in the cache. The next block overwrites the one that the strips fill.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array

Indices = npt.NDArray[np.intp]
STRIP = 1 << 17  # numbers of one side in the cache together: about 1 MiB
BLOCK = 4096  # maximum rows in a block
BLOCK_BYTES = 32 << 20  # of one side: blocks of large states have fewer rows
LEAST = 256  # minimum rows in a block, whatever their size
ALONE = 1 << 20  # smaller blocks are converted faster than a thread starts


@dataclass(frozen=True, eq=False)
class Float64Rows:
    """Rows minus ``shift``, the mean of their first strip, which is near their own mean.

    With n rows in a block and m in a strip, ‖rows‖² is at most 1 + n/m times what it would be about
    the mean itself, column by column: at most 33, so that taking the difference off afterwards
    costs two digits of sixteen.
    """

    rows: Array  # shape: (n, d), C order; valid until the next block is asked for
    shift: Array  # shape: (d,)
    sums: Array  # shape: (d,)  Σ rows
    squares: Array  # shape: (d,)  Σ rows², column by column; not computed for the source


class BlockReader:
    """Converts pairs of rows to float64, a block at a time."""

    def __init__(self, d_source: int, d_target: int) -> None:
        widest = max(d_source, d_target)
        self._most = min(BLOCK, max(LEAST, BLOCK_BYTES // (8 * widest)))
        self._x, self._y = np.empty((0, d_source)), np.empty((0, d_target))
        self._thread = ThreadPoolExecutor(1)  # starts with its first task, ends with this object

    def blocks(
        self, x: Array, y: Array, runs: Sequence[Indices]
    ) -> Iterator[tuple[int, Float64Rows, Float64Rows]]:
        """Yield the rows of x and y that each run indexes: (run, source, target), in order.

        The buffers hold rows of several runs where these are short; each block has rows of one run.
        """
        for parts in _filled(runs, self._most):
            rows = sum(len(part) for _, part in parts)
            if len(self._x) < rows:
                self._x = np.empty((rows, self._x.shape[1]))
                self._y = np.empty((rows, self._y.shape[1]))
            pieces = [part for _, part in parts]
            beside = None
            if rows * max(x.shape[1], y.shape[1]) >= ALONE:
                beside = self._thread.submit(_widen, x, pieces, self._x)
            target = _widen(y, pieces, self._y, squared=True)
            source = beside.result() if beside else _widen(x, pieces, self._x)
            for (run, _), a, b in zip(parts, source, target, strict=True):
                yield run, a, b


def _filled(runs: Sequence[Indices], most: int) -> Iterator[list[tuple[int, Indices]]]:
    """Yield the runs in order, cut into groups of at most ``most`` rows."""
    parts: list[tuple[int, Indices]] = []
    room = most
    for run, rows in enumerate(runs):
        at = 0
        while at < len(rows):
            part = rows[at : at + room]
            parts.append((run, part))
            at, room = at + len(part), room - len(part)
            if not room:
                yield parts
                parts, room = [], most
    if parts:
        yield parts


def _widen(
    states: Array, pieces: Sequence[Indices], out: Array, *, squared: bool = False
) -> list[Float64Rows]:
    """Convert the rows of each piece, one piece after the other in ``out``."""
    found, at = [], 0
    for rows in pieces:
        found.append(_widen_rows(states, rows, out[at : at + len(rows)], squared=squared))
        at += len(rows)
    return found


def _widen_rows(states: Array, rows: Indices, out: Array, *, squared: bool) -> Float64Rows:
    d = states.shape[1]
    step = max(1, STRIP // d)
    strip = np.empty((min(step, len(rows)), d), states.dtype)
    sums, squares = np.zeros(d), np.zeros(d)
    shift: Any = None
    for at in range(0, len(rows), step):
        these = rows[at : at + step]
        raw, wide = strip[: len(these)], out[at : at + len(these)]
        np.take(states, these, axis=0, out=raw, mode="clip")  # "raise" would copy once more
        wide[:] = raw
        if shift is None:
            shift = wide.mean(axis=0)
        wide -= shift
        sums += wide.sum(axis=0)
        if squared:
            squares += np.einsum("ij,ij->j", wide, wide)
    return Float64Rows(out, shift, sums, squares)
