"""CKKS by SEAL as a `scheme.Scheme`."""

from __future__ import annotations

from linalign_lite.encrypt.scheme import SecretSide, ServerSide
from linalign_lite.encrypt.seal.context import SealContext
from linalign_lite.encrypt.seal.secret_side import SealSecretSide
from linalign_lite.encrypt.seal.server_side import SealServerSide


class SealScheme(SealContext):
    """See scheme.Scheme. Builds the context; holds no key."""

    def secret_side(self, secret: bytes) -> SecretSide:
        return SealSecretSide(self, secret)

    def server_side(self) -> ServerSide:
        return SealServerSide(self)
