"""Group the rows of an index that is built into clusters."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from linalign_lite.retrieval.index.card import (
    CENTROIDS,
    FRACTION,
    MAX_CLUSTERS,
    Clusters,
    RowMetric,
    Stored,
)
from linalign_lite.retrieval.index.k_means import Assignment, Float32, train_centroids
from linalign_lite.retrieval.index.rankings import RankingCheck
from linalign_lite.retrieval.search import comparable

TRAINING = 64 << 20  # bytes of the vectors of which centroids are trained, and
_EACH = 64  # vectors for each of them at most; 2 at least


def usual_clusters(n: int, dim: int) -> int:
    """√n clusters, fewer where the vectors that train so many would take 128 MiB."""
    return max(1, min(MAX_CLUSTERS, math.isqrt(n), 2 * TRAINING // (8 * dim)))


def training_rows(count: int, dim: int) -> int:
    """Number of vectors to draw for the training of ``count`` centroids."""
    return max(2 * count, min(_EACH * count, TRAINING // (4 * dim)))


class Grouping:
    """Assigns n rows to clusters: first centroids of a sample, then row after row.

    sample: vectors of the source. Rows are in units of 2^exponent.
    """

    def __init__(
        self,
        sample: Float32,
        count: int,
        n: int,
        *,
        metric: RowMetric,
        exponent: int,
        rng: np.random.Generator,
    ) -> None:
        vectors = comparable(sample, metric) * np.float32(2.0**-exponent)
        found = train_centroids(vectors, count, rng, unit=metric == "cosine")
        self._stored = np.rint(found * np.float32(2.0**FRACTION)).astype(Stored)
        self._assignment = Assignment(self._values(), n)

    def _values(self) -> Float32:
        values: Float32 = self._stored * np.float32(2.0**-FRACTION)
        return values

    def add(self, stored: Float32) -> None:
        """Assign the next rows, as they are stored: integers, (n, d)."""
        self._assignment.add(stored * np.float32(2.0**-FRACTION))

    def finish(self, folder: Path, check: RankingCheck) -> tuple[Clusters, npt.NDArray[np.intp]]:
        """Write the centroids of clusters that have rows; return the clusters and the rows' order.

        check: by which recall is measured.
        """
        used, labels = np.unique(self._assignment.labels(), return_inverse=True)
        self._stored = self._stored[used]
        content = self._stored.tobytes()
        (folder / CENTROIDS).write_bytes(content)
        sizes = tuple(np.bincount(labels).tolist())
        recalls = check.recalls(labels, self._values())
        found = Clusters(hashlib.sha256(content).hexdigest(), sizes, recalls)
        return found, np.argsort(labels, kind="stable")
