"""Encode the products of a response after modulus switching to 2^32, and decrypt them.

A ciphertext (c0, c1) modulo q decrypts to c0 + c1·s modulo q and X^N + 1. A response needs only
some coefficients of the sum, to some 30 bits, so only those of c0 are sent, and all of c1, each as
round(2^32·c/q) mod 2^32 (modulus switching). Nothing else of the product leaves the provider.
Decryption is y0 + (y1·s) in wrap-around arithmetic; s is ternary, so rounding adds an error of
standard deviation √(N/18) units of 2^-32 or so, within the stated one (precision.score_error).
"""

import numpy as np
import numpy.typing as npt

from linalign_lite.encrypt.packing import FloatArray, from_slots, to_slots
from linalign_lite.errors import FormatError

Ternary = npt.NDArray[np.int8]
UInt32Array = npt.NDArray[np.uint32]
# returned coefficients up to which the product with s is cheaper one by one than by FFT
_MAX_ONE_BY_ONE = 64


def product_size(degree: int, returned: int) -> int:
    """Bytes of one product of a response with ``returned`` coefficients of the first component."""
    return 4 * (degree + returned)


def encode_product(coefficients: UInt32Array) -> bytes:
    """Bytes of the whole second component followed by what is returned of the first: (N + m,)."""
    return coefficients.astype("<u4", copy=False).tobytes()


def decode_product(payload: bytes | memoryview, degree: int) -> tuple[UInt32Array, UInt32Array]:
    """Return (second, first). Raises FormatError on a wrong length."""
    if len(payload) % 4 or len(payload) < 4 * degree:
        raise FormatError("a response has the wrong length", got=f"{len(payload)} bytes")
    words = np.frombuffer(payload, dtype="<u4").astype(np.uint32, copy=False)
    return words[:degree], words[degree:]


def pad_product(payload: bytes, degree: int, rows: int, batch: int) -> bytes:
    """Pad the returned coefficients of an encoded product, (rows, live), to (rows, batch)."""
    second, first = decode_product(payload, degree)
    filled = np.zeros((rows, batch), dtype=np.uint32)
    filled[:, : len(first) // rows] = first.reshape(rows, -1)
    return encode_product(np.concatenate([second, filled.ravel()]))


def decrypt_product(
    secret: Ternary, second: UInt32Array, first: UInt32Array, positions: npt.NDArray[np.intp]
) -> FloatArray:
    """Decrypt: (first + (second·secret)[positions]) / 2^32, in [−1/2, 1/2), fractions of q.

    secret: (N,) ternary coefficients. second: (N,). first and positions: (m,).
    """
    if len(positions) <= _MAX_ONE_BY_ONE:
        products = _products_one_by_one(secret, second, positions)
    else:
        products = _products_by_fft(secret, second)[positions]
    total = first + products.astype(np.int64).astype(np.uint32)  # both wrap around
    return total.view(np.int32) / 2.0**32


def _products_one_by_one(
    secret: Ternary, second: UInt32Array, positions: npt.NDArray[np.intp]
) -> FloatArray:
    """Σᵢ sᵢ·y(k−i), with y(j − N) = −y(j): at most 4096·2^32, exact in float64."""
    y, backwards = second.astype(np.float64), secret[::-1].astype(np.float64)
    cuts = [(k + 1, len(secret) - 1 - k) for k in positions.tolist()]
    return np.array([y[:k] @ backwards[j:] - y[k:] @ backwards[:j] for k, j in cuts])


def _products_by_fft(secret: Ternary, second: UInt32Array) -> FloatArray:
    """All N coefficients. Halves of 16 bits: sums below 2^28, so rounding makes the FFT exact."""
    slots = to_slots(secret.astype(np.float64))
    high, low = (
        np.rint(from_slots(to_slots(half.astype(np.float64)) * slots))
        for half in (second >> np.uint32(16), second & np.uint32(0xFFFF))
    )
    total: FloatArray = high * 2.0**16 + low
    return total
