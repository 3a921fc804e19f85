"""The twin of the real scheme that encrypts NOTHING: for fast tests of everything around it.

Payloads are coefficients in clear. As in the real scheme they wrap around modulo q, so that an
overflow shows, and responses are flooded and rounded to words; there is no other noise. Only
``parameters.INSECURE_NOOP`` leads here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from linalign_lite.encrypt.modular import switch_modulus
from linalign_lite.encrypt.packing import FloatArray, from_slots, to_slots
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.response_encoding import Ternary, encode_product
from linalign_lite.encrypt.scheme import ReturnedCoefficients
from linalign_lite.errors import FormatError

_KEY = 64


class NoopScheme:
    """See scheme.Scheme. All that is secret or encrypted elsewhere is in clear here."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.query_size = self.plaintext_size = 8 * parameters.degree
        self.secret_size = self.public_size = _KEY
        self.secret: Ternary = np.zeros(parameters.degree, dtype=np.int8)

    def keygen(self) -> tuple[bytes, bytes]:
        return os.urandom(_KEY), os.urandom(_KEY)

    def secret_side(self, secret: bytes) -> NoopScheme:
        self._require(secret, _KEY)
        return self

    def server_side(self) -> NoopScheme:
        return self

    def check_public(self, public: bytes) -> None:
        self._require(public, _KEY)

    def encrypt(self, coefficients: FloatArray, scale: int) -> bytes:
        q = 2.0**self.parameters.data_bits
        values = np.round(coefficients * 2.0**scale)
        wrapped: FloatArray = values - q * np.round(values / q)
        return wrapped.astype("<f8").tobytes()

    def encode(self, coefficients: FloatArray, scale: int) -> FloatArray:
        values: FloatArray = np.round(coefficients * 2.0**scale)
        return values

    def load_ciphertext(self, payload: bytes | memoryview) -> FloatArray:
        self._require(payload, 8 * self.parameters.degree)
        values = np.frombuffer(payload, dtype="<f8").astype(np.float64)
        if not np.isfinite(values).all():
            raise FormatError("a polynomial holds values that are not finite")
        return values

    def inner_product(self, queries: Sequence[Any], rows: Sequence[Any]) -> Any:
        products = [
            from_slots(to_slots(q) * to_slots(w)) for q, w in zip(queries, rows, strict=True)
        ]
        return np.sum(products, axis=0)

    def matrix_products(
        self, payloads: Sequence[bytes | memoryview], weight: FloatArray
    ) -> Iterator[Any]:
        yield from weight @ np.stack([self.load_ciphertext(p) for p in payloads])

    def load_public_key(self, public: bytes) -> None:
        self._require(public, _KEY)

    def encrypt_zero(self, public_key: Any) -> Any:  # noqa: ARG002 (twin)
        return 0.0

    def finalize(self, total: Any, returned: ReturnedCoefficients, zero: Any | None) -> bytes:  # noqa: ARG002 (twin)
        q = 2.0**self.parameters.data_bits
        flood = np.frombuffer(os.urandom(8 * len(returned.positions)), "<u8") / 2.0**64 - 0.5
        flooded = total[returned.positions] + flood * (
            2.0**returned.flood if returned.flood else 0.0
        )
        second = np.zeros(self.parameters.degree, dtype=np.uint32)
        fractions = flooded / q + returned.bias
        return encode_product(second, switch_modulus(fractions - np.floor(fractions)))

    @staticmethod
    def _require(payload: bytes | memoryview, size: int) -> None:
        if len(payload) != size:
            raise FormatError("wrong length", got=f"{len(payload)} bytes", expected=str(size))
