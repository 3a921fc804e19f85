"""Claims of a Parquet file, held against the file itself before anything is read by them.

A reader allocates what a footer and the headers of pages claim: places, numbers of values, sizes
of what is unpacked. A file of a kilobyte may claim terabytes. parquet-format, README.md.
"""

from __future__ import annotations

import os
from typing import Any

from linalign_lite.core.space import MAX_DIM
from linalign_lite.errors import FormatError
from linalign_lite.vectors.files.parquet_footer import read_struct
from linalign_lite.vectors.locations import Location

MAX_PAGE = 1 << 28  # bytes of a page; 1 MiB is usual, and some writers make 100 MB
FREE = 1 << 26  # bytes that a column of a row group may always unpack to
RATIO = 256  # of what is unpacked to what is stored, beyond that: vectors of few bits reach 100
_HEADER_BYTES = (1 << 12, 1 << 20)  # in which the header of a page ends: usually, and at most
_HEADER = {0: 5, 2: 7, 3: 8}  # by kind, data, dictionary, data (version 2): field of its own header
_DICTIONARY = 2


def require_claims(file: int, metadata: Any, location: Location) -> None:
    """Raise FormatError unless what is claimed can be true of the open file.

    Rows add up; every column chunk and page stands in the file; pages have the values of their
    chunk, lists at most MAX_DIM numbers, a page at most MAX_PAGE bytes, and a column of a row
    group unpacks to at most FREE bytes or RATIO times its size.
    """
    size = os.fstat(file).st_size
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    try:
        rows = [g.num_rows for g in groups]
        _require(min(rows, default=0) >= 0, "rows", "less than none")
        _require(sum(rows) == metadata.num_rows, "rows", f"{metadata.num_rows}, not {sum(rows)}")
        for group in groups:
            for i in range(group.num_columns):
                flat = metadata.schema.column(i).max_repetition_level == 0
                _require_chunk(group.column(i), group.num_rows, flat)
                _require_pages(file, size, group.column(i), flat)
    except _Lie as e:
        what, got = e.args
        problem = f"{location} is not usable Parquet: it claims {what} that it does not have"
        raise FormatError(problem, got=got) from e


class _Lie(Exception):  # noqa: N818 (a FormatError tells it)
    """A claim that the file does not fulfil: of what, and what was found."""


def _require(holds: bool, what: str, got: str) -> None:
    if not holds:
        raise _Lie(what, got)


def _require_chunk(chunk: Any, rows: int, flat: bool) -> None:
    n = chunk.num_values
    _require(n == rows if flat else n >= 0, "values", f"{n} in {rows} rows")
    most = f"{n} in {rows} rows, of at most {MAX_DIM} each"
    _require(n <= rows * MAX_DIM, "numbers in lists", most)


def _require_pages(file: int, size: int, chunk: Any, flat: bool) -> None:
    at, stored, left, unpacked = _start(chunk), chunk.total_compressed_size, chunk.num_values, 0
    inside = 0 < at <= size and 0 <= stored <= size - at
    _require(inside, "bytes", f"{stored} from {at} on, in a file of {size}")
    while left:
        kind, values, bytes_, page, begin = _page(file, at)
        at += begin + page
        _require(at <= size, "bytes", f"a page that ends at {at}, in a file of {size}")
        _require(bytes_ <= MAX_PAGE, "bytes", f"a page of {bytes_}, at most {MAX_PAGE}")
        if kind == _DICTIONARY:  # of entries with 4 bytes or more, but for those of a stated length
            least = 1 if chunk.physical_type == "FIXED_LEN_BYTE_ARRAY" else 4
            _require(least * values <= bytes_, "values", f"{values} in {bytes_} bytes")
        elif kind in _HEADER:
            _require(0 < values <= left, "values", f"{values} in a page, {left} expected")
            left -= values
        unpacked += bytes_ if flat else max(bytes_, 4 * values)
        _require(unpacked <= max(FREE, RATIO * stored), "bytes", f"{unpacked}, packed in {stored}")


def _start(chunk: Any) -> int:
    data = int(chunk.data_page_offset)
    if not chunk.has_dictionary_page:
        return data
    return min(data, int(chunk.dictionary_page_offset) or data)


def _page(file: int, at: int) -> tuple[int, int, int, int, int]:
    """Return a page's kind, values, bytes when unpacked and as stored, and those of its header."""
    for most in _HEADER_BYTES:
        try:
            header, begin = read_struct(os.pread(file, most, at), 0)
            kind = header[1][1]
            own = header[_HEADER[kind]][1] if kind in _HEADER else {1: (0, 0)}
            found = kind, own[1][1], header[2][1], header[3][1], begin
            if min(map(int, found)) >= 0:
                return found
        except (IndexError, KeyError, TypeError, OverflowError, RecursionError, FormatError):
            pass
    raise _Lie("a page", f"none at {at}")
