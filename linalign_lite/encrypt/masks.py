"""Masks of the private profile: encryptions of zero under a client's public key.

Each masks one product only: the difference of two products under one mask reveals the head. So
each is drawn when it is used, from the operating system's generator, and nothing is made ahead
that a fork could use again. (A machine that is copied while it runs must reseed its generator.)
"""

import functools

import numpy as np

from linalign_lite.encrypt.keys import PublicKey
from linalign_lite.encrypt.modular import mul_mod, random_ternary
from linalign_lite.encrypt.packing import ComplexArray
from linalign_lite.encrypt.ring import Ring, spectrum


class Masks:
    """Draws masks under one public key. Safe to share among threads."""

    def __init__(self, key: PublicKey) -> None:
        self.seed = key.seed
        self._residues = key.components()
        self._spectra = functools.lru_cache(maxsize=4)(self._key_spectra)

    def _key_spectra(self, ring: Ring) -> ComplexArray:
        """Compute those of the key over 2^shift, by which products are multiplied."""
        pairs = zip(ring.primes, self._residues.swapaxes(0, 1), strict=True)
        scaled = [mul_mod(rows, pow(2, -ring.shift, p), p) for p, rows in pairs]
        return ring.spectra(np.stack(scaled, axis=1))

    def key(self, ring: Ring) -> ComplexArray:
        """Spectra of (p0, p1) / 2^shift: (2, primes, limbs, N/2)."""
        return self._spectra(ring)

    def draw(self, ring: Ring) -> ComplexArray:
        """Spectra of (u·p0, u·p1) / 2^shift for a fresh ternary u: (2, primes, limbs, N/2).

        SEAL's own encryption of zero adds two errors of at most 21. The first is negligible beside
        flooding, the second beside rounding to words (docs/SECURITY.md).
        """
        mask: ComplexArray = self.key(ring) * fresh_factors(1, ring.degree)[0]
        return mask


def fresh_factors(count: int, degree: int) -> ComplexArray:
    """Draw u of ``count`` masks; their spectra: (count, N/2)."""
    drawn = np.empty((count, degree))
    for row in drawn:
        row[:] = random_ternary(degree)
    return spectrum(drawn)
