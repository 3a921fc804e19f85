"""The twin of the real scheme that encrypts NOTHING: for fast tests of everything around it.

Payloads are coefficients in clear, which wrap around modulo q, so that tests notice an overflow.
Responses are flooded and rounded modulo 2^32. Only ``parameters.INSECURE_NOOP`` leads here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from linalign_lite.encrypt.modular import require_size, switch_modulus
from linalign_lite.encrypt.packing import FloatArray, from_slots, to_slots
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.response_encoding import Ternary, encode_product
from linalign_lite.encrypt.scheme import ReturnedCoefficients
from linalign_lite.errors import FormatError

_KEY = 64


class NoopScheme:
    """A scheme.Scheme and both of its sides, with everything in clear."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.query_size = self.plaintext_size = 8 * parameters.degree
        self.secret_size = self.public_size = _KEY
        self.secret: Ternary = np.zeros(parameters.degree, dtype=np.int8)
        self._modulus = 2.0**parameters.data_bits

    def keygen(self) -> tuple[bytes, bytes]:
        return os.urandom(_KEY), os.urandom(_KEY)

    def secret_side(self, secret: bytes) -> NoopScheme:
        require_size("a secret key", len(secret), _KEY)
        return self

    def server_side(self) -> NoopScheme:
        return self

    def check_public(self, public: bytes) -> None:
        require_size("a public key", len(public), _KEY)

    load_public_key = check_public

    def encrypt(self, coefficients: FloatArray, scale: int) -> bytes:
        values = self.encode(coefficients, scale)
        wrapped: FloatArray = values - self._modulus * np.round(values / self._modulus)
        return wrapped.astype("<f8").tobytes()

    def encode(self, coefficients: FloatArray, scale: int) -> FloatArray:
        values: FloatArray = np.round(coefficients * 2.0**scale)
        return values

    def load_ciphertext(self, payload: bytes | memoryview) -> FloatArray:
        require_size("a polynomial", len(payload), self.query_size)
        values = np.frombuffer(payload, dtype="<f8").astype(np.float64)
        if not np.isfinite(values).all():
            raise FormatError("a polynomial holds values that are not finite")
        return values

    def inner_product(self, queries: Sequence[Any], rows: Sequence[Any]) -> Any:
        pairs = zip(queries, rows, strict=True)
        return np.sum([from_slots(to_slots(q) * to_slots(w)) for q, w in pairs], axis=0)

    def matrix_products(
        self, payloads: Sequence[bytes | memoryview], weight: FloatArray
    ) -> Iterator[Any]:
        yield from weight @ np.stack([self.load_ciphertext(p) for p in payloads])

    def encrypt_zero(self, public_key: Any) -> Any:  # noqa: ARG002 (twin)
        return 0.0

    def finalize(self, product: Any, returned: ReturnedCoefficients, zero: Any | None) -> bytes:  # noqa: ARG002 (twin)
        noise = np.frombuffer(os.urandom(8 * len(returned.positions)), "<u8") / 2.0**64 - 0.5
        width = 2.0**returned.flood_bits if returned.flood_bits else 0.0
        fractions = (product[returned.positions] + noise * width) / self._modulus + returned.bias
        first = switch_modulus(fractions - np.floor(fractions))
        second = np.zeros(self.parameters.degree, dtype=np.uint32)
        return encode_product(np.concatenate([second, first]))
