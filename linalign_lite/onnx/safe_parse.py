"""Parsing an ONNX file from outside: what stands in it is measured before anything is allocated.

Protobuf messages may be a hundred times larger in memory than in the file; weights are not. So what
is not weights must be small, and weights must stand where they need no unpacking.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.errors import FormatError
from linalign_lite.onnx.graph_edit import AnyArray
from linalign_lite.storage.atomic import open_regular

MAX_FILE = (1 << 31) - 1  # what one protobuf holds
_MAX_REST = 17 << 20  # bytes of all but weights: the card, mostly
_MAX_PARTS = 64  # nodes, weights, inputs, outputs and so on of the graph
_MAX_RANK = 2
_GRAPH, _STORED = 7, 5  # fields of ModelProto and GraphProto
_FLOAT_DATA, _RAW = 4, 9  # fields of TensorProto
_LONG = 2  # wire type of what has a length


def parse(path: Path) -> Any:
    """The ModelProto in ``path``; external data is left where it is. FormatError if it is odd."""
    import onnx
    from google.protobuf.message import DecodeError

    with open_regular(path) as f:
        data = f.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise FormatError(f"{path} is larger than an ONNX file can be")
    try:
        _require_small(memoryview(data))
        return onnx.ModelProto.FromString(data)
    except (ValueError, DecodeError) as e:
        raise FormatError(
            f"{path} is not a map or a head as ONNX",
            got=str(e)[:120],
            expected="one Gemm, or MatMul and Add",
        ) from e


def _require_small(data: memoryview) -> None:
    rest = parts = 0
    for number, _, value in _fields(data):
        if number != _GRAPH:
            rest += len(value) + 1
            continue
        for inner, kind, part in _fields(value):
            parts += 1
            if parts > _MAX_PARTS:
                raise ValueError(f"a graph of more than {_MAX_PARTS} parts")
            weights = inner == _STORED and kind == _LONG
            rest += _beside_weights(part) if weights else len(part) + 1
    if rest > _MAX_REST:
        raise ValueError("too much that is not weights")


def _beside_weights(tensor: memoryview) -> int:
    """Bytes of a stored tensor but for its numbers."""
    rest = 0
    for number, kind, value in _fields(tensor):
        large = number in {_FLOAT_DATA, _RAW} and kind == _LONG
        rest += 0 if large else len(value) + 1
    return rest


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """(number, wire type, content) of each field of a message."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = divmod(key, 8)
        if kind == 0:
            start = at
            _, at = _varint(data, at)
            yield number, kind, data[start:at]
            continue
        if kind == _LONG:
            size, at = _varint(data, at)
        elif kind in {1, 5}:
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field of kind {kind}")
        if size > len(data) - at:
            raise ValueError("a field is longer than what it stands in")
        yield number, kind, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if at + i >= len(data):
            raise ValueError("it ends within a number")
        value |= (data[at + i] & 0x7F) << (7 * i)
        if data[at + i] < 0x80:
            return value, at + i + 1
    raise ValueError("a number of more than ten bytes")


def numbers(path: Path, tensor: Any, cap: int) -> AnyArray:
    """A stored tensor's value: float16, float32 or float64, of at most two dimensions.

    External data must be in an ordinary file in the same folder. Sizes are compared before reading.
    Raises FormatError, with ``cap`` bytes as the most that is read.
    """
    from onnx import TensorProto, numpy_helper

    kinds = {TensorProto.FLOAT: "<f4", TensorProto.FLOAT16: "<f2", TensorProto.DOUBLE: "<f8"}
    dims = tuple(tensor.dims)
    if tensor.data_type not in kinds or len(dims) > _MAX_RANK or min(dims, default=1) < 1:
        raise FormatError(f"{path} has a weight of another type or shape than ours have")
    dtype = np.dtype(kinds[tensor.data_type])
    size = dtype.itemsize
    for dim in dims:  # Python's own numbers: no overflow
        size *= dim
    if size > cap:
        raise FormatError(
            f"{path} has a weight that is too large", got=f"{size} bytes", expected=f"at most {cap}"
        )
    if tensor.data_location == TensorProto.EXTERNAL:
        return _external(path, tensor, dtype, size).reshape(dims)
    there = len(tensor.raw_data) or 4 * len(tensor.float_data)
    if there != size:
        raise FormatError(f"{path} has a weight that is not as long as its shape says",
                          got=f"{there} bytes", expected=str(size))  # fmt: skip
    array: AnyArray = numpy_helper.to_array(tensor)
    return array


def _external(path: Path, tensor: Any, dtype: np.dtype[Any], size: int) -> AnyArray:
    entries = {e.key: e.value for e in tensor.external_data}
    name = entries.get("location", "")
    plain = name not in {"", ".", ".."} and not set(name) & set("/\\\0:")
    beside = path.with_name(name) if plain else None
    if beside is None or not beside.is_file() or beside.is_symlink():
        raise FormatError(
            f"{path} has its weights in a file that is not read",
            got=name[:100],
            expected="an ordinary file in the same folder",
        )
    offset, length = (
        _whole(entries.get(key, default))
        for key, default in (("offset", "0"), ("length", str(size)))
    )
    if length != size or offset is None or offset + size > beside.stat().st_size:
        raise FormatError(
            f"{path}: {beside.name} does not hold the weights it should",
            hint="copy both files again",
        )
    with open_regular(beside) as f:
        array: AnyArray = np.fromfile(f, dtype, size // dtype.itemsize, offset=offset)
    return array


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
