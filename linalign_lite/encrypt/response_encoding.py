"""Encode the products of a response after modulus switching to 2^w, and decrypt them.

A ciphertext (c0, c1) modulo q decrypts to c0 + c1·s modulo q and X^N + 1. A response needs only
some coefficients of the sum, to some bits, so only those of c0 are sent, and all of c1, each as
round(2^w·c/q) mod 2^w (modulus switching), w = 24 or 32. Nothing else of the product leaves the
provider. Decryption is y0 + (y1·s) modulo 2^w; s is ternary, so rounding adds an error of standard
deviation √(N/18) units of 2^-w or so, within the stated one (precision.score_error).
"""

import numpy as np
import numpy.typing as npt

from linalign_lite.encrypt.modular import low_bytes
from linalign_lite.encrypt.packing import ComplexArray, FloatArray
from linalign_lite.encrypt.ring import coefficients, spectrum
from linalign_lite.errors import FormatError

Ternary = npt.NDArray[np.int8]
UInt32Array = npt.NDArray[np.uint32]
WORD_BITS = (24, 32)  # choices of w


def product_size(degree: int, returned: int, word_bits: int) -> int:
    """Bytes of one product of a response with ``returned`` coefficients of the first component."""
    return word_bits // 8 * (degree + returned)


def encode_words(words: UInt32Array, word_bits: int) -> bytes:
    """The low bytes of each word, in order."""
    return low_bytes(np.ascontiguousarray(words, dtype="<u4"), word_bits // 8)


def decode_products(
    payload: bytes | memoryview, products: int, degree: int, word_bits: int
) -> tuple[UInt32Array, UInt32Array]:
    """Return (second, first): (products, N) and (products, m). FormatError on a wrong length."""
    size = word_bits // 8
    count, left = divmod(len(payload), size * products)
    if left or count < degree:
        raise FormatError("a response has the wrong length", got=f"{len(payload)} bytes")
    padded = b"".join((payload, bytes(4 - size)))  # overlapping words are read to the end
    overlapping = np.ndarray((products, count), "<u4", padded, strides=(count * size, size))
    words = overlapping & np.uint32((1 << word_bits) - 1)
    return words[:, :degree], words[:, degree:]


def decrypt_products(
    secret: ComplexArray,
    second: UInt32Array,
    first: UInt32Array,
    positions: npt.NDArray[np.intp],
    word_bits: int,
) -> FloatArray:
    """Decrypt: (first + (second·secret)[positions]) / 2^w, in [−1/2, 1/2), fractions of q.

    secret: spectrum of its ternary coefficients, (N/2,). second: (…, N). first: (…, m).
    positions: (m,).
    The FFT is exact: ‖second‖·‖secret‖ ≤ 2^31·√N·√N (module ring).
    """
    up = np.uint32(32 - word_bits)
    centred = (second << up).view(np.int32) >> up.astype(np.int32)
    products = np.rint(coefficients(spectrum(centred) * secret, positions))
    total = (first + products.astype(np.int64).astype(np.uint32)) << up  # wraps around
    return total.view(np.int32) / 2.0**32
