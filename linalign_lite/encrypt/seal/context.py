"""SEAL's context for one parameter set: its keys, and ciphertexts on the wire."""

from __future__ import annotations

import functools
import struct
from typing import Any

import numpy as np
import tenseal.sealapi as api

from linalign_lite.encrypt.modular import Residues, pack_residues, packed_size, unpack_residues
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.seal.serialization import (
    ARRAY_HEADER,
    BLAKE2XB,
    CIPHERTEXT_FIELDS,
    HEADER,
    PLAINTEXT_FIELDS,
    SEED_INFO,
    SEED_SIZE,
    ciphertext_body,
    load_body,
    save_body,
    word_array,
)
from linalign_lite.errors import FormatError, LinalignError


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


class SealContext:
    """SEAL's context for one parameter set, and the conversion of its objects. Holds no key."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.context = _context(parameters)
        n = parameters.degree
        poly = [packed_size(n, p) for p in parameters.primes]
        self.query_size = sum(poly[: len(parameters.data_primes)]) + SEED_SIZE
        self.secret_size = sum(poly)
        self.public_size = sum(poly) + SEED_SIZE
        self.plaintext_size = 8 * n * len(parameters.data_primes)

    def keygen(self) -> tuple[bytes, bytes]:
        """A secret key, and an encryption of zero under it: that is what a public key is."""
        p = self.parameters
        n, count = p.degree, len(p.primes)
        secret = api.KeyGenerator(self.context).secret_key()
        words = save_body(secret, PLAINTEXT_FIELDS + ARRAY_HEADER + 8 * n * count, secret=True)[
            PLAINTEXT_FIELDS + ARRAY_HEADER :
        ]
        rows = np.frombuffer(words, dtype="<u8").reshape(count, n)
        packed = b"".join(map(pack_residues, rows, p.primes))
        zero = api.Encryptor(self.context, secret).encrypt_zero_symmetric(
            self.context.key_parms_id()
        )
        return packed, self.save_seeded(zero, p.primes)

    def public_key(self, public: bytes) -> Any:
        """SEAL's object. Its second component grows from a seed, so nobody can choose it."""
        level, primes = self.context.key_parms_id(), self.parameters.primes
        return self.load_seeded(api.PublicKey(), public, level, primes, 1.0)

    def check_public(self, public: bytes) -> None:
        self.public_key(public)

    def save_seeded(self, cipher: Any, primes: tuple[int, ...]) -> bytes:
        """First component, and the seed that the second grows from."""
        n = self.parameters.degree
        end = CIPHERTEXT_FIELDS + ARRAY_HEADER + 8 * n * len(primes)
        body = memoryview(save_body(cipher, end + SEED_INFO))
        if body[end + HEADER] != BLAKE2XB:
            raise LinalignError("this build of SEAL expands seeds in another way than BLAKE2Xb")
        rows = np.ndarray((len(primes), n), "<u8", body, offset=CIPHERTEXT_FIELDS + ARRAY_HEADER)
        return b"".join([*map(pack_residues, rows, primes), body[-SEED_SIZE:]])

    def split_seeded(
        self, payload: bytes | memoryview, primes: tuple[int, ...]
    ) -> tuple[list[Residues], bytes]:
        """Residues of the first component, by prime, and the seed. FormatError when damaged."""
        n = self.parameters.degree
        sizes = [packed_size(n, p) for p in primes]
        expected = sum(sizes) + SEED_SIZE
        if len(payload) != expected:
            raise FormatError(
                "a key or ciphertext has the wrong length",
                got=f"{len(payload)} bytes",
                expected=str(expected),
            )
        rows, view = [], memoryview(payload)
        for prime, size in zip(primes, sizes, strict=True):
            rows.append(unpack_residues(view[:size], n, prime))
            view = view[size:]
        return rows, bytes(view)

    def load_seeded(
        self,
        thing: Any,
        payload: bytes | memoryview,
        level: list[int],
        primes: tuple[int, ...],
        scale: float,
    ) -> Any:
        """A ciphertext or public key from its seeded form."""
        rows, seed = self.split_seeded(payload, primes)
        return self._load(thing, level, rows, scale, seed=seed)

    def load_seed(self, seed: bytes, first: list[Residues], level: list[int]) -> Any:
        """A ciphertext whose second component grows from a seed."""
        return self._load(api.Ciphertext(), level, first, 1.0, seed=seed)

    def load_unseeded(self, rows: list[Residues], level: list[int], scale: float) -> Any:
        """A ciphertext from both components in NTT form, prime by prime."""
        return self._load(api.Ciphertext(), level, rows, scale)

    def ntt(self, values: Residues, *, inverse: bool) -> Residues:
        """Residues of the first prime into number-theoretic form, or ``back``: SEAL's transform."""
        count, level = len(self.parameters.data_primes), self.context.first_parms_id()
        rows = [values] * (2 * count)
        if count > 1:  # the other prime's must be below it; they are not looked at
            rows[1::count] = [np.zeros_like(values)] * 2
        if not values.any():
            return values  # SEAL refuses zeros; theirs are zeros
        # the secret key comes this way too
        cipher = self._load(api.Ciphertext(), level, rows, 1.0, ntt=inverse, secret=True)
        evaluator = api.Evaluator(self.context)
        if inverse:
            evaluator.transform_from_ntt_inplace(cipher)
        else:
            evaluator.transform_to_ntt_inplace(cipher)
        result: Residues = self.rns_coefficients(cipher, count, secret=True)[0, 0]
        return result

    def _load(
        self,
        thing: Any,
        level: list[int],
        rows: list[Residues],
        scale: float,
        *,
        seed: bytes = b"",
        ntt: bool = True,
        secret: bool = False,
    ) -> Any:
        n = self.parameters.degree
        count = len(rows) if seed else len(rows) // 2
        words = [_bytes(row) for row in rows]
        body = ciphertext_body(level, n, count, scale, words, seed=seed, ntt=ntt)
        return load_body(thing, self.context, body, secret=secret)

    def rns_coefficients(self, cipher: Any, primes: int, *, secret: bool = False) -> Residues:
        """All coefficients of a ciphertext in the form that it has: (2, primes, N)."""
        n = self.parameters.degree
        body = save_body(
            cipher, CIPHERTEXT_FIELDS + ARRAY_HEADER + 2 * 8 * n * primes, secret=secret
        )
        words: Residues = np.ndarray(
            (2, primes, n), "<u8", body, offset=CIPHERTEXT_FIELDS + ARRAY_HEADER
        )
        return words

    def secret_key(self, secret: bytes) -> tuple[Any, list[Residues]]:
        """SEAL's object and its residues in NTT form. FormatError when it is none."""
        p = self.parameters
        if len(secret) != self.secret_size:
            raise FormatError(
                "a secret key has the wrong length",
                got=f"{len(secret)} bytes",
                expected=str(self.secret_size),
            )
        rows, view = [], memoryview(secret)
        for prime in p.primes:
            size = packed_size(p.degree, prime)
            rows.append(unpack_residues(view[:size], p.degree, prime))
            view = view[size:]
        level = self.context.key_parms_id()
        head = struct.pack("<4QQd", *level, p.degree * len(p.primes), 1.0)
        words = [_bytes(row) for row in rows]
        key = load_body(api.SecretKey(), self.context, [head, *word_array(words)], secret=True)
        return key, rows


def _bytes(row: Residues) -> memoryview:
    return np.ascontiguousarray(row, dtype="<u8").data.cast("B")
