"""Open an index and search it in the clear, a block of rows at a time."""

from __future__ import annotations

import functools
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
    HINT,
    IDS,
    IndexCard,
    OwnIds,
    RowNumbers,
    read_card,
    read_ids,
    unit,
)
from linalign_lite.retrieval.search import BLOCK, Best, Rows, comparable
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.hashing import hash_file
from linalign_lite.storage.places import listing

Stored = np.dtype("<i2")
_QUERIES = 1024  # queries scored at once


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
    def _shards(self) -> list[npt.NDArray[np.int16]]:
        dim = self.space.dim
        return [
            np.memmap(self.folder / s.file, Stored, "r", shape=(s.rows, dim)).view(np.ndarray)
            for s in self.card.shards
        ]

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
    ) -> tuple[Rows, npt.NDArray[np.float32]]:
        """Find the k rows with the highest scores for each query, or map(query); exact.

        queries: (q, d), after the map of the index's space. Scores are cosines or inner products,
        as the index was built. Returns numbers of rows (q, min(k, n)), highest score first and of
        equal scores the lower row first, and the scores. Raises MismatchError for queries of
        another space, InputError for k below 1.
        """
        states = as_states(queries)
        if map is not None:
            map.source.require(states.space, "this map does not read these queries")
        space = states.space if map is None else map.target
        self.space.require(space, "these queries do not belong in the index's space")
        if k < 1:
            raise InputError("k is not usable", got=str(k), expected="1 or more")
        found = []
        for top in range(0, len(states), _QUERIES):
            some = states.states[top : top + _QUERIES]
            some = comparable(some if map is None else map.apply(some), self.card.metric)
            best = Best(len(some), min(k, len(self)))
            step = max(1, BLOCK // (4 * max(len(some), self.space.dim)))
            for start in range(0, len(self), step):
                best.add(some @ self.rows(start, min(start + step, len(self))).T)
            found.append(best.ordered())
        return np.concatenate([r for r, _ in found]), np.concatenate([s for _, s in found])


def open_index(folder: PathLike, *, verify: bool = True) -> Index:
    """Open an index. verify: compare the digest of every shard, which reads all of it.

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
    if wrong := there.keys() ^ named:
        problem = "does not belong" if min(wrong) in there else "is missing"
        raise FormatError(f"{folder}: {min(wrong)[:60]} {problem}", hint=HINT)
    for shard in card.shards:
        path, size = folder / shard.file, shard.rows * card.space.dim * Stored.itemsize
        if (got := regular_size(path)) != size:
            problem = f"{path} does not have the size that its rows need"
            raise FormatError(problem, got=f"{got} bytes", expected=str(size), hint=HINT)
        if verify and hash_file(path) != shard.sha256:
            raise FormatError(f"{path} does not have the digest in {CARD}", hint=HINT)
    return Index(folder, card, read_ids(folder, card))
