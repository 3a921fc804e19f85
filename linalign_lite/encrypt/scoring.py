"""Rows of one head or index under one profile, applied to records of queries."""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from linalign_lite.core.executor import map_in_order
from linalign_lite.encrypt import packing
from linalign_lite.encrypt.chunk_products import ChunkProducts
from linalign_lite.encrypt.encoded_heads import EncodedHeads
from linalign_lite.encrypt.keys import seal_context
from linalign_lite.encrypt.masks import Masks, fresh_factors
from linalign_lite.encrypt.messages import QueryInfo
from linalign_lite.encrypt.modular import (
    MAX_FEATURES,
    FloodingNoise,
    Residues,
    add_mod,
    matmul_mod,
    modulus_fractions,
    switch_modulus,
    unpack_seeded,
)
from linalign_lite.encrypt.packing import ComplexArray, Layout
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.precision import Scales, choose_scales, factors, query_scale
from linalign_lite.encrypt.response_encoding import encode_words
from linalign_lite.encrypt.ring import Ring, limb_bits, spectrum
from linalign_lite.encrypt.scored_rows import ScoredRows
from linalign_lite.encrypt.wire import Record
from linalign_lite.errors import FormatError

_MAX_CACHED_SCALES = 256
_CLASSES = 512  # classes of a matrix product held at once
_SMALL_RECORD = 1 << 20  # bytes of a record whose residues are kept from its check to its score
_TOGETHER = 8  # products whose first components are computed at once


