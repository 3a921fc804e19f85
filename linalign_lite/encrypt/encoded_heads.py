"""Encoded heads: the spectra of a head's plaintexts, for each layout and scale that queries use.

They are kept in memory, the least recently used dropped first. With a folder, large ones are files
in it that processes map: however many score with one head, it is encoded and held once.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from linalign_lite.encrypt.packing import ComplexArray
from linalign_lite.storage.own_folder import forget_oldest

_LARGE = 1 << 20  # bytes from which an encoded head is shared
_SUFFIX = ".spectra"
_FRESH = 60.0  # seconds for which a file that is being written is left alone
Key = tuple[int, ...]


class EncodedHeads:
    """Encoded heads of one head and profile, at most ``max_bytes``, and as many in ``folder``.

    ``folder``: the provider's own, best in memory, and of this head and profile alone; without room
    or rights in it they are kept in memory. Safe to share among threads, the folder among
    processes.
    """

    def __init__(self, max_bytes: int, folder: Path | None = None) -> None:
        self._max_bytes, self._folder = max_bytes, folder
        self._kept: OrderedDict[Key, Sequence[ComplexArray]] = OrderedDict()
        self._lock = threading.Lock()

    def get(
        self, key: Key, shape: tuple[int, ...], made: Iterator[ComplexArray]
    ) -> Iterable[ComplexArray]:
        """Return the spectra of ``key``, ``shape[0]`` times ``shape[1:]``; ``made`` encodes them.

        What is larger than all that may be kept is encoded while it is used.
        """
        size = 16 * int(np.prod(shape))  # bytes of complex numbers
        if size > self._max_bytes:
            return made
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        # without the lock: others score meanwhile
        found = self._shared(key, shape, size, made) if size >= _LARGE and self._folder else None
        found = list(made) if found is None else found
        with self._lock:
            self._kept[key] = found
            while sum(a.nbytes for kept in self._kept.values() for a in kept) > self._max_bytes:
                self._kept.popitem(last=False)
        return found

    def _shared(
        self, key: Key, shape: tuple[int, ...], size: int, made: Iterator[ComplexArray]
    ) -> Sequence[ComplexArray] | None:
        """Map a file, written first if no process has; None if there is no room for it."""
        assert self._folder is not None
        path = self._folder / ("-".join(map(str, key)) + _SUFFIX)
        with contextlib.suppress(FileNotFoundError):
            return _mapped(path, shape)
        if not hasattr(os, "posix_fallocate"):  # macOS, Windows
            return None
        new = self._folder / f"{os.urandom(8).hex()}.new"
        with contextlib.ExitStack() as opened:
            try:
                handle = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
                opened.callback(_remove, new)
                file = opened.enter_context(os.fdopen(handle, "r+b"))
                os.posix_fallocate(handle, 0, size)  # mapped later, a full disk is a crash
                found = _mapped(file, shape)
            except OSError:
                return None
            file.seek(0)
            for rows in made:  # from here on it is there, whatever becomes of its name
                file.write(rows.tobytes())
            file.flush()
            with contextlib.suppress(OSError):
                os.fchmod(handle, 0o400)
                new.replace(path)  # processes that map an older file keep it
                most = self._max_bytes
                forget_oldest(self._folder, most, keep=path, suffix=_SUFFIX, fresh=_FRESH)
        return found


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # it has another name by then, or its folder went
        path.unlink()


def _mapped(file: Path | IO[bytes], shape: tuple[int, ...]) -> Sequence[ComplexArray]:
    return list(np.memmap(file, dtype=np.complex128, mode="r", shape=shape).view(np.ndarray))
