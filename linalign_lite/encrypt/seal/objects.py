"""SEAL's objects to bytes and back.

SEAL's objects save to and load from paths only, compressed. Here they pass through anonymous memory
(never the disk, where the system has it), and what goes on the wire is our own fixed-size form:
no compression, so that nothing can unpack to more than its length says. Every length and value is
checked before SEAL sees it; SEAL then checks again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tenseal.sealapi as api
import zstandard

from linalign_lite.errors import FormatError, LinalignError

OUTER = 16  # SEAL's header: magic, header size, version (2), compression, reserved, size
INNER = OUTER + 8  # the same again before the numbers of an object, and their count
CIPHER = 32 + 1 + 8 * 5  # parms_id, NTT?, components, degree, primes, scale, correction factor
PLAIN = 32 + 8 + 8  # parms_id, coefficients, scale
SEED = 64
SEED_INFO = OUTER + 1 + SEED
_MEMORY = "/dev/shm"  # noqa: S108 (a private folder, mode 0700, is made in it)
_ANONYMOUS = hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir()
_mine = threading.local()  # one piece of anonymous memory for each thread, made once
if hasattr(os, "register_at_fork"):  # a child must not write to its parent's
    os.register_at_fork(after_in_child=lambda: _mine.__dict__.pop("handle", None))


@contextlib.contextmanager
def _scratch() -> Iterator[tuple[int, str]]:
    """An open descriptor and a path to it: anonymous memory, or a private file that is wiped."""
    if _ANONYMOUS:
        handle = getattr(_mine, "handle", None)
        if handle is None:
            handle = _mine.handle = os.memfd_create("linalign", os.MFD_CLOEXEC)
        try:
            yield handle, f"/proc/self/fd/{handle}"
        finally:
            os.lseek(handle, 0, os.SEEK_SET)
            os.ftruncate(handle, 0)  # gives the pages back: nothing of a key stays in it
        return
    with tempfile.TemporaryDirectory(dir=_MEMORY if Path(_MEMORY).is_dir() else None) as folder:
        path = Path(folder) / "object"
        handle = os.open(
            path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600
        )
        try:
            yield handle, str(path)
        finally:
            size = os.fstat(handle).st_size
            os.lseek(handle, 0, os.SEEK_SET)
            os.write(handle, bytes(size))
            os.fsync(handle)  # the zeros must reach the disk before the name goes
            os.close(handle)


def dump(thing: Any, size: int) -> bytes:
    """The body of a saved object: ``size`` bytes after decompression."""
    with _scratch() as (handle, path):
        thing.save(path)
        os.lseek(handle, 0, os.SEEK_SET)
        saved = _read(handle, os.fstat(handle).st_size)
    mode = saved[5]
    body = saved[OUTER:]
    if mode == int(api.COMPR_MODE_TYPE.ZSTD.value):
        body = zstandard.ZstdDecompressor().decompress(body, max_output_size=size)
    if mode not in {0, int(api.COMPR_MODE_TYPE.ZSTD.value)} or len(body) != size:
        raise LinalignError(
            "this build of SEAL saves its objects in a form that is not known here",
            hint="install a TenSEAL wheel from the package index",
        )
    return body


def restore(thing: Any, context: Any, body: bytes) -> Any:
    """Load an object from an uncompressed body. What SEAL refuses is a FormatError."""
    saved = header(len(body)) + body
    with _scratch() as (handle, path):
        _write(handle, saved)
        try:
            thing.load(context, path)
        except (RuntimeError, ValueError) as e:
            raise FormatError("SEAL refuses this key or ciphertext", got=str(e)[:80]) from e
    return thing


def header(size: int) -> bytes:
    """SEAL's header of an uncompressed object whose body has ``size`` bytes."""
    return _version() + b"\0\0\0" + struct.pack("<Q", OUTER + size)


def numbers(words: bytes) -> bytes:
    """An array of 64-bit words as SEAL nests it in an object."""
    return header(8 + len(words)) + struct.pack("<Q", len(words) // 8) + words


def ciphertext(
    level: list[int],
    degree: int,
    primes: int,
    scale: float,
    words: bytes,
    *,
    seed: bytes = b"",
    ntt: bool = True,
) -> bytes:
    """The body of a ciphertext: both components, or the first and a seed."""
    body = struct.pack("<4QBQQQdQ", *level, ntt, 2, degree, primes, scale, 1) + numbers(words)
    if seed:
        kind = int(api.prng_type.blake2xb.value).to_bytes(1, "little")
        body += header(1 + SEED) + kind + seed
    return body


@functools.cache
def _version() -> bytes:
    """The first five bytes of everything that this SEAL saves: magic, header size, version."""
    with _scratch() as (handle, path):
        api.Plaintext().save(path)
        os.lseek(handle, 0, os.SEEK_SET)
        return os.read(handle, 5)


def _read(handle: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.read(handle, size)):
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _write(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]
