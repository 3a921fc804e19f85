"""Files and folders on the local disk or under a URL.

A remote file is read from a temporary copy of bounded size, and written to a temporary file that is
moved to its URL once it is complete. `file://` is the local disk itself.
"""

import contextlib
import io
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, cast

from linalign_lite.errors import FormatError, InputError, LinalignError, MissingExtraError
from linalign_lite.storage import atomic
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.remote import Remote, filesystem, is_object_store, open_remote, put_file

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BLOCK = 1 << 20  # bytes
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
        with filesystem(a, "read") as (fs, path), filesystem(b, "read") as (other, there):
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
        with atomic.open_regular(found) as f:
            yield f
        return
    with open_remote(found) as remote:
        yield cast("IO[bytes]", io.BufferedReader(remote, _BLOCK))


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
        left = most
        with open_remote(path) as source, local.open("wb") as copy:
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
    block ends without an error. Raises LinalignError when the filesystem refuses; no part of the
    file is left then, and an older one stays.
    """
    if isinstance(path, Path):
        yield path
        return
    with _temporary_file(path) as local:
        yield local
        put_file(local, path)


def listing(folder: Place) -> dict[str, int]:
    """Return name and size of each file in a folder, -1 for anything else; empty if no folder."""
    if isinstance(folder, Path):
        return {p.name: _local_size(p) for p in folder.iterdir()} if folder.is_dir() else {}
    with filesystem(folder, "read") as (fs, path):
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


def _local_size(path: Path) -> int:
    try:
        status = path.lstat()
    except OSError:  # removed meanwhile
        return -1
    return status.st_size if stat.S_ISREG(status.st_mode) else -1


def make_folder(folder: Place) -> None:
    """Make a folder, where the filesystem has folders. Raises LinalignError when it refuses."""
    if isinstance(folder, Path):
        atomic.make_local_folder(folder, folder)
        return
    with filesystem(folder, "write into") as (fs, path):
        if not is_object_store(fs):
            fs.makedirs(path, exist_ok=True)


def require_free(out: Place) -> None:
    """Raise OutputExistsError unless nothing, or an empty folder, is at ``out``."""
    if isinstance(out, Path):
        atomic.check_free(out)
    elif listing(out) or (out.exists() and not out.is_dir()):
        raise atomic.not_empty(out)


def require_writable(path: Remote) -> None:
    """Raise unless a file can be written there: a trial file is written and removed.

    Raises InputError for a folder or when writing fails, OutputExistsError for a secret key.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder", expected="the name of a file to write")
    if path.exists():
        with open_remote(path) as f:
            atomic.refuse_secret(path, f.read(12))
    _write_trial(path.parent)


def require_folder_writable(out: Remote) -> None:
    """Raise as `require_writable` unless a folder, which need not exist, can be written."""
    with filesystem(out, "write into") as (fs, _):
        folder = out if is_object_store(fs) else out.parent  # access may end at this name
    _write_trial(folder)


def _write_trial(folder: Remote) -> None:
    try:
        trial = folder / atomic.temporary_name()
        with delivered(trial) as local:
            local.write_bytes(b"\n")
        trial.unlink()
    except (InputError, MissingExtraError):
        raise
    except LinalignError as e:
        raise InputError(
            f"cannot write into {folder}", got=e.got, hint="does it exist, and may you write there?"
        ) from e


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
