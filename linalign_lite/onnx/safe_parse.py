"""Parse ONNX files from outside, with all sizes checked before anything is allocated.

Parsed protobuf messages may be a hundred times larger than the file; weights are not. So all but
weights must be small, and weights must be stored in a form that needs no unpacking.
"""

import io
import math
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np

from linalign_lite.errors import FormatError
from linalign_lite.onnx.graph_edit import AnyArray
from linalign_lite.onnx.protobuf import LENGTH_DELIMITED, fields
from linalign_lite.storage.atomic import open_regular

MAX_FILE = (1 << 31) - 1  # the largest protobuf message
_MAX_OTHER = 17 << 20  # bytes of all but weights: the card, mostly
_MAX_PARTS = 64  # nodes, weights, inputs, outputs and so on of the graph
_MAX_RANK = 2
_GRAPH, _INITIALIZER = 7, 5  # fields of ModelProto and GraphProto
_FLOAT_DATA, _RAW_DATA = 4, 9  # fields of TensorProto


def parse_model(path: Path) -> Any:
    """Parse the ModelProto in ``path`` without external data. Raises FormatError if it cannot."""
    import onnx
    from google.protobuf.message import DecodeError

    with open_regular(path) as f:
        data = f.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise FormatError(f"{path} is larger than an ONNX file can be")
    try:
        sizes = _sizes_beside_weights(io.BytesIO(data), len(data))
        if any(total > _MAX_OTHER for total in accumulate(sizes)):
            raise ValueError("too much that is not weights")
        return onnx.ModelProto.FromString(data)
    except (ValueError, DecodeError) as e:
        raise FormatError(
            f"{path} is not a map or a head as ONNX",
            got=str(e)[:120],
            expected="one Gemm, or MatMul and Add",
        ) from e


def _sizes_beside_weights(f: IO[bytes], end: int) -> Iterator[int]:
    """Bytes of each field of a ModelProto, without the values of its initializers."""
    parts = 0
    for outer in fields(f, end):
        if outer.number != _GRAPH or outer.wire_type != LENGTH_DELIMITED:
            yield outer.size + 1
            continue
        for part in fields(f, outer.end):
            parts += 1
            if parts > _MAX_PARTS:
                raise ValueError(f"a graph of more than {_MAX_PARTS} parts")
            if part.number != _INITIALIZER or part.wire_type != LENGTH_DELIMITED:
                yield part.size + 1
                continue
            for inner in fields(f, part.end):
                packed = inner.wire_type == LENGTH_DELIMITED
                if not packed or inner.number not in {_FLOAT_DATA, _RAW_DATA}:
                    yield inner.size + 1


def read_tensor(path: Path, tensor: Any, cap: int) -> AnyArray:
    """The value of an initializer: float16, float32 or float64, of at most two dimensions.

    External data must be in an ordinary file in the same folder. Raises FormatError for any other
    tensor, and for one of more than ``cap`` bytes before it is read.
    """
    from onnx import TensorProto, numpy_helper

    kinds = {TensorProto.FLOAT: "<f4", TensorProto.FLOAT16: "<f2", TensorProto.DOUBLE: "<f8"}
    dims = tuple(tensor.dims)
    if tensor.data_type not in kinds or len(dims) > _MAX_RANK or min(dims, default=1) < 1:
        raise FormatError(f"{path} has a weight of another type or shape than is read")
    dtype = np.dtype(kinds[tensor.data_type])
    size = math.prod(dims, start=dtype.itemsize)  # Python integers do not overflow
    if size > cap:
        raise FormatError(
            f"{path} has a weight that is too large", got=f"{size} bytes", expected=f"at most {cap}"
        )
    if tensor.data_location == TensorProto.EXTERNAL:
        return _external(path, tensor, dtype, size).reshape(dims)
    stored = len(tensor.raw_data) or 4 * len(tensor.float_data)
    if stored != size:
        raise FormatError(
            f"{path} has a weight whose length is not that of its shape",
            got=f"{stored} bytes",
            expected=str(size),
        )
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
            f"{path}: {beside.name} does not hold its weights", hint="copy both files again"
        )
    with open_regular(beside) as f:
        array: AnyArray = np.fromfile(f, dtype, size // dtype.itemsize, offset=offset)
    return array


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None
