"""Exact arithmetic modulo a prime in NumPy, and residues as bytes.

Primes have up to 60 bits, so a product of residues does not fit in 64. ``mul_mod`` and
``shift_mod`` use that a·b − p·⌊a·b/p⌉ is small: in wrap-around arithmetic it is exact in spite of
overflows, as long as the float64 quotient is within one of the exact one.
"""

import functools
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.encrypt.packing import FloatArray
from linalign_lite.errors import FormatError

Residues = npt.NDArray[np.uint64]
_LIMB_BITS = 24  # 2^23 of a row's norm times √MAX_FEATURES times 2^24 stays below 2^52
SEED_SIZE = 64  # bytes
_EXACT_BITS = 52  # of an encoded number before the rest of its scale: float64 has 53
MAX_FEATURES = 512  # features multiplied at once
_BIT_SHIFTS = np.arange(8, dtype=np.uint64)[:, None]
# five ternary digits of a byte below 243: a table is faster than divisions, and random bytes cost
_DIGITS_OF_BYTE = (np.arange(256)[:, None] // 3 ** np.arange(5) % 3 - 1).astype(np.float64)


def require_size(what: str, size: int, expected: int) -> None:
    """Raise FormatError unless ``what`` has the size that its shape needs, in bytes."""
    if size != expected:
        problem = f"{what} does not have the size that its shape needs"
        raise FormatError(problem, got=f"{size} bytes", expected=str(expected))


def packed_size(degree: int, prime: int) -> int:
    """Bytes of ``degree`` packed residues of ``prime``."""
    return degree * prime.bit_length() // 8


def seeded_size(count: int, primes: tuple[int, ...]) -> int:
    """Bytes of ``count`` packed residues of each prime and of the second component's seed."""
    return sum(packed_size(count, prime) for prime in primes) + SEED_SIZE


def pack_seeded(rows: Residues, seed: bytes, primes: tuple[int, ...]) -> bytes:
    """Pack the first component, (primes, count), and append the seed of the second."""
    return b"".join([*map(pack_residues, rows, primes), seed])


def unpack_seeded(
    payload: bytes | memoryview, count: int, primes: tuple[int, ...], *, seed_size: int = SEED_SIZE
) -> tuple[Residues, bytes]:
    """Undo pack_seeded. Raises FormatError on a wrong length or a value not below its prime."""
    sizes = [packed_size(count, prime) for prime in primes]
    require_size("a key or ciphertext", len(payload), sum(sizes) + seed_size)
    rows, view = np.empty((len(primes), count), dtype=np.uint64), memoryview(payload)
    for row, prime, size in zip(rows, primes, sizes, strict=True):
        row[:] = unpack_residues(view[:size], count, prime)
        view = view[size:]
    return rows, bytes(view)


def pack_residues(words: Residues, prime: int) -> bytes:
    """Pack residues in as many bits as the prime has: whole low bytes, then bit planes.

    words: (N,), each below prime. With b bits: N times the low ⌊b/8⌋ bytes, then for each bit left
    N bits, the first residue in the lowest bit of the first byte.
    """
    whole, left = divmod(prime.bit_length(), 8)
    words = np.ascontiguousarray(words, dtype="<u8")
    low = low_bytes(words, whole)
    if not left:
        return low
    top = np.ascontiguousarray(words.view(np.uint8)[whole::8])
    bits = np.unpackbits(top, bitorder="little").reshape(-1, 8).T[:left]
    return low + np.packbits(bits.ravel(), bitorder="little").tobytes()


def low_bytes(words: npt.NDArray[Any], count: int) -> bytes:
    """The ``count`` low bytes of each word, in order. words: (n,), contiguous, little-endian."""
    return words.view(_low_bytes_type(count, words.itemsize))["low"].tobytes()


@functools.cache
def _low_bytes_type(count: int, itemsize: int) -> np.dtype[np.void]:
    """Copied as one piece, which is faster than byte by byte."""
    names = {"names": ["low"], "formats": [f"V{count}"], "offsets": [0], "itemsize": itemsize}
    kind: np.dtype[np.void] = np.dtype(names)  # type: ignore[call-overload]
    return kind


def unpack_residues(data: bytes | memoryview, degree: int, prime: int) -> Residues:
    """Undo pack_residues. Raises FormatError on a wrong length or a value not below prime."""
    require_size("a polynomial", len(data), packed_size(degree, prime))
    whole, left = divmod(prime.bit_length(), 8)
    padded = b"".join((data, bytes(8)))  # overlapping 64-bit words are read to the end
    words = np.empty(degree, dtype="<u8")
    overlapping = np.ndarray((degree,), "<u8", padded, strides=(whole,))
    np.bitwise_and(overlapping, np.uint64((1 << 8 * whole) - 1), out=words)
    if left:
        top_bits = np.frombuffer(data, dtype=np.uint8, offset=degree * whole)
        # eight residues at a time: the shift moves no bit out of its byte
        bits = np.unpackbits(top_bits, bitorder="little").view(np.uint64)
        planes = bits.reshape(left, degree // 8) << _BIT_SHIFTS[:left]
        top = np.bitwise_or.reduce(planes, axis=0)
        words.view(np.uint8)[whole::8] = top.view(np.uint8)
    words = words.astype(np.uint64, copy=False)
    if words.max() >= prime:
        raise FormatError("a polynomial holds a value that is not below its prime")
    return words


def centred(residues: Residues, prime: int) -> npt.NDArray[np.int64]:
    """Return the representatives of residues in (−prime/2, prime/2]."""
    signed = residues.astype(np.int64)
    signed -= np.where(signed > prime // 2, prime, 0)
    return signed


def integer_residues(values: npt.NDArray[np.int64], bits: int, prime: int) -> Residues:
    """Compute values·2^bits mod prime, for integers of at most 2^52 in magnitude, bits ≤ 32."""
    quotient = np.rint(values * (2.0**bits / prime)).astype(np.int64)
    return non_negative((values << bits) - quotient * prime, prime).view(np.uint64)


def add_encoded(
    zero: Residues, coefficients: FloatArray, scale: int, norm_bits: int, primes: tuple[int, ...]
) -> Residues:
    """Add coefficients·2^scale, below 2^norm_bits, to a first component: (primes, m)."""
    # whole numbers below 2^52, exact in float64, then the rest of the scale
    bits = min(scale, _EXACT_BITS - norm_bits)
    whole = np.rint(coefficients * 2.0**bits).astype(np.int64)
    rows = np.empty((len(primes), len(coefficients)), dtype=np.uint64)
    for row, part, prime in zip(rows, zero, primes, strict=True):
        row[:] = add_mod(part, integer_residues(whole, scale - bits, prime), prime)
    return rows


def mul_mod(a: Residues, b: int, prime: int) -> Residues:
    """Compute a·b mod prime, for a and b below prime, of at most 46 bits, or b below 2^40."""
    quotient = (a.astype(np.float64) * (b / prime)).astype(np.uint64)
    return _into_range(a * np.uint64(b) - quotient * np.uint64(prime), prime)


def shift_mod(a: Residues, bits: int, prime: int) -> Residues:
    """Compute a·2^bits mod prime, for a below prime and up to 32 bits."""
    quotient = (a.astype(np.float64) * (2.0**bits / prime)).astype(np.uint64)
    return _into_range((a << np.uint64(bits)) - quotient * np.uint64(prime), prime)


def non_negative(remainder: npt.NDArray[np.int64], prime: int) -> npt.NDArray[np.int64]:
    """Move remainders from (−prime, prime) to [0, prime), in place."""
    remainder += (remainder >> 63) & prime
    return remainder


def _into_range(remainder: Residues, prime: int) -> Residues:
    """Correct a wrapped-around remainder whose quotient may be one off: into [0, prime)."""
    signed = remainder.view(np.int64)
    signed += np.where(signed < 0, prime, 0)
    signed -= np.where(signed >= prime, prime, 0)
    return signed.view(np.uint64)


def matmul_mod(weight: FloatArray, residues: Residues, prime: int) -> Residues:
    """Compute weight @ residues modulo prime, exactly, by float64 matrix products.

    weight: (n, f) integers, each row of norm at most 2^23. residues: (f, N), each below prime, f at
    most MAX_FEATURES. Residues are cut into limbs of 24 bits, so that every partial sum is below
    2^23·√512·2^24 < 2^52 by Cauchy–Schwarz and float64 is exact.
    """
    total = np.zeros((weight.shape[0], residues.shape[1]), dtype=np.uint64)
    limbs = -(-prime.bit_length() // _LIMB_BITS)
    mask = np.uint64((1 << _LIMB_BITS) - 1)
    for k in reversed(range(limbs)):
        limb = ((residues >> np.uint64(k * _LIMB_BITS)) & mask).astype(np.float64)
        values = weight @ limb  # integers below 2^52
        quotient = np.floor(values * (1 / prime)).astype(np.int64)
        part = _into_range((values.astype(np.int64) - quotient * prime).view(np.uint64), prime)
        total = (
            part if k == limbs - 1 else add_mod(shift_mod(total, _LIMB_BITS, prime), part, prime)
        )
    return total


def add_mod(a: Residues, b: Residues, prime: int | Residues) -> Residues:
    """Compute a + b mod prime, for a and b below prime. prime: one, or one of each row, (p, 1)."""
    total = a + b
    return np.where(total >= prime, total - np.uint64(prime), total)


def random_ternary(count: int) -> FloatArray:
    """Draw -1, 0 and 1 uniformly: digits to base 3 of the operating system's bytes below 3^5."""
    kept, needed = np.empty(0, dtype=np.uint8), -(-count // 5)
    while len(kept) < needed:
        drawn = np.frombuffer(os.urandom(needed + needed // 8 + 32), dtype=np.uint8)
        drawn = drawn[drawn < 243]
        kept = np.concatenate([kept, drawn]) if len(kept) else drawn
    return _DIGITS_OF_BYTE[kept[:needed]].reshape(-1)[:count]


class FloodingNoise:
    """``count`` integers drawn uniformly from [−2^(bits−1), 2^(bits−1)), for residues.

    From the operating system's generator; bits at most 92. For one use.
    """

    def __init__(self, count: int, bits: int) -> None:
        raw = np.frombuffer(os.urandom(12 * count), dtype="<u4").reshape(3, count)
        low, high = min(bits, 32), max(bits - 32, 0)
        self._low_bytes = raw[0].astype(np.uint64) & np.uint64((1 << low) - 1)
        wide = raw[1].astype(np.uint64) | (raw[2].astype(np.uint64) << np.uint64(32))
        self._high = wide & np.uint64((1 << high) - 1)
        self._half = 1 << (bits - 1) if bits else 0

    def modulo(self, prime: int) -> Residues:
        high = shift_mod(self._high % np.uint64(prime), 32, prime)
        drawn = add_mod(high, self._low_bytes % np.uint64(prime), prime)
        return add_mod(drawn, np.full_like(drawn, -self._half % prime), prime)


def modulus_fractions(residues: Residues, primes: tuple[int, ...]) -> FloatArray:
    """Divide values, given by their residues, by the product of the primes: float64, modulo 1.

    residues: (primes, m). One prime, or two of at most 46 bits: the second is divided out exactly,
    c' = (c − [c]_p1)·p1^-1 mod p0, and the remainder is added as a float: (c' + [c]_p1/p1)/p0. It
    grows with the value: docs/SECURITY.md relies on it.
    """
    if len(primes) == 1:
        single: FloatArray = residues[0] / primes[0]
        return single
    first, second = primes
    high, low = residues.view(np.int64)
    high, inverse = high - low, pow(second, -1, first)
    quotient = np.rint(high * (inverse / first)).astype(np.int64)
    high *= inverse
    high -= quotient * first
    value: FloatArray = (non_negative(high, first) + low * (1 / second)) * (1 / first)
    return value


def switch_modulus(values: FloatArray, bits: int) -> npt.NDArray[np.uint32]:
    """Switch fractions of the modulus, below 2^31, to the modulus 2^bits: round(2^bits·value)."""
    whole = np.rint(values * 2.0**bits).astype(np.int64)
    words: npt.NDArray[np.uint32] = whole.astype(np.uint32)  # modulo 2^32
    if bits < 32:
        words &= np.uint32((1 << bits) - 1)
    return words
