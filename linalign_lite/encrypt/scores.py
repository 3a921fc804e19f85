"""Decrypted scores, and what is read from them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from linalign_lite.encrypt.packing import FloatArray
from linalign_lite.heads.ood.detector import Detector
from linalign_lite.heads.ood.detectors import outlyingness

RANKED = 1000  # rows of an index whose order is kept


@dataclass(frozen=True, eq=False)
class Scores:
    """Decrypted scores of a head, (n, n_outputs), with ``decimals`` places.

    They are multiples of 1, 2 or 5 of the last place, at least the error. Never send scores back
    (docs/SECURITY.md). ``best``: index of the highest score of each state, also where rounding
    makes two equal. ``first``: of an index, the rows of the highest scores of each state, in order
    before rounding, at most `RANKED` of them.
    ``ids``: of an index, `retrieval.index.card.ids_digest`; "" of a head. ``clusters``: whose rows
    were scored, none for all; `retrieval.index.clusters.row_numbers` has the row of each column.
    """

    values: FloatArray = field(repr=False)  # shape: (n, n_outputs)
    best: npt.NDArray[np.intp] = field(repr=False)  # (n,)
    labels: tuple[str, ...]
    decimals: int
    error: float  # bound on the error of a score before rounding
    ids: str = ""
    clusters: tuple[int, ...] = ()
    first: npt.NDArray[np.intp] | None = field(default=None, repr=False)  # (n, ≤ RANKED)

    def predictions(self) -> npt.NDArray[np.intp]:
        """Index of the highest score of each state, (n,)."""
        return self.best

    def top(self, k: int) -> npt.NDArray[np.intp]:
        """Indices of each state's k highest scores, the highest first: (n, min(k, n_outputs))."""
        k = min(k, self.values.shape[1])
        found = np.empty((len(self.values), k), dtype=np.intp)
        place = np.empty(self.values.shape[1], dtype=np.intp)
        for own, values, first in zip(found, self.values, self._first(), strict=True):
            some = np.flatnonzero(values >= np.partition(values, -k)[-k])
            place.fill(len(first))
            place[first] = np.arange(len(first))
            own[:] = some[np.lexsort((some, place[some], -values[some]))[:k]]
        return found

    def _first(self) -> npt.NDArray[np.intp]:
        return self.best[:, None] if self.first is None else self.first

    def ranking(self) -> npt.NDArray[np.intp]:
        """Indices of each state's scores, the highest first: (n, n_outputs)."""
        place = np.full(self.values.shape, self.values.shape[1])
        first = self._first()
        np.put_along_axis(place, first, np.arange(first.shape[1])[None], axis=1)
        order: npt.NDArray[np.intp] = np.lexsort((place, -self.values), axis=1)
        return order

    def names(self) -> list[str]:
        """Label of the highest score of each state, or its index where there are no labels."""
        return [self.labels[i] if self.labels else str(i) for i in self.predictions().tolist()]

    def outlyingness(self, by: str | Detector = "energy", temperature: float = 1.0) -> FloatArray:
        """Score how far each state lies from the head's training data, (n,); higher is farther.

        by: "energy", "msp" or "max-logit" at ``temperature``; or a detector of these, with its own.
        Raises InputError when it does not read scores or has other outputs, MismatchError when its
        labels are not these scores'.
        """
        if isinstance(by, str):
            return outlyingness(self.values, by, temperature)
        return by.of_scores(self.values, self.labels)
