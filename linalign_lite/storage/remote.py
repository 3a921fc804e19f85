"""Files and folders under a URL that fsspec knows, such as s3://bucket/states. The extra `remote`.

What reads and writes files need not know of it: a file is fetched to a temporary file, no more
bytes than it may have, and a file to write is made on the local disk and moved to its name once it
is there whole. `file://` is the local disk itself.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from linalign_lite.errors import (
    FormatError,
    InputError,
    LinalignError,
    OutputExistsError,
    without_secrets,
)
from linalign_lite.storage.atomic import PathLike, is_secret, open_regular

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PIECE = 1 << 20
# stores of objects: one appears when all of it has come, and its name is changed by copying it
_OBJECTS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2", "tos"}


@dataclass(frozen=True)
class Remote:
    """A file or folder elsewhere. Picklable; says its URL without password and signature."""

    url: str = field(repr=False)

    def __str__(self) -> str:
        return without_secrets(self.url)

    def __truediv__(self, name: str) -> Remote:
        scheme, _, rest = self.url.partition("://")
        return Remote(f"{scheme}://{rest}{'' if rest.endswith('/') or not rest else '/'}{name}")

    @property
    def name(self) -> str:
        return PurePosixPath(self.url.partition("?")[0]).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Remote:
        scheme, _, rest = self.url.partition("://")
        head, slash, _ = rest.rstrip("/").rpartition("/")
        return Remote(f"{scheme}://{head or slash}")

    def is_dir(self) -> bool:
        """Raises LinalignError when the filesystem does not answer."""
        with _reached(self, "read") as (fs, path):
            fs.invalidate_cache()
            return bool(fs.isdir(path))

    def exists(self) -> bool:
        """Raises LinalignError when the filesystem does not answer."""
        with _reached(self, "read") as (fs, path):
            fs.invalidate_cache()
            return bool(fs.exists(path))


Place = Path | Remote


def place(path: PathLike | Remote) -> Place:
    """Where ``path`` is: on the local disk, or under a URL. InputError for a chain of URLs."""
    if isinstance(path, Remote):
        return path
    text = os.fspath(path)
    if "::" in text and "://" in text:
        raise InputError("a chain of URLs is not a place", got=text[:80], expected="one")
    if not _URL.match(text):
        return Path(text)
    if text.lower().startswith("file://"):
        return Path(text[len("file://") :])
    return Remote(text)


def same_place(a: Place, b: Place) -> bool:
    """Whether both are the same file or folder."""
    if isinstance(a, Remote) and isinstance(b, Remote):
        with _reached(a, "read") as (fs, path), _reached(b, "read") as (other, there):
            return type(fs) is type(other) and path == there
    if isinstance(a, Path) and isinstance(b, Path):
        return a.exists() and b.exists() and a.samefile(b)
    return False


@contextlib.contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """A file to read from its begin, on the local disk or under a URL, as it comes.

    Raises InputError when it cannot be opened, LinalignError when it stops coming.
    """
    found = place(path)
    if isinstance(found, Path):
        with open_regular(found) as f:
            yield f
        return
    with contextlib.closing(_open(found)) as inner:
        yield cast("IO[bytes]", io.BufferedReader(_Coming(found, inner), _PIECE))


@contextlib.contextmanager
def fetched(path: Place, most: int) -> Iterator[Path]:
    """A file on the local disk: ``path`` itself, or a temporary copy of what is there.

    Raises InputError when nothing is there, FormatError when it has more than ``most`` bytes.
    Errors of ours that leave the block name ``path``, not the copy.
    """
    if isinstance(path, Path):
        yield path
        return
    with _beside_it(path) as local:
        with contextlib.closing(_open(path)) as f, local.open("wb") as copy:
            left, coming = most, _Coming(path, f)
            while piece := coming.read(_PIECE):
                left -= len(piece)
                if left < 0:
                    raise FormatError(f"{path} is too large", expected=f"at most {most} bytes")
                copy.write(piece)
        yield local


@contextlib.contextmanager
def delivered(path: Place) -> Iterator[Path]:
    """Where to write a file, whole or not at all, that is to be at ``path``.

    ``path`` itself, or a temporary file that is moved there when the block ends without an error;
    where names can be changed it has another name until it is whole. Raises LinalignError when the
    filesystem does not take it; nothing is left then, and an older file stays.
    """
    if isinstance(path, Path):
        yield path
        return
    with _beside_it(path) as local:
        yield local
        _put(local, path)


def listing(folder: Remote) -> dict[str, int]:
    """Name and size of each file in a folder, -1 for what is no file. Empty where nothing is."""
    with _reached(folder, "read") as (fs, path):
        fs.invalidate_cache()
        try:
            found = fs.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        own, sizes = path.rstrip("/"), {}
        for entry in found:
            if entry["name"].rstrip("/") != own:  # some list the folder, or the file, itself
                size = entry["size"] if entry["type"] == "file" else -1
                sizes[PurePosixPath(entry["name"]).name] = size if type(size) is int else -1
        return sizes


def make_folder(folder: Remote) -> None:
    """Make a folder where the filesystem has them. Raises LinalignError when it refuses."""
    with _reached(folder, "write into") as (fs, path):
        if not _holds_objects(fs):
            fs.makedirs(path, exist_ok=True)


def remove(path: Remote) -> None:
    """Take a file away. Raises LinalignError when it is not there or the filesystem refuses."""
    with _reached(path, "remove") as (fs, target):
        fs.rm_file(target)


def remove_folder(folder: Remote) -> None:
    """Take an empty folder away. Raises LinalignError when the filesystem refuses."""
    with _reached(folder, "remove") as (fs, path):
        if not _holds_objects(fs):
            fs.rmdir(path)


def require_writable(path: Remote) -> None:
    """Raise unless a file can be written there: one is, and is taken away again.

    Raises InputError for a folder and for what cannot be written, OutputExistsError for a secret
    key, which is never overwritten.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder", expected="the name of a file to write")
    if path.exists():
        with contextlib.closing(_open(path)) as f:
            if is_secret(_Coming(path, f).read(12)):
                raise OutputExistsError(f"{path} is a secret key and is never overwritten")
    _require_room(path.parent)


