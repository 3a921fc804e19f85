"""The side that holds the secret key, by SEAL: implements scheme.SecretSide."""

from __future__ import annotations

import numpy as np
import tenseal.sealapi as api

from linalign_lite.encrypt.packing import FloatArray, to_slots
from linalign_lite.encrypt.response_encoding import Ternary
from linalign_lite.encrypt.seal.context import SealContext
from linalign_lite.errors import FormatError


class SealSecretSide:
    """Encrypts with the secret key and holds its coefficients."""

    def __init__(self, seal: SealContext, secret: bytes) -> None:
        key, rows = seal.secret_key(secret)
        context, primes = seal.context, seal.parameters.data_primes
        self._seal = seal
        self._encoder = api.CKKSEncoder(context)
        self._encryptor = api.Encryptor(context, key)
        first = seal.ntt(rows[0], inverse=True)
        centred = first.astype(np.int64)
        centred -= np.where(centred > primes[0] // 2, primes[0], 0)
        if np.abs(centred).max() != 1:
            raise FormatError("a secret key is not ternary", hint="the file may be damaged")
        self.secret: Ternary = centred.astype(np.int8)

    def encrypt(self, coefficients: FloatArray, scale: int) -> bytes:
        plain = api.Plaintext()
        self._encoder.encode(to_slots(coefficients).tolist(), 2.0**scale, plain)
        cipher = self._encryptor.encrypt_symmetric(plain)
        return self._seal.save_seeded(cipher, self._seal.parameters.data_primes)
