"""What an encryption scheme must offer, so that real CKKS and its twin without encryption run the
same scoring code and the same tests."""

from __future__ import annotations

from typing import Any, Protocol

from linalign_lite.encrypt.packing import Floats
from linalign_lite.encrypt.parameters import Parameters


class SecretSide(Protocol):
    """What the holder of the secret key can do."""

    def encrypt(self, coefficients: Floats, scale: int) -> bytes:
        """Encrypt (N,) real coefficients times 2^scale. Returns ``query_size`` bytes."""

    def decrypt(self, payload: bytes | memoryview, scale: float) -> Floats:
        """The (N,) coefficients of one ciphertext of a response at this scale."""


class ServerSide(Protocol):
    """What anyone can do. Takes no key."""

    def encode(self, coefficients: Floats, scale: int) -> Any:
        """A polynomial to multiply a query with."""

    def encode_bias(self, coefficients: Floats, scale: int) -> Any:
        """A polynomial to add to a product of scale 2^scale, after it was rescaled."""

    def load(self, payload: bytes | memoryview, scale: int) -> Any:
        """One ciphertext of a query. Raises FormatError."""

    def inner(self, queries: list[Any], rows: list[Any], bias: Any) -> bytes:
        """Σ queries·rows, rescaled, plus bias. Returns ``response_size`` bytes."""


class Scheme(Protocol):
    """One scheme under one parameter set. Sizes are in bytes and exact."""

    parameters: Parameters
    query_size: int
    response_size: int
    secret_size: int
    public_size: int
    plain_size: int

    def keygen(self) -> tuple[bytes, bytes]:
        """Fresh (secret, public) key payloads."""

    def secret_side(self, secret: bytes) -> SecretSide:
        """Raises FormatError when the payload is no secret key of these parameters."""

    def server_side(self) -> ServerSide: ...

    def check_public(self, public: bytes) -> None:
        """Raise FormatError unless the payload is a public key of these parameters."""
