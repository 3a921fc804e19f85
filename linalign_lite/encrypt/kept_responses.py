"""Responses kept beside a budget, so that a query that is sent again costs nothing.

A folder, mode 0700, with one file for each fingerprint of a query. The oldest go first when there
are too many bytes; a query whose response is gone is scored, and charged, again.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from linalign_lite.storage.atomic import atomic

MAX_BYTES = 1 << 30


class KeptResponses:
    """Responses in ``folder``, at most ``max_bytes`` in all. Safe to share among processes."""

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._folder, self._max_bytes = folder, max_bytes

    def find(self, fingerprint: bytes) -> Path | None:
        """The response to a query, if it is still there."""
        path = self._path(fingerprint)
        return path if path.is_file() else None

    def keep(self, fingerprint: bytes, write: Callable[[IO[bytes]], None]) -> tuple[Path, bool]:
        """Keep what ``write`` writes. Returns its path, and False if another was kept before."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path, made = self._path(fingerprint), self._folder / f"{os.urandom(8).hex()}.new"
        try:
            with atomic(made, private=True) as f:
                write(f)
            try:
                os.link(made, path)
            except FileExistsError:
                return path, False
        finally:
            made.unlink(missing_ok=True)
        self._forget()
        return path, True

    def _path(self, fingerprint: bytes) -> Path:
        return self._folder / f"{fingerprint.hex()}.response"

    def _forget(self) -> None:
        """Remove the oldest while there are more bytes than allowed, and what crashes left."""
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    found.append((status.st_mtime_ns, status.st_size, entry.path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self._max_bytes:
                return
            with contextlib.suppress(OSError):
                Path(path).unlink()
            total -= size
