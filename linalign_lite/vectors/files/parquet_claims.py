"""Claims of a Parquet file, held against the file itself before anything is read by them.

A reader allocates what a footer and the headers of pages claim: places, numbers of values, sizes
of what is unpacked. A file of a kilobyte may claim terabytes. parquet-format, README.md.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from linalign_lite.core.space import MAX_DIM
from linalign_lite.errors import FormatError
from linalign_lite.vectors.files.parquet_footer import MAGIC, Struct, read_struct
from linalign_lite.vectors.locations import Location

MAX_PAGE = 1 << 28  # bytes of a page; 1 MiB is usual, and some writers make 100 MB
MAX_FOOTER = 1 << 26  # bytes
FREE = 1 << 26  # bytes that a column of a row group may always unpack to
RATIO = 256  # of what is unpacked to what is stored, beyond that: vectors of few bits reach 100
_HEADER_BYTES = (1 << 12, 1 << 20)  # in which the header of a page ends: usually, and at most
_HEADER = {0: 5, 2: 7, 3: 8}  # by kind, data, dictionary, data (version 2): field of its own header
_DICTIONARY, _FIXED_LENGTH, _REPEATED = 2, 7, 2  # of pages, of types, of repetitions


def require_claims(file: int, location: Location) -> None:
    """Raise FormatError unless what is claimed can be true of the open file.

    Rows add up; every column chunk and page stands in the file; pages have the values of their
    chunk, lists at most MAX_DIM numbers, a page at most MAX_PAGE bytes, and a column of a row
    group unpacks to at most FREE bytes or RATIO times its size. The footer is read here, and not
    by pyarrow, some of whose readers of it end the process at what they did not expect.
    """
    size = os.fstat(file).st_size
    try:
        footer = _footer(file, size)
        flat, groups = _flat_columns(footer[2][1][1]), footer[4][1][1]
        rows = [group[3][1] for group in groups]
        _require(min(rows, default=0) >= 0, "rows", "less than none")
        _require(sum(rows) == footer[3][1], "rows", f"{footer[3][1]}, not {sum(rows)}")
        for group in groups:
            chunks = [chunk[3][1] for chunk in group[1][1][1]]
            _require(len(chunks) == len(flat), "columns", f"{len(flat)}, not {len(chunks)}")
            for chunk, is_flat in zip(chunks, flat, strict=True):
                _require_chunk(chunk, group[3][1], is_flat)
                _require_pages(file, size, chunk, is_flat)
    except _Lie as e:
        what, got = e.args
        problem = f"{location} is not usable Parquet: it claims {what} that it does not have"
        raise FormatError(problem, got=got) from e
    except (IndexError, KeyError, TypeError, OverflowError, RecursionError, FormatError) as e:
        got = e.got if isinstance(e, FormatError) else "a footer that is not known"
        raise FormatError(f"{location} is not usable Parquet", got=got) from e


def _footer(file: int, size: int) -> Struct:
    ending = os.pread(file, 8, max(0, size - 8))
    stated = int.from_bytes(ending[:4], "little")
    if size < 12 or os.pread(file, 4, 0) != MAGIC or ending[4:] != MAGIC:
        raise FormatError("no Parquet", got="no footer, or not all of the file")
    _require(
        stated <= min(size - 12, MAX_FOOTER), "a footer", f"{stated} bytes, in a file of {size}"
    )
    return read_struct(os.pread(file, stated, size - 8 - stated), 0)[0]


def _flat_columns(schema: Sequence[Struct]) -> list[bool]:
    """Return for each column whether it has one value a row: no part of its path repeats."""
    found: list[bool] = []
    inside: list[tuple[int, bool]] = []  # children that are left, and whether one value is a row's
    for element in schema:
        children = element[5][1] if 5 in element else 0
        repeats = 3 in element and element[3][1] == _REPEATED
        is_flat = not inside or (inside[-1][1] and not repeats)  # of the root it means nothing
        while inside:
            left, of = inside.pop()
            if left > 1:
                inside.append((left - 1, of))
                break
        if children:
            inside.append((children, is_flat))
        else:
            found.append(is_flat)
    return found


class _Lie(Exception):  # noqa: N818 (a FormatError tells it)
    """A claim that the file does not fulfil: of what, and what was found."""


def _require(holds: bool, what: str, got: str) -> None:
    if not holds:
        raise _Lie(what, got)


def _require_chunk(chunk: Struct, rows: int, flat: bool) -> None:
    n = chunk[5][1]
    _require(n == rows if flat else n >= 0, "values", f"{n} in {rows} rows")
    most = f"{n} in {rows} rows, of at most {MAX_DIM} each"
    _require(n <= rows * MAX_DIM, "numbers in lists", most)


def _require_pages(file: int, size: int, chunk: Struct, flat: bool) -> None:
    at, stored, left, unpacked = _start(chunk), chunk[7][1], chunk[5][1], 0
    inside = 0 < at <= size and 0 <= stored <= size - at
    _require(inside, "bytes", f"{stored} from {at} on, in a file of {size}")
    while left:
        kind, values, bytes_, page, begin = _page(file, at)
        at += begin + page
        _require(at <= size, "bytes", f"a page that ends at {at}, in a file of {size}")
        _require(bytes_ <= MAX_PAGE, "bytes", f"a page of {bytes_}, at most {MAX_PAGE}")
        if kind == _DICTIONARY:  # of entries with 4 bytes or more, but for those of a stated length
            least = 1 if chunk[1][1] == _FIXED_LENGTH else 4
            _require(least * values <= bytes_, "values", f"{values} in {bytes_} bytes")
        elif kind in _HEADER:
            _require(0 < values <= left, "values", f"{values} in a page, {left} expected")
            left -= values
        unpacked += bytes_ if flat else max(bytes_, 4 * values)
        _require(unpacked <= max(FREE, RATIO * stored), "bytes", f"{unpacked}, packed in {stored}")


def _start(chunk: Struct) -> int:
    data = int(chunk[9][1])
    return min(data, int(chunk[11][1]) or data) if 11 in chunk else data


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
