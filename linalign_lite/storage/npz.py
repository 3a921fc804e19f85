"""Write `.npz` archives, and read them strictly: a file may come from anybody.

docs/FORMAT.md, section 1. Nothing is unpickled; sizes are checked before memory is allocated.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from linalign_lite.errors import FormatError
from linalign_lite.storage.arrays import BLOCK, count_nonfinite
from linalign_lite.storage.atomic import PathLike, atomic, created, open_regular
from linalign_lite.storage.schema import format_errors, parse, read_document, strict_json

AnyArray = npt.NDArray[Any]
Spec = tuple[tuple[str, ...], int]  # allowed dtypes, dimensions

MAX_MEMBERS = 16
MAX_CARD = 16 << 20
DEFAULT_CAP = 64 << 30
_CARD: Spec = (("|u1",), 1)
_MAX_DIRECTORY = 1 << 16  # bytes: members have short names
_ZIP64 = 20  # bytes of the locator that stands before the end record
_HEADER = re.compile(
    r"\{'descr': '([<|>](?:[iu][1248]|f[248]))', 'fortran_order': False, "
    r"'shape': \(((?:\d{1,15}, ?)*\d{0,15})\), \} *\n"
)
_LOCAL = 30  # bytes of the header before each member, its name left out
_STEP = 1 << 20  # bytes that are read and summed together
_END = 22  # bytes of a ZIP end record without a comment
_NPY = b"\x93NUMPY"
_HINT = "the file may be truncated or altered; make or copy it again"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def save_npz(
    path: PathLike,
    kind: str,
    version: int,
    arrays: Mapping[str, AnyArray],
    card: Mapping[str, Any],
    *,
    private: bool = False,
    new: bool = False,
) -> None:
    """Write arrays and a JSON card (docs/FORMAT.md, section 1). Same content, same bytes.

    private: only its owner may read the file. new: never overwrite; raises OutputExistsError.
    """
    text = json.dumps(
        {**card, "format": kind, "version": version}, sort_keys=True, allow_nan=False
    ).encode()
    members = {**arrays, "card": np.frombuffer(text, dtype=np.uint8)}
    opened = created(path, private=private) if new else atomic(path, private=private)
    with opened as f, zipfile.ZipFile(f, "w", zipfile.ZIP_STORED) as archive:
        for name, array in members.items():
            info = zipfile.ZipInfo(f"{name}.npy", date_time=_EPOCH)
            info.external_attr = 0o644 << 16
            with archive.open(info, "w", force_zip64=array.nbytes >= 1 << 31) as out:
                rows = np.ascontiguousarray(array)
                np.lib.format.write_array(out, rows, version=(1, 0), allow_pickle=False)


def load_npz(
    path: PathLike,
    kind: str,
    version: int,
    schema: Mapping[str, Spec],
    *,
    cap: int = DEFAULT_CAP,
    required: Collection[str] = (),
    mapped: Collection[str] = (),
    checked: Collection[str] = (),
) -> tuple[dict[str, AnyArray], dict[str, Any]]:
    """Read the arrays and the card of a file that save_npz wrote.

    schema: member → (allowed dtypes such as "<f4", dimensions); ``required`` ones must be there.
    mapped: members to map into memory instead of reading them; their CRC is compared all the same.
    checked: members that the caller checks for NaN and infinities; in others these are refused.
    Raises FormatError naming the file and the fault, InputError when it cannot be read.
    """
    with _opened(Path(path), kind) as archive:
        card = archive.checked_card(version, schema, cap)
        missing = [name for name in required if name not in archive.members]
        if missing:
            raise FormatError(f"{path} has no member {missing[0]!r}")
        arrays = {
            name: archive.read(name, spec, mapped=name in mapped, finite=name not in checked)
            for name, spec in schema.items()
            if name in archive.members
        }
    return arrays, card


def peek_npz(path: PathLike) -> dict[str, Any]:
    """Read the card alone, of any kind of `.npz` file of this library. FormatError if none."""
    with _opened(Path(path), "linalign") as archive, format_errors(path, "card"):
        card: dict[str, Any] = parse(dict[str, Any], strict_json(archive.card()), "the card")
    return card


@contextlib.contextmanager
def _opened(path: Path, kind: str) -> Iterator[_Archive]:
    """Open an archive of the given kind. What zipfile raises becomes a FormatError."""
    with open_regular(path) as f:
        if f.read(len(_NPY)) == _NPY:
            hint = "read_states and the commands read vectors"
            raise FormatError(f"{path} is a NumPy array, not a {kind} file", hint=hint)
        try:
            _require_end(path, f)
            with zipfile.ZipFile(f) as archive:
                yield _Archive(path, kind, archive)
        except FormatError:
            raise
        except (zipfile.BadZipFile, EOFError, ValueError, OSError, struct.error,
                NotImplementedError, RuntimeError, OverflowError) as e:  # fmt: skip
            raise FormatError(
                f"{path} is not a readable {kind} file",
                got=f"{type(e).__name__}: {str(e)[:120]}",
                hint=_HINT,
            ) from e


def _require_end(path: Path, f: IO[bytes]) -> None:
    """Check that the end record, without a comment, is the last thing in the file."""
    f.seek(-min(_END, os.fstat(f.fileno()).st_size), os.SEEK_END)
    end = f.read()
    if len(end) != _END or not end.startswith(b"PK\5\6") or end[-2:] != b"\0\0":
        raise FormatError(f"{path} does not end with the end record of a .npz file", hint=_HINT)
    if int.from_bytes(end[10:12], "little") > MAX_MEMBERS:  # before the directory is parsed
        raise FormatError(f"{path} has too many members", expected=f"at most {MAX_MEMBERS}")
    if int.from_bytes(end[12:16], "little") > _MAX_DIRECTORY:  # whatever the count says
        raise FormatError(f"{path} has too large a directory", expected=f"{_MAX_DIRECTORY} bytes")
    f.seek(-min(_END + _ZIP64, os.fstat(f.fileno()).st_size), os.SEEK_END)
    if f.read(4) == b"PK\6\7":  # zipfile would read the directory that this locator points to
        raise FormatError(f"{path} has a directory of another format (ZIP64)")
    f.seek(0)


@dataclass(frozen=True)
class _Archive:
    """An open archive, of which nothing but the end record was checked."""

    path: Path
    kind: str
    zip: zipfile.ZipFile

    @cached_property
    def members(self) -> dict[str, zipfile.ZipInfo]:
        """The entries whose names end with .npy, by the name before that."""
        infos = self.zip.infolist()
        return {i.filename[:-4]: i for i in infos if i.filename.endswith(".npy")}

    def card(self) -> bytes:
        """Read the member "card", a JSON object."""
        if "card" not in self.members:
            raise FormatError(
                f"{self.path} is not a {self.kind} file", got="no card", expected="a member 'card'"
            )
        return self.read("card", _CARD).tobytes()

    def checked_card(self, version: int, schema: Mapping[str, Spec], cap: int) -> dict[str, Any]:
        """Read the card after checking the directory, then its format and version."""
        path, infos = self.path, self.zip.infolist()
        names, size = [i.filename for i in infos], sum(i.file_size for i in infos)
        if not infos or min(i.header_offset for i in infos) != 0:
            raise FormatError(f"{path} has something before its first member")
        if len(infos) > MAX_MEMBERS or len(set(names)) != len(names):
            raise FormatError(f"{path} has too many or repeated members", got=str(len(infos)))
        most = min(cap, os.fstat(self.raw.fileno()).st_size)  # members are stored, so they fit
        if size > most:
            raise FormatError(
                f"{path} claims more data than it may hold",
                got=f"{size} bytes",
                expected=f"at most {most}",
            )
        what = f"{self.kind} file"
        card = read_document(self.card(), path, what, kind=self.kind, version=version)
        if set(self.members) - set(schema) - {"card"} or len(self.members) != len(names):
            raise FormatError(
                f"{path} has members that do not belong",
                got=", ".join(sorted(n[:40] for n in names)),
                expected=", ".join(sorted(schema)),
            )
        return card

    def read(self, name: str, spec: Spec, *, mapped: bool = False, finite: bool = True) -> AnyArray:
        """Read or map a member that has one of the dtypes and the dimensions of ``spec``."""
        path, info, (dtypes, ndim) = self.path, self.members[name], spec
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1:
            raise FormatError(
                f"{path}: member {name!r} is compressed or encrypted", expected="stored"
            )
        if info.compress_size != info.file_size:  # zipfile would not come to compare the CRC
            raise FormatError(f"{path}: member {name!r} has two sizes")
        if name == "card" and info.file_size > MAX_CARD:
            raise FormatError(f"{path}: the card is too large", got=str(info.file_size))
        with self.zip.open(info) as f:
            shape, dtype = npy_header(f"{path}: member {name!r}", f)
            start = f.tell()
        if dtype.str not in dtypes or len(shape) != ndim:
            raise FormatError(
                f"{path}: member {name!r} has the wrong type",
                got=f"{dtype.str} with {len(shape)} dimension(s)",
                expected=f"{' or '.join(dtypes)} with {ndim}",
            )
        size, expected = info.file_size - start, math.prod(shape) * dtype.itemsize
        if size != expected:
            problem = f"{path}: member {name!r} does not have the size that its shape needs"
            raise FormatError(problem, got=f"{size} bytes", expected=str(expected))
        array: AnyArray
        if mapped and expected:
            with self.zip.open(info) as f:  # compares the CRC
                while f.read(BLOCK):
                    pass
            offset = _begin(self.raw, info) + start
            array = np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)
        else:
            array = np.empty(shape, dtype=dtype)
            self._copy(info, start, memoryview(array.reshape(-1).view(np.uint8)))  # type: ignore[arg-type]
        if finite and array.dtype.kind == "f" and count_nonfinite(array):
            raise FormatError(f"{path}: member {name!r} holds values that are not finite")
        return array

    def _copy(self, info: zipfile.ZipInfo, start: int, out: memoryview) -> None:
        """Read a member past zipfile into ``out``; the CRC is of what is still in the cache."""
        self.raw.seek(_begin(self.raw, info))
        crc = zlib.crc32(self.raw.read(start))
        for at in range(0, len(out), _STEP):
            piece = out[at : at + _STEP]
            if self.raw.readinto(piece) != len(piece):
                raise EOFError(f"member {info.filename!r} ends early")
            crc = zlib.crc32(piece, crc)
        if crc != info.CRC:
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {info.filename!r}")

    @property
    def raw(self) -> BufferedReader:
        assert isinstance(self.zip.fp, BufferedReader)  # as open_regular opens it
        return self.zip.fp


def _begin(raw: BufferedReader, info: zipfile.ZipInfo) -> int:
    """Return the offset in the file of a member's bytes, which follow its local header."""
    raw.seek(info.header_offset)
    local = raw.read(_LOCAL)
    if len(local) != _LOCAL or local[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("a member is not where the directory says")
    name, extra = struct.unpack("<HH", local[26:30])
    return info.header_offset + _LOCAL + int(name) + int(extra)


def npy_header(what: str, f: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read the shape and dtype of a .npy, whose header must be exactly as NumPy writes it.

    It is matched by a pattern, because NumPy's own parser evaluates Python literals. what: names
    the file or member in a FormatError.
    """
    start = f.read(10)
    if len(start) != 10 or start[:8] != b"\x93NUMPY\x01\x00":
        raise FormatError(f"{what} is not a .npy of format 1.0")
    text = f.read(int.from_bytes(start[8:10], "little")).decode("latin-1")
    found = _HEADER.fullmatch(text)
    if not found:
        raise FormatError(
            f"{what} has the wrong type or an unknown header", expected="numbers in C order"
        )
    shape = tuple(int(n) for n in re.findall(r"\d+", found[2]))
    return shape, np.dtype(found[1])
