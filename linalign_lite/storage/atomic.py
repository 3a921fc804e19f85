"""Write files and folders whole or not at all, and open ordinary files only."""

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
# first bytes of a secret.key or signing.key, but for the version (docs/FORMAT.md, sections 3 and 7)
_MAGIC, _SECRETS = b"LINALIGN", (b"\x01\x00", b"\x05\x00")
_BINARY = getattr(os, "O_BINARY", 0)  # else Windows rewrites line ends


@contextlib.contextmanager
def atomic(path: PathLike, *, private: bool = False) -> Iterator[IO[bytes]]:
    """Yield a file to write, which gets its name ``path`` once it is complete and on the disk.

    On any failure, Ctrl-C included, no part of it is left and an older ``path`` stays. On systems
    with unnamed files (Linux) this includes kill -9 and loss of power; elsewhere these can leave a
    temporary file. private: only its owner may read the file.
    """
    target = Path(path)
    require_replaceable(target)
    temporary = target.with_name(temporary_name())
    try:
        with _created(temporary, target, private=private) as f:
            yield f
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomic(path: PathLike, data: bytes) -> None:
    """Write ``data`` to ``path``, whole or not at all."""
    with atomic(path) as f:
        f.write(data)


def write_new(path: PathLike, data: bytes, *, private: bool = False) -> None:
    """Create ``path`` and write ``data``; an incomplete file is removed.

    private: mode 0600. Never overwrites: raises OutputExistsError when anything has that name, a
    dangling link included.
    """
    with created(path, private=private) as f:
        f.write(data)


@contextlib.contextmanager
def created(path: PathLike, *, private: bool = False) -> Iterator[IO[bytes]]:
    """Open a file that appears as ``path`` when it is whole, as `write_new` writes it."""
    target = Path(path)
    try:
        with _created(target, target, private=private) as f:
            yield f
    except FileExistsError:
        raise already_there(target) from None


def already_there(path: object) -> OutputExistsError:
    """Make the error for a file that is there and must stay."""
    return OutputExistsError(
        f"{path} is already there and is never overwritten",
        hint="choose another name, or remove the old file yourself",
    )


def require_replaceable(target: Path) -> None:
    """Raise unless ``target`` is absent, or an ordinary file that is no secret key.

    Writing would replace a link or a device by a file.
    """
    try:
        mode = target.lstat().st_mode
    except (OSError, ValueError):
        return
    if not stat.S_ISREG(mode):
        raise InputError(f"cannot write {target}", got="a folder, a link or a device is there")
    with contextlib.suppress(OSError), target.open("rb") as f:
        refuse_secret(target, f.read(12))


def refuse_secret(path: object, start: bytes) -> None:
    """Raise OutputExistsError if the file ``path``, which begins so, is a secret key."""
    if is_secret(start):
        raise OutputExistsError(f"{path} is a secret key and is never overwritten")


def is_secret(start: bytes) -> bool:
    """Return True if a file that begins with these 12 bytes is a secret key."""
    return start[:8] == _MAGIC and start[10:] in _SECRETS


def require_private(path: Path) -> None:
    """Raise InputError when users other than its owner may read or write a secret key's file."""
    if os.name == "nt":  # files have no modes; the access list of the folder counts
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
    """Yield a temporary folder beside ``out``; on success rename it to ``out``.

    On any failure, Ctrl-C included, the temporary folder is removed. Raises OutputExistsError
    when ``out`` is there and is not an empty folder.
    """
    check_free(out)
    temporary = out.with_name(temporary_name())
    make_local_folder(temporary, out)
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


def make_local_folder(path: Path, out: Path) -> None:
    """Make the folder ``path`` unless it exists. Raises InputError that names ``out``."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as e:
        raise InputError(
            f"cannot write {out}", got=e.strerror or str(e), hint="does the folder above it exist?"
        ) from e


def check_free(out: Path) -> None:
    """Raise OutputExistsError unless nothing, or an empty folder, is at ``out``."""
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise not_empty(out)


def not_empty(out: object) -> OutputExistsError:
    """Return the error for an output folder that exists."""
    return OutputExistsError(
        f"{out} is already there and is not an empty folder",
        hint="choose another folder, or remove the old one yourself",
    )


@contextlib.contextmanager
def open_regular(path: PathLike) -> Iterator[IO[bytes]]:
    """Open an ordinary file to read. InputError for anything else: opening a pipe could block."""
    try:
        mode = Path(path).stat().st_mode
        if not stat.S_ISREG(mode):
            what, hint = ("a pipe or a device", "")
            if stat.S_ISDIR(mode):
                what, hint = ("a folder", "name the file in it")
            raise InputError(f"cannot read {path}", got=what, expected="a file", hint=hint)
        f = Path(path).open("rb")  # noqa: SIM115 (closed below; only opening may be renamed)
    except (OSError, ValueError) as e:  # ValueError: a name with a NUL byte
        raise InputError(f"cannot read {path}", got=getattr(e, "strerror", "") or str(e)) from e
    with f:
        yield f


def temporary_name() -> str:
    """Return a new file name; its length is fixed, as that of the target may be the greatest."""
    return f".linalign-{secrets.token_hex(6)}.tmp"


@contextlib.contextmanager
def _created(path: Path, target: Path, *, private: bool) -> Iterator[IO[bytes]]:
    """Yield a new file; it is called ``path`` once complete, and removed on any failure.

    Raises FileExistsError when something has that name, InputError naming ``target`` when the file
    cannot be created.
    """
    mode, flags = 0o600 if private else 0o666, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY
    try:
        if os.path.lexists(path):
            raise FileExistsError
        unnamed = _create_unnamed(path.parent, mode)
        handle = os.open(path, flags, mode) if unnamed is None else unnamed
    except FileExistsError:
        raise
    except OSError as e:
        raise InputError(
            f"cannot write {target}",
            got=e.strerror or str(e),
            hint="does the folder exist, and may you write there?",
        ) from e
    try:
        with os.fdopen(handle, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
            if unnamed is not None:
                _name(unnamed, path)
    except BaseException:
        if unnamed is None:
            path.unlink(missing_ok=True)
        raise


def _create_unnamed(folder: Path, mode: int) -> int | None:
    """Create a file without a name, removed when it is closed; None where the system has none."""
    flag = getattr(os, "O_TMPFILE", 0)
    if not flag or not Path("/proc/self/fd").is_dir():
        return None
    try:
        return os.open(folder, flag | os.O_WRONLY, mode)
    except OSError:  # no such files here, or an unusable folder: creating a named file then fails
        return None


def _name(handle: int, path: Path) -> None:
    """Give an open file without a name the name ``path``. FileExistsError when it is taken."""
    folder = os.open("/", os.O_RDONLY)  # any folder: with one, Python follows the link in /proc
    try:
        os.link(f"/proc/self/fd/{handle}", path, src_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)
