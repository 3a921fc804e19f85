"""SEAL's context for one parameter set: its keys, and ciphertexts as bytes."""

import functools
import struct
from typing import Any

import numpy as np
import tenseal.sealapi as api

from linalign_lite.encrypt import modular
from linalign_lite.encrypt.modular import SEED_SIZE, Residues, packed_size
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.seal import serialization
from linalign_lite.encrypt.seal.serialization import CIPHERTEXT_START, PLAINTEXT_START
from linalign_lite.errors import LinalignError


@functools.lru_cache(maxsize=8)
def _context(parameters: Parameters) -> Any:
    settings = api.EncryptionParameters(api.SCHEME_TYPE.CKKS)
    settings.set_poly_modulus_degree(parameters.degree)
    settings.set_coeff_modulus([api.Modulus(p) for p in parameters.primes])
    context = api.SEALContext(settings, True, api.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        problem = f"SEAL refuses the parameter set {parameters.name!r}"
        raise LinalignError(problem, got=context.parameters_error_message())
    return context


class SealContext:
    """SEAL's context for one parameter set, and the conversion of its objects. Holds no key."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.context = _context(parameters)
        n = parameters.degree
        self.query_size = modular.seeded_size(n, parameters.data_primes)
        self.public_size = modular.seeded_size(n, parameters.primes)
        self.secret_size = self.public_size - SEED_SIZE
        self.plaintext_size = 8 * n * len(parameters.data_primes)

    def keygen(self) -> tuple[bytes, bytes]:
        """Make a secret key and a public key, which is an encryption of zero under it."""
        n, primes = self.parameters.degree, self.parameters.primes
        secret = api.KeyGenerator(self.context).secret_key()
        body = serialization.save_body(secret, PLAINTEXT_START + 8 * n * len(primes), secret=True)
        rows = np.ndarray((len(primes), n), "<u8", body, offset=PLAINTEXT_START)
        packed = b"".join(map(modular.pack_residues, rows, primes))
        encryptor = api.Encryptor(self.context, secret)
        zero = encryptor.encrypt_zero_symmetric(self.context.key_parms_id())
        return packed, self.save_seeded(zero, primes)

    def secret_key(self, secret: bytes) -> tuple[Any, list[Residues]]:
        """Load a secret key: SEAL's object and its residues in NTT form. Raises FormatError."""
        n, primes = self.parameters.degree, self.parameters.primes
        rows, _ = self.unpack(secret, primes, tail=0)
        start = struct.pack("<4QQd", *self.context.key_parms_id(), n * len(primes), 1.0)
        array = serialization.array_header(8 * n * len(primes))
        body: serialization.Parts = [start, array, *map(_bytes, rows)]
        return serialization.load_body(api.SecretKey(), self.context, body, secret=True), rows

    def public_key(self, public: bytes) -> Any:
        """Load a public key. Its second component grows from a seed, so nobody can choose it."""
        rows, seed = self.unpack(public, self.parameters.primes)
        return self.load(api.PublicKey(), rows, self.context.key_parms_id(), seed=seed)

    def check_public(self, public: bytes) -> None:
        self.public_key(public)

    def save_seeded(self, cipher: Any, primes: tuple[int, ...]) -> bytes:
        """Return the packed first component and the seed that the second grows from."""
        n = self.parameters.degree
        end = CIPHERTEXT_START + 8 * n * len(primes)
        body = memoryview(serialization.save_body(cipher, end + serialization.SEED_INFO))
        if body[end + serialization.HEADER_SIZE] != serialization.BLAKE2XB:
            raise LinalignError("this build of SEAL expands seeds in another way than BLAKE2Xb")
        rows = np.ndarray((len(primes), n), "<u8", body, offset=CIPHERTEXT_START)
        return b"".join([*map(modular.pack_residues, rows, primes), body[-SEED_SIZE:]])

    def unpack(
        self, payload: bytes | memoryview, primes: tuple[int, ...], tail: int = SEED_SIZE
    ) -> tuple[list[Residues], bytes]:
        """Return residues by prime, and the ``tail`` bytes after them. Raises FormatError."""
        n = self.parameters.degree
        sizes = [packed_size(n, prime) for prime in primes]
        modular.require_size("a key or ciphertext", len(payload), sum(sizes) + tail)
        rows, view = [], memoryview(payload)
        for prime, size in zip(primes, sizes, strict=True):
            rows.append(modular.unpack_residues(view[:size], n, prime))
            view = view[size:]
        return rows, bytes(view)

    def load(
        self,
        thing: Any,
        rows: list[Residues],
        level: list[int],
        *,
        seed: bytes = b"",
        ntt: bool = True,
        secret: bool = False,
    ) -> Any:
        """Load a ciphertext or public key from residues, prime by prime. Raises FormatError.

        rows: both components, or the first and the ``seed`` that the second grows from.
        """
        count = len(rows) if seed else len(rows) // 2
        n, words = self.parameters.degree, [*map(_bytes, rows)]
        body = serialization.ciphertext_body(level, n, count, words, seed=seed, ntt=ntt)
        return serialization.load_body(thing, self.context, body, secret=secret)

    def rns_coefficients(self, cipher: Any, primes: int, *, secret: bool = False) -> Residues:
        """Both components of a ciphertext in the form that it has (NTT or not): (2, primes, N)."""
        shape = 2, primes, self.parameters.degree
        body = serialization.save_body(
            cipher, CIPHERTEXT_START + 8 * int(np.prod(shape)), secret=secret
        )
        words: Residues = np.ndarray(shape, "<u8", body, offset=CIPHERTEXT_START)
        return words

    def ntt(self, values: Residues, *, inverse: bool) -> Residues:
        """SEAL's number-theoretic transform of residues modulo the first prime, or its inverse."""
        count, level = len(self.parameters.data_primes), self.context.first_parms_id()
        rows = [values] * (2 * count)
        if count > 1:  # the other prime's residues must be below it; their transform is not used
            rows[1::count] = [np.zeros_like(values)] * 2
        if not values.any():
            return values  # SEAL refuses zeros; their transform is zeros
        # the secret key is transformed here too
        cipher = self.load(api.Ciphertext(), rows, level, ntt=inverse, secret=True)
        evaluator = api.Evaluator(self.context)
        if inverse:
            evaluator.transform_from_ntt_inplace(cipher)
        else:
            evaluator.transform_to_ntt_inplace(cipher)
        result: Residues = self.rns_coefficients(cipher, count, secret=True)[0, 0]
        return result


def _bytes(row: Residues) -> memoryview:
    return np.ascontiguousarray(row, dtype="<u8").data.cast("B")
