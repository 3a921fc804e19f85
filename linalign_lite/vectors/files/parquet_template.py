"""Row groups of vectors written by pyarrow once, and then again with other numbers in them.

pyarrow takes 13 ns to write each number of a list, most of it for levels, which are the same in
all row groups of as many vectors. So the first of a size is written by pyarrow and kept; those
after it have its bytes with other numbers, and the other columns as pyarrow writes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.vectors.files import parquet_footer as footer
from linalign_lite.vectors.files.parquet_footer import Struct
from linalign_lite.vectors.source import Vectors

_PLACE = 1  # of the column of vectors, after the ids


@dataclass(frozen=True, eq=False)
class Template:
    """The chunk of vectors of one row group, the places of its numbers, and its footer."""

    chunk: npt.NDArray[np.uint8]
    runs: tuple[tuple[int, int], ...]  # offset in the chunk and number of numbers of each page
    start: int  # of the chunk in the file that it was written in
    footer: bytes

    def filled(self, vectors: Vectors) -> npt.NDArray[np.uint8]:
        """Write these vectors into the chunk, and return it."""
        at = 0
        numbers = np.ascontiguousarray(vectors, "<f4").reshape(-1)
        for offset, n in self.runs:
            self.chunk[offset : offset + 4 * n] = numbers[at : at + n].view(np.uint8)
            at += n
        return self.chunk


def make_template(file: Any, vectors: Vectors) -> Template | None:
    """Return the template of a file of one row group; None if its numbers are not all found.

    file: a Parquet file in memory. vectors: those in it.
    """
    raw = np.frombuffer(file, np.uint8)
    ending = bytes(footer.split(file)[1])
    chunk = _group(footer.read_struct(ending, 0)[0])[1][1][1][_PLACE][3][1]
    start, size = chunk[9][1], chunk[7][1]
    numbers = np.ascontiguousarray(vectors, "<f4").reshape(-1)
    runs, at, done = [], 0, 0
    while at < size:
        page = bytes(raw[start + at : start + at + footer.PAGE_HEADER])
        header, begin = footer.read_struct(page, 0)
        n = header[5][1][1][1] if 5 in header else 0
        at += begin + header[3][1]
        place = slice(start + at - 4 * n, start + at)
        if not n or not np.array_equal(raw[place], numbers[done : done + n].view(np.uint8)):
            return None
        runs.append((at - 4 * n, n))
        done += n
    if done != len(numbers):
        return None
    return Template(raw[start : start + size].copy(), tuple(runs), start, ending)


def from_template(template: Template, others: Any, vectors: Vectors) -> tuple[list[Any], bytes]:
    """Return the parts of a row group, without magic bytes, and its footer.

    others: a Parquet file in memory of the other columns. Offsets in the footer are those of a file
    of this row group alone.
    """
    struct, _ = footer.read_struct(template.footer, 0)
    body, ending = footer.split(others)
    found, _ = footer.read_struct(bytes(ending), 0)
    group, columns = _group(struct), _group(found)[1][1][1]
    own = group[1][1][1][_PLACE]
    footer.move_chunk(own, len(footer.MAGIC) + len(body) - template.start)
    columns.insert(_PLACE, own)
    group[1][1][1][:] = columns
    sizes = [c[3][1] for c in columns]
    group[2] = (group[2][0], sum(s[6][1] for s in sizes))  # bytes unpacked
    if 5 in group:  # where the row group begins
        group[5] = (group[5][0], len(footer.MAGIC))
    if 6 in group:
        group[6] = (group[6][0], sum(s[7][1] for s in sizes))
    return [body, template.filled(vectors)], footer.write_struct(struct)


def _group(struct: Struct) -> Struct:
    groups = struct[4][1][1]
    assert len(groups) == 1  # as written
    group: Struct = groups[0]
    return group
