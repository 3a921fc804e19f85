"""The side without a secret key. See scheme.ServerSide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tenseal.sealapi as api

from linalign_lite.encrypt.modular import (
    MAX_FEATURES,
    FloodingNoise,
    Residues,
    add_mod,
    flooding_integers,
    matmul_mod,
    modulus_fractions,
    random_ternary,
    switch_modulus,
)
from linalign_lite.encrypt.packing import FloatArray, to_slots
from linalign_lite.encrypt.response_encoding import joined
from linalign_lite.encrypt.scheme import ReturnedCoefficients
from linalign_lite.encrypt.seal.context import SealContext
from linalign_lite.errors import FormatError

_MAX_ONE_BY_ONE = 256  # wanted coefficients up to which reading them one by one is faster
_CLASSES = 1024  # classes of a matrix product held at once


class SealServerSide:
    """Multiplies, adds, masks. Not for several threads at once: SEAL holds the interpreter lock."""

    def __init__(self, scheme: SealContext) -> None:
        self._scheme = scheme
        self._encoder = api.CKKSEncoder(scheme.context)
        self._evaluator = api.Evaluator(scheme.context)
        self._level = scheme.context.first_parms_id()
        self._primes = scheme.parameters.data_primes
        first, *more = self._primes
        self._inverse = pow(more[0], -1, first) if more else 1  # of the second prime, by the first
        self._no_words = [np.zeros(scheme.parameters.degree, dtype=np.uint64)] * len(self._primes)

    def encode(self, coefficients: FloatArray, scale: int) -> Any:
        if np.max(np.abs(coefficients)) * 2.0**scale < 1:
            # SEAL refuses a product that is zero whatever the key; one unit is below rounding
            coefficients = coefficients.copy()
            coefficients[0] = 2.0**-scale
        plain = api.Plaintext()
        self._encoder.encode(to_slots(coefficients).tolist(), 2.0**scale, plain)
        plain.scale = 1.0  # scales are kept by our own headers; SEAL would only refuse large ones
        return plain

    def load_ciphertext(self, payload: bytes | memoryview) -> Any:
        scheme = self._scheme
        return scheme.load_seeded(api.Ciphertext(), payload, self._level, self._primes, 1.0)

    def inner_product(self, queries: Sequence[Any], rows: Sequence[Any]) -> Any:
        total, term = api.Ciphertext(), api.Ciphertext()
        try:
            self._evaluator.multiply_plain(queries[0], rows[0], total)
            for query, row in zip(queries[1:], rows[1:], strict=True):
                self._evaluator.multiply_plain(query, row, term)
                self._evaluator.add_inplace(total, term)
        except (RuntimeError, ValueError) as e:
            raise FormatError("SEAL refuses this ciphertext", got=str(e)[:80]) from e
        return total

    def matrix_products(
        self, payloads: Sequence[bytes | memoryview], weight: FloatArray
    ) -> Iterator[Any]:
        for start in range(0, len(weight), _CLASSES):
            yield from self._matrix_products(payloads, weight[start : start + _CLASSES])

    def _matrix_products(
        self, payloads: Sequence[bytes | memoryview], weight: FloatArray
    ) -> Iterator[Any]:
        n, primes = self._scheme.parameters.degree, self._primes
        totals = np.zeros((2, len(primes), len(weight), n), dtype=np.uint64)
        for start in range(0, len(payloads), MAX_FEATURES):
            slab = np.stack(
                [self._expanded(p) for p in payloads[start : start + MAX_FEATURES]], axis=2
            )
            part = weight[:, start : start + slab.shape[2]]
            for component in range(2):
                for i, prime in enumerate(primes):
                    product = matmul_mod(part, slab[component, i], prime)
                    totals[component, i] = add_mod(totals[component, i], product, prime)
        for k in range(len(weight)):
            rows = list(totals[:, :, k].reshape(-1, n))
            yield self._scheme.load_unseeded(rows, self._level, 1.0)

    def _expanded(self, payload: bytes | memoryview) -> Residues:
        """Both components of a query's ciphertext: (2, primes, N).

        SEAL grows the second from its seed, beside zeros: they cost it nothing to save.
        """
        scheme = self._scheme
        rows, seed = scheme.split_seeded(payload, self._primes)
        level = self._level
        grown = scheme.load_seed(seed, self._no_words, level)
        return np.stack([np.stack(rows), scheme.rns_coefficients(grown, len(self._primes))[1]])

    def load_public_key(self, public: bytes) -> Any:
        """The public key modulo the data primes, as a ciphertext: it encrypts zero."""
        scheme = self._scheme
        rows = scheme.rns_coefficients(scheme.public_key(public), len(scheme.parameters.primes))
        data = rows[:, : len(self._primes)].reshape(-1, scheme.parameters.degree)
        return scheme.load_unseeded(list(data), self._level, 1.0)

    def encrypt_zero(self, public_key: Any) -> Any:
        """(u·p0, u·p1) for a fresh ternary u.

        SEAL's own encryption of zero adds two errors of at most 21 and takes four times as long.
        Here the first would drown in flooding and the second in the rounding of words: with a
        probability of 2^-43 it would change anything (docs/SECURITY.md).
        """
        zero = api.Ciphertext()
        u = random_ternary(self._scheme.parameters.degree)
        self._evaluator.multiply_plain(public_key, self.encode(u, 0), zero)
        return zero

    def finalize(self, total: Any, returned: ReturnedCoefficients, zero: Any | None) -> bytes:
        if len(self._primes) > 1 and len(returned.positions) <= _MAX_ONE_BY_ONE:
            values = np.concatenate(self._rescaled(total, returned, zero)[::-1])
        else:
            both = self.flooded(total, returned, zero)
            rows = [np.concatenate([second, first]) for first, second in zip(*both, strict=True)]
            values = modulus_fractions(rows, self._primes)
        values[self._scheme.parameters.degree :] += returned.bias
        return joined(switch_modulus(values))

    def flooded(
        self, total: Any, returned: ReturnedCoefficients, zero: Any | None
    ) -> tuple[list[Residues], list[Residues]]:
        """A masked, flooded product before it is rounded: (returned first, whole second)."""
        self._mask(total, zero)
        self._evaluator.transform_from_ntt_inplace(total)
        components = self._scheme.rns_coefficients(total, len(self._primes))
        first = [row[returned.positions] for row in components[0]]
        return self._flood(first, returned), list(components[1])

    def _rescaled(
        self, total: Any, returned: ReturnedCoefficients, zero: Any | None
    ) -> tuple[list[float], FloatArray]:
        """The same for a few coefficients, with half as much to save, which takes SEAL longest.

        SEAL divides the second component by the second prime and rounds; the first's wanted
        residues are read, joined and flooded one by one: (returned first, whole second), both as
        fractions.
        """
        n, rescaled = self._scheme.parameters.degree, api.Ciphertext()
        self._mask(total, zero)
        self._evaluator.rescale_to_next(total, rescaled)
        self._evaluator.transform_from_ntt_inplace(rescaled)
        self._evaluator.transform_from_ntt_inplace(total)
        (p0, p1), q = self._primes, self._scheme.parameters.modulus
        first = []
        floods = flooding_integers(len(returned.positions), returned.flood)
        for k, flood in zip(returned.positions.tolist(), floods, strict=True):
            last = total[n + k]
            whole = last + p1 * ((total[k] - last) * self._inverse % p0)
            first.append((whole + flood) % q / q)
        return first, self._scheme.rns_coefficients(rescaled, 1)[1, 0] / p0

    def _mask(self, total: Any, zero: Any | None) -> None:
        try:
            if zero is not None:
                self._evaluator.add_inplace(total, zero)
        except (RuntimeError, ValueError) as e:
            raise FormatError("SEAL refuses this ciphertext", got=str(e)[:80]) from e

    def _flood(self, first: list[Residues], returned: ReturnedCoefficients) -> list[Residues]:
        if not returned.flood:
            return first
        flood = FloodingNoise(len(returned.positions), returned.flood)
        return [
            add_mod(row, flood.modulo(p), p) for row, p in zip(first, self._primes, strict=True)
        ]
