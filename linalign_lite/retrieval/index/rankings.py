"""Rankings of sample queries: what rows of fewer bits, or of some clusters, keep of the best."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from linalign_lite.retrieval.index.card import FRACTION, LEAST_BITS, Overlap, Recall
from linalign_lite.retrieval.measures import overlap
from linalign_lite.retrieval.search import BLOCK, Best, highest

ROW_BITS = (LEAST_BITS, 10, 12, FRACTION)  # precisions that are measured
TOP = 10


class RankingCheck:
    """Rankings of sample queries by exact rows, and by rows of fewer bits."""

    def __init__(self, queries: npt.NDArray[np.float32], own: npt.NDArray[np.int64]) -> None:
        self.queries, self._own = queries, own
        self._best = {bits: Best(len(queries), TOP) for bits in (0, *ROW_BITS)}  # 0: exact
        self._seen = 0

    def add(self, vectors: npt.NDArray[np.float32], stored: npt.NDArray[np.float32]) -> None:
        """Add vectors as they are, and as they are stored: integers, (n, d)."""
        step = max(TOP, BLOCK // (4 * max(1, len(self.queries))))  # of few dimensions many come
        for start in range(0, len(vectors), step):
            self._add(vectors[start : start + step], stored[start : start + step])

    def _add(self, vectors: npt.NDArray[np.float32], stored: npt.NDArray[np.float32]) -> None:
        inside = (self._own >= self._seen) & (self._own < self._seen + len(vectors))
        for bits, best in self._best.items():
            rows = np.rint(stored * np.float32(2.0 ** (bits - FRACTION)))
            scores = self.queries @ (rows if bits else vectors).T
            scores[inside, self._own[inside] - self._seen] = -np.inf  # a text finds itself
            best.add(scores)
        self._seen += len(vectors)

    def overlaps(self) -> tuple[Overlap, ...]:
        """Share of the first ten that rows of fewer bits keep; () where all rows are among them."""
        if not self._says:
            return ()
        exact = self._best[0].rows
        return tuple(
            Overlap(bits, float(overlap(exact, self._best[bits].rows, TOP).mean()))
            for bits in ROW_BITS
        )

    def recalls(
        self, labels: npt.NDArray[np.intp], centroids: npt.NDArray[np.float32]
    ) -> tuple[Recall, ...]:
        """Share of the first ten that 1, 2, 3, 4, 6, 8, 12, 16, … nearest clusters hold.

        labels: the cluster of each vector, (n,). centroids: (c, d).
        """
        if not self._says:
            return ()
        count = len(centroids)
        order = highest(self.queries @ centroids.T, count)
        place = np.empty(order.shape, np.intp)
        np.put_along_axis(place, order, np.arange(count)[None], axis=1)
        needed = np.take_along_axis(place, labels[self._best[0].rows], axis=1)
        steps = sorted({m << k for m in (1, 3) for k in range(count.bit_length())})
        return tuple(Recall(k, float((needed < k).mean())) for k in steps if k < count)

    @property
    def _says(self) -> bool:
        return self._seen > TOP and len(self.queries) > 0
