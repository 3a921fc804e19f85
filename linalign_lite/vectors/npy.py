"""`.npy` files: one array (n, d) without ids or payload, read and written in blocks of rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from linalign_lite.core.space import MAX_DIM, Space
from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.atomic import open_regular
from linalign_lite.storage.npz import npy_header
from linalign_lite.vectors.files import FileSink, file_version, row_cursor
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.source import ROWS, Batch, VectorInfo, VectorSource, row_ids

_HEADER = 128  # bytes of the header that is written, as NumPy pads it
_DTYPES = ("<f2", "<f4", "<f8")


class Source(VectorSource):
    """Rows of a `.npy` of float16, float32 or float64 in C order; ids are the rows' numbers."""

    def __init__(self, location: Location) -> None:
        self.path = Path(location.path)
        if location.part:
            raise InputError(f"{location}: a .npy has no parts", got=f"#{location.part}")
        with open_regular(self.path) as f:
            shape, self.dtype = npy_header(str(self.path), f)
            self.start, size = f.tell(), os.fstat(f.fileno()).st_size
        if self.dtype.str not in _DTYPES or len(shape) != 2:
            raise FormatError(
                f"{self.path} does not hold vectors",
                got=f"{self.dtype.str}, shape {shape}",
                expected=f"{', '.join(_DTYPES)}, shape (n, d)",
            )
        self.count, dim = shape
        if not self.count or not 0 < dim <= MAX_DIM:
            raise FormatError(
                f"{self.path} does not hold vectors",
                got=f"shape {shape}",
                expected=f"(n, d), n at least 1, d 1 to {MAX_DIM}",
            )
        needed = self.start + self.count * dim * self.dtype.itemsize
        if size != needed:
            raise FormatError(
                f"{self.path} does not have the size that its shape needs",
                got=f"{size} bytes",
                expected=str(needed),
                hint="the file may be truncated; copy it again",
            )
        self.info = VectorInfo(Space(dim), self.count, ids="rows", version=file_version(self.path))

    def batches(self, rows: int = ROWS, after: str = "") -> Iterator[Batch]:
        first, dim = row_cursor(after, self.count), self.info.dim
        with open_regular(self.path) as f:
            f.seek(self.start + first * dim * self.dtype.itemsize)
            while first < self.count:
                n = min(rows, self.count - first)
                block = np.fromfile(f, self.dtype, n * dim)
                if len(block) != n * dim:
                    raise FormatError(f"{self.path} ends early", hint="it was changed meanwhile")
                with np.errstate(over="ignore"):  # float64 beyond float32: not finite, and refused
                    vectors = block.reshape(n, dim).astype(np.float32, copy=False)
                yield Batch(row_ids(first, n), vectors, None, str(first + n))
                first += n

    def current(self) -> VectorInfo:
        with open_regular(self.path):  # InputError when it is gone
            version = file_version(self.path)
        return VectorInfo(self.info.space, self.count, ids="rows", version=version)


class Sink(FileSink):
    """A `.npy` of float32. Ids and payload are left out: the format has no place for them."""

    def __init__(self, location: Location, info: VectorInfo, *, resume: bool = False) -> None:  # noqa: ARG002 (starts again)
        super().__init__(location, info)
        self.file.write(bytes(_HEADER))

    def write(self, batch: Batch) -> None:
        np.ascontiguousarray(batch.vectors, "<f4").tofile(self.file)
        self.rows += len(batch)

    def complete(self) -> None:
        shape = (self.rows, self.info.dim)
        text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        self.file.seek(0)
        self.file.write(b"\x93NUMPY\x01\0" + (_HEADER - 10).to_bytes(2, "little"))
        self.file.write(text.ljust(_HEADER - 11).encode() + b"\n")
