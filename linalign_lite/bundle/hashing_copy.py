"""Copy and hash files in one pass, in constant memory, and refuse those that hold a secret key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

from linalign_lite.core import signing
from linalign_lite.core.executor import map_in_order
from linalign_lite.encrypt.wire import Kind
from linalign_lite.errors import FormatError
from linalign_lite.storage import MAGIC

CHUNK = 1 << 20
SECRETS = (Kind.SECRET_KEY, signing.SECRET)
_SPAN = 12  # bytes: magic, version, kind


class EndsEarlyError(FormatError):
    """A file has fewer bytes than its stated size."""


class HashingCopy:
    """Read, hash, search for secrets and write at once: hashing has a thread of its own.

    `hashlib` and writing release Python's lock, so two cores share the work. Two buffers are used
    in turn, for files of any size.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._buffers = (bytearray(CHUNK), bytearray(CHUNK))

    def __enter__(self) -> HashingCopy:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def run(
        self,
        source: IO[bytes],
        size: int,
        name: str,
        write: Callable[[memoryview], Any] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> str:
        """Pass the next ``size`` bytes of ``source`` to ``write``; returns their SHA-256.

        Raises EndsEarlyError when there are fewer, FormatError when a secret key is among them;
        both name ``name``.
        """

        def chunks() -> Iterator[memoryview]:
            tail = b""
            for i, start in enumerate(range(0, size, CHUNK)):
                buffer = self._buffers[i % 2]
                view = memoryview(buffer)[: min(size - start, CHUNK)]
                _fill(source, view, name)
                tail = _search(buffer, len(view), tail, name)
                if write:
                    write(view)
                if progress:
                    progress(len(view))
                yield view

        sha = hashlib.sha256()
        # two in flight: a buffer is filled again only after its chunk was hashed
        for _ in map_in_order(self._thread, sha.update, chunks(), in_flight=2):
            pass
        return sha.hexdigest()


def _fill(source: IO[bytes], view: memoryview, name: str) -> None:
    done = 0
    while done < len(view):
        count = source.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise EndsEarlyError(f"{name} ends early", hint="the file may be truncated")
        done += count


def _search(buffer: bytearray, end: int, tail: bytes, name: str) -> bytes:
    """Raise FormatError when a secret begins in ``tail`` or the buffer; returns the next tail."""
    joint = tail + bytes(buffer[: min(end, _SPAN - 1)])
    if _holds_secret(buffer, end) or _holds_secret(joint, len(joint)):
        raise FormatError(f"{name} holds a secret key", hint="secrets never go into a bundle")
    return (joint if end < _SPAN else bytes(buffer[end - _SPAN + 1 : end]))[-_SPAN + 1 :]


def _holds_secret(data: bytes | bytearray, end: int) -> bool:
    at = data.find(MAGIC, 0, end)
    while at >= 0:
        if at + _SPAN <= end and data[at + 10] in SECRETS and not data[at + 11]:
            return True
        at = data.find(MAGIC, at + 1, end)
    return False
