"""The twin of the real scheme that encrypts NOTHING: for fast tests of everything around it.

Payloads are coefficients in clear. As in the real scheme they wrap around modulo q, so that an
overflow shows; there is no noise. Only ``parameters.INSECURE_NOOP`` leads here.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from linalign_lite.encrypt.packing import Floats
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.errors import FormatError

_KEY = 64


def negacyclic(left: Floats, right: Floats) -> Floats:
    """Product modulo X^N + 1, by FFT on the odd 2N-th roots of unity."""
    degree = left.shape[-1]
    twist = np.exp(1j * np.pi * np.arange(degree) / degree)
    product = np.fft.ifft(np.fft.fft(left * twist) * np.fft.fft(right * twist))
    result: Floats = (product * np.conj(twist)).real
    return result


class NoopScheme:
    """See scheme.Scheme. All that is secret or encrypted elsewhere is in clear here."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.query_size = self.response_size = self.plain_size = 8 * parameters.degree
        self.secret_size = self.public_size = _KEY

    def keygen(self) -> tuple[bytes, bytes]:
        return os.urandom(_KEY), os.urandom(_KEY)

    def secret_side(self, secret: bytes) -> NoopScheme:
        self._require(secret, _KEY)
        return self

    def server_side(self) -> NoopScheme:
        return self

    def check_public(self, public: bytes) -> None:
        self._require(public, _KEY)

    def encrypt(self, coefficients: Floats, scale: int) -> bytes:
        return self._wrap(np.round(coefficients * 2.0**scale)).astype("<f8").tobytes()

    def decrypt(self, payload: bytes | memoryview, scale: float) -> Floats:
        return self._values(payload) / (scale * self.parameters.dropped)

    def encode(self, coefficients: Floats, scale: int) -> Floats:
        values: Floats = np.round(coefficients * 2.0**scale)
        return values

    encode_bias = encode

    def load(self, payload: bytes | memoryview, scale: int) -> Floats:  # noqa: ARG002 (twin)
        return self._values(payload)

    def inner(self, queries: list[Any], rows: list[Any], bias: Any) -> bytes:
        total: Floats = np.sum([negacyclic(q, w) for q, w in zip(queries, rows, strict=True)], 0)
        return self._wrap(total + bias).astype("<f8").tobytes()

    def _wrap(self, values: Floats) -> Floats:
        q = 2.0**self.parameters.data_bits
        wrapped: Floats = values - q * np.round(values / q)
        return wrapped

    def _values(self, payload: bytes | memoryview) -> Floats:
        self._require(payload, 8 * self.parameters.degree)
        values = np.frombuffer(payload, dtype="<f8").astype(np.float64)
        if not np.isfinite(values).all():
            raise FormatError("a polynomial holds values that are not finite")
        return values

    @staticmethod
    def _require(payload: bytes | memoryview, size: int) -> None:
        if len(payload) != size:
            raise FormatError("wrong length", got=f"{len(payload)} bytes", expected=str(size))
