"""CKKS through ``tenseal.sealapi``: the only file that loads it.

SEAL's objects save to and load from paths only, compressed. Here they pass through anonymous
memory (never the disk, where the system has it), and what goes on the wire is our own fixed-size
form: residues at their prime's width, no compression, so that nothing can unpack to more than its
length says. Every length and value is checked before SEAL sees it; SEAL then checks again.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tenseal.sealapi as api
import zstandard

from linalign_lite.encrypt.packing import (
    Floats,
    from_slots,
    pack_words,
    packed_size,
    to_slots,
    unpack_words,
)
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.errors import FormatError, LinalignError

_OUTER = 16  # SEAL's header: magic, header size, version (2), compression, reserved, size
_INNER = _OUTER + 8  # the same again before the numbers of an object, and their count
_CIPHER = 32 + 1 + 8 * 5  # parms_id, NTT?, components, degree, primes, scale, correction factor
_PLAIN = 32 + 8 + 8  # parms_id, coefficients, scale
_MEMORY = "/dev/shm"  # noqa: S108 (a private folder, mode 0700, is made in it)
_SEED = 64
_SEED_INFO = _OUTER + 1 + _SEED


@contextlib.contextmanager
def _scratch() -> Iterator[tuple[int, str]]:
    """An open descriptor and a path to it: anonymous memory, or a private file that is wiped."""
    if hasattr(os, "memfd_create") and Path("/proc/self/fd").is_dir():
        handle = os.memfd_create("linalign", os.MFD_CLOEXEC)
        try:
            yield handle, f"/proc/self/fd/{handle}"
        finally:
            os.close(handle)
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


def _dump(thing: Any, size: int) -> bytes:
    """The body of a saved object: ``size`` bytes after decompression."""
    with _scratch() as (handle, path):
        thing.save(path)
        os.lseek(handle, 0, os.SEEK_SET)
        with os.fdopen(os.dup(handle), "rb") as f:
            saved = f.read()
    mode = saved[5]
    body = saved[_OUTER:]
    if mode == int(api.COMPR_MODE_TYPE.ZSTD.value):
        body = zstandard.ZstdDecompressor().decompress(body, max_output_size=size)
    if mode not in {0, int(api.COMPR_MODE_TYPE.ZSTD.value)} or len(body) != size:
        raise LinalignError(
            "this build of SEAL saves its objects in a form that is not known here",
            hint="install a TenSEAL wheel from the package index",
        )
    return body


def _restore(thing: Any, context: Any, body: bytes) -> Any:
    """Load an object from an uncompressed body. What SEAL refuses is a FormatError."""
    with _scratch() as (handle, path):
        with os.fdopen(os.dup(handle), "wb") as f:
            f.write(_header(len(body)) + body)
        try:
            thing.load(context, path)
        except (RuntimeError, ValueError) as e:
            raise FormatError("SEAL refuses this key or ciphertext", got=str(e)[:80]) from e
    return thing


@functools.cache
def _version() -> bytes:
    """The first five bytes of everything that this SEAL saves: magic, header size, version."""
    with _scratch() as (handle, path):
        api.Plaintext().save(path)
        os.lseek(handle, 0, os.SEEK_SET)
        return os.read(handle, 5)


def _header(size: int) -> bytes:
    """SEAL's header of an uncompressed object whose body has ``size`` bytes."""
    return _version() + b"\0\0\0" + struct.pack("<Q", _OUTER + size)


