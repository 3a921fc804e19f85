"""A named member of a plain `.npz`: one array (n, d), packed or not, read in blocks of rows."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.atomic import open_regular
from linalign_lite.storage.npz import npy_header
from linalign_lite.vectors.files.common import FileSink, FileSource, file_version, row_cursor
from linalign_lite.vectors.files.npy import NpyHeader, npy_bytes
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.source import ROWS, Batch, VectorInfo, row_ids


class Source(FileSource):
    """Rows of a member of float16, float32 or float64 in C order; ids are the rows' numbers."""

    def __init__(self, location: Location) -> None:
        self.location, self.path = location, Path(location.path)
        with self._opened() as (f, size):
            shape, self.dtype = npy_header(str(location), f)
            self.header = NpyHeader(str(location), shape, self.dtype)
            self.header.require_size(size - f.tell())
            version = file_version(self.path)
        self.count = shape[0]
        self.info = VectorInfo(self.header.space, self.count, ids="rows", version=version)

    def batches(self, rows: int = ROWS, after: str = "") -> Iterator[Batch]:
        first, row = row_cursor(after, self.count), self.info.dim * self.dtype.itemsize
        with self._opened() as (f, _):
            npy_header(str(self.location), f)
            f.seek(first * row, 1)
            while first < self.count:
                n = min(rows, self.count - first)
                raw = f.read(n * row)
                if len(raw) != n * row:
                    raise FormatError(f"{self.location} ends early")
                vectors = self.header.vectors(np.frombuffer(raw, self.dtype))
                yield Batch(row_ids(first, n), vectors, None, str(first + n))
                first += n
            f.read(1)  # so that the CRC is compared

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[IO[bytes], int]]:
        """Open the member; yields it and its size unpacked."""
        name = f"{self.location.part}.npy"
        with open_regular(self.path) as raw:
            try:
                with zipfile.ZipFile(raw) as archive:
                    names = [i.filename for i in archive.infolist()]
                    if names.count(name) != 1:
                        raise InputError(
                            f"{self.path} has no one member {self.location.part!r}",
                            got=", ".join(n.removesuffix(".npy")[:40] for n in names[:8]),
                        )
                    info = archive.getinfo(name)
                    with archive.open(info) as member:
                        yield member, info.file_size
            except (zipfile.BadZipFile, EOFError, OSError, zlib.error, ValueError,
                    NotImplementedError, RuntimeError) as e:  # fmt: skip
                text = f"{type(e).__name__}: {str(e)[:120]}"
                raise FormatError(f"{self.location} is not readable", got=text) from e


class Sink(FileSink):
    """A new `.npz` of that one member, float32. Ids and payload are left out."""

    def __init__(self, location: Location, info: VectorInfo, *, resume: bool = False) -> None:  # noqa: ARG002 (starts again)
        if info.count is None:
            raise InputError(
                f"{location} cannot be written before the number of vectors is known",
                hint="write a .npy or .parquet",
            )
        super().__init__(location, info)
        self._archive = zipfile.ZipFile(self.file, "w", zipfile.ZIP_STORED)
        member = zipfile.ZipInfo(f"{location.part}.npy", date_time=(1980, 1, 1, 0, 0, 0))
        large = info.count * info.dim * 4 >= 1 << 31
        self._member = self._archive.open(member, "w", force_zip64=large)
        self._member.write(npy_bytes(info.count, info.dim))

    def write(self, batch: Batch) -> None:
        self._member.write(np.ascontiguousarray(batch.vectors, "<f4").tobytes())
        self.rows += len(batch)

    def complete(self) -> None:
        if self.rows != self.info.count:
            got, expected = str(self.rows), str(self.info.count)
            raise FormatError(f"{self.location}: other vectors came", got=got, expected=expected)
        self._member.close()
        self._archive.close()

    def abort(self) -> None:
        with contextlib.suppress(ValueError, OSError):  # the file is removed all the same
            self._member.close()
            self._archive.close()
        super().abort()