class Scorer:
    """Scores records of queries of one profile with some rows. Safe to share among threads.

    ``encoded``: where encoded rows are kept.
    """

    def __init__(
        self, rows: ScoredRows, parameters: Parameters, encoded: EncodedHeads, max_error: float
    ) -> None:
        self.parameters = parameters
        self._seal = seal_context(parameters)
        self.rows = rows
        self._encoded, self._max_error = encoded, max_error
        # queries may use any number of layouts and bounds
        self.scales = functools.lru_cache(_MAX_CACHED_SCALES)(self._choose_scales)
        self.ring = functools.lru_cache(_MAX_CACHED_SCALES)(self._exact_ring)
        self._parsed: tuple[bytes, tuple[tuple[Residues, bytes], ...]] = (b"", ())

    def _choose_scales(self, layout: Layout, norm_bits: int, proven: bool = False) -> Scales:
        """Scales for states of norm ≤ 2^norm_bits. PrecisionError when the modulus is too small.

        proven: the public key has a proof, to whose bounds flooding is fitted.
        """
        return choose_scales(
            self.parameters,
            layout,
            self.rows.n_outputs,
            norm_bits,
            row_norm=self.rows.row_norm,
            bias=self.rows.largest_bias,
            product_norm=self.rows.product_norm(layout.rows),
            row_scale=self.rows.row_scale,
            max_error=self._max_error,
            proven=proven,
        )

    def _exact_ring(self, layout: Layout, scales: Scales) -> Ring:
        """The arithmetic that is exact for this head at these scales, and for a mask beside it."""
        found = factors(layout, self.rows.product_norm(layout.rows), scales.weight_scale)
        bits = limb_bits(layout.degree, *found)
        return Ring(layout.degree, self.parameters.data_primes, bits, scales.rounding_bits)

    def check(self, query: QueryInfo, record: Record, masks: Masks | None) -> None:
        """Raise FormatError unless a record holds ciphertexts that can be scored.

        No two chunks may have one second component, nor that of the key: no honest client sends
        these, and products of theirs would be related.
        """
        seeds = {seed for _, seed in self._pairs(query, record)}
        if len(seeds) < query.chunks or (masks is not None and masks.seed in seeds):
            raise FormatError("a query uses a seed twice", hint="make the query again")

    def score(
        self,
        query: QueryInfo,
        scales: Scales,
        index: int,
        record: Record,
        masks: Masks | None,
        threads: int = 1,
    ) -> bytes:
        """Make one record of a response: the digest of the query record, then every product."""
        layout, primes, bits = query.layout, self.parameters.data_primes, scales.word_bits
        live = layout.live(query.n, index)
        total = query_scale(self.parameters, query.norm_bits) + scales.head
        unit = 2.0 ** (total - self.parameters.data_bits)  # a score of 1, as part of the modulus
        parts, k = [record.digest], 0
        if layout.columns:
            made = self._columns(query, scales, record, masks, live)
        else:
            made = self._inner(query, scales, record, masks, live, threads)
        for returned, seconds in made:
            flood(returned, scales.flood_bits, primes)
            fractions = modulus_fractions(returned, primes).reshape(-1, live)
            bias = self.rows.bias(k, k + len(fractions))
            answers = np.zeros((len(bias), layout.batch))  # zeros in places without a state
            answers[:, :live] = fractions + (bias * unit)[:, None]
            words = switch_modulus(answers, bits)
            for i, second in enumerate(seconds):
                rows = words[i * layout.rows : (i + 1) * layout.rows]
                parts += [second, encode_words(rows, bits)]
            k += len(bias)
        return b"".join(parts)

    def _pairs(self, query: QueryInfo, record: Record) -> Iterable[tuple[Residues, bytes]]:
        """Each chunk's first component, as sent, and the seed of its second."""
        digest, kept = self._parsed
        if digest == record.digest:  # it was checked just before
            return kept
        view, size = memoryview(record.payload), query.chunk_size
        pairs = (
            unpack_seeded(view[i : i + size], query.window[1], self.parameters.data_primes)
            for i in range(0, len(view), size)
        )
        if len(view) > _SMALL_RECORD:
            return pairs
        found = tuple(pairs)
        self._parsed = record.digest, found
        return found

    def ciphertexts(self, query: QueryInfo, record: Record) -> Iterator[Residues]:
        """Both components of each chunk, zeros where a first one has no coefficient: (2, p, N)."""
        (start, count), degree = query.window, self.parameters.degree
        before = -start  # negative ones count from the end
        for first, seed in self._pairs(query, record):
            both = np.zeros((2, len(first), degree), dtype=np.uint64)
            both[0, :, degree - before :] = first[:, :before]
            both[0, :, : count - before] = first[:, before:]
            both[1] = self._seal.grown(seed)
            yield both

    def _columns(
        self, query: QueryInfo, scales: Scales, record: Record, masks: Masks | None, live: int
    ) -> Iterator[tuple[Residues, list[bytes]]]:
        """Each product in the packing columns, masked: as `_inner`."""
        ring = self.ring(query.layout, scales)
        moduli = np.array(ring.primes, dtype=np.uint64)[:, None]
        for bare in self._matrix_products(query, ring, scales.head, record):
            mask = None if masks is None else ring.residues(masks.draw(ring))
            first, second = bare if mask is None else add_mod(bare, mask, moduli)
            yield first[:, :live].copy(), [in_words(second, ring, scales.word_bits)]

    def _inner(
        self,
        query: QueryInfo,
        scales: Scales,
        record: Record,
        masks: Masks | None,
        live: int,
        threads: int,
    ) -> Iterator[tuple[Residues, list[bytes]]]:
        """Some products at once, masked: (primes, m) where scores are, and second components.

        Second components are in words. A mask is one chunk more: the key, times its u. With
        threads, as many groups of products are computed at once.
        """
        layout, n = query.layout, self.rows.n_outputs
        ring = self.ring(layout, scales)
        positions = packing.score_positions(layout, layout.fold(n))[:, :live].ravel()
        spectra: Iterable[ComplexArray] = map(ring.spectra, self.ciphertexts(query, record))
        if masks is not None:
            spectra = itertools.chain(spectra, [masks.key(ring)])
        products, plaintexts = layout.products(n), self._plaintexts(layout, scales.weight_scale)
        sums = ChunkProducts(spectra, layout.chunks + (masks is not None), products).sums

        def group(start: int) -> tuple[Residues, list[bytes]]:
            some = [[*plaintexts(k)] for k in range(start, min(start + _TOGETHER, products))]
            if masks is not None:
                for rows, fresh in zip(some, fresh_factors(len(some), layout.degree), strict=True):
                    rows.append(fresh)
            totals = sums(some)
            seconds = ring.residues(totals[:, 1])
            returned = ring.residues(totals[:, 0], positions).swapaxes(0, 1)
            used = (min((start + len(some)) * layout.rows, n) - start * layout.rows) * live
            found = returned.reshape(len(ring.primes), -1)[:, :used].copy()
            return found, [in_words(second, ring, scales.word_bits) for second in seconds]

        starts = range(0, products, _TOGETHER)
        with contextlib.ExitStack() as stack:
            if threads == 1 or len(starts) == 1:
                yield from map(group, starts)
            else:
                pool = stack.enter_context(ThreadPoolExecutor(threads))
                yield from map_in_order(pool, group, starts, in_flight=threads + 1)

    def _matrix_products(
        self, query: QueryInfo, ring: Ring, scale: int, record: Record
    ) -> Iterator[Residues]:
        """Both components of each product in the packing columns: (2, primes, N)."""
        primes = self.parameters.data_primes
        n = self.rows.n_outputs
        for start in range(0, n, _CLASSES):
            rows = self.rows.encoded(start, min(start + _CLASSES, n), scale)
            part, at = rows.astype(np.float64), 0
            totals = np.zeros((len(part), 2, len(primes), ring.degree), dtype=np.uint64)
            ciphertexts = self.ciphertexts(query, record)
            while chosen := list(itertools.islice(ciphertexts, MAX_FEATURES)):
                block, some = np.stack(chosen), part[:, at : at + len(chosen)]
                for component in range(2):
                    for i, prime in enumerate(primes):
                        product = matmul_mod(some, block[:, component, i], prime)
                        total = totals[:, component, i]
                        total[:] = add_mod(total, product, prime)
                at += len(chosen)
            yield from totals

    def _plaintexts(self, layout: Layout, scale: int) -> Callable[[int], ComplexArray]:
        """A function that gives the rows of a product: spectra, (chunks, N/2).

        From the cache if it fits, else they are encoded when they are asked for.
        """
        n, rows = self.rows.n_outputs, layout.rows

        def encode(k: int) -> ComplexArray:
            some = self.rows.encoded(k * rows, min((k + 1) * rows, n), scale)
            return spectrum(packing.pack_product(layout, some))

        shape = layout.products(n), layout.chunks, layout.degree // 2
        key = layout.chunks, layout.batch, layout.rows, scale
        kept = self._encoded.get(key, shape, map(encode, range(shape[0])))
        return kept.__getitem__ if isinstance(kept, list) else encode


def in_words(second: Residues, ring: Ring, word_bits: int) -> bytes:
    """Switch a second component, (primes, N), to words of ``word_bits``."""
    return encode_words(
        switch_modulus(modulus_fractions(second, ring.primes), word_bits), word_bits
    )


def flood(returned: Residues, bits: int, primes: tuple[int, ...]) -> None:
    """Add fresh flooding of ``bits`` bits, none for 0, to coefficients: (primes, m), in place."""
    if bits:
        noise = FloodingNoise(returned.shape[1], bits)
        for row, prime in zip(returned, primes, strict=True):
            row[:] = add_mod(row, noise.modulo(prime), prime)
