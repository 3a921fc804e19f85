"""One head under one profile: encoded once, applied to records of queries.

No files, no policy and no keys but the public one: `provider` has those.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from linalign_lite.core.head import Head
from linalign_lite.encrypt.keys import scheme_for
from linalign_lite.encrypt.messages import QueryInfo
from linalign_lite.encrypt.packing import (
    FloatArray,
    Layout,
    pack_rows,
    product_norm,
    score_positions,
)
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.precision import flood_bits, head_scale, query_scale, score_error
from linalign_lite.encrypt.response_encoding import pad_product
from linalign_lite.encrypt.scheme import ReturnedCoefficients
from linalign_lite.encrypt.wire import Record
from linalign_lite.encrypt.zero_pool import Zeros

_MAX_CACHED_SCALES = 256
Plaintexts = list[Any]  # of one product: the head's rows by chunk


@dataclass(frozen=True)
class Scales:
    """b of precision.head_scale, k of precision.flood_bits, and the error that they leave."""

    head: int
    flood: int
    error: float


class Scorer:
    """Scores records of queries of one profile with one head. Safe to share among threads.

    Encoded forms of the head (one for each layout and scale that queries have) are kept, the
    oldest dropped first, in ``cache_bytes`` all together; a form that is larger than that is
    encoded again for each record.
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
        self._scales: dict[tuple[Layout, int], Scales] = {}
        self._lock = threading.Lock()

    def scales(self, layout: Layout, bound: int) -> Scales:
        """For states of norm up to 2^bound. Raises PrecisionError when the modulus is too small."""
        key = layout, bound
        found = self._scales.get(key)  # once: another thread may clear them
        if found is None:
            if len(self._scales) > _MAX_CACHED_SCALES:  # a stranger may try many
                self._scales.clear()
            found = self._scales[key] = self._new_scales(layout, bound)
        return found

    def _new_scales(self, layout: Layout, bound: int) -> Scales:
        scale = head_scale(self.parameters, bound, self._row_norm, self._largest_bias)
        norm = product_norm(layout, self._weight)
        flood = flood_bits(self.parameters, scale, norm, layout.terms)
        fold = layout.fold(len(self._bias))
        return Scales(scale, flood, score_error(self.parameters, bound, scale, fold, flood))

    def score(
        self, query: QueryInfo, scales: Scales, index: int, record: Record, zeros: Zeros | None
    ) -> bytes:
        """One response record: the digest of what it answers, then the words of every product."""
        layout = query.layout
        live = layout.live(query.n, index)
        total = query_scale(self.parameters, query.norm_bits) + scales.head
        unit = 2.0 ** (total - self.parameters.data_bits)  # a score of 1, as part of the modulus
        parts = [record.digest]
        for k, product in enumerate(self._products(query, scales.head, record.payload)):
            bias = self._bias[k * layout.rows : (k + 1) * layout.rows]
            positions = score_positions(layout, len(bias))[:, :live]
            offsets = np.repeat(bias * unit, live)
            returned = ReturnedCoefficients(positions.ravel(), offsets, scales.flood)
            zero = None if zeros is None else zeros.take()
            reply = self._side.finalize(product, returned, zero)
            if live < layout.batch:  # places that hold no state are sent as zeros
                reply = pad_product(reply, layout.degree, len(bias), layout.batch)
            parts.append(reply)
        return b"".join(parts)

    def _products(self, query: QueryInfo, scale: int, payload: bytes) -> Iterator[Any]:
        layout, size = query.layout, self.scheme.query_size
        view = memoryview(payload)
        chunks = [view[i * size : (i + 1) * size] for i in range(query.chunks)]
        if layout.columns:
            yield from self._side.matrix_products(chunks, _integers(self._weight, scale))
            return
        loaded = [self._side.load_ciphertext(chunk) for chunk in chunks]
        for rows in self._plaintexts(layout, scale):
            yield self._side.inner_product(loaded, rows)

    def _plaintexts(self, layout: Layout, scale: int) -> Iterable[Plaintexts]:
        """The head encoded for a layout and scale, from the cache if it fits there."""
        plaintexts = layout.products(len(self._bias)) * layout.chunks
        size = plaintexts * self.scheme.plaintext_size
        if size > self._cache_bytes:
            return self._encoded(layout, scale)
        key = (layout.chunks, layout.batch, scale)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = size, list(self._encoded(layout, scale))
            self._cache.move_to_end(key)
            while sum(used for used, _ in self._cache.values()) > self._cache_bytes:
                self._cache.popitem(last=False)
            return self._cache[key][1]

    def _encoded(self, layout: Layout, scale: int) -> Iterator[Plaintexts]:
        for chunks in pack_rows(layout, self._weight):
            yield [self._side.encode(c, scale) for c in chunks]


def _integers(weight: FloatArray, scale: int) -> FloatArray:
    """Rows as integers. A row of zeros gets one unit, below rounding: SEAL refuses zeros."""
    whole: FloatArray = np.rint(weight * 2.0**scale)
    whole[~whole.any(axis=1), 0] = 1.0
    return whole
