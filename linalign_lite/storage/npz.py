"""`.npz` archives: ours, and those from outside, which are read with suspicion.

docs/FORMAT.md, section 1. Nothing is unpickled; sizes are checked before anything is allocated.
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
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from linalign_lite.errors import FormatError
from linalign_lite.storage.arrays import PIECE, not_finite
from linalign_lite.storage.atomic import PathLike, atomic, open_regular
from linalign_lite.storage.schema import strict_json

AnyArray = npt.NDArray[Any]

MAX_MEMBERS = 16
MAX_CARD = 16 << 20
DEFAULT_CAP = 64 << 30
_CARD = (("|u1",), 1)
_MAX_DIRECTORY = 1 << 16  # bytes: members have short names
_ZIP64 = 20  # bytes of the locator that stands before the end record
_HEADER = re.compile(
    r"\{'descr': '([<|>](?:[iu][1248]|f[248]))', 'fortran_order': False, "
    r"'shape': \(((?:\d{1,15}, ?)*\d{0,15})\), \} *\n"
)
_LOCAL = 30  # bytes of the header before each member, its name left out
_STEP = 1 << 20  # bytes that are read and summed together
_END = 22  # bytes of a ZIP end record without a comment
_EPOCH = (1980, 1, 1, 0, 0, 0)


def save_npz(
    path: PathLike, kind: str, version: int, arrays: Mapping[str, AnyArray], card: Mapping[str, Any]
) -> None:
    """Write arrays and a JSON card as docs/FORMAT.md section 1 says. Same content, same bytes."""
    text = json.dumps(
        {**card, "format": kind, "version": version}, sort_keys=True, allow_nan=False
    ).encode()
    members = {**arrays, "card": np.frombuffer(text, dtype=np.uint8)}
    with atomic(path) as f, zipfile.ZipFile(f, "w", zipfile.ZIP_STORED) as archive:
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
    schema: Mapping[str, tuple[tuple[str, ...], int]],
    *,
    cap: int = DEFAULT_CAP,
    mapped: Collection[str] = (),
    checked: Collection[str] = (),
) -> tuple[dict[str, AnyArray], dict[str, Any]]:
    """Read what save_npz wrote. ``schema``: member → (allowed dtypes such as "<f4", dimensions).

    ``mapped``: members to map into memory instead of reading them, which are checked all the same.
    ``checked``: members in which whoever asks looks for NaN and infinities; in others they are
    refused here.
    Raises FormatError naming the file and what is wrong with it, InputError when it is not there.
    """
    path = Path(path)
    with _reading(path, kind) as (archive, size):
        return _read_archive(path, archive, size, kind, version, schema, cap, mapped, checked)


def peek_npz(path: PathLike) -> dict[str, Any]:
    """The card of one of our `.npz` files alone, whatever its kind; FormatError if it has none."""
    path = Path(path)
    with _reading(path, "linalign") as (archive, _):
        if "card.npy" not in archive.namelist():
            raise FormatError(f"{path} is not one of our .npz files", got="no card")
        return _card(path, _read_member(path, archive, archive.getinfo("card.npy"), _CARD, "card"))


@contextlib.contextmanager
def _reading(path: Path, kind: str) -> Iterator[tuple[zipfile.ZipFile, int]]:
    """The archive and the size of the file. What zipfile finds wrong becomes a FormatError."""
    with open_regular(path) as f:
        try:
            _require_end(path, f)
            with zipfile.ZipFile(f) as archive:
                yield archive, os.fstat(f.fileno()).st_size
        except FormatError:
            raise
        except (zipfile.BadZipFile, EOFError, ValueError, OSError, struct.error,
                NotImplementedError, RuntimeError, OverflowError) as e:  # fmt: skip
            raise FormatError(
                f"{path} is not a readable {kind} file",
                got=f"{type(e).__name__}: {str(e)[:120]}",
                hint="the file may be truncated or altered; make or copy it again",
            ) from e


def _require_end(path: Path, f: IO[bytes]) -> None:
    """The end record, without a comment, is the last thing in the file."""
    f.seek(-min(_END, os.fstat(f.fileno()).st_size), os.SEEK_END)
    end = f.read()
    if len(end) != _END or not end.startswith(b"PK\5\6") or end[-2:] != b"\0\0":
        raise FormatError(
            f"{path} does not end as a .npz file of ours does",
            hint="the file may be truncated or altered; make or copy it again",
        )
    if int.from_bytes(end[10:12], "little") > MAX_MEMBERS:  # before the directory is parsed
        raise FormatError(f"{path} has too many members", expected=f"at most {MAX_MEMBERS}")
    if int.from_bytes(end[12:16], "little") > _MAX_DIRECTORY:  # the count may lie
        raise FormatError(f"{path} has too large a directory", expected=f"{_MAX_DIRECTORY} bytes")
    f.seek(-min(_END + _ZIP64, os.fstat(f.fileno()).st_size), os.SEEK_END)
    if f.read(4) == b"PK\6\7":  # a locator of a larger directory, which would be believed instead
        raise FormatError(f"{path} has a directory of another format (ZIP64)")
    f.seek(0)


def _read_archive(
    path: Path,
    archive: zipfile.ZipFile,
    size: int,
    kind: str,
    version: int,
    schema: Mapping[str, tuple[tuple[str, ...], int]],
    cap: int,
    mapped: Collection[str],
    checked: Collection[str],
) -> tuple[dict[str, AnyArray], dict[str, Any]]:
    infos = archive.infolist()
    names = [i.filename for i in infos]
    if not infos or min(i.header_offset for i in infos) != 0:
        raise FormatError(f"{path} has something before its first member")
    if len(infos) > MAX_MEMBERS or len(set(names)) != len(names):
        raise FormatError(f"{path} has too many or repeated members", got=str(len(infos)))
    if sum(i.file_size for i in infos) > min(cap, size):
        # members are stored, so together they can't be larger than the file
        raise FormatError(
            f"{path} claims more data than it may hold",
            got=f"{sum(i.file_size for i in infos)} bytes",
            expected=f"at most {min(cap, size)}",
        )
    by_name = {i.filename.removesuffix(".npy"): i for i in infos if i.filename.endswith(".npy")}
    if "card" not in by_name:
        raise FormatError(f"{path} is not a {kind} file", got="no card", expected="a member 'card'")
    card = _card(path, _read_member(path, archive, by_name["card"], _CARD, "card"))
    if card.get("format") != kind:
        raise FormatError(
            f"{path} is another kind of file", got=str(card.get("format"))[:60], expected=kind
        )
    found = card.get("version")
    if type(found) is not int or not 1 <= found <= version:
        raise FormatError(
            f"{path} has a version that this library does not read",
            got=str(found)[:20],
            expected=f"1 to {version}",
            hint="a newer linalign-lite may read it",
        )
    unknown = set(by_name) - set(schema) - {"card"}
    if unknown or len(by_name) != len(names):
        raise FormatError(
            f"{path} has members that do not belong",
            got=", ".join(sorted(n[:40] for n in names)),
            expected=", ".join(sorted(schema)),
        )
    arrays = {
        name: _read_member(
            path, archive, by_name[name], spec, name, mapped=name in mapped, checked=name in checked
        )
        for name, spec in schema.items()
        if name in by_name
    }
    return arrays, card


def _read_member(
    path: Path,
    archive: zipfile.ZipFile,
    info: zipfile.ZipInfo,
    spec: tuple[tuple[str, ...], int],
    name: str,
    *,
    mapped: bool = False,
    checked: bool = False,
) -> AnyArray:
    dtypes, ndim = spec
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 0x1:
        raise FormatError(f"{path}: member {name!r} is compressed or encrypted", expected="stored")
    if info.compress_size != info.file_size:  # zipfile would not come to compare the CRC
        raise FormatError(f"{path}: member {name!r} has two sizes")
    if name == "card" and info.file_size > MAX_CARD:
        raise FormatError(f"{path}: the card is too large", got=str(info.file_size))
    with archive.open(info) as f:
        shape, dtype = _header(path, f, name)
        if dtype.str not in dtypes or len(shape) != ndim:
            raise FormatError(
                f"{path}: member {name!r} has the wrong type",
                got=f"{dtype.str} with {len(shape)} dimension(s)",
                expected=f"{' or '.join(dtypes)} with {ndim}",
            )
        expected = math.prod(shape) * dtype.itemsize
        if expected != info.file_size - f.tell():
            raise FormatError(
                f"{path}: member {name!r} does not have the size that its shape needs",
                got=f"{info.file_size - f.tell()} bytes",
                expected=str(expected),
            )
        start = f.tell()
    read = _map if mapped and expected else _copy
    array = read(path, archive, info, start, dtype, shape)
    if array.dtype.kind == "f" and not checked and not_finite(array):
        raise FormatError(f"{path}: member {name!r} holds values that are not finite")
    return array


def _copy(
    _path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, start: int,
    dtype: np.dtype[Any], shape: tuple[int, ...],
) -> AnyArray:  # fmt: skip
    """The member, read past zipfile into its place; the CRC is of what is still in the cache."""
    raw = _raw(archive)
    raw.seek(_begin(raw, info))
    crc = zlib.crc32(raw.read(start))
    array = np.empty(shape, dtype=dtype)
    view = memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    for at in range(0, len(view), _STEP):
        piece = view[at : at + _STEP]
        if raw.readinto(piece) != len(piece):
            raise EOFError(f"member {info.filename!r} ends early")
        crc = zlib.crc32(piece, crc)
    if crc != info.CRC:
        raise zipfile.BadZipFile(f"Bad CRC-32 for file {info.filename!r}")
    return array


def _map(
    path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, start: int,
    dtype: np.dtype[Any], shape: tuple[int, ...],
) -> AnyArray:  # fmt: skip
    """The member where it lies in the file, read once to compare its CRC."""
    with archive.open(info) as f:
        while f.read(PIECE):
            pass
    offset = _begin(_raw(archive), info) + start
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=shape)


def _raw(archive: zipfile.ZipFile) -> BufferedReader:
    assert isinstance(archive.fp, BufferedReader)  # what open_regular gives
    return archive.fp


def _begin(raw: BufferedReader, info: zipfile.ZipInfo) -> int:
    """Where in the file a member's bytes begin: after its local header."""
    raw.seek(info.header_offset)
    local = raw.read(_LOCAL)
    if len(local) != _LOCAL or local[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("a member is not where the directory says")
    name, extra = struct.unpack("<HH", local[26:30])
    return info.header_offset + _LOCAL + int(name) + int(extra)


def _header(path: Path, f: IO[bytes], name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of a .npy, which must say them as NumPy writes them and nothing else.

    NumPy's own parser evaluates Python literals; a pattern leaves it nothing to stumble over.
    """
    start = f.read(10)
    if len(start) != 10 or start[:8] != b"\x93NUMPY\x01\x00":
        raise FormatError(f"{path}: member {name!r} is not a .npy of format 1.0")
    text = f.read(int.from_bytes(start[8:10], "little")).decode("latin-1")
    found = _HEADER.fullmatch(text)
    if not found:
        raise FormatError(
            f"{path}: member {name!r} has the wrong type or a header that is not known",
            expected="numbers in C order",
        )
    shape = tuple(int(n) for n in re.findall(r"\d+", found[2]))
    return shape, np.dtype(found[1])


def _card(path: Path, raw: AnyArray) -> dict[str, Any]:
    try:
        card = strict_json(raw.tobytes())
    except (ValueError, RecursionError) as e:
        raise FormatError(f"{path}: its card is not JSON") from e
    if not isinstance(card, dict):
        raise FormatError(f"{path}: its card is not a JSON object")
    return card
