"""Save SEAL's objects to bytes and load them.

SEAL's objects save to and load from paths only, compressed. Here they pass through anonymous memory
where the system has it, never the disk. Files hold an uncompressed form of fixed size, whose every
length and value is checked before SEAL reads it and checks it again.
"""

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

from linalign_lite.encrypt.modular import SEED_SIZE
from linalign_lite.errors import FormatError, LinalignError

# Sizes in bytes.
HEADER_SIZE = 16  # SEAL's header: magic, header size, version (2), compression, reserved, size
_ARRAY_HEADER = HEADER_SIZE + 8  # a header before the words of an object, and their count
# words of a ciphertext start after parms_id, NTT?, components, degree, primes, scale, correction
CIPHERTEXT_START = 32 + 1 + 8 * 5 + _ARRAY_HEADER
PLAINTEXT_START = 32 + 8 + 8 + _ARRAY_HEADER  # after parms_id, coefficients, scale
SEED_INFO = HEADER_SIZE + 1 + SEED_SIZE
Parts = Sequence[bytes | memoryview]  # an object's bytes in several pieces
BLAKE2XB = int(api.prng_type.blake2xb.value)
_ZSTD = int(api.COMPR_MODE_TYPE.ZSTD.value)
_COMPRESSION_OVERHEAD = 1 << 12  # bytes by which compression may make an object larger: 1 in 256
_MEMORY_FOLDER = "/dev/shm"  # noqa: S108 (a private folder, mode 0700, is made in it)
_HAS_ANONYMOUS_MEMORY = hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir()


class _PerThread(threading.local):
    """Pieces that each thread makes once: anonymous memory, and a decompressor, unsafe to share."""

    memory: tuple[int, str] | None = None

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor()


_per_thread = _PerThread()
if hasattr(os, "register_at_fork"):  # a child must not write to its parent's memory
    os.register_at_fork(after_in_child=lambda: setattr(_per_thread, "memory", None))


@contextlib.contextmanager
def _scratch(*, wipe: bool) -> Iterator[tuple[int, str]]:
    """Yield an open descriptor and a path to it: anonymous memory, or a private file, wiped after.

    Anonymous memory is kept by its thread and used again; ``wipe`` gives its pages back, so that
    nothing of a key stays in it.
    """
    if _HAS_ANONYMOUS_MEMORY:
        if _per_thread.memory is None:
            handle = os.memfd_create("linalign", os.MFD_CLOEXEC)
            _per_thread.memory = handle, f"/proc/self/fd/{handle}"
        try:
            yield _per_thread.memory
        finally:
            if wipe:
                os.ftruncate(_per_thread.memory[0], 0)
        return
    parent = _MEMORY_FOLDER if Path(_MEMORY_FOLDER).is_dir() else None
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        path = Path(folder) / "object"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        handle = os.open(path, flags, 0o600)
        try:
            yield handle, str(path)
        finally:
            size = os.fstat(handle).st_size
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, bytes(size))
            os.fsync(handle)  # the zeros must reach the disk before the name goes
            os.close(handle)


def save_body(thing: Any, size: int, *, secret: bool = False) -> bytes | memoryview:
    """Save an object and return its body: ``size`` bytes after decompression."""
    with _scratch(wipe=secret) as (handle, path):
        thing.save(path)
        saved = _read(handle, HEADER_SIZE + size + _COMPRESSION_OVERHEAD)
    mode = saved[5]
    body: bytes | memoryview = memoryview(saved)[HEADER_SIZE:]
    if mode == _ZSTD:
        body = _per_thread.decompressor.decompress(body, max_output_size=size)
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
    with _scratch(wipe=secret) as (handle, path):
        _write(handle, parts)
        with seal_errors():
            thing.load(context, path)
    return thing


def seal_header(size: int) -> bytes:
    """SEAL's header of an uncompressed object whose body has ``size`` bytes."""
    return _version() + b"\0\0\0" + struct.pack("<Q", HEADER_SIZE + size)


def array_header(size: int) -> bytes:
    """The bytes before an array of 64-bit words, of ``size`` bytes, that an object holds."""
    return seal_header(8 + size) + struct.pack("<Q", size // 8)


def ciphertext_body(
    level: list[int], degree: int, primes: int, words: Parts, *, seed: bytes = b"", ntt: bool = True
) -> Parts:
    """The body of a ciphertext, in parts: both components, or the first and a seed."""
    start = struct.pack("<4QBQQQdQ", *level, ntt, 2, degree, primes, 1.0, 1)  # scale, correction
    body = [start, array_header(sum(map(len, words))), *words]
    if seed:
        body.append(seal_header(1 + SEED_SIZE) + BLAKE2XB.to_bytes(1, "little") + seed)
    return body


@functools.cache
def _version() -> bytes:
    """The first five bytes of every object that this SEAL saves: magic, header size, version."""
    with _scratch(wipe=False) as (handle, path):
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
