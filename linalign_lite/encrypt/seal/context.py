"""SEAL's context for one parameter set: keys, encryptions of zero, and the growth of seeds.

The scheme is SEAL's BFV, whose ciphertexts and seeds are in plain coefficient form. A symmetric
encryption of zero is the same in BFV and CKKS; a query is one with an encoded state added.
"""

import functools
import struct
from typing import Any

import numpy as np
import tenseal.sealapi as api

from linalign_lite.encrypt import modular
from linalign_lite.encrypt.modular import SEED_SIZE, Residues, centred
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.response_encoding import Ternary
from linalign_lite.encrypt.seal import serialization
from linalign_lite.encrypt.seal.serialization import CIPHERTEXT_START, PLAINTEXT_START
from linalign_lite.errors import FormatError, LinalignError

_PLAIN_MODULUS = 65537  # SEAL requires one; nothing depends on it


@functools.lru_cache(maxsize=8)
def _context(parameters: Parameters) -> Any:
    settings = api.EncryptionParameters(api.SCHEME_TYPE.BFV)
    settings.set_poly_modulus_degree(parameters.degree)
    settings.set_coeff_modulus([api.Modulus(p) for p in parameters.primes])
    settings.set_plain_modulus(api.Modulus(_PLAIN_MODULUS))
    context = api.SEALContext(settings, True, api.SEC_LEVEL_TYPE.TC128)
    if not context.parameters_set():
        problem = f"SEAL refuses the parameter set {parameters.name!r}"
        raise LinalignError(problem, got=context.parameters_error_message())
    return context


class SealContext:
    """SEAL's context for one parameter set. Holds no key."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.context = _context(parameters)
        self._level = self.context.first_parms_id()
        self._zeros = np.zeros((len(parameters.data_primes), parameters.degree), dtype=np.uint64)

    def keygen(self) -> tuple[bytes, bytes]:
        """Make a secret key and a public key, which is an encryption of zero under it."""
        n, primes = self.parameters.degree, self.parameters.primes
        secret = api.KeyGenerator(self.context).secret_key()
        body = serialization.save_body(secret, PLAINTEXT_START + 8 * n * len(primes), secret=True)
        rows = np.ndarray((len(primes), n), "<u8", body, offset=PLAINTEXT_START)
        packed = modular.pack_seeded(rows, b"", primes)
        zero, seed = self.encrypt_zero(api.Encryptor(self.context, secret))
        return packed, modular.pack_seeded(zero, seed, self.parameters.data_primes)

    def encrypt_zero(self, encryptor: Any) -> tuple[Residues, bytes]:
        """The first component of an encryption of zero, (primes, N), and the second's seed."""
        n, primes = self.parameters.degree, len(self.parameters.data_primes)
        cipher = encryptor.encrypt_zero_symmetric(self._level)
        end = CIPHERTEXT_START + 8 * n * primes
        body = memoryview(serialization.save_body(cipher, end + serialization.SEED_INFO))
        if body[end + serialization.HEADER_SIZE] != serialization.BLAKE2XB:
            raise LinalignError("this build of SEAL expands seeds in another way than BLAKE2Xb")
        rows: Residues = np.ndarray((primes, n), "<u8", body, offset=CIPHERTEXT_START)
        return rows, bytes(body[-SEED_SIZE:])

    def grown(self, seed: bytes) -> Residues:
        """The second component that grows from a seed: (primes, N)."""
        # zeros stand for the first component: they are quick to load and save
        cipher = self.load(list(self._zeros), seed=seed)
        second: Residues = self.residues(cipher)[1]
        return second

    def secret_key(self, secret: bytes) -> tuple[Any, Ternary]:
        """Load a secret key: SEAL's object and its coefficients. Raises FormatError."""
        n, primes = self.parameters.degree, self.parameters.primes
        rows, _ = modular.unpack_seeded(secret, n, primes, seed_size=0)
        start = struct.pack("<4QQd", *self.context.key_parms_id(), n * len(primes), 1.0)
        array = serialization.array_header(8 * n * len(primes))
        body: serialization.Parts = [start, array, *map(_bytes, rows)]
        key = serialization.load_body(api.SecretKey(), self.context, body, secret=True)
        values = centred(self.ntt(rows[0], inverse=True), primes[0])
        if np.abs(values).max() != 1:
            raise FormatError("a secret key is not ternary", hint="the file may be damaged")
        return key, values.astype(np.int8)

    def load(
        self, rows: list[Residues], *, seed: bytes = b"", ntt: bool = False, secret: bool = False
    ) -> Any:
        """Load a ciphertext from residues, prime by prime. Raises FormatError if SEAL refuses it.

        rows: both components, or the first and the ``seed`` that the second grows from.
        """
        count = len(rows) if seed else len(rows) // 2
        n, words = self.parameters.degree, [*map(_bytes, rows)]
        body = serialization.ciphertext_body(self._level, n, count, words, seed=seed, ntt=ntt)
        return serialization.load_body(api.Ciphertext(), self.context, body, secret=secret)

    def residues(self, cipher: Any, *, secret: bool = False) -> Residues:
        """Both components of a ciphertext: (2, primes, N)."""
        shape = 2, len(self.parameters.data_primes), self.parameters.degree
        size = CIPHERTEXT_START + 8 * int(np.prod(shape))
        body = serialization.save_body(cipher, size, secret=secret)
        words: Residues = np.ndarray(shape, "<u8", body, offset=CIPHERTEXT_START)
        return words

    def ntt(self, values: Residues, *, inverse: bool) -> Residues:
        """SEAL's number-theoretic transform of residues modulo the first prime, or its inverse."""
        if not values.any():
            return values  # SEAL refuses zeros
        count = len(self.parameters.data_primes)
        rows = [values] * (2 * count)
        if count > 1:  # the other prime's residues must be below it; their transform is not used
            rows[1::count] = [np.zeros_like(values)] * 2
        cipher = self.load(rows, ntt=inverse, secret=True)  # of the secret key, too
        evaluator = api.Evaluator(self.context)
        if inverse:
            evaluator.transform_from_ntt_inplace(cipher)
        else:
            evaluator.transform_to_ntt_inplace(cipher)
        result: Residues = self.residues(cipher, secret=True)[0, 0]
        return result


def _bytes(row: Residues) -> memoryview:
    return np.ascontiguousarray(row, dtype="<u8").data.cast("B")
