"""CKKS by SEAL as a `scheme.Scheme`, and its side with the secret key."""

import numpy as np
import tenseal.sealapi as api

from linalign_lite.encrypt.modular import centred
from linalign_lite.encrypt.packing import FloatArray, to_slots
from linalign_lite.encrypt.response_encoding import Ternary
from linalign_lite.encrypt.scheme import SecretSide, ServerSide
from linalign_lite.encrypt.seal.context import SealContext
from linalign_lite.encrypt.seal.server_side import SealServerSide
from linalign_lite.errors import FormatError


class SealScheme(SealContext):
    """See scheme.Scheme. Builds the context; holds no key."""

    def secret_side(self, secret: bytes) -> SecretSide:
        return SealSecretSide(self, secret)

    def server_side(self) -> ServerSide:
        return SealServerSide(self)


class SealSecretSide:
    """Encrypts with the secret key and holds its coefficients."""

    def __init__(self, seal: SealContext, secret: bytes) -> None:
        key, rows = seal.secret_key(secret)
        self._seal = seal
        self._encoder = api.CKKSEncoder(seal.context)
        self._encryptor = api.Encryptor(seal.context, key)
        values = centred(seal.ntt(rows[0], inverse=True), seal.parameters.data_primes[0])
        if np.abs(values).max() != 1:
            raise FormatError("a secret key is not ternary", hint="the file may be damaged")
        self.secret: Ternary = values.astype(np.int8)

    def encrypt(self, coefficients: FloatArray, scale: int) -> bytes:
        plain = api.Plaintext()
        self._encoder.encode(to_slots(coefficients).tolist(), 2.0**scale, plain)
        cipher = self._encryptor.encrypt_symmetric(plain)
        return self._seal.save_seeded(cipher, self._seal.parameters.data_primes)
