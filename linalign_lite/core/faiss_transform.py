"""Maps as a FAISS `LinearTransform`, y = Ax + b: the file of `faiss.write_VectorTransform`.

"LTra"; 1 byte, whether there is a bias; the number of values of A and they, float32, row by row;
the same of b; d_in and d_out, int32; 1 byte, trained. Numbers of values are uint64; little-endian.
FAISS reads such a file with `faiss.read_VectorTransform`; nothing here needs it.
"""

import os
import struct

import numpy as np

from linalign_lite.core.affine_map import AffineMap, float32_weights
from linalign_lite.core.space import MAX_DIM
from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.atomic import PathLike, open_regular, write_atomic
from linalign_lite.storage.npz import AnyArray

MAGIC = b"LTra"
_HEADER, _COUNT, _END = struct.Struct("<4s?"), struct.Struct("<Q"), struct.Struct("<ii?")
_MAX_FILE = 8 << 30  # bytes


def to_faiss(out: PathLike, affine: AffineMap) -> None:
    """Write a map as a trained LinearTransform, float32, whole or not at all.

    The file holds no spaces and no card. Raises InputError for values beyond float32.
    """
    weight, bias = float32_weights(affine)
    parts = [_HEADER.pack(MAGIC, True)]
    for array in (weight, bias):
        parts += [_COUNT.pack(array.size), np.ascontiguousarray(array, "<f4").tobytes()]
    d_out, d_in = weight.shape
    write_atomic(out, b"".join([*parts, _END.pack(d_in, d_out, True)]))


def is_faiss(path: PathLike) -> bool:
    """Return True for a file that begins as a LinearTransform. InputError if it is not there."""
    with open_regular(path) as f:
        return f.read(len(MAGIC)) == MAGIC


def from_faiss(path: PathLike) -> AffineMap:
    """Read a LinearTransform as a map between unknown spaces, float32; without a bias, b = 0.

    Raises FormatError for another transform, an untrained one, sizes that do not agree and values
    that are not finite, InputError when it is not there. Sizes are checked before allocating.
    """
    with open_regular(path) as f:
        size = os.fstat(f.fileno()).st_size
        magic = f.read(len(MAGIC))
        if size > _MAX_FILE or magic != MAGIC:
            got = f"{size} bytes, {magic!r}"
            raise FormatError(f"{path} is not a LinearTransform of FAISS", got=got, expected="LTra")
        data = magic + f.read()
    try:
        if data[4] > 1 or data[-1] != 1:
            raise ValueError("not trained")
        weight, at = _floats(data, _HEADER.size)
        bias, at = _floats(data, at)
        d_in, d_out, _ = _END.unpack(data[at:])  # raises struct.error for another length
        if not (0 < d_in <= MAX_DIM and 0 < d_out <= MAX_DIM and len(weight) == d_in * d_out):
            raise ValueError("dimensions")
        if len(bias) != d_out * data[4]:
            raise ValueError("bias")
        bias = bias if data[4] else np.zeros(d_out, np.float32)
        return AffineMap(weight.reshape(d_out, d_in), bias, card={"method": "from FAISS"})
    except (ValueError, IndexError, struct.error) as e:
        raise FormatError(
            f"{path} is not a whole LinearTransform of FAISS",
            got=f"{len(data)} bytes, {e}",
            hint="the file may be truncated or altered; make or copy it again",
        ) from e
    except InputError as e:
        raise FormatError(f"{path}: {e}") from e


def _floats(data: bytes, at: int) -> tuple[AnyArray, int]:
    """The vector that begins there, and its end. Raises ValueError if it is not all there."""
    (count,) = _COUNT.unpack_from(data, at)
    start = at + _COUNT.size
    if count > (len(data) - start) // 4:
        raise ValueError(f"{count} values")
    return np.frombuffer(data, "<f4", count, start), start + 4 * count
