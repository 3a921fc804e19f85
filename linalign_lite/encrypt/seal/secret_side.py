"""The side that holds the secret key: encrypts with SEAL."""

import tenseal.sealapi as api

from linalign_lite.encrypt.modular import Residues
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.seal.context import SealContext


class SecretSide:
    """Encrypts zeros with the secret key and holds its coefficients, ``secret``: (N,) ternary.

    Raises FormatError unless ``material`` is a secret key of the parameters.
    """

    def __init__(self, parameters: Parameters, material: bytes) -> None:
        self._seal = SealContext(parameters)
        key, self.secret = self._seal.secret_key(material)
        self._encryptor = api.Encryptor(self._seal.context, key)

    def encrypt_zero(self) -> tuple[Residues, bytes]:
        """A fresh encryption of zero: its first component, (primes, N), and the second's seed."""
        return self._seal.encrypt_zero(self._encryptor)
