"""Responses kept beside a budget, so that a query that is sent again costs nothing.

A folder of the provider's own, mode 0700, with one file for each name. The oldest go first when
there are too many bytes.
"""

import contextlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from linalign_lite.errors import InputError
from linalign_lite.storage.atomic import atomic

MAX_BYTES = 1 << 30
_FRESH = 3600.0  # seconds for which a file that is being written is left alone


class KeptResponses:
    """Responses in ``folder``, at most ``max_bytes`` in all. Safe to share among processes."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._folder, self._max_bytes = folder, max_bytes

    def open(self, name: str) -> IO[bytes] | None:
        """Open a response, or return None if it is not there, or not any more."""
        try:
            handle = os.open(self._path(name), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return None
        return os.fdopen(handle, "rb")

    def keep(self, name: str, write: Callable[[IO[bytes]], None]) -> None:
        """Keep what ``write`` writes, unless a response of this name was kept meanwhile.

        It is kept once it has its name: nothing that fails later is raised. Raises InputError when
        the folder is none, or not the provider's own, and what ``write`` raises.
        """
        self._require_folder()
        path, made = self._path(name), self._folder / f"{os.urandom(8).hex()}.new"
        try:
            with atomic(made, private=True) as f:
                write(f)
            with contextlib.suppress(FileExistsError):
                os.link(made, path)
        finally:
            with contextlib.suppress(OSError):
                made.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._forget(path)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.response"

    def _require_folder(self) -> None:
        with contextlib.suppress(FileExistsError):
            self._folder.mkdir(mode=0o700)
        status = self._folder.lstat()
        mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
        if not (stat.S_ISDIR(status.st_mode) and mine):
            problem = f"responses cannot be kept in {self._folder}"
            raise InputError(problem, got="something else", expected="a folder of your own")

    def _forget(self, kept: Path) -> None:
        """Remove the oldest while there are more bytes than allowed; not ``kept``."""
        found, now = [], time.time()
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    written = entry.name.endswith(".response")
                    if written or now - status.st_mtime > _FRESH:  # a crash left the others
                        found.append((written, status.st_mtime_ns, status.st_size, entry.path))
        total = sum(size for _, _, size, _ in found)
        for _, _, size, path in sorted(found):
            if total <= self._max_bytes:
                return
            if Path(path) != kept:
                with contextlib.suppress(OSError):
                    Path(path).unlink()
                total -= size
