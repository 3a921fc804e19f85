"""Pages of a Parquet column of lists of one length: where its numbers stand, as they are.

pyarrow takes 7 ns for each number of a list, most of it for levels, which say where lists begin
and what is missing. Where all lists have one length and nothing is missing, the numbers of a page
that is not packed stand one after the other. A page whose levels say anything else is left to
pyarrow (`OtherLayout`). parquet-format, README.md and Encodings.md.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.errors import FormatError
from linalign_lite.vectors.files.parquet_footer import PAGE_HEADER, read_struct, read_varint
from linalign_lite.vectors.source import Vectors

_DATA, _DATA_V2, _PLAIN = 0, 3, 0
_MOST_KNOWN = 4096  # levels that are kept


class OtherLayout(Exception):  # noqa: N818 (no error: pyarrow reads it)
    """A column is packed, or its lists are not of one length."""


class Pages:
    """The pages of one column of float32 lists of ``dim`` in an open Parquet file.

    Raises OtherLayout when the column's type or packing is another.
    """

    def __init__(self, file: int, metadata: Any, column: str, dim: int) -> None:
        self._file, self._dim, self._known = file, dim, set[tuple[Any, ...]]()
        names = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
        found = [i for i, name in enumerate(names) if name.split(".")[0] == column]
        if len(found) != 1:
            raise OtherLayout
        kind = metadata.schema.column(found[0])
        if kind.physical_type != "FLOAT" or kind.max_repetition_level != 1:
            raise OtherLayout
        self._defined = int(kind.max_definition_level)
        self._chunks = []
        for i in range(metadata.num_row_groups):
            group = metadata.row_group(i)
            chunk, n = group.column(found[0]), group.num_rows
            plain = set(chunk.encodings) <= {"PLAIN", "RLE"} and not chunk.has_dictionary_page
            whole = chunk.num_values == n * dim
            if chunk.compression != "UNCOMPRESSED" or not plain or not whole:
                raise OtherLayout
            self._chunks.append((chunk.data_page_offset, chunk.total_compressed_size, n))

    def read(self, first: int, counts: Iterator[int]) -> Iterator[Vectors]:
        """Yield as many rows as each of the counts, from row ``first`` on."""
        runs = self._runs(first)
        at = left = 0
        for n in counts:
            out: Vectors = np.empty((n, self._dim), np.float32)
            space, filled = memoryview(out.reshape(-1).view(np.uint8)), 0  # type: ignore[arg-type]
            while filled < len(space):
                if not left:
                    at, left = next(runs, (0, 0))
                step = min(left, len(space) - filled)
                got = os.preadv(self._file, [space[filled : filled + step]], at) if step else 0
                if not got:  # there are fewer numbers than the file says
                    raise OtherLayout
                at, left, filled = at + got, left - got, filled + got
            yield out

    def _runs(self, first: int) -> Iterator[tuple[int, int]]:
        """Yield offset and bytes of the numbers of each page, from row ``first`` on."""
        for start, size, rows in self._chunks:
            skip = min(first, rows)
            first -= skip
            at, end, seen, left = start, start + size, 0, skip * self._dim
            while at < end and skip < rows:
                offset, n, at = self._page(at, seen % self._dim)
                seen += n
                if left < n:
                    yield offset + 4 * left, 4 * (n - left)
                left = max(0, left - n)
            if skip < rows and (at != end or seen != rows * self._dim):
                raise OtherLayout

    def _page(self, at: int, phase: int) -> tuple[int, int, int]:
        """Return offset and number of a page's numbers, and where the next page begins."""
        raw = os.pread(self._file, PAGE_HEADER, at)
        try:
            header, begin = read_struct(raw, 0)
            kind, size = header[1][1], header[3][1]
            data = header[5 if kind == _DATA else 8][1]
            n, encoding = data[1][1], data[2 if kind == _DATA else 4][1]
            if kind not in {_DATA, _DATA_V2} or encoding != _PLAIN or not 0 < n <= size:
                raise OtherLayout
            lists, defined, levels = self._levels(kind, data, at + begin)
        except (IndexError, KeyError, TypeError, OverflowError, OSError, FormatError,
                RecursionError) as e:  # fmt: skip
            raise OtherLayout from e
        if levels + 4 * n != size:  # then a number is missing
            raise OtherLayout
        for key in ((lists, 1, n, phase), (defined, self._defined, n, -1)):
            if key not in self._known:
                self._require(*key)
                if len(self._known) < _MOST_KNOWN:
                    self._known.add(key)
        return at + begin + levels, n, at + begin + size

    def _levels(self, kind: int, data: Any, at: int) -> tuple[bytes, bytes, int]:
        """Return the levels of lists and of what is defined, and their bytes together."""
        if kind == _DATA_V2:
            defined, lists = data[5][1], data[6][1]
            if not 0 <= defined + lists <= PAGE_HEADER * 64 or min(defined, lists) < 0:
                raise OtherLayout
            raw = os.pread(self._file, lists + defined, at)
            return raw[:lists], raw[lists:], lists + defined
        found, begin = [], at
        for _ in range(2 if self._defined else 1):
            size = int.from_bytes(os.pread(self._file, 4, at), "little")
            if size > PAGE_HEADER * 64:
                raise OtherLayout
            found.append(os.pread(self._file, size, at + 4))
            at += 4 + size
        return found[0], found[1] if self._defined else b"", at - begin

    def _require(self, raw: bytes, most: int, n: int, phase: int) -> None:
        """Raise OtherLayout unless lists begin every ``dim`` numbers; phase −1: all are defined."""
        if phase < 0:
            right = (levels(raw, most, n) == most).all()
        else:
            begins = np.arange(phase, phase + n) % self._dim == 0
            right = (levels(raw, most, n) == ~begins).all()
        if not right:
            raise OtherLayout


def levels(raw: bytes, most: int, n: int) -> npt.NDArray[np.uint8]:
    """Decode n levels of 0 to ``most``: runs of one level, and packed bits, lowest first."""
    width, at, filled = most.bit_length(), 0, 0
    out: npt.NDArray[np.uint8] = np.zeros(n, np.uint8)
    if not width:
        return out
    try:
        while filled < n:
            head, at = read_varint(raw, at)
            if head & 1:
                count, size = (head >> 1) * 8, (head >> 1) * width
                if not count or at + size > len(raw):
                    raise OtherLayout
                bits = np.unpackbits(np.frombuffer(raw, np.uint8, size, at), bitorder="little")
                values = bits.reshape(-1, width) @ (1 << np.arange(width, dtype=np.uint8))
                out[filled : filled + count] = values[: n - filled]
                at += size
            else:
                count = head >> 1
                if not count:
                    raise OtherLayout
                out[filled : filled + count] = raw[at]
                at += 1
            filled += count
    except IndexError as e:
        raise OtherLayout from e
    return out
