"""Footers of Parquet files: move the row groups of one file behind those of another.

A footer is Thrift in the compact protocol (thrift-compact-protocol.md). pyarrow writes and reads
footers but cannot change where a row group stands, which is all that is done here.
"""

from __future__ import annotations

from typing import Any

from linalign_lite.errors import FormatError

MAGIC = b"PAR1"
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)
Struct = dict[int, tuple[int, Any]]  # number of a field: its type and value
_ROW_GROUPS, _COLUMNS, _GROUP_OFFSET, _CHUNK_OFFSET, _CHUNK = 4, 1, 5, 2, 3
_PAGES = (9, 10, 11)  # offsets of data, index and dictionary pages in a chunk's metadata


def split(file: bytes) -> tuple[bytes, bytes]:
    """Return the row groups of a Parquet file, without its magic bytes, and its footer."""
    size = int.from_bytes(file[-8:-4], "little")
    if len(file) < 12 or not file[:4] == file[-4:] == MAGIC or size > len(file) - 12:
        raise FormatError("a part of a Parquet file is not complete")
    return file[4 : -8 - size], file[-8 - size : -8]


def moved(footer: bytes, distance: int) -> bytes:
    """Return a footer whose row groups stand ``distance`` bytes further on."""
    found, _ = read_struct(footer, 0)
    for group in found[_ROW_GROUPS][1][1]:
        _move(group, (_GROUP_OFFSET,), distance)
        for chunk in group[_COLUMNS][1][1]:
            _move(chunk, (_CHUNK_OFFSET,), distance)
            _move(chunk[_CHUNK][1], _PAGES, distance)
    return write_struct(found)


def as_file(footer: bytes) -> bytes:
    """Return a file of nothing but the footer, from which pyarrow reads the metadata."""
    return MAGIC + footer + len(footer).to_bytes(4, "little") + MAGIC


def _move(struct: Struct, fields: tuple[int, ...], distance: int) -> None:
    for field in fields:
        kind, value = struct.get(field, (0, 0))
        if value > 0:  # 0 stands for none
            struct[field] = (kind, value + distance)


def _read_varint(raw: bytes, at: int) -> tuple[int, int]:
    """Read a number of 7 bits a byte, lowest first; returns it and where it ends."""
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise FormatError("the footer of a Parquet file is not known", got="a long number")


def _read_integer(raw: bytes, at: int) -> tuple[int, int]:
    value, at = _read_varint(raw, at)
    return value >> 1 ^ -(value & 1), at


def read_struct(raw: bytes, at: int) -> tuple[Struct, int]:
    """Read a Thrift struct; returns its fields and where it ends."""
    found: Struct = {}
    field = 0
    while raw[at]:
        kind, step = raw[at] & 15, raw[at] >> 4
        at += 1
        if step:
            field += step
        else:
            field, at = _read_integer(raw, at)
        if field in found:  # another reader might take the other one
            raise FormatError("the footer of a Parquet file is not known", got="a field twice")
        if kind in {_TRUE, _FALSE}:
            found[field] = (kind, None)
        else:
            value, at = _read_value(kind, raw, at)
            found[field] = (kind, value)
    return found, at + 1


def _read_value(kind: int, raw: bytes, at: int) -> tuple[Any, int]:
    if kind in _INTEGERS:
        return _read_integer(raw, at)
    if kind == _STRUCT:
        return read_struct(raw, at)
    if kind == _BINARY:
        size, at = _read_varint(raw, at)
        return _cut(raw, at, size), at + size
    if kind in {_LIST, _SET}:
        inside, n = raw[at] & 15, raw[at] >> 4
        at += 1
        if n == 15:
            n, at = _read_varint(raw, at)
        values = []
        for _ in range(n):
            value, at = _read_value(inside, raw, at)
            values.append(value)
        return (inside, values), at
    size = {_TRUE: 1, _FALSE: 1, _BYTE: 1, _DOUBLE: 8}.get(kind, 0)
    if not size:
        raise FormatError("the footer of a Parquet file is not known", got=f"type {kind}")
    return _cut(raw, at, size), at + size


def _cut(raw: bytes, at: int, size: int) -> bytes:
    if at + size > len(raw):  # a slice would be shorter, and a claimed list never end
        raise IndexError("the end of a struct is missing")
    return raw[at : at + size]


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _integer(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def write_struct(struct: Struct) -> bytes:
    """Return a Thrift struct as bytes."""
    found, last = bytearray(), 0
    for field, (kind, value) in struct.items():
        step = field - last
        found += bytes([step << 4 | kind]) if 0 < step < 16 else bytes([kind]) + _integer(field)
        found += b"" if value is None else _write_value(kind, value)
        last = field
    return bytes(found + b"\0")


def _write_value(kind: int, value: Any) -> bytes:
    if kind in _INTEGERS:
        return _integer(value)
    if kind == _STRUCT:
        return write_struct(value)
    if kind == _BINARY:
        return _varint(len(value)) + bytes(value)
    if kind in {_LIST, _SET}:
        inside, values = value
        n = len(values)
        head = bytes([n << 4 | inside]) if n < 15 else bytes([240 | inside]) + _varint(n)
        return head + b"".join(_write_value(inside, v) for v in values)
    return bytes(value)
