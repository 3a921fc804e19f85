"""An output folder that appears whole or not at all, and packages that may be missing."""

from __future__ import annotations

import contextlib
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from linalign_lite.errors import InputError, MissingExtraError, OutputExistsError
from linalign_lite.files import umask


@contextlib.contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``out``; on success rename it to ``out``.

    On any failure, Ctrl-C included, the temporary folder is removed. Raises OutputExistsError
    when ``out`` is there and is not an empty folder.
    """
    check_free(out)
    try:
        made = tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent)
    except OSError as e:
        raise InputError(
            f"cannot write {out}", got=e.strerror or str(e), hint="does the folder above it exist?"
        ) from e
    temporary = Path(made)
    try:
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb") as f:
                os.fsync(f.fileno())
        temporary.chmod(0o777 & ~umask())
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


def require(purpose: str, *modules: str) -> None:
    """Import modules; raise MissingExtraError naming the first package that is not installed."""
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as e:
            raise MissingExtraError(module.split(".")[0], "export", purpose) from e
