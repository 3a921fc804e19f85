"""Interfaces of an encryption scheme: real CKKS and its twin without encryption implement them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from linalign_lite.encrypt.packing import FloatArray
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.response_encoding import Ternary


@dataclass(frozen=True)
class ReturnedCoefficients:
    """Coefficients of a product that a response returns."""

    positions: npt.NDArray[np.intp]  # their indices, (m,)
    bias: FloatArray  # added to them, as fractions of the modulus, (m,)
    flood_bits: int  # bits of flooding


class SecretSide(Protocol):
    """Operations that need the secret key. ``secret``: its coefficients, (N,)."""

    secret: Ternary

    def encrypt(self, coefficients: FloatArray, scale: int) -> bytes:
        """Encrypt (N,) real coefficients times 2^scale. Returns ``query_size`` bytes."""


class ServerSide(Protocol):
    """Operations that need no secret key."""

    def encode(self, coefficients: FloatArray, scale: int) -> Any:
        """Encode (N,) coefficients times 2^scale as a plaintext that multiplies a query."""

    def load_ciphertext(self, payload: bytes | memoryview) -> Any:
        """Load one ciphertext of a query. Raises FormatError."""

    def inner_product(self, queries: Sequence[Any], rows: Sequence[Any]) -> Any:
        """Compute Σ queries·rows: one product."""

    def matrix_products(
        self, payloads: Sequence[bytes | memoryview], weight: FloatArray
    ) -> Iterator[Any]:
        """Compute Σ_i payloads[i]·weight[k, i] for each k. weight: (n, m) integers, no row 0."""

    def load_public_key(self, public: bytes) -> Any:
        """Load a public key for ``encrypt_zero``. Raises FormatError."""

    def encrypt_zero(self, public_key: Any) -> Any:
        """Encrypt zero afresh. To be used once."""

    def finalize(self, product: Any, returned: ReturnedCoefficients, zero: Any | None) -> bytes:
        """Mask, flood and encode a product for a response. Uses up ``product`` and ``zero``."""


class Scheme(Protocol):
    """One scheme under one parameter set. Sizes are exact, in bytes."""

    parameters: Parameters
    query_size: int
    secret_size: int
    public_size: int
    plaintext_size: int

    def keygen(self) -> tuple[bytes, bytes]:
        """Make fresh (secret, public) key payloads."""

    def secret_side(self, secret: bytes) -> SecretSide:
        """Raises FormatError unless the payload is a secret key of these parameters."""

    def server_side(self) -> ServerSide: ...

    def check_public(self, public: bytes) -> None:
        """Raise FormatError unless the payload is a public key of these parameters."""
