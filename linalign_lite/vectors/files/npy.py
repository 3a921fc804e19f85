"""`.npy` files: one array (n, d) without ids or payload, read and written in blocks of rows."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.core.space import MAX_DIM, Space
from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.atomic import open_regular
from linalign_lite.storage.npz import AnyArray, npy_header
from linalign_lite.vectors.files.common import FileSink, FileSource, file_version, row_cursor
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.source import ROWS, Batch, VectorInfo, Vectors, row_ids

_HEADER = 128  # bytes of the header that is written, as NumPy pads it
_DTYPES = ("<f2", "<f4", "<f8")


@dataclass(frozen=True)
class NpyHeader:
    """Shape and dtype of an array of vectors; name: of its file. FormatError for any other."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        fits = len(self.shape) == 2 and self.shape[0] > 0 and 0 < self.shape[1] <= MAX_DIM
        if self.dtype.str not in _DTYPES or not fits:
            raise FormatError(
                f"{self.name} does not hold vectors",
                got=f"{self.dtype.str}, shape {self.shape}",
                expected=f"{', '.join(_DTYPES)}, shape (n, d), d at most {MAX_DIM}",
            )

    @property
    def space(self) -> Space:
        return Space(self.shape[1])

    def require_size(self, found: int) -> None:
        """Raise FormatError unless the array has that many bytes."""
        needed = math.prod(self.shape) * self.dtype.itemsize
        if found != needed:
            raise FormatError(
                f"{self.name} does not have the size that its shape needs",
                got=f"{found} bytes",
                expected=str(needed),
                hint="the file may be truncated; copy it again",
            )

    def vectors(self, numbers: AnyArray) -> Vectors:
        """Return whole rows as float32; values beyond its range become infinite."""
        with np.errstate(over="ignore"):
            return numbers.reshape(-1, self.shape[1]).astype(np.float32, copy=False)


class Source(FileSource):
    """Rows of a `.npy` of float16, float32 or float64 in C order; ids are the rows' numbers."""

    def __init__(self, location: Location) -> None:
        self.path = Path(location.path)
        if location.part:
            raise InputError(f"{location}: a .npy has no parts", got=f"#{location.part}")
        with open_regular(self.path) as f:
            shape, self.dtype = npy_header(str(self.path), f)
            self.header = NpyHeader(str(self.path), shape, self.dtype)
            self.start = f.tell()
            self.header.require_size(os.fstat(f.fileno()).st_size - self.start)
        self.count, version = shape[0], file_version(self.path)
        self.info = VectorInfo(self.header.space, self.count, ids="rows", version=version)

    def batches(self, rows: int = ROWS, after: str = "") -> Iterator[Batch]:
        first, dim = row_cursor(after, self.count), self.info.dim
        with open_regular(self.path) as f:
            f.seek(self.start + first * dim * self.dtype.itemsize)
            while first < self.count:
                n = min(rows, self.count - first)
                block = np.fromfile(f, self.dtype, n * dim)
                if len(block) != n * dim:
                    raise FormatError(f"{self.path} ends early", hint="it was changed meanwhile")
                yield Batch(row_ids(first, n), self.header.vectors(block), None, str(first + n))
                first += n


class Sink(FileSink):
    """A `.npy` of float32. Ids and payload are left out: the format has no place for them."""

    def __init__(self, location: Location, info: VectorInfo, *, resume: bool = False) -> None:  # noqa: ARG002 (starts again)
        super().__init__(location, info)
        self.file.write(bytes(_HEADER))

    def write(self, batch: Batch) -> None:
        np.ascontiguousarray(batch.vectors, "<f4").tofile(self.file)
        self.rows += len(batch)

    def complete(self) -> None:
        self.file.seek(0)
        self.file.write(npy_bytes(self.rows, self.info.dim))


def npy_bytes(n: int, dim: int) -> bytes:
    """Return the beginning of a .npy of float32 (n, dim), of one size whatever n is."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(n, dim)}, }}"
    size = (_HEADER - 10).to_bytes(2, "little")
    return b"\x93NUMPY\x01\0" + size + text.ljust(_HEADER - 11).encode() + b"\n"
