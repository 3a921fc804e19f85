"""The side without a secret key, by SEAL: implements scheme.ServerSide."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tenseal.sealapi as api

from linalign_lite.encrypt import modular
from linalign_lite.encrypt.modular import MAX_FEATURES, Residues, add_mod
from linalign_lite.encrypt.packing import FloatArray, to_slots
from linalign_lite.encrypt.response_encoding import encode_product
from linalign_lite.encrypt.scheme import ReturnedCoefficients
from linalign_lite.encrypt.seal.context import SealContext
from linalign_lite.encrypt.seal.serialization import seal_errors

_MAX_ONE_BY_ONE = 256  # returned coefficients up to which reading them one by one is faster
_CLASSES = 1024  # classes of a matrix product held at once


class SealServerSide:
    """Multiplies, adds, masks. SEAL holds the interpreter lock: threads gain nothing."""

    def __init__(self, seal: SealContext) -> None:
        self._seal = seal
        self._encoder = api.CKKSEncoder(seal.context)
        self._evaluator = api.Evaluator(seal.context)
        self._level = seal.context.first_parms_id()
        self._primes = seal.parameters.data_primes
        first, *more = self._primes
        self._inverse = pow(more[0], -1, first) if more else 1  # of the second prime, by the first
        self._zeros = [np.zeros(seal.parameters.degree, dtype=np.uint64)] * len(self._primes)

    def encode(self, coefficients: FloatArray, scale: int) -> Any:
        if np.max(np.abs(coefficients)) * 2.0**scale < 1:
            # SEAL refuses a product that is zero whatever the key; one unit is below rounding
            coefficients = coefficients.copy()
            coefficients[0] = 2.0**-scale
        plain = api.Plaintext()
        self._encoder.encode(to_slots(coefficients).tolist(), 2.0**scale, plain)
        plain.scale = 1.0  # headers keep the scales; SEAL would refuse large ones
        return plain

    def load_ciphertext(self, payload: bytes | memoryview) -> Any:
        rows, seed = self._seal.unpack(payload, self._primes)
        return self._seal.load(api.Ciphertext(), rows, self._level, seed=seed)

    def inner_product(self, queries: Sequence[Any], rows: Sequence[Any]) -> Any:
        total, term = api.Ciphertext(), api.Ciphertext()
        with seal_errors():
            self._evaluator.multiply_plain(queries[0], rows[0], total)
            for query, row in zip(queries[1:], rows[1:], strict=True):
                self._evaluator.multiply_plain(query, row, term)
                self._evaluator.add_inplace(total, term)
        return total

    def matrix_products(
        self, payloads: Sequence[bytes | memoryview], weight: FloatArray
    ) -> Iterator[Any]:
        for start in range(0, len(weight), _CLASSES):
            yield from self._matrix_products(payloads, weight[start : start + _CLASSES])

    def _matrix_products(
        self, payloads: Sequence[bytes | memoryview], weight: FloatArray
    ) -> Iterator[Any]:
        n, primes = self._seal.parameters.degree, self._primes
        totals = np.zeros((2, len(primes), len(weight), n), dtype=np.uint64)
        for start in range(0, len(payloads), MAX_FEATURES):
            chosen = payloads[start : start + MAX_FEATURES]
            block = np.stack([self._expanded(p) for p in chosen], axis=2)
            part = weight[:, start : start + block.shape[2]]
            for component in range(2):
                for i, prime in enumerate(primes):
                    product = modular.matmul_mod(part, block[component, i], prime)
                    totals[component, i] = add_mod(totals[component, i], product, prime)
        for k in range(len(weight)):
            rows = list(totals[:, :, k].reshape(-1, n))
            yield self._seal.load(api.Ciphertext(), rows, self._level)

    def _expanded(self, payload: bytes | memoryview) -> Residues:
        """Both components of a query's ciphertext: (2, primes, N).

        SEAL grows the second from its seed; zeros stand for the first, as they are quick to save.
        """
        seal = self._seal
        rows, seed = seal.unpack(payload, self._primes)
        grown = seal.load(api.Ciphertext(), self._zeros, self._level, seed=seed)
        return np.stack([np.stack(rows), seal.rns_coefficients(grown, len(self._primes))[1]])

    def load_public_key(self, public: bytes) -> Any:
        """Load the public key modulo the data primes as a ciphertext: it encrypts zero."""
        seal = self._seal
        rows = seal.rns_coefficients(seal.public_key(public), len(seal.parameters.primes))
        data = rows[:, : len(self._primes)].reshape(-1, seal.parameters.degree)
        return seal.load(api.Ciphertext(), list(data), self._level)

    def encrypt_zero(self, public_key: Any) -> Any:
        """Compute (u·p0, u·p1) for a fresh ternary u.

        SEAL's own encryption of zero adds two errors of at most 21 and takes four times as long.
        The first is negligible beside flooding, the second beside rounding modulo 2^32: it changes
        a value with a probability of 2^-43 at most (docs/SECURITY.md).
        """
        zero = api.Ciphertext()
        u = modular.random_ternary(self._seal.parameters.degree)
        self._evaluator.multiply_plain(public_key, self.encode(u, 0), zero)
        return zero

    def finalize(self, product: Any, returned: ReturnedCoefficients, zero: Any | None) -> bytes:
        if len(self._primes) > 1 and len(returned.positions) <= _MAX_ONE_BY_ONE:
            values = np.concatenate(self._rescaled(product, returned, zero)[::-1])
        else:
            both = self.flooded(product, returned, zero)
            rows = [np.concatenate([second, first]) for first, second in zip(*both, strict=True)]
            values = modular.modulus_fractions(rows, self._primes)
        values[self._seal.parameters.degree :] += returned.bias
        return encode_product(modular.switch_modulus(values))

    def flooded(
        self, product: Any, returned: ReturnedCoefficients, zero: Any | None
    ) -> tuple[list[Residues], list[Residues]]:
        """Mask and flood a product. Returns residues, by prime: (returned first, whole second)."""
        self._mask(product, zero)
        self._evaluator.transform_from_ntt_inplace(product)
        components = self._seal.rns_coefficients(product, len(self._primes))
        first = [row[returned.positions] for row in components[0]]
        if returned.flood_bits:
            noise = modular.FloodingNoise(len(returned.positions), returned.flood_bits)
            pairs = zip(first, self._primes, strict=True)
            first = [add_mod(row, noise.modulo(prime), prime) for row, prime in pairs]
        return first, list(components[1])

    def _rescaled(
        self, product: Any, returned: ReturnedCoefficients, zero: Any | None
    ) -> tuple[list[float], FloatArray]:
        """The same for a few coefficients, as fractions of the modulus: SEAL saves half as much.

        SEAL divides the second component by the second prime and rounds. Wanted residues of the
        first are read, combined and flooded one by one.
        """
        n, rescaled = self._seal.parameters.degree, api.Ciphertext()
        self._mask(product, zero)
        self._evaluator.rescale_to_next(product, rescaled)
        self._evaluator.transform_from_ntt_inplace(rescaled)
        self._evaluator.transform_from_ntt_inplace(product)
        (p0, p1), q = self._primes, self._seal.parameters.modulus
        first = []
        floods = modular.flooding_integers(len(returned.positions), returned.flood_bits)
        for k, flood in zip(returned.positions.tolist(), floods, strict=True):
            last = product[n + k]
            whole = last + p1 * ((product[k] - last) * self._inverse % p0)
            first.append((whole + flood) % q / q)
        return first, self._seal.rns_coefficients(rescaled, 1)[1, 0] / p0

    def _mask(self, product: Any, zero: Any | None) -> None:
        if zero is not None:
            with seal_errors():
                self._evaluator.add_inplace(product, zero)
