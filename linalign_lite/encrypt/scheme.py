"""What an encryption scheme must offer, so that real CKKS and its twin without encryption run the
same scoring code and the same tests."""

from __future__ import annotations

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
    """How a product becomes words. ``positions``: the coefficients that are returned, (m,).

    ``bias``: what is added to them, as fractions of the modulus, (m,). ``flood``: bits of flooding.
    """

    positions: npt.NDArray[np.intp]
    bias: FloatArray
    flood: int


class SecretSide(Protocol):
    """What the holder of the secret key can do. ``secret``: its coefficients, (N,)."""

    secret: Ternary

    def encrypt(self, coefficients: FloatArray, scale: int) -> bytes:
        """Encrypt (N,) real coefficients times 2^scale. Returns ``query_size`` bytes."""


class ServerSide(Protocol):
    """What anyone can do. Takes no secret key."""

    def encode(self, coefficients: FloatArray, scale: int) -> Any:
        """A polynomial to multiply a query with."""

    def load_ciphertext(self, payload: bytes | memoryview) -> Any:
        """One ciphertext of a query. Raises FormatError."""

    def inner_product(self, queries: Sequence[Any], rows: Sequence[Any]) -> Any:
        """Σ queries·rows: one product."""

    def matrix_products(
        self, payloads: Sequence[bytes | memoryview], weight: FloatArray
    ) -> Iterator[Any]:
        """Σ_i payloads[i]·weight[k, i], one product for each k.

        weight: (n, len(payloads)) integers, no row zero.
        """

    def load_public_key(self, public: bytes) -> Any:
        """What makes encryptions of zero under a public key. Raises FormatError."""

    def encrypt_zero(self, public_key: Any) -> Any:
        """A fresh encryption of zero. To be used once."""

    def finalize(self, total: Any, returned: ReturnedCoefficients, zero: Any | None) -> bytes:
        """What is sent of a product (encode_product). Uses up ``total`` and ``zero``."""


class Scheme(Protocol):
    """One scheme under one parameter set. Sizes are in bytes and exact."""

    parameters: Parameters
    query_size: int
    secret_size: int
    public_size: int
    plaintext_size: int

    def keygen(self) -> tuple[bytes, bytes]:
        """Fresh (secret, public) key payloads."""

    def secret_side(self, secret: bytes) -> SecretSide:
        """Raises FormatError when the payload is no secret key of these parameters."""

    def server_side(self) -> ServerSide: ...

    def check_public(self, public: bytes) -> None:
        """Raise FormatError unless the payload is a public key of these parameters."""
