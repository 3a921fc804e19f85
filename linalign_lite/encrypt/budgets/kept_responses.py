"""Responses kept beside a budget, so that a query that is sent again costs nothing.

A folder of the provider's own, mode 0700, with one file for each name. The oldest go first when
there are too many bytes.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from linalign_lite.storage.atomic import atomic
from linalign_lite.storage.own_folder import forget_oldest, make_own_folder

MAX_BYTES = 1 << 30
_SUFFIX = ".response"
_FRESH = 3600.0  # seconds for which a file that is being written is left alone


class Room:
    """The bytes to which kept responses are reduced, and when: to look at all of them costs time.

    That is at the first of this process, and then for each 1/64 of ``max_bytes`` that it kept.
    They are reduced to 7/8, so eight that keep at once stay within ``max_bytes``.
    """

    def __init__(self, max_bytes: int) -> None:
        self.most = max_bytes - max_bytes // 8
        self._step, self._since = max_bytes // 64, max_bytes

    def is_scarce(self, size: int) -> bool:
        """Count ``size`` more bytes kept; return whether to look at all of them now."""
        self._since += size  # no lock, which a fork could copy held: a miscount is made good soon
        if self._since < self._step:
            return False
        self._since = 0
        return True


class KeptResponses:
    """Responses in ``folder``, at most ``max_bytes`` in all. Safe to share among processes.

    The newest stays, whatever its size. Of more than eight instances that keep at once, each may
    add 1/64 of ``max_bytes`` before the oldest go.
    """

    most_bytes = MAX_BYTES

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._folder, self._room = folder, Room(max_bytes)

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
        make_own_folder(self._folder)
        path, made = self._path(name), self._folder / f"{os.urandom(8).hex()}.new"
        try:
            with atomic(made, private=True) as f:
                write(f)
                size = f.tell()
            with contextlib.suppress(FileExistsError):
                os.link(made, path)
        finally:
            with contextlib.suppress(OSError):
                made.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._forget(path, size)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}{_SUFFIX}"

    def _forget(self, kept: Path, size: int) -> None:
        """Remove the oldest, but not ``kept``, when it is time to look."""
        if self._room.is_scarce(size):
            most = self._room.most
            forget_oldest(self._folder, most, keep=kept, suffix=_SUFFIX, fresh=_FRESH)
