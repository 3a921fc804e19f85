"""Open an index and search it in the clear, a block of rows at a time."""

from __future__ import annotations

import functools
import hashlib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.hidden_states import HiddenStates, as_states
from linalign_lite.core.shards.manifest import regular_size
from linalign_lite.core.space import Space
from linalign_lite.errors import FormatError, InputError
from linalign_lite.retrieval.index.card import (
    CARD,
    CENTROIDS,
    HINT,
    IDS,
    MAX_ID,
    IndexCard,
    OwnIds,
    RowNumbers,
    Stored,
    read_card,
    read_ids,
    unit,
)
from linalign_lite.retrieval.index.clusters import (
    Centroids,
    intervals,
    read_centroids,
    require_clusters,
    row_numbers,
)
from linalign_lite.retrieval.search import BLOCK, Best, Rows, comparable, highest
from linalign_lite.storage.atomic import PathLike, open_regular
from linalign_lite.storage.places import listing

_QUERIES = 1024  # queries scored at once
_VERIFIED = 1 << 18  # values


@dataclass(frozen=True, eq=False)
class Index:
    """Document vectors as fixed-point rows: memory-mapped shards, of which blocks are read."""

    folder: Path
    card: IndexCard
    ids: OwnIds | RowNumbers

    def __len__(self) -> int:
        return self.card.rows

    def __repr__(self) -> str:
        return f"Index({len(self)} rows, {self.space.describe()})"

    @property
    def space(self) -> Space:
        """Space of the rows."""
        return self.card.space

    def __getstate__(self) -> dict[str, Any]:  # maps stay in their process
        return {name: getattr(self, name) for name in ("folder", "card", "ids")}

    @functools.cached_property
    def centroids(self) -> Centroids:
        """Centroids of the clusters. Raises InputError where there are none."""
        return read_centroids(self.folder, self.card)

    @functools.cached_property
    def _shards(self) -> list[npt.NDArray[np.int16]]:
        return [_mapped(self.folder / s.file, s.rows, self.card) for s in self.card.shards]

    def stored(self, start: int, stop: int) -> npt.NDArray[np.int16]:
        """Rows from ``start`` to before ``stop``, as stored: (n, d)."""
        parts, first = [], 0
        for shard in self._shards:
            low, high = max(start - first, 0), min(stop - first, len(shard))
            if low < high:
                parts.append(shard[low:high])
            first += len(shard)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Rows from ``start`` to before ``stop``, exact: (n, d)."""
        return self.stored(start, stop) * np.float32(unit(self.card))

    def search(
        self,
        queries: HiddenStates | Array,
        k: int = 10,
        map: AffineMap | None = None,  # noqa: A002 (the field's word)
        *,
        clusters: int | None = None,
    ) -> tuple[Rows, npt.NDArray[np.float32]]:
        """Find the k rows with the highest scores for each query, or map(query).

        queries: (q, d), after the map of the index's space. Scores are cosines or inner products,
        as the index was built. Exact, unless only rows of the nearest ``clusters`` are looked at,
        and of as many more as hold k rows. Returns numbers of rows (q, min(k, n)), highest score
        first and of equal scores the lower row first, and the scores. Raises MismatchError for
        queries of another space, InputError for k or clusters below 1, or for an index without any.
        """
        states = as_states(queries)
        if map is not None:
            map.require_readable(states.space, "queries", any_prompt=True)
        space = states.space if map is None else map.target
        what = "these queries do not belong in the index's space"
        self.space.require(space, what, any_prompt=True)
        if k < 1:
            raise InputError("k is not usable", got=str(k), expected="1 or more")
        if clusters is not None and clusters < 1:
            raise InputError("clusters are not usable", got=str(clusters), expected="1 or more")
        found = []
        for top in range(0, len(states), _QUERIES):
            some = states.states[top : top + _QUERIES]
            some = comparable(some if map is None else map.apply(some), self.card.metric)
            if clusters is not None:
                found += [self._in_clusters(query, k, clusters) for query in some]
                continue
            best = Best(len(some), min(k, len(self)))
            step = max(1, BLOCK // (4 * max(len(some), self.space.dim)))
            for start in range(0, len(self), step):
                best.add(some @ self.rows(start, min(start + step, len(self))).T)
            found.append(best.ordered())
        return np.concatenate([r for r, _ in found]), np.concatenate([s for _, s in found])

    def _in_clusters(
        self, query: npt.NDArray[np.float32], k: int, count: int
    ) -> tuple[Rows, npt.NDArray[np.float32]]:
        """The k best rows of the nearest clusters, and their scores: (1, min(k, n)) each."""
        sizes = np.array(require_clusters(self.card).sizes)
        nearest = self.centroids.nearest(query[None], len(sizes))[0]
        count = max(count, int(np.searchsorted(np.cumsum(sizes[nearest]), min(k, len(self)))) + 1)
        asked = np.sort(nearest[:count]).tolist()
        parts = [self.rows(*ends) @ query for ends in intervals(self.card, asked)]
        scores = np.concatenate(parts)[None]
        best = highest(scores, k)
        return row_numbers(self.card, asked)[best], np.take_along_axis(scores, best, axis=1)


def open_index(folder: PathLike, *, verify: bool = True) -> Index:
    """Open an index. verify: compare the digest and the norms of every shard, which reads it.

    What is verified is what is mapped, and read from then on. A file must not change meanwhile.
    Raises InputError when it is no index, FormatError when a file is missing, altered or does not
    belong.
    """
    folder = Path(folder)
    there = listing(folder)
    if CARD not in there:
        hint = "make one with `linalign-lite index build VECTORS OUT`"
        raise InputError(f"{folder} is not an index: no {CARD}", hint=hint)
    regular_size(folder / CARD)
    card = read_card(folder)
    named = {CARD, *(shard.file for shard in card.shards), *([IDS] if card.ids else [])}
    named |= {CENTROIDS} if card.clusters else set()
    if wrong := there.keys() ^ named:
        problem = "does not belong" if min(wrong) in there else "is missing"
        raise FormatError(f"{folder}: {min(wrong)[:60]} {problem}", hint=HINT)
    if card.ids and regular_size(folder / IDS) > card.rows * (MAX_ID + 1):
        raise FormatError(f"{folder / IDS} is too large for its rows", hint=HINT)
    index = Index(folder, card, read_ids(folder, card))
    if card.clusters:
        regular_size(folder / CENTROIDS)
        assert index.centroids is not None
    for shard, rows in zip(card.shards, index._shards, strict=True):
        if verify:
            _verify(folder / shard.file, shard.sha256, rows, card)
    return index


def _mapped(path: Path, rows: int, card: IndexCard) -> npt.NDArray[np.int16]:
    """Map a shard by one descriptor: whatever gets its name later, this file is read."""
    regular_size(path)
    with open_regular(path) as f:
        got, size = os.fstat(f.fileno()).st_size, rows * card.space.dim * Stored.itemsize
        if got != size:
            problem = f"{path} does not have the size that its rows need"
            raise FormatError(problem, got=f"{got} bytes", expected=str(size), hint=HINT)
        return np.memmap(f, Stored, "r", shape=(rows, card.space.dim)).view(np.ndarray)


def _verify(path: Path, digest: str, rows: npt.NDArray[np.int16], card: IndexCard) -> None:
    """Compare the digest of a shard, and its norms with what scales are chosen by."""
    sha, largest = hashlib.sha256(), 0.0
    step = max(1, _VERIFIED // card.space.dim)
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        sha.update(block.data)
        largest = max(largest, float(np.square(block, dtype=np.float64).sum(axis=1).max()))
    if sha.hexdigest() != digest:
        raise FormatError(f"{path} does not have the digest in {CARD}", hint=HINT)
    # a row that was rounded is √d/2 steps longer at most, and float32 errs
    most = card.largest_norm * (1 + 1e-6) + math.sqrt(card.space.dim) / 2 * unit(card)
    if not math.sqrt(largest) * unit(card) <= most:
        raise FormatError(f"{path} has a row that is longer than {CARD} states", hint=HINT)
