"""k-means of a sample of vectors, and assignment of vectors to clusters of limited sizes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from linalign_lite.errors import MismatchError
from linalign_lite.retrieval.search import BLOCK
from linalign_lite.storage.arrays import unit_rows

Float32 = npt.NDArray[np.float32]
Labels = npt.NDArray[np.intp]
_STEPS, _SPLITTING = 12, 6  # of them the first ones
_LARGE = 1.5  # times the mean size: larger clusters are split
_MOST = 2.0  # times the mean size: none is larger


def train_centroids(
    sample: Float32, count: int, rng: np.random.Generator, *, unit: bool
) -> Float32:
    """Centroids of ``count`` clusters, by Lloyd's algorithm: (count, d).

    sample: (n, d), n at least ``count``. After each of the first steps, clusters of more than 1.5
    times the mean size give one of their vectors as the centroid of the smallest ones, so that
    sizes are alike. unit: centroids are scaled to length 1, for vectors of length 1 (spherical
    k-means).
    """
    centroids = sample[rng.choice(len(sample), count, replace=False)].copy()
    for step in range(_STEPS):
        labels = nearest(sample, centroids)
        order, sizes = np.argsort(labels, kind="stable"), np.bincount(labels, minlength=count)
        starts, there = np.cumsum(sizes) - sizes, np.flatnonzero(sizes)
        sums = np.add.reduceat(sample[order], starts[there], axis=0)
        means = sums / sizes[there, None].astype(np.float32)
        if unit:  # of opposite vectors the mean is 0, and has no direction
            there, means = there[means.any(axis=1)], unit_rows(means[means.any(axis=1)])
        centroids[there] = means
        if step >= _SPLITTING:
            continue
        large = np.argsort(-sizes, kind="stable")
        for big, small in zip(large.tolist(), large[::-1].tolist(), strict=True):
            if sizes[big] < 2 or not (
                sizes[big] > _LARGE * len(sample) / count or not sizes[small]
            ):
                break
            centroids[small] = sample[order[starts[big] + rng.integers(sizes[big])]]
    return centroids


def nearest(vectors: Float32, centroids: Float32) -> Labels:
    """The centroid of least distance to each vector, (n,)."""
    return np.concatenate([values.argmax(axis=1) for values in _closeness(vectors, centroids)])


class Assignment:
    """Assigns n vectors to their nearest centroids, at most twice the mean number to each.

    A vector whose nearest clusters are full goes to the nearest that is not.
    """

    def __init__(self, centroids: Float32, n: int) -> None:
        self._centroids = centroids
        most = int(np.ceil(_MOST * n / len(centroids)))
        self._room = np.full(len(centroids), most)
        self._labels: list[Labels] = []

    def add(self, vectors: Float32) -> None:
        """Assign the next vectors. Raises MismatchError when there is no room for as many."""
        for values in _closeness(vectors, self._centroids):
            labels = np.empty(len(values), np.intp)
            waiting = np.arange(len(values))
            while waiting.size:
                if not self._room.any():
                    raise MismatchError("the vectors changed while they were read")
                choice = np.where(self._room > 0, values[waiting], -np.inf).argmax(axis=1)
                order = np.argsort(choice, kind="stable")
                ranks = np.arange(len(order)) - np.searchsorted(choice[order], choice[order])
                taken = order[ranks < self._room[choice[order]]]
                labels[waiting[taken]] = choice[taken]
                self._room -= np.bincount(choice[taken], minlength=len(self._room))
                waiting = np.delete(waiting, taken)
            self._labels.append(labels)

    def labels(self) -> Labels:
        """The cluster of each vector so far, (n,)."""
        return np.concatenate(self._labels)


def _closeness(vectors: Float32, centroids: Float32) -> Iterator[Float32]:
    """x·c − |c|²/2, largest where the distance is least, for some vectors at a time: (n, c)."""
    half = 0.5 * np.square(centroids).sum(axis=1)
    step = max(1, BLOCK // (4 * len(centroids)))
    for start in range(0, len(vectors), step):
        yield vectors[start : start + step] @ centroids.T - half
