"""Bytes from one file to a digest and to another file, in constant memory, watched for secrets."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import IO, Any

from linalign_lite.bundle import signing
from linalign_lite.encrypt.wire import MAGIC, Kind
from linalign_lite.errors import FormatError

CHUNK = 1 << 20
SECRETS = (Kind.SECRET_KEY, signing.SECRET)
_SPAN = 12  # bytes: magic, version, kind


class EndsEarlyError(FormatError):
    """A file has fewer bytes than it was said to have."""


class Pump:
    """Reads, hashes, watches and writes at once: hashing has a thread of its own.

    `hashlib` and writing let go of Python's lock, so two cores share the work. Two buffers are used
    in turn, whatever the size of a file.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._buffers = (bytearray(CHUNK), bytearray(CHUNK))

    def __enter__(self) -> Pump:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None
    ) -> None:
        self._pool.shutdown()

    def run(
        self,
        source: IO[bytes],
        size: int,
        name: str,
        write: Callable[[memoryview], Any] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> str:
        """SHA-256 of the next ``size`` bytes of ``source``, which go through ``write`` too.

        Raises EndsEarlyError when there are fewer, FormatError when a secret key is among them;
        both name ``name``.
        """
        sha = hashlib.sha256()
        waiting: Future[None] | None = None
        tail, turn = b"", 0
        try:
            while size:
                buffer = self._buffers[turn]
                view = memoryview(buffer)[: min(size, CHUNK)]
                _fill(source, view, name)
                if waiting:
                    waiting.result()
                waiting = self._pool.submit(sha.update, view)
                tail = _watch(buffer, len(view), tail, name)
                if write:
                    write(view)
                if progress:
                    progress(len(view))
                size, turn = size - len(view), 1 - turn
        finally:
            if waiting:
                waiting.result()
        return sha.hexdigest()


def is_ours(start: bytes) -> bool:
    """Whether a file that begins so is a secret key of ours."""
    return start.startswith(MAGIC) and int.from_bytes(start[10:12], "little") in SECRETS


def is_secret(start: bytes) -> bool:
    """Whether a file that begins so is a secret key of ours, or of the usual text form."""
    return is_ours(start) or (
        start.startswith(b"-----BEGIN ") and b"PRIVATE KEY-----" in start[:100]
    )


def _fill(source: IO[bytes], view: memoryview, name: str) -> None:
    done = 0
    while done < len(view):
        count = source.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise EndsEarlyError(f"{name} ends early", hint="the file may be truncated")
        done += count


def _watch(buffer: bytearray, end: int, tail: bytes, name: str) -> bytes:
    """Raise when a secret begins in ``tail`` or the buffer; returns the buffer's own tail."""
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
