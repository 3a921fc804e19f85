"""Files and folders under a URL that fsspec knows, such as s3://bucket/states. The extra `remote`.

Code that reads and writes files needs no case for URLs: a file is fetched to a temporary file of
bounded size, and a file to write is made on the local disk and moved to its URL once it is whole.
`file://` is the local disk itself.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from linalign_lite.errors import (
    FormatError,
    InputError,
    LinalignError,
    MissingExtraError,
    OutputExistsError,
    import_extra,
    without_secrets,
)
from linalign_lite.storage.atomic import (
    PathLike,
    check_free,
    is_secret,
    make_local_folder,
    not_empty,
    open_regular,
)

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BLOCK = 1 << 20  # bytes
# object stores: an object appears once it is complete, and renaming it would copy it
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2", "tos"}


@dataclass(frozen=True)
class Remote:
    """A file or folder under a URL. Picklable; its text has no password and no signature."""

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
        with _filesystem(self, "read") as (fs, path):
            fs.invalidate_cache()
            return bool(fs.isdir(path))

    def exists(self) -> bool:
        """Raises LinalignError when the filesystem does not answer."""
        with _filesystem(self, "read") as (fs, path):
            fs.invalidate_cache()
            return bool(fs.exists(path))


Place = Path | Remote


def place(path: PathLike | Remote) -> Place:
    """Return a path on the local disk or under a URL. InputError for a chain of URLs."""
    if isinstance(path, Remote):
        return path
    text = os.fspath(path)
    if "::" in text and "://" in text:
        raise InputError("a chain of URLs is not supported", got=text[:80], expected="one")
    if not _URL.match(text):
        return Path(text)
    if text.lower().startswith("file://"):
        return Path(text[len("file://") :])
    return Remote(text)


def same_place(a: Place, b: Place) -> bool:
    """Return True if both are the same file or folder."""
    if isinstance(a, Remote) and isinstance(b, Remote):
        with _filesystem(a, "read") as (fs, path), _filesystem(b, "read") as (other, there):
            return type(fs) is type(other) and path == there
    if isinstance(a, Path) and isinstance(b, Path):
        return a.exists() and b.exists() and a.samefile(b)
    return False


@contextlib.contextmanager
def opened(path: str) -> Iterator[IO[bytes]]:
    """Open a file, on the local disk or under a URL, to read it from the beginning.

    Raises InputError when it cannot be opened, LinalignError when reading fails later.
    """
    found = place(path)
    if isinstance(found, Path):
        with open_regular(found) as f:
            yield f
        return
    with contextlib.closing(_open(found)) as inner:
        yield cast("IO[bytes]", io.BufferedReader(_RemoteFile(found, inner), _BLOCK))


@contextlib.contextmanager
def fetched(path: Place, most: int) -> Iterator[Path]:
    """Yield a file on the local disk: ``path`` itself, or a temporary copy of a remote file.

    Raises InputError when nothing is there, FormatError when a remote file has more than ``most``
    bytes. A LinalignError that leaves the block names ``path``, not the copy.
    """
    if isinstance(path, Path):
        yield path
        return
    with _temporary_file(path) as local:
        with contextlib.closing(_open(path)) as f, local.open("wb") as copy:
            left, source = most, _RemoteFile(path, f)
            while block := source.read(_BLOCK):
                left -= len(block)
                if left < 0:
                    raise FormatError(f"{path} is too large", expected=f"at most {most} bytes")
                copy.write(block)
        yield local


@contextlib.contextmanager
def delivered(path: Place) -> Iterator[Path]:
    """Yield the local path to which to write a file that is to be at ``path``.

    It is ``path`` itself, or a temporary file that is moved there, whole or not at all, when the
    block ends without an error; until then it has another name where the filesystem can rename.
    Raises LinalignError when the filesystem refuses; no part is left then, and an older file stays.
    """
    if isinstance(path, Path):
        yield path
        return
    with _temporary_file(path) as local:
        yield local
        _put(local, path)


def listing(folder: Place) -> dict[str, int]:
    """Return name and size of each file in a folder, -1 for anything else; empty if no folder."""
    if isinstance(folder, Path):
        if not folder.is_dir():
            return {}
        found = [(path.name, path.lstat()) for path in folder.iterdir()]
        return {name: s.st_size if stat.S_ISREG(s.st_mode) else -1 for name, s in found}
    with _filesystem(folder, "read") as (fs, path):
        fs.invalidate_cache()
        try:
            entries = fs.ls(path, detail=True)
        except FileNotFoundError:
            return {}
        own, sizes = path.rstrip("/"), {}
        for entry in entries:
            if entry["name"].rstrip("/") != own:  # some list the folder, or the file, itself
                size = entry["size"] if entry["type"] == "file" else -1
                sizes[PurePosixPath(entry["name"]).name] = size if type(size) is int else -1
        return sizes


def make_folder(folder: Place) -> None:
    """Make a folder, where the filesystem has folders. Raises LinalignError when it refuses."""
    if isinstance(folder, Path):
        make_local_folder(folder, folder)
        return
    with _filesystem(folder, "write into") as (fs, path):
        if not _is_object_store(fs):
            fs.makedirs(path, exist_ok=True)


def remove(path: Place) -> None:
    """Remove a file. Raises OSError or LinalignError when it is missing or may not be removed."""
    if isinstance(path, Path):
        path.unlink()
        return
    with _filesystem(path, "remove") as (fs, target):
        fs.rm_file(target)


def remove_folder(folder: Place) -> None:
    """Remove an empty folder. Raises OSError or LinalignError when it may not be removed."""
    if isinstance(folder, Path):
        folder.rmdir()
        return
    with _filesystem(folder, "remove") as (fs, path):
        if not _is_object_store(fs):
            fs.rmdir(path)


def require_free(out: Place) -> None:
    """Raise OutputExistsError unless nothing, or an empty folder, is at ``out``."""
    if isinstance(out, Path):
        check_free(out)
    elif listing(out) or (out.exists() and not out.is_dir()):
        raise not_empty(out)


def require_writable(path: Remote) -> None:
    """Raise unless a file can be written there: a trial file is written and removed.

    Raises InputError for a folder or when writing fails, OutputExistsError for a secret key, which
    is never overwritten.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder", expected="the name of a file to write")
    if path.exists():
        with contextlib.closing(_open(path)) as f:
            if is_secret(_RemoteFile(path, f).read(12)):
                raise OutputExistsError(f"{path} is a secret key and is never overwritten")
    _write_trial(path.parent)


