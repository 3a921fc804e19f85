"""Files under a URL that fsspec knows, such as s3://bucket/states. The extra `remote`."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from linalign_lite import errors
from linalign_lite.errors import InputError, LinalignError
from linalign_lite.storage.atomic import temporary_name

# object stores: an object appears once it is complete, and renaming it would copy it
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "r2", "tos"}


@dataclass(frozen=True)
class Remote:
    """A file or folder under a URL. Picklable; its text has no password and no signature."""

    url: str = field(repr=False)

    def __str__(self) -> str:
        return errors.without_secrets(self.url)

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
        with filesystem(self, "read") as (fs, path):
            return bool(fs.isdir(path))

    def exists(self) -> bool:
        """Raises LinalignError when the filesystem does not answer."""
        with filesystem(self, "read") as (fs, path):
            return bool(fs.exists(path))

    def unlink(self) -> None:
        """Raises LinalignError when the file is missing or may not be removed."""
        with filesystem(self, "remove") as (fs, path):
            fs.rm_file(path)

    def rmdir(self) -> None:
        """Remove an empty folder, where the filesystem has folders; raises as `unlink`."""
        with filesystem(self, "remove") as (fs, path):
            if not is_object_store(fs):
                fs.rmdir(path)


def put_file(local: Path, path: Remote) -> None:
    """Move a complete file to ``path``; where possible under another name until it is there."""
    with filesystem(path, "write") as (fs, target):
        if is_object_store(fs):
            fs.put_file(str(local), target)
        else:
            there = f"{target.rpartition('/')[0]}/{temporary_name()}"
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


@contextlib.contextmanager
def open_remote(path: Remote) -> Iterator[io.RawIOBase]:
    """Open a file to read; each error of the filesystem becomes a LinalignError that names it."""
    with filesystem(path, "read") as (fs, target):
        inner = fs.open(target, "rb")
    with contextlib.closing(inner):
        yield _RemoteFile(path, inner)


@contextlib.contextmanager
def filesystem(path: Remote, verb: str) -> Iterator[tuple[Any, str]]:
    """Yield the filesystem of ``path`` and the path on it; its errors become LinalignErrors.

    Raises MissingExtraError when fsspec, or its package for the URL's scheme, is not installed.
    """
    url_to_fs = errors.import_extra("fsspec.core", extra="remote", purpose=str(path)).url_to_fs
    with _errors(path, verb):
        try:
            fs, target = url_to_fs(path.url)
        except ImportError as e:
            package = getattr(e.__cause__, "name", None) or path.url.partition("://")[0]
            raise errors.MissingExtraError(package.partition(".")[0], "", str(path)) from e
        except (ValueError, TypeError) as e:  # an unknown scheme
            raise InputError(f"{path} cannot be reached", got=_text(e)) from e
        fs.invalidate_cache()  # other processes change it too
        yield fs, target


@contextlib.contextmanager
def _errors(path: Remote, verb: str) -> Iterator[None]:
    """Turn any error into a LinalignError; no InputError, which would discard finished work."""
    try:
        yield
    except LinalignError:
        raise
    except (FileNotFoundError, IsADirectoryError) as e:
        kind = InputError if verb == "read" else LinalignError
        raise kind(f"cannot {verb} {path}", got="nothing, or a folder, is there") from e
    except Exception as e:
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
        with _errors(self._path, "read"):
            return int(self._inner.seek(offset, whence))

    def readinto(self, buffer: Any) -> int:
        with _errors(self._path, "read"):
            block = self._inner.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)


def is_object_store(fs: Any) -> bool:
    """Return True if objects appear once complete, and folders are only parts of names."""
    return bool(_OBJECT_STORES & {*([fs.protocol] if type(fs.protocol) is str else fs.protocol)})


def _text(e: Exception) -> str:
    return errors.without_secrets(f"{type(e).__name__}: {e}")[:160]