def _numbers(words: bytes) -> bytes:
    """An array of 64-bit words as SEAL nests it in an object."""
    return _header(8 + len(words)) + struct.pack("<Q", len(words) // 8) + words


def _pack(words: bytes, degree: int, primes: tuple[int, ...]) -> bytes:
    """Residues, polynomial by polynomial, prime by prime, each at its prime's width."""
    rows = np.frombuffer(words, dtype="<u8").reshape(-1, degree)
    return b"".join(pack_words(row, primes[i % len(primes)]) for i, row in enumerate(rows))


def _unpack(
    data: memoryview, degree: int, primes: tuple[int, ...], polynomials: int
) -> tuple[bytes, memoryview]:
    """What _pack packed, and the bytes after it."""
    parts = []
    for prime in primes * polynomials:
        size = packed_size(degree, prime)
        parts.append(unpack_words(data[:size], degree, prime).tobytes())
        data = data[size:]
    return b"".join(parts), data


@functools.lru_cache(maxsize=8)
def _context(parameters: Parameters) -> Any:
    settings = api.EncryptionParameters(api.SCHEME_TYPE.CKKS)
    settings.set_poly_modulus_degree(parameters.degree)
    settings.set_coeff_modulus([api.Modulus(p) for p in parameters.primes])
    context = api.SEALContext(settings, True, api.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        raise LinalignError(
            f"SEAL refuses the parameter set {parameters.name!r}",
            got=context.parameters_error_message(),
        )
    return context


class SealScheme:
    """See scheme.Scheme. Builds the context; holds no key."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.context = _context(parameters)
        n = parameters.degree
        poly = [packed_size(n, p) for p in parameters.primes]
        self.query_size = sum(poly[: len(parameters.data_primes)]) + _SEED
        self.response_size = 2 * sum(poly[: len(parameters.response_primes)])
        self.secret_size = sum(poly)
        self.public_size = sum(poly) + _SEED
        self.plain_size = 8 * n * len(parameters.data_primes)

    def keygen(self) -> tuple[bytes, bytes]:
        """A secret key, and an encryption of zero under it: that is what a public key is."""
        p = self.parameters
        n, count = p.degree, len(p.primes)
        secret = api.KeyGenerator(self.context).secret_key()
        body = _dump(secret, _PLAIN + _INNER + 8 * n * count)
        zero = api.Encryptor(self.context, secret).encrypt_zero_symmetric(
            self.context.key_parms_id()
        )
        return _pack(body[_PLAIN + _INNER :], n, p.primes), self._dump_seeded(zero, p.primes)

    def secret_side(self, secret: bytes) -> SealSecretSide:
        return SealSecretSide(self, secret)

    def server_side(self) -> SealServerSide:
        return SealServerSide(self)

    def check_public(self, public: bytes) -> None:
        self._load(api.PublicKey(), public, self.context.key_parms_id(), self.parameters.primes, 1)

    def load_query(self, payload: bytes | memoryview, scale: float) -> Any:
        level = self.context.first_parms_id()
        return self._load(api.Ciphertext(), payload, level, self.parameters.data_primes, scale)

    def load_response(self, payload: bytes | memoryview, scale: float) -> Any:
        level, primes = self.context.last_parms_id(), self.parameters.response_primes
        return self._load(api.Ciphertext(), payload, level, primes, scale, seeded=False)

    def dump_response(self, cipher: Any) -> bytes:
        n, primes = self.parameters.degree, self.parameters.response_primes
        body = _dump(cipher, _CIPHER + _INNER + 2 * 8 * n * len(primes))
        return _pack(body[_CIPHER + _INNER :], n, primes)

    def dump_query(self, cipher: Any) -> bytes:
        return self._dump_seeded(cipher, self.parameters.data_primes)

    def _dump_seeded(self, cipher: Any, primes: tuple[int, ...]) -> bytes:
        """First component, and the seed that the second grows from."""
        n = self.parameters.degree
        end = _CIPHER + _INNER + 8 * n * len(primes)
        body = _dump(cipher, end + _SEED_INFO)
        if body[end + _OUTER] != int(api.prng_type.blake2xb.value):
            raise LinalignError("this build of SEAL expands seeds in another way than BLAKE2Xb")
        return _pack(body[_CIPHER + _INNER : end], n, primes) + body[-_SEED:]

    def _load(
        self,
        thing: Any,
        payload: bytes | memoryview,
        level: list[int],
        primes: tuple[int, ...],
        scale: float,
        *,
        seeded: bool = True,
    ) -> Any:
        n = self.parameters.degree
        expected = (1 if seeded else 2) * sum(packed_size(n, p) for p in primes)
        if len(payload) != expected + (_SEED if seeded else 0):
            raise FormatError(
                "a key or ciphertext has the wrong length",
                got=f"{len(payload)} bytes",
                expected=str(expected + (_SEED if seeded else 0)),
            )
        words, rest = _unpack(memoryview(payload), n, primes, 1 if seeded else 2)
        head = struct.pack("<4QBQQQdQ", *level, 1, 2, n, len(primes), scale, 1)
        body = head + _numbers(words)
        if seeded:
            kind = int(api.prng_type.blake2xb.value).to_bytes(1, "little")
            body += _header(1 + _SEED) + kind + bytes(rest)
        return _restore(thing, self.context, body)


class SealSecretSide:
    """Encrypts and decrypts. See scheme.SecretSide."""

    def __init__(self, scheme: SealScheme, secret: bytes) -> None:
        p, context = scheme.parameters, scheme.context
        if len(secret) != scheme.secret_size:
            raise FormatError(
                "a secret key has the wrong length",
                got=f"{len(secret)} bytes",
                expected=str(scheme.secret_size),
            )
        words, _ = _unpack(memoryview(secret), p.degree, p.primes, 1)
        head = struct.pack("<4QQd", *context.key_parms_id(), p.degree * len(p.primes), 1.0)
        key = _restore(api.SecretKey(), context, head + _numbers(words))
        self._scheme = scheme
        self._encoder = api.CKKSEncoder(context)
        self._encryptor = api.Encryptor(context, key)
        self._decryptor = api.Decryptor(context, key)

    def encrypt(self, coefficients: Floats, scale: int) -> bytes:
        plain = api.Plaintext()
        self._encoder.encode(to_slots(coefficients).tolist(), 2.0**scale, plain)
        return self._scheme.dump_query(self._encryptor.encrypt_symmetric(plain))

    def decrypt(self, payload: bytes | memoryview, scale: float) -> Floats:
        cipher = self._scheme.load_response(payload, scale)
        plain = api.Plaintext()
        self._decryptor.decrypt(cipher, plain)
        return from_slots(np.asarray(self._encoder.decode_complex(plain)))


class SealServerSide:
    """Multiplies and adds. Takes no key. See scheme.ServerSide."""

    def __init__(self, scheme: SealScheme) -> None:
        self._scheme = scheme
        self._encoder = api.CKKSEncoder(scheme.context)
        self._evaluator = api.Evaluator(scheme.context)
        self._last = scheme.context.last_parms_id()

    def encode(self, coefficients: Floats, scale: int) -> Any:
        if np.max(np.abs(coefficients)) * 2.0**scale < 1:
            # SEAL refuses a product that is zero whatever the key; one unit is below rounding
            coefficients = coefficients.copy()
            coefficients[0] = 2.0**-scale
        plain = api.Plaintext()
        self._encoder.encode(to_slots(coefficients).tolist(), 2.0**scale, plain)
        return plain

    def encode_bias(self, coefficients: Floats, scale: int) -> Any:
        plain = api.Plaintext()
        exact = 2.0**scale / self._scheme.parameters.dropped
        self._encoder.encode(to_slots(coefficients).tolist(), self._last, exact, plain)
        return plain

    def load(self, payload: bytes | memoryview, scale: int) -> Any:
        return self._scheme.load_query(payload, 2.0**scale)

    def inner(self, queries: list[Any], rows: list[Any], bias: Any) -> bytes:
        total, term = api.Ciphertext(), api.Ciphertext()
        try:
            self._evaluator.multiply_plain(queries[0], rows[0], total)
            for query, row in zip(queries[1:], rows[1:], strict=True):
                self._evaluator.multiply_plain(query, row, term)
                self._evaluator.add_inplace(total, term)
            if self._scheme.parameters.dropped > 1:
                self._evaluator.rescale_to_next_inplace(total)
            self._evaluator.add_plain_inplace(total, bias)
        except (RuntimeError, ValueError) as e:
            raise FormatError("SEAL refuses this ciphertext", got=str(e)[:80]) from e
        return self._scheme.dump_response(total)
