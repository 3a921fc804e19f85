"""Folders of a process's owner alone, whose oldest files go when they have too many bytes."""

import contextlib
import os
import stat
import time
from pathlib import Path

from linalign_lite.errors import InputError


def make_own_folder(folder: Path) -> None:
    """Make ``folder``, mode 0700, unless it is there; the folder above it must be.

    Raises InputError when something else, or a folder of another user, is there; OSError when it
    cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    if not (stat.S_ISDIR(status.st_mode) and mine):
        problem = f"files cannot be kept in {folder}"
        raise InputError(problem, got="something else", expected="a folder of your own")


def forget_oldest(folder: Path, most: int, *, keep: Path, suffix: str, fresh: float) -> None:
    """Remove the oldest files while there are more than ``most`` bytes; never ``keep``.

    Files without ``suffix`` are being written: they are not counted, and are removed when nothing
    was written to them for ``fresh`` seconds, as a crash left them. Files that others remove
    meanwhile, or that cannot be removed, are passed over. Looks at every file. Raises OSError when
    the folder cannot be read.
    """
    found, now = [], time.time()
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                if entry.name.endswith(suffix):
                    found.append((status.st_mtime_ns, status.st_size, entry.path))
                elif now - status.st_mtime > fresh:
                    os.unlink(entry.path)  # noqa: PTH108 (a Path of each file takes longer)
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            return
        if path != os.fspath(keep):
            with contextlib.suppress(OSError):
                os.unlink(path)  # noqa: PTH108
            total -= size