def require_folder_writable(out: Remote) -> None:
    """As `require_writable`, for a folder that need not exist yet."""
    with _filesystem(out, "write into") as (fs, _):
        named = _is_object_store(fs)  # access may end at this name
    _write_trial(out if named else out.parent)


def _write_trial(folder: Remote) -> None:
    try:
        with delivered(folder / _temporary_name()) as local:
            local.write_bytes(b"\n")
            trial = folder / local.name
        remove(trial)
    except (InputError, MissingExtraError):
        raise
    except LinalignError as e:
        raise InputError(
            f"cannot write into {folder}", got=e.got, hint="does it exist, and may you write there?"
        ) from e


def _put(local: Path, path: Remote) -> None:
    with _filesystem(path, "write") as (fs, target):
        if _is_object_store(fs):
            fs.put_file(str(local), target)
        else:
            there = f"{target.rpartition('/')[0]}/{_temporary_name()}"
            try:
                fs.put_file(str(local), there)
                fs.mv(there, target)
            except BaseException:
                with contextlib.suppress(Exception):
                    fs.rm_file(there)
                raise
        fs.invalidate_cache()
        if fs.info(target)["size"] not in {None, local.stat().st_size}:
            raise LinalignError(f"{path} was written with another size", hint="write it again")


def _open(path: Remote) -> Any:
    with _filesystem(path, "read") as (fs, target):
        fs.invalidate_cache()
        return fs.open(target, "rb")


@contextlib.contextmanager
def _temporary_file(path: Remote) -> Iterator[Path]:
    """Yield a temporary local file of the same name; errors name ``path`` instead of it."""
    with tempfile.TemporaryDirectory(prefix="linalign-") as folder:
        local = Path(folder) / ("file" if path.name in {"", ".", ".."} else path.name)
        try:
            yield local
        except LinalignError as e:
            e.rename(str(local), str(path))
            raise


@contextlib.contextmanager
def _filesystem(path: Remote, verb: str) -> Iterator[tuple[Any, str]]:
    """Yield the filesystem of ``path`` and the path on it; its errors become LinalignErrors.

    A filesystem that does not answer is no InputError, so finished work is kept. Raises
    MissingExtraError when fsspec, or its package for the URL's scheme, is not installed.
    """
    url_to_fs = import_extra("fsspec.core", extra="remote", purpose=str(path)).url_to_fs
    try:
        fs, target = url_to_fs(path.url)
    except ImportError as e:
        package = getattr(e.__cause__, "name", None) or path.url.partition("://")[0]
        raise MissingExtraError(package.partition(".")[0], "", str(path)) from e
    except (ValueError, TypeError) as e:  # an unknown scheme
        raise InputError(f"{path} cannot be reached", got=_text(e)) from e
    except Exception as e:
        raise LinalignError(f"cannot {verb} {path}", got=_text(e)) from e
    try:
        yield fs, target
    except LinalignError:
        raise
    except (FileNotFoundError, IsADirectoryError) as e:
        kind = InputError if verb == "read" else LinalignError
        raise kind(f"cannot {verb} {path}", got="nothing, or a folder, is there") from e
    except Exception as e:  # filesystems raise the errors of their libraries
        raise LinalignError(f"cannot {verb} {path}", got=_text(e)) from e


class _RemoteFile(io.RawIOBase):
    """A file of a filesystem whose errors become LinalignErrors that name it."""

    def __init__(self, path: Remote, inner: Any) -> None:
        self._path, self._inner = path, inner

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._inner.seekable())

    def tell(self) -> int:
        return int(self._inner.tell())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with _filesystem(self._path, "read"):
            return int(self._inner.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        with _filesystem(self._path, "read"):
            block = self._inner.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)


def _is_object_store(fs: Any) -> bool:
    """Return True if objects appear once complete, and folders are only parts of names."""
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else {*fs.protocol}
    return bool(_OBJECT_STORES & protocols)


def _temporary_name() -> str:
    return f".linalign-{secrets.token_hex(6)}.tmp"


def _text(e: Exception) -> str:
    return without_secrets(f"{type(e).__name__}: {e}")[:160]
