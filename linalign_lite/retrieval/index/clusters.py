"""Clusters of an index: which are nearest to a query, and which rows they hold.

Cluster c is the rows after those of clusters 0 to c−1. Its centroid is a row of `centroids.rows`,
in the form of the shards. docs/FORMAT.md, section 12.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array
from linalign_lite.errors import FormatError, InputError, MismatchError
from linalign_lite.retrieval.index.card import (
    CENTROIDS,
    HINT,
    Clusters,
    IndexCard,
    RowIds,
    Stored,
    beside,
    unit,
)
from linalign_lite.retrieval.search import Rows, comparable, highest
from linalign_lite.storage.atomic import PathLike, open_regular

MAX_ASKED = 512  # clusters that one query may name
ENOUGH = 0.95  # of the first ten: the recall by which "auto" chooses


@dataclass(frozen=True, eq=False)
class Centroids:
    """Centroids of the clusters of one index: (c, d)."""

    card: IndexCard
    values: npt.NDArray[np.float32] = field(repr=False)

    def content(self) -> bytes:
        """Return the content of `centroids.rows`."""
        stored: npt.NDArray[np.int16] = np.rint(self.values / unit(self.card)).astype(Stored)
        return stored.tobytes()

    def nearest(self, vectors: Array, count: int) -> Rows:
        """The clusters whose centroids score highest with each vector: (n, min(count, c)).

        The highest first. Scores are cosines or inner products, as the index was built.
        """
        return highest(comparable(vectors, self.card.metric) @ self.values.T, count)


@dataclass(frozen=True, eq=False)
class NearestClusters:
    """An index of which a query asks the ``count`` clusters that are nearest to each state.

    Raises InputError for a count below 1.
    """

    centroids: Centroids
    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise InputError("clusters are not usable", got=str(self.count), expected="1 or more")

    @property
    def card(self) -> IndexCard:
        """The card of the index."""
        return self.centroids.card

    def of(self, vectors: Array) -> tuple[int, ...]:
        """The clusters that are asked for all vectors together, ascending.

        Raises InputError when they are more than one query may name.
        """
        found = np.unique(self.centroids.nearest(vectors, self.count))
        if len(found) > MAX_ASKED:
            raise InputError(
                "these queries ask too many clusters together",
                got=str(len(found)),
                expected=f"at most {MAX_ASKED}",
                hint="encrypt fewer of them at once, or ask the whole index",
            )
        return tuple(found.tolist())


def require_clusters(card: IndexCard) -> Clusters:
    """Return the clusters of an index. Raises InputError when it has none."""
    if card.clusters is None:
        raise InputError(
            "this index has no clusters",
            hint="its provider makes them: index build --clusters auto",
        )
    return card.clusters


def intervals(card: IndexCard, clusters: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(start, stop) of the rows of each of these clusters; of none named, of all rows.

    Raises MismatchError for a cluster that is not there.
    """
    if not len(clusters):
        return ((0, card.rows),)
    ends = [0, *np.cumsum(require_clusters(card).sizes).tolist()]
    for c in clusters:
        if not 0 <= c < len(ends) - 1:
            got, expected = str(c), f"0 to {len(ends) - 2}"
            raise MismatchError("the index has no such cluster", got=got, expected=expected)
    return tuple((ends[c], ends[c + 1]) for c in clusters)


def row_numbers(card: IndexCard, clusters: Sequence[int]) -> Rows:
    """Numbers of the rows of clusters, one cluster after another: of each score of a response."""
    return np.concatenate([np.arange(*ends, dtype=np.int64) for ends in intervals(card, clusters)])


def enough_clusters(card: IndexCard) -> int:
    """The fewest measured clusters that held 0.95 of the first ten rows, or all."""
    clusters = require_clusters(card)
    found = (r.clusters for r in clusters.recalls if r.recall >= ENOUGH)
    return min(found, default=len(clusters.sizes))


@dataclass(frozen=True, eq=False)
class ClusterIds:
    """Ids of the rows of some clusters, by place among them."""

    ids: RowIds
    numbers: Rows

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, row: int) -> str:
        return self.ids[int(self.numbers[row])]


def read_centroids(path: PathLike, card: IndexCard) -> Centroids:
    """Read the centroids of an index: of its folder, or `centroids.rows` beside its card.

    Raises InputError when they are not there or the index has none, FormatError when they are not
    this index's.
    """
    path = beside(Path(path), CENTROIDS)
    size = _size(card)
    with open_regular(path) as f:
        return checked_centroids(str(path), f.read(size + 1), card)


def checked_centroids(name: str, content: bytes, card: IndexCard) -> Centroids:
    """Return centroids; name: of their file, for the FormatError when they are not this index's."""
    if len(content) != _size(card):
        raise FormatError(f"{name} does not have the size that its clusters need", hint=HINT)
    if hashlib.sha256(content).hexdigest() != require_clusters(card).sha256:
        raise FormatError(f"{name} does not have the digest in the index's card", hint=HINT)
    stored = np.frombuffer(content, Stored).reshape(-1, card.space.dim)
    return Centroids(card, stored * np.float32(unit(card)))


def _size(card: IndexCard) -> int:
    return len(require_clusters(card).sizes) * card.space.dim * Stored.itemsize
