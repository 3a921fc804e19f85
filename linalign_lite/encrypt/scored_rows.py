"""Rows that a provider scores with, of a head or of an index, as a scorer needs them."""

from __future__ import annotations

import functools
import hashlib
import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from linalign_lite.core.head import Head
from linalign_lite.core.space import Space
from linalign_lite.encrypt.packing import FloatArray, largest_norm
from linalign_lite.errors import MismatchError
from linalign_lite.retrieval.index.card import FRACTION, card_digest, ids_digest
from linalign_lite.retrieval.index.clusters import intervals
from linalign_lite.retrieval.index.reading import Index


class ScoredRows(Protocol):
    """n_outputs rows and biases. Safe to share among threads.

    ids: of an index, `ids_digest`; "" of a head.
    row_norm: bound on the norm of a row. row_scale: rows are rounded to multiples of 2^-row_scale
    where the error allows it; None: as precision.choose_scales finds fit.
    """

    @property
    def n_outputs(self) -> int: ...
    @property
    def space(self) -> Space: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def softcap(self) -> float | None: ...
    @property
    def ids(self) -> str: ...
    @property
    def row_norm(self) -> float: ...
    @property
    def largest_bias(self) -> float: ...
    @property
    def row_scale(self) -> int | None: ...

    def product_norm(self, rows: int) -> float:
        """Bound the norm of ``rows`` rows in sequence."""
        ...

    def encoded(self, start: int, stop: int, scale: int) -> npt.NDArray[Any]:
        """Rows from ``start`` to before ``stop`` times 2^scale, rounded: integers, (n, d)."""
        ...

    def bias(self, start: int, stop: int) -> FloatArray:
        """Biases of these rows, (n,)."""
        ...

    def digest(self) -> bytes:
        """SHA-256 of all that scores depend on."""
        ...


class HeadRows:
    """The rows of a head; its weight is used as it is, for it may be mapped, and shared."""

    ids = ""
    row_scale: int | None = None

    def __init__(self, head: Head) -> None:
        self._head = head
        self.n_outputs, self.space = head.n_outputs, head.space
        self.labels = head.labels
        self.softcap = None if head.softcap is None else float(head.softcap)
        self._bias = head.bias.astype(np.float64)
        self.largest_bias = float(np.abs(self._bias).max())
        self.product_norm = functools.lru_cache(64)(self._product_norm)

    @functools.cached_property
    def row_norm(self) -> float:
        return self.product_norm(1)

    def _product_norm(self, rows: int) -> float:
        return largest_norm(self._head.weight, rows)

    def encoded(self, start: int, stop: int, scale: int) -> npt.NDArray[Any]:
        rows: FloatArray = np.rint(self._head.weight[start:stop].astype(np.float64) * 2.0**scale)
        return rows

    def bias(self, start: int, stop: int) -> FloatArray:
        return self._bias[start:stop]

    def digest(self) -> bytes:
        head, sha = self._head, hashlib.sha256()
        for array in (head.weight, head.bias):
            sha.update(repr((array.dtype.str, array.shape)).encode())
            sha.update(array.tobytes())
        sha.update(repr((head.labels, head.softcap, head.space)).encode())
        return sha.digest()


class IndexRows:
    """The rows of an index, or of some of its clusters, read from its shards when they are needed.

    Norms are bounds: of a row before it was rounded, and √d/2 steps of either rounding.
    """

    labels: tuple[str, ...] = ()
    softcap: float | None = None
    largest_bias = 0.0

    def __init__(self, index: Index, clusters: tuple[int, ...] = ()) -> None:
        self._index, card = index, index.card
        self._parts = intervals(card, clusters)
        self.n_outputs, self.space = sum(b - a for a, b in self._parts), card.space
        self.ids = ids_digest(card)
        self.row_scale: int | None = card.row_bits - card.exponent
        step = math.ldexp(1.0, -self.row_scale)
        self.row_norm = card.largest_norm + math.sqrt(card.space.dim) * step

    def product_norm(self, rows: int) -> float:
        return math.sqrt(min(rows, self.n_outputs)) * self.row_norm

    def encoded(self, start: int, stop: int, scale: int) -> npt.NDArray[Any]:
        stored, shift = self._stored(start, stop), self._index.card.exponent - FRACTION
        shift += scale
        if shift >= 0:
            return stored.astype(np.int64) << shift
        return (stored.astype(np.int32) + (1 << -shift - 1)) >> -shift

    def _stored(self, start: int, stop: int) -> npt.NDArray[np.int16]:
        """Rows by their places among those of the clusters."""
        found, first = [], 0
        for a, b in self._parts:
            low, high = max(start - first, 0), min(stop - first, b - a)
            if low < high:
                found.append(self._index.stored(a + low, a + high))
            first += b - a
        return found[0] if len(found) == 1 else np.concatenate(found)

    def bias(self, start: int, stop: int) -> FloatArray:
        return np.zeros(stop - start)

    def digest(self) -> bytes:
        return bytes.fromhex(card_digest(self._index.card))


def rows_of(
    scored: Head | Index, clusters: tuple[int, ...] = (), index: str = ""
) -> HeadRows | IndexRows:
    """Return the rows of a head, of an index, or of clusters of the index whose card has a digest.

    Raises MismatchError for clusters that are not this index's.
    """
    if clusters:
        card = scored.card if isinstance(scored, Index) else None
        if card is None or card.clusters is None or card_digest(card) != index:
            raise MismatchError(
                "the clusters of this query are of another index, or this one has none",
                hint="encrypt it with this provider's index.json and centroids.rows",
            )
    return IndexRows(scored, clusters) if isinstance(scored, Index) else HeadRows(scored)
