"""Sums over the chunks of a query of spectra times factors: many products at once.

With few products each is computed by itself. With many, spectra are laid out by root of unity, so
that the sums of several products are a matrix product at each root, which reads a chunk from
memory once for all of them: an eighth of the time, but spectra are transposed before and after.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from linalign_lite.encrypt.packing import ComplexArray

_MANY = 16  # products, and _CHUNKS chunks, from which transposing is worth it
_CHUNKS = 4


class ChunkProducts:
    """The chunks of a query: spectra of both components, (2, primes, limbs, N/2) each.

    ``count``: of chunks. They are taken one by one, and held once. ``products``: that will be asked
    for in all. Safe to share among threads.
    """

    def __init__(self, chunks: Iterable[ComplexArray], count: int, products: int) -> None:
        self._by_root: ComplexArray | None = None
        self._chunks: list[ComplexArray] = []
        if products < _MANY or count < _CHUNKS:
            self._chunks = list(chunks)
            self._shape = self._chunks[0].shape
            return
        for k, chunk in enumerate(chunks):
            if self._by_root is None:
                self._shape, roots = chunk.shape, chunk.shape[-1]
                self._by_root = np.empty((roots, count, chunk.size // roots), dtype=np.complex128)
            self._by_root[:, k] = chunk.reshape(-1, chunk.shape[-1]).T

    def sums(self, factors: Sequence[Sequence[ComplexArray]]) -> ComplexArray:
        """Compute Σ_c chunk_c·factor_c of some products: (products, 2, primes, limbs, N/2).

        factors: of each product, for each chunk, (N/2,).
        """
        out = np.empty((len(factors), *self._shape), dtype=np.complex128)
        if self._by_root is None:
            term = np.empty(self._shape, dtype=np.complex128)
            for total, some in zip(out, factors, strict=True):
                np.multiply(self._chunks[0], some[0], out=total)
                for chunk, factor in zip(self._chunks[1:], some[1:], strict=True):
                    np.add(total, np.multiply(chunk, factor, out=term), out=total)
            return out
        roots, chunks, parts = self._by_root.shape
        by_root = np.empty((roots, len(factors), chunks), dtype=np.complex128)
        for k, some in enumerate(factors):
            by_root[:, k] = np.asarray(some).T
        found = by_root @ self._by_root
        out.reshape(len(factors), parts, roots)[:] = found.transpose(1, 2, 0)
        return out
