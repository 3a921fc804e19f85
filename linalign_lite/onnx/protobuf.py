"""Walk over the fields of a protobuf message without parsing it. Needs neither `onnx` nor protobuf.

Every length is compared with what is left of the message before anything is read or allocated.
"""

from collections.abc import Iterator
from typing import IO, NamedTuple

VARINT, LENGTH_DELIMITED = 0, 2  # wire types
_FIXED = {1: 8, 5: 4}  # wire type: bytes


class Field(NamedTuple):
    """Number, wire type, and size and end of the content in the file, in bytes."""

    number: int
    wire_type: int
    size: int
    end: int


def fields(f: IO[bytes], end: int) -> Iterator[Field]:
    """Yield the fields of the message that ends at ``end``, with ``f`` at the content of each.

    The content may be read, walked over in turn, or ignored. Raises ValueError for a field that is
    cut off, longer than the message, or of an unknown wire type.
    """
    at = f.tell()
    while at < end:
        f.seek(at)
        number, wire_type = divmod(_varint(f), 8)
        start = f.tell()
        if wire_type == VARINT:
            _varint(f)
            size = f.tell() - start
        elif wire_type == LENGTH_DELIMITED:
            size = _varint(f)
            start = f.tell()
        elif wire_type in _FIXED:
            size = _FIXED[wire_type]
        else:
            raise ValueError(f"a field of wire type {wire_type}")
        if size > end - start:
            raise ValueError("a field is longer than its message")
        f.seek(start)
        at = start + size
        yield Field(number, wire_type, size, at)


def _varint(f: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = f.read(1)
        if not byte:
            raise ValueError("the file ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number of more than ten bytes")
