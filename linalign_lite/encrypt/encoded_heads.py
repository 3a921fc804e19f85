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

import numpy as np

from linalign_lite.encrypt.packing import ComplexArray

_LARGE = 1 << 20  # bytes from which an encoded head is shared
Key = tuple[int, ...]


class EncodedHeads:
    """Encoded heads of one head and profile, at most ``max_bytes``, and as many in ``folder``.

    ``folder``: the provider's own, best in memory, and of this head and profile alone. Safe to
    share among threads, the folder among processes.
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
        path = self._folder / ("-".join(map(str, key)) + ".spectra")
        with contextlib.suppress(FileNotFoundError):
            return _mapped(path, shape)
        new = self._folder / f"{os.urandom(8).hex()}.new"
        try:
            with new.open("xb") as file:
                os.posix_fallocate(file.fileno(), 0, size)  # mapped later, a full disk is a crash
                for rows in made:
                    file.write(rows.tobytes())
            new.chmod(0o400)
            found = _mapped(new, shape)
            new.replace(path)
        except OSError:
            new.unlink(missing_ok=True)
            return None
        self._forget(path)
        return found

    def _forget(self, newest: Path) -> None:
        """Remove the oldest files while they are too large; processes that map one keep it."""
        assert self._folder is not None
        with contextlib.suppress(OSError):
            files = [(f.stat().st_mtime_ns, f.stat().st_size, f) for f in self._folder.iterdir()]
            total = sum(size for _, size, _ in files)
            for _, size, file in sorted(files):
                if total > self._max_bytes and file != newest and file.suffix == ".spectra":
                    file.unlink(missing_ok=True)
                    total -= size


def _mapped(path: Path, shape: tuple[int, ...]) -> Sequence[ComplexArray]:
    return list(np.memmap(path, dtype=np.complex128, mode="r", shape=shape).view(np.ndarray))
