"""Moments added up in a fixed shape, whoever made them and whenever they came."""

from __future__ import annotations

from linalign_lite.alignment.moments import FoldedMoments, merge_folds

FAN = 32  # moments that are added up one after the other, before they go up the tree


class MomentTree:
    """Moments added up in a shape that depends on their number alone.

    FAN of a level are added one after the other, and the sum goes up a level. A subtree made
    elsewhere and put in at its own level gives what its leaves would have given here.
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
        """All of them. What is left of a level goes up, so the top has everything."""
        for level in range(len(self._levels) - 1):
            _, left = self._levels[level]
            if left is not None:
                self._levels[level] = (0, None)
                self.add(left, level + 1)
        last = [moments for _, moments in self._levels if moments is not None]
        assert len(last) == 1  # there is at least one leaf
        return last[0]
