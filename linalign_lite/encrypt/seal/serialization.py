"""Save SEAL's objects to bytes and load them.

SEAL's objects save to and load from paths only, compressed. Here they pass through anonymous memory
(never the disk, where the system has it). Files hold this library's own form of fixed size: without
compression nothing can unpack to more than its length. Every length and value is checked before
SEAL reads it; SEAL then checks again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tenseal.sealapi as api
import zstandard

from linalign_lite.errors import FormatError, LinalignError

# Sizes in bytes.
HEADER_SIZE = 16  # SEAL's header: magic, header size, version (2), compression, reserved, size
_ARRAY_HEADER = HEADER_SIZE + 8  # a header before the words of an object, and their count
# words of a ciphertext start after parms_id, NTT?, components, degree, primes, scale, correction
CIPHERTEXT_START = 32 + 1 + 8 * 5 + _ARRAY_HEADER
PLAINTEXT_START = 32 + 8 + 8 + _ARRAY_HEADER  # after parms_id, coefficients, scale
SEED_SIZE = 64
SEED_INFO = HEADER_SIZE + 1 + SEED_SIZE
Parts = Sequence[bytes | memoryview]  # an object's bytes in several pieces
BLAKE2XB = int(api.prng_type.blake2xb.value)
_ZSTD = int(api.COMPR_MODE_TYPE.ZSTD.value)
_COMPRESSION_OVERHEAD = 1 << 12  # bytes by which compression may make an object larger: 1 in 256
_MEMORY_FOLDER = "/dev/shm"  # noqa: S108 (a private folder, mode 0700, is made in it)
_HAS_ANONYMOUS_MEMORY = hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir()
_per_thread = threading.local()  # one piece of anonymous memory for each thread, made once
if hasattr(os, "register_at_fork"):  # a child must not write to its parent's
    os.register_at_fork(after_in_child=lambda: _per_thread.__dict__.pop("memory", None))


class _Scratch:
    """An open descriptor and a path to it: anonymous memory, or a private file that is wiped.

    Anonymous memory is kept by its thread and used again; ``wipe`` gives its pages back, so that
    nothing of a key stays in it.
    """

    def __init__(self, *, wipe: bool) -> None:
        self._wipe = wipe
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> tuple[int, str]:
        if _HAS_ANONYMOUS_MEMORY:
            memory = getattr(_per_thread, "memory", None) or _anonymous()
            self._handle = memory[0]
            return memory
        self._folder = tempfile.TemporaryDirectory(
            dir=_MEMORY_FOLDER if Path(_MEMORY_FOLDER).is_dir() else None
        )
        path = Path(self._folder.name) / "object"
        self._handle = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600
        )
        return self._handle, str(path)

    def __exit__(self, *_: object) -> None:
        if self._folder is None:
            if self._wipe:
                os.ftruncate(self._handle, 0)
            return
        try:
            size = os.fstat(self._handle).st_size
            os.lseek(self._handle, 0, os.SEEK_SET)
            os.write(self._handle, bytes(size))
            os.fsync(self._handle)  # the zeros must reach the disk before the name goes
            os.close(self._handle)
        finally:
            self._folder.cleanup()


def _anonymous() -> tuple[int, str]:
    handle = os.memfd_create("linalign", os.MFD_CLOEXEC)
    _per_thread.memory = handle, f"/proc/self/fd/{handle}"
    memory: tuple[int, str] = _per_thread.memory
    return memory


def save_body(thing: Any, size: int, *, secret: bool = False) -> bytes | memoryview:
    """Save an object and return its body: ``size`` bytes after decompression."""
    with _Scratch(wipe=secret) as (handle, path):
        thing.save(path)
        saved = _read(handle, HEADER_SIZE + size + _COMPRESSION_OVERHEAD)
    mode = saved[5]
    body: bytes | memoryview = memoryview(saved)[HEADER_SIZE:]
    if mode == _ZSTD:
        body = _decompressor().decompress(body, max_output_size=size)
    if mode not in (0, _ZSTD) or len(body) != size:
        raise LinalignError(
            "this build of SEAL saves its objects in an unknown form",
            hint="install a TenSEAL wheel from the package index",
        )
    return body


@contextlib.contextmanager
def seal_errors() -> Iterator[None]:
    """Raise a FormatError for an object that SEAL refuses."""
    try:
        yield
    except (RuntimeError, ValueError) as e:
        raise FormatError("SEAL refuses this key or ciphertext", got=str(e)[:80]) from e


def load_body(thing: Any, context: Any, body: Parts, *, secret: bool = False) -> Any:
    """Load an object from the parts of an uncompressed body. Raises FormatError if SEAL refuses."""
    parts = [seal_header(sum(map(len, body))), *body]
    with _Scratch(wipe=secret) as (handle, path):
        _write(handle, parts)
        with seal_errors():
            thing.load(context, path)
    return thing


def _decompressor() -> zstandard.ZstdDecompressor:
    """This thread's decompressor: one is not safe to share."""
    if not hasattr(_per_thread, "decompressor"):
        _per_thread.decompressor = zstandard.ZstdDecompressor()
    found: zstandard.ZstdDecompressor = _per_thread.decompressor
    return found


def seal_header(size: int) -> bytes:
    """SEAL's header of an uncompressed object whose body has ``size`` bytes."""
    return _version() + b"\0\0\0" + struct.pack("<Q", HEADER_SIZE + size)


def word_array(words: Parts) -> Parts:
    """An array of 64-bit words, in parts, as SEAL nests it in an object."""
    return [_array_header(sum(map(len, words))), *words]


def _array_header(size: int) -> bytes:
    return seal_header(8 + size) + struct.pack("<Q", size // 8)


def ciphertext_body(
    level: list[int], degree: int, primes: int, words: Parts, *, seed: bytes = b"", ntt: bool = True
) -> Parts:
    """The body of a ciphertext, in parts: both components, or the first and a seed."""
    start = _ciphertext_start(tuple(level), degree, primes, ntt, sum(map(len, words)))
    if not seed:
        return [start, *words]
    return [start, *words, seal_header(1 + SEED_SIZE) + BLAKE2XB.to_bytes(1, "little") + seed]


@functools.lru_cache(maxsize=64)
def _ciphertext_start(
    level: tuple[int, ...], degree: int, primes: int, ntt: bool, size: int
) -> bytes:
    """The bytes before the ``size`` bytes of a ciphertext's words. Scale and correction are 1."""
    return struct.pack("<4QBQQQdQ", *level, ntt, 2, degree, primes, 1.0, 1) + _array_header(size)


@functools.cache
def _version() -> bytes:
    """The first five bytes of every object that this SEAL saves: magic, header size, version."""
    with _Scratch(wipe=False) as (handle, path):
        api.Plaintext().save(path)
        return _read(handle, HEADER_SIZE)[:5]


def _read(handle: int, size: int) -> bytes:
    """The first ``size`` bytes of a file, or as many as SEAL's header in it states."""
    os.lseek(handle, 0, os.SEEK_SET)
    data = os.read(handle, size)
    wanted = min(size, int.from_bytes(data[8:HEADER_SIZE], "little"))
    while len(data) < wanted and (part := os.read(handle, wanted - len(data))):
        data += part  # rare: memory is read at once
    return data


def _write(handle: int, parts: Parts) -> None:
    os.lseek(handle, 0, os.SEEK_SET)
    written = os.writev(handle, parts) if hasattr(os, "writev") else 0
    if written == sum(map(len, parts)):
        return
    view = memoryview(b"".join(parts))[written:]
    while view:
        view = view[os.write(handle, view) :]
