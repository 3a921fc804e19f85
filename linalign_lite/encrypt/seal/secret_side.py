"""The side that holds the secret key. See scheme.SecretSide."""

from __future__ import annotations

import numpy as np
import tenseal.sealapi as api

from linalign_lite.encrypt.packing import FloatArray, to_slots
from linalign_lite.encrypt.response_encoding import Ternary
from linalign_lite.encrypt.seal.context import SealContext
from linalign_lite.errors import FormatError


class SealSecretSide:
    """Encrypts, and knows the secret's coefficients."""

    def __init__(self, scheme: SealContext, secret: bytes) -> None:
        key, rows = scheme.secret_key(secret)
        context, primes = scheme.context, scheme.parameters.data_primes
        self._scheme = scheme
        self._encoder = api.CKKSEncoder(context)
        self._encryptor = api.Encryptor(context, key)
        first = scheme.ntt(rows[0], inverse=True)
        centred = first.astype(np.int64)
        centred -= np.where(centred > primes[0] // 2, primes[0], 0)
        if np.abs(centred).max() != 1:
            raise FormatError("a secret key is not ternary", hint="the file may be damaged")
        self.secret: Ternary = centred.astype(np.int8)

    def encrypt(self, coefficients: FloatArray, scale: int) -> bytes:
        plain = api.Plaintext()
        self._encoder.encode(to_slots(coefficients).tolist(), 2.0**scale, plain)
        cipher = self._encryptor.encrypt_symmetric(plain)
        return self._scheme.save_seeded(cipher, self._scheme.parameters.data_primes)
