"""Merge moments in a fixed order, independent of the workers that computed them."""

from linalign_lite.alignment.moments import FoldedMoments, merge_folds

FAN = 32  # moments merged in sequence at one level of the tree


class MomentTree:
    """Merges moments in an order that depends on their number alone.

    FAN of a level are merged in sequence, and the sum moves up a level. A subtree computed
    elsewhere and added at its own level gives the same bits as its leaves.
    """

    def __init__(self) -> None:
        self._levels: list[tuple[int, FoldedMoments | None]] = []

    def add(self, moments: FoldedMoments, level: int = 0) -> None:
        while len(self._levels) <= level:
            self._levels.append((0, None))
        count, there = self._levels[level]
        summed = moments if there is None else merge_folds(there, moments)
        self._levels[level] = (count + 1, summed)
        if count + 1 == FAN:
            self._levels[level] = (0, None)
            self.add(summed, level + 1)

    def total(self) -> FoldedMoments:
        """Return the sum. Remainders of each level move up, so that the top has all."""
        for level in range(len(self._levels) - 1):
            _, left = self._levels[level]
            if left is not None:
                self._levels[level] = (0, None)
                self.add(left, level + 1)
        last = [moments for _, moments in self._levels if moments is not None]
        assert len(last) == 1  # there is at least one leaf
        return last[0]