def require_folder_writable(out: Remote) -> None:
    """As `require_writable`, for a folder that need not be there yet."""
    with _reached(out, "write into") as (fs, _):
        named = _holds_objects(fs)  # who may write below that name may not do so above it
    _require_room(out if named else out.parent)


def _require_room(folder: Remote) -> None:
    try:
        with delivered(folder / _temporary()) as local:
            local.write_bytes(b"\n")
            trial = folder / local.name
        remove(trial)
    except InputError:
        raise
    except LinalignError as e:
        raise InputError(
            f"cannot write into {folder}", got=e.got, hint="is the folder there, and yours?"
        ) from e


def _put(local: Path, path: Remote) -> None:
    with _reached(path, "write") as (fs, target):
        if _holds_objects(fs):
            fs.put_file(str(local), target)
        else:
            there = f"{target.rpartition('/')[0]}/{_temporary()}"
            try:
                fs.put_file(str(local), there)
                fs.mv(there, target)
            except BaseException:
                with contextlib.suppress(Exception):
                    fs.rm_file(there)
                raise
        fs.invalidate_cache()
        if fs.info(target)["size"] not in {None, local.stat().st_size}:
            raise LinalignError(f"{path} did not arrive whole", hint="write it again")


def _open(path: Remote) -> Any:
    with _reached(path, "read") as (fs, target):
        fs.invalidate_cache()
        return fs.open(target, "rb")


@contextlib.contextmanager
def _beside_it(path: Remote) -> Iterator[Path]:
    """A temporary file of the same name on the local disk; errors name ``path`` instead of it."""
    with tempfile.TemporaryDirectory(prefix="linalign-") as folder:
        local = Path(folder) / ("file" if path.name in {"", ".", ".."} else path.name)
        try:
            yield local
        except LinalignError as e:
            e.rename(str(local), str(path))
            raise


@contextlib.contextmanager
def _reached(path: Remote, doing: str) -> Iterator[tuple[Any, str]]:
    """The filesystem and the path on it. Whatever it raises becomes one of our errors.

    A filesystem that does not answer is no InputError: what was done until then is kept.
    """
    try:
        from fsspec.core import url_to_fs
    except ImportError as e:
        raise InputError(
            f"{path} needs the package 'fsspec', which the base install leaves out",
            hint="pip install 'linalign-lite[remote]'",
        ) from e
    try:
        fs, target = url_to_fs(path.url)
    except (ImportError, ValueError, TypeError) as e:  # of no package, or of no such scheme
        raise InputError(f"{path} is not a place that can be reached", got=_said(e)) from e
    except Exception as e:
        raise LinalignError(f"cannot {doing} {path}", got=_said(e)) from e
    try:
        yield fs, target
    except LinalignError:
        raise
    except (FileNotFoundError, IsADirectoryError) as e:
        kind = InputError if doing == "read" else LinalignError
        raise kind(f"cannot {doing} {path}", got="nothing, or a folder, is there") from e
    except Exception as e:  # filesystems raise what their libraries do
        raise LinalignError(f"cannot {doing} {path}", got=_said(e)) from e


class _Coming(io.RawIOBase):
    """A file of a filesystem, its errors named."""

    def __init__(self, path: Remote, inner: Any) -> None:
        self._path, self._inner = path, inner

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._inner.seekable())

    def tell(self) -> int:
        return int(self._inner.tell())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _reached(self._path, "read"):
            return int(self._inner.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        with _reached(self._path, "read"):
            piece = self._inner.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


def _holds_objects(fs: Any) -> bool:
    """Whether an object appears there when all of it has come, and folders are but names."""
    return bool(_OBJECTS & ({fs.protocol} if isinstance(fs.protocol, str) else {*fs.protocol}))


def _temporary() -> str:
    return f".linalign-{secrets.token_hex(6)}.tmp"


def _said(e: Exception) -> str:
    return without_secrets(f"{type(e).__name__}: {e}")[:160]
