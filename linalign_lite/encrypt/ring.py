"""Exact products in Z_q[X]/(X^N + 1), by floating-point FFTs.

A residue modulo a prime is cut into balanced digits (limbs) of b bits, so that every product of
limbs and rows of integers is an integer below 2^53 that an FFT computes to within 1/2. With
x = Σ_l x_l·2^(b·l), x·w = Σ_l (x_l·w)·2^(b·l) modulo the prime.

The FFT is of length N/2: with ζ = e^(iπ/N) and ζ^((N/2)(4k+1)) = i, a real polynomial has the value
p(ζ^(4k+1)) = Σ_{i<N/2} (p_i + i·p_{i+N/2})·ζ^i · e^(2πi·ik/(N/2)), and conjugate values at the
conjugate roots. The N/2 values are its *spectrum*; products are products of spectra.

Exactness: Brent, Percival and Zimmermann ("Error bounds on complex floating-point multiplication",
Mathematics of Computation 76, 2007, theorem 5.1) bound the error of each coefficient of a product
by ‖x‖‖w‖·((1+ε)^3n (1+ε√5)^(3n+1) (1+β)^3n − 1) for length 2^n, where β is the error of the roots
and ε = 2^-53. With n ≤ 11, β = ε: 142·ε·‖x‖‖w‖. Three more multiplications, by our roots of
error at most 4·ε, add 3·(√5 + 4), and a sum of C products, whose real and imaginary parts are sums
of 2C numbers in any order, 2√2·C: an error below 1/2 for Σ‖x‖‖w‖ up to 2^52/(161 + 3C). (The
theorem is of the textbook FFT; NumPy's has fewer operations.)

‖x‖: limbs of a ciphertext look uniform, so their mean square is near a third of the largest, and
above a third + √(64·ln 2/(2N)) with probability at most 2^-64 (Hoeffding). Polynomials above that
are refused: nobody encrypts to them.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.encrypt.modular import Residues, centred, non_negative
from linalign_lite.encrypt.packing import ComplexArray, FloatArray
from linalign_lite.errors import FormatError, PrecisionError

_NORM_BITS, _OPERATIONS = 52, 161  # log2 of the largest (161 + 3C)·Σ‖x‖‖w‖
MAX_LIMB_BITS, _MIN_LIMB_BITS = 26, 4


def limb_bits(degree: int, norm: float, terms: int) -> int:
    """Return the widest limbs for which Σ of ``terms`` products is exact.

    norm: sum of the norms of the polynomials of integers that multiply residues. Raises
    PrecisionError when there are none: the integers are too large for float64.
    """
    bits = widest_limbs(degree, norm, terms)
    if bits < _MIN_LIMB_BITS:
        what = "products of these rows are not exact in double precision"
        raise PrecisionError(what, hint="scale the head's rows down, or normalise the states")
    return bits


def widest_limbs(degree: int, norm: float, terms: int) -> int:
    """Return the same as limb_bits, but fewer than 4 where there are none."""
    room = _NORM_BITS - math.log2(_OPERATIONS + 3 * terms)
    largest = room - math.log2(max(norm, 1.0)) - math.log2(degree * mean_square(degree)) / 2
    return min(MAX_LIMB_BITS, math.floor(largest) + 1)  # a limb is at most half of 2^bits


def mean_square(degree: int) -> float:
    """The largest mean square of a limb that is accepted, over that of the largest value."""
    return min(1.0, 1 / 3 + math.sqrt(64 * math.log(2) / (2 * degree)))


@dataclass(frozen=True)
class Ring:
    """Polynomials of ``degree`` coefficients modulo ``primes``, in limbs of ``bits`` bits.

    ``shift``: products are multiplied by 2^shift, in passing.
    """

    degree: int
    primes: tuple[int, ...]
    bits: int
    shift: int = 0

    @functools.cached_property
    def limbs(self) -> int:
        """Limbs of a residue of the largest prime, at least two."""
        return max(2, -(-max(p.bit_length() for p in self.primes) // self.bits))

    def spectra(self, residues: Residues) -> ComplexArray:
        """Spectra of the limbs of polynomials: (…, primes, N) → (…, primes, limbs, N/2).

        Raises FormatError for a polynomial whose limbs are larger than a ciphertext's ever are.
        """
        shape = (*residues.shape[:-1], self.limbs, self.degree)
        digits = np.empty(shape)
        half, mask = 1 << (self.bits - 1), (1 << self.bits) - 1
        for i, prime in enumerate(self.primes):  # centred where the last limb would be too large
            values, fits = residues[..., i, :], prime >> self.bits * (self.limbs - 1) < half
            rest = values.astype(np.int64) if fits else centred(values, prime)
            for k in range(self.limbs - 1):
                digit = ((rest + half) & mask) - half
                digits[..., i, k, :] = digit
                rest = (rest - digit) >> self.bits
            digits[..., i, self.limbs - 1, :] = rest
        squares = np.einsum("...n,...n", digits, digits)
        if squares.max() > mean_square(self.degree) * self.degree * 4.0 ** (self.bits - 1):
            raise FormatError("a polynomial is none that encryption makes")
        return spectrum(digits)

    def residues(
        self, spectra: ComplexArray, positions: npt.NDArray[np.intp] | None = None
    ) -> Residues:
        """Undo `spectra`, for products, times 2^shift: (…, primes, limbs, N/2) → (…, primes, N).

        positions: only these coefficients, (…, primes, m).
        """
        limbs = coefficients(spectra, positions)
        np.rint(limbs, out=limbs)
        out = np.empty((*limbs.shape[:-2], limbs.shape[-1]), dtype=np.int64)
        for i, prime in enumerate(self.primes):
            total = limbs[..., i, -1, :].astype(np.int64)
            for k in reversed(range(self.limbs - 1)):
                shift = 0 if k else self.shift
                total = self._joined(total, limbs[..., i, k, :], prime, shift)
            out[..., i, :] = non_negative(total, prime)
        return out.view(np.uint64)

    def _joined(
        self, high: npt.NDArray[np.int64], low: FloatArray, prime: int, shift: int
    ) -> npt.NDArray[np.int64]:
        """(high·2^bits + low)·2^shift, nearest to 0 modulo the prime; low: integers.

        Exact in spite of overflows: the remainder is small, and so is the quotient's error.
        """
        quotient = high * 2.0**self.bits
        quotient += low
        quotient *= 2.0**shift / prime
        np.rint(quotient, out=quotient)
        total = high << self.bits
        total += low.astype(np.int64)
        total <<= shift
        total -= quotient.astype(np.int64) * prime
        return total


def spectrum(values: npt.NDArray[Any]) -> ComplexArray:
    """Values of real polynomials at the roots: (…, N) → (…, N/2)."""
    half = values.shape[-1] // 2
    folded = np.empty((*values.shape[:-1], half), dtype=np.complex128)
    folded.real, folded.imag = values[..., :half], values[..., half:]
    folded *= _roots(2 * half)
    out: ComplexArray = np.fft.ifft(folded, norm="forward")
    return out


def coefficients(
    spectra: ComplexArray, positions: npt.NDArray[np.intp] | None = None
) -> FloatArray:
    """Undo `spectrum`: (…, N/2) → (…, N), or only these coefficients, (…, m)."""
    half = spectra.shape[-1]
    folded, roots = np.fft.fft(spectra), _inverse_roots(2 * half)
    if positions is not None:
        folded = folded[..., positions % half] * roots[positions % half]
        some: FloatArray = np.where(positions < half, folded.real, folded.imag)
        return some
    folded *= roots
    out = np.empty((*spectra.shape[:-1], 2 * half))
    out[..., :half], out[..., half:] = folded.real, folded.imag
    return out


@functools.lru_cache(maxsize=8)
def _roots(degree: int) -> ComplexArray:
    """ζ^i for i < N/2."""
    roots: ComplexArray = np.exp(1j * np.pi * np.arange(degree // 2) / degree)
    roots.flags.writeable = False
    return roots


@functools.lru_cache(maxsize=8)
def _inverse_roots(degree: int) -> ComplexArray:
    """ζ^-i over N/2."""
    roots: ComplexArray = _roots(degree).conj() / (degree // 2)
    roots.flags.writeable = False
    return roots
