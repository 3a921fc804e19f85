"""Files and folders written whole or not at all, and files from outside opened with care."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from linalign_lite.errors import InputError, OutputExistsError

PathLike = str | os.PathLike[str]
# how a secret.key or signing.key of any version begins, bytes 8 and 9 left out: docs/FORMAT.md,
# sections 3 and 7
_MAGIC, _SECRETS = b"LINALIGN", (b"\x01\x00", b"\x05\x00")
_BINARY = getattr(os, "O_BINARY", 0)  # without it Windows rewrites line ends


@contextlib.contextmanager
def atomic(path: PathLike, *, private: bool = False) -> Iterator[IO[bytes]]:
    """Write a file that gets its name, ``path``, once it is whole and on the disk.

    On any failure, Ctrl-C included, nothing is left and an older ``path`` stays. Where the system
    knows files without a name (Linux) that holds for kill -9 and loss of power too; elsewhere those
    can leave a temporary file. ``private``: only its owner may read it.
    """
    target = Path(path)
    require_replaceable(target)
    temporary = _beside(target)
    mode = 0o600 if private else 0o666
    try:
        nameless = _nameless(target.parent, mode)
        handle = _create(temporary, mode) if nameless is None else nameless
    except OSError as e:
        raise InputError(
            f"cannot write {target}", got=e.strerror or str(e), hint="does the folder exist?"
        ) from e
    try:
        with os.fdopen(handle, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
            if nameless is not None:
                _name(f.fileno(), temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomic(path: PathLike, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with atomic(path) as f:
        f.write(data)


def write_new(path: PathLike, data: bytes, *, private: bool = False) -> None:
    """Create ``path`` and write ``data``; never overwrites, and half a file is removed.

    ``private``: mode 0600. Raises OutputExistsError when anything, a dangling link included, has
    that name.
    """
    target = Path(path)
    mode = 0o600 if private else 0o666
    try:
        nameless = None if os.path.lexists(target) else _nameless(target.parent, mode)
        handle = _create(target, mode) if nameless is None else nameless
    except FileExistsError:
        raise _exists(target) from None
    except OSError as e:
        raise InputError(f"cannot write {target}", got=e.strerror or str(e)) from e
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
            if nameless is not None:
                _name(f.fileno(), target)
    except FileExistsError:  # somebody else was faster
        raise _exists(target) from None
    except BaseException:
        if nameless is None:
            target.unlink(missing_ok=True)
        raise


def require_replaceable(target: Path) -> None:
    """Raise unless ``target`` is absent or an ordinary file that is no secret key.

    A link or a device would be replaced by a file instead of written through.
    """
    try:
        mode = target.lstat().st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode):
        raise InputError(f"cannot write {target}", got="a folder, a link or a device is there")
    with contextlib.suppress(OSError), target.open("rb") as f:
        if is_secret(f.read(12)):
            raise OutputExistsError(f"{target} is a secret key and is never overwritten")


def is_secret(start: bytes) -> bool:
    """Whether a file that begins with these 12 bytes is a secret key."""
    return start[:8] == _MAGIC and start[10:] in _SECRETS


def require_private(path: Path) -> None:
    """Raise InputError when others than its owner may read or write a secret's file."""
    if os.name == "nt":  # modes mean nothing there; the folder's access list is the user's
        return
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise InputError(
            f"{path} can be read or written by others",
            got=f"mode {mode:04o}",
            expected="0600",
            hint=f"chmod 600 {path}; make a new key if others may have read it",
        )


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``out``; on success rename it to ``out``.

    On any failure, Ctrl-C included, the temporary folder is removed. Raises OutputExistsError
    when ``out`` is there and is not an empty folder.
    """
    check_free(out)
    temporary = _beside(out)
    try:
        temporary.mkdir()
    except OSError as e:
        raise InputError(
            f"cannot write {out}", got=e.strerror or str(e), hint="does the folder above it exist?"
        ) from e
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("r+b") as f:
                    os.fsync(f.fileno())
        check_free(out)
        if out.exists():
            out.rmdir()
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_free(out: Path) -> None:
    """Raise OutputExistsError when something is at ``out`` already."""
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise OutputExistsError(
            f"{out} is already there and is not an empty folder",
            hint="choose another folder, or remove the old one yourself",
        )


@contextlib.contextmanager
def open_regular(path: PathLike) -> Iterator[IO[bytes]]:
    """Open an ordinary file to read. InputError for anything else: a pipe could block for ever."""
    try:
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
            raise InputError(f"cannot read {path}", got=what, expected="a file")
        f = Path(path).open("rb")  # noqa: SIM115 (closed below; only opening may be renamed)
    except (OSError, ValueError) as e:  # ValueError: a name with a NUL byte
        raise InputError(f"cannot read {path}", got=getattr(e, "strerror", "") or str(e)) from e
    with f:
        yield f


def _beside(target: Path) -> Path:
    # a fixed length: the name of the target may already be as long as names may be
    return target.with_name(f".linalign-{secrets.token_hex(6)}.tmp")


def _exists(target: Path) -> OutputExistsError:
    return OutputExistsError(
        f"{target} is already there and is never overwritten",
        hint="choose another folder, or remove the old file yourself",
    )


def _nameless(folder: Path, mode: int) -> int | None:
    """A file without a name in ``folder``, which goes when it is closed; None where unknown."""
    flag = getattr(os, "O_TMPFILE", 0)
    if not flag or not Path("/proc/self/fd").is_dir():
        return None
    try:
        return os.open(folder, flag | os.O_WRONLY, mode)
    except OSError:  # this file system has none, or the folder is not usable: creating will say so
        return None


def _name(handle: int, path: Path) -> None:
    """Give an open file without a name the name ``path``. FileExistsError when it is taken."""
    folder = os.open("/", os.O_RDONLY)  # any: with one, Python asks to follow the link in /proc
    try:
        os.link(f"/proc/self/fd/{handle}", path, src_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def _create(path: Path, mode: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, mode)
