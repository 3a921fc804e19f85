"""One head under one profile: encoded once, applied to records of queries."""

import functools
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from linalign_lite.core.head import Head
from linalign_lite.encrypt import packing
from linalign_lite.encrypt.keys import scheme_for
from linalign_lite.encrypt.messages import QueryInfo
from linalign_lite.encrypt.packing import Layout
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.precision import Scales, choose_scales, query_scale
from linalign_lite.encrypt.response_encoding import pad_product
from linalign_lite.encrypt.scheme import ReturnedCoefficients
from linalign_lite.encrypt.wire import Record
from linalign_lite.encrypt.zero_pool import Zeros

_MAX_CACHED_SCALES = 256
Plaintexts = list[Any]  # of one product: encoded head rows by chunk


class Scorer:
    """Scores records of queries of one profile with one head. Safe to share among threads.

    Encoded heads, one per layout and scale, are cached in ``cache_bytes``, the least recently used
    dropped first; a larger one is encoded anew for each record.
    """

    def __init__(self, head: Head, parameters: Parameters, cache_bytes: int) -> None:
        self.parameters = parameters
        self.scheme = scheme_for(parameters)
        self._side = self.scheme.server_side()
        self._weight = head.weight.astype(np.float64)
        self._bias = head.bias.astype(np.float64)
        self._row_norm = float(np.linalg.norm(self._weight, axis=1).max())
        self._largest_bias = float(np.abs(self._bias).max())
        self._cache_bytes = cache_bytes
        self._cache: OrderedDict[tuple[int, ...], tuple[int, list[Plaintexts]]] = OrderedDict()
        # queries may use any number of layouts and bounds
        self.scales = functools.lru_cache(_MAX_CACHED_SCALES)(self._choose_scales)
        self._lock = threading.Lock()

    def _choose_scales(self, layout: Layout, norm_bits: int) -> Scales:
        """Scales for states of norm ≤ 2^norm_bits. PrecisionError when the modulus is too small."""
        return choose_scales(
            self.parameters,
            layout,
            len(self._bias),
            norm_bits,
            row_norm=self._row_norm,
            bias=self._largest_bias,
            product_norm=packing.product_norm(layout, self._weight),
        )

    def score(
        self, query: QueryInfo, scales: Scales, index: int, record: Record, zeros: Zeros | None
    ) -> bytes:
        """Make one record of a response: the digest of the query record, then every product."""
        layout = query.layout
        live = layout.live(query.n, index)
        total = query_scale(self.parameters, query.norm_bits) + scales.head
        unit = 2.0 ** (total - self.parameters.data_bits)  # a score of 1, as part of the modulus
        parts = [record.digest]
        for k, product in enumerate(self._products(query, scales.head, record.payload)):
            bias = self._bias[k * layout.rows : (k + 1) * layout.rows]
            positions = packing.score_positions(layout, len(bias))[:, :live]
            offsets = np.repeat(bias * unit, live)
            returned = ReturnedCoefficients(positions.ravel(), offsets, scales.flood_bits)
            zero = None if zeros is None else zeros.take()
            encoded = self._side.finalize(product, returned, zero)
            if live < layout.batch:  # places without a state are sent as zeros
                encoded = pad_product(encoded, layout.degree, len(bias), layout.batch)
            parts.append(encoded)
        return b"".join(parts)

    def _products(self, query: QueryInfo, scale: int, payload: bytes) -> Iterator[Any]:
        layout, size = query.layout, self.scheme.query_size
        view = memoryview(payload)
        chunks = [view[i * size : (i + 1) * size] for i in range(query.chunks)]
        if layout.columns:
            whole = np.rint(self._weight * 2.0**scale)
            whole[~whole.any(axis=1), 0] = 1.0  # below rounding: SEAL refuses rows of zeros
            yield from self._side.matrix_products(chunks, whole)
            return
        loaded = [self._side.load_ciphertext(chunk) for chunk in chunks]
        for rows in self._plaintexts(layout, scale):
            yield self._side.inner_product(loaded, rows)

    def _plaintexts(self, layout: Layout, scale: int) -> Iterable[Plaintexts]:
        """The head encoded for a layout and scale, from the cache if it fits."""
        products = packing.pack_rows(layout, self._weight)
        encoded = ([self._side.encode(c, scale) for c in chunks] for chunks in products)
        plaintexts = layout.products(len(self._bias)) * layout.chunks
        size = plaintexts * self.scheme.plaintext_size
        if size > self._cache_bytes:
            return encoded
        key = (layout.chunks, layout.batch, scale)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = size, list(encoded)
            self._cache.move_to_end(key)
            while sum(used for used, _ in self._cache.values()) > self._cache_bytes:
                self._cache.popitem(last=False)
            return self._cache[key][1]
