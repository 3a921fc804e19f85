"""The ways to migrate: which side is mapped, and how much of the search each keeps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.choices import MigrationWay, Use, values_of
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.metrics import Interval
from linalign_lite.core.space import Space
from linalign_lite.errors import InputError
from linalign_lite.migration.sample import Pairs, Queries, Sample
from linalign_lite.retrieval.choosing import fit_retrieval
from linalign_lite.retrieval.measures import bootstrap, ndcg, overlap, ratio, recall
from linalign_lite.retrieval.search import Rows, search

QUERIES, DOCUMENTS, BOTH = "queries", "documents", "both"
CHOICES = values_of(MigrationWay)  # the least work first
STAY = "stay"
SPREAD = "spread"  # in the card of a map of documents that stand among the new model's own vectors


@dataclass(frozen=True)
class Measured:
    """Measures of one way of migrating, on canaries.

    share: of the documents embedded by the new model. retention: overlap of the first k with the
    new model's own ranking, or with a file of judgements nDCG@k over that of this ranking, which
    may exceed 1. recall: of relevant documents, where known; recall_change: minus that of the old
    model, of the same queries.
    """

    name: str
    share: float
    retention: Interval
    recall: Interval | None = None
    recall_change: Interval | None = None


@dataclass(frozen=True)
class Maps:
    """The maps of a way of migrating; a side without one stays as it is."""

    documents: AffineMap | None = None  # from the old space
    queries: AffineMap | None = None  # from the new space


@dataclass(frozen=True, eq=False)
class Canaries:
    """Collection that is searched to measure: held-out documents, and queries or themselves."""

    documents: Pairs
    queries: Queries
    themselves: bool  # the queries are the documents: none finds itself
    metric: str
    k: int

    def ranking(self, queries: Array, documents: Array) -> Rows:
        """Return the first k documents of each query, (q, k)."""
        depth = self.k + self.themselves
        found, _ = search(queries, documents, depth, metric=self.metric)
        if not self.themselves:
            return found
        own = found == np.arange(len(found))[:, None]
        own[~own.any(axis=1), -1] = True  # a twin stands in its place
        others: Rows = found[~own].reshape(len(found), -1)
        return others

    def measure(
        self, maps: Maps, name: str, share: float = 0.0, *, seed: int = 0, stay: bool = False
    ) -> Measured:
        """Measure a way of migrating. share: of documents that the new model embeds.

        stay: both sides by the old model.
        """
        pairs, asked = self.documents, self.queries
        native = self.ranking(asked.new, pairs.new)
        queries = asked.new if maps.queries is None else maps.queries(asked.new)
        documents: Array = pairs.old if maps.documents is None else maps.documents(pairs.old)
        if stay and asked.old is not None:
            queries = asked.old
        if share:
            chosen = np.random.default_rng(seed).random(len(pairs)) < share
            documents = np.where(chosen[:, None], pairs.new, _alike(documents, pairs.new))
        found = self.ranking(queries, documents)
        known = self._grades()
        kept = [i for i, grades in enumerate(known) if any(g > 0 for g in grades.values())]
        judged, mine = [known[i] for i in kept], found[kept]
        if asked.judged:
            gains = [ndcg(rows, judged, self.k) for rows in (mine, native[kept])]
            values = [ratio(*gains, seed=seed)]
        else:
            values = bootstrap(overlap(found, native, self.k)[:, None], seed=seed)
        if kept:
            columns = [recall(mine, judged, self.k)]
            if asked.old is not None:
                old = self.ranking(asked.old, pairs.old)[kept]
                columns.append(columns[0] - recall(old, judged, self.k))
            values += bootstrap(np.stack(columns, axis=1), seed=seed)
        return Measured(name, share, *values)

    def _grades(self) -> list[dict[int, int]]:
        """Grades of the canaries' rows for each query."""
        row = {own: i for i, own in enumerate(self.documents.ids)}
        of = self.queries.grades
        return [{row[own]: g for own, g in grades.items() if own in row} for grades in of]


def canaries(sample: Sample, held_out: Pairs, k: int) -> Canaries:
    """Return what to measure on: held-out documents, searched by queries or by one another."""
    if sample.queries is None:
        own = Queries(held_out.ids, held_out.new, held_out.old)
        return Canaries(held_out, own, True, sample.metric, min(k, len(held_out) - 1))
    there = set(held_out.ids)
    found = (g for of in sample.queries.grades for own, g in of.items() if own in there)
    if sample.queries.judged and max(found, default=0) <= 0:
        raise InputError(
            "no judged query has a relevant document among the canaries",
            hint="let the sample hold judged documents; a fifth of it are canaries",
        )
    return Canaries(held_out, sample.queries, False, sample.metric, min(k, len(held_out)))


def with_spread(affine: AffineMap, x: Array, y: Array) -> AffineMap:
    """Scale a map about the mean, so that mapped rows x vary as much as the rows y do.

    A map predicts a part of the variance, so that mapped vectors are too alike: among vectors of
    the new model they would rank too high or too low, whatever is asked.
    """
    mean = y.mean(axis=0, dtype=np.float64)
    factor = np.sqrt(y.var(axis=0, dtype=np.float64).sum() / affine(x).var(axis=0).sum())
    return dataclasses.replace(
        affine,
        weight=(affine.weight * factor).astype(np.float32),
        bias=(mean + factor * (affine.bias - mean)).astype(np.float32),
        card={**affine.card, SPREAD: float(factor)},
    )


def fit_maps(
    choice: str, pairs: Pairs, sample: Sample, *, mixed: bool = False, seed: int = 0
) -> Maps:
    """Fit the maps of a way of migrating on pairs of documents (`put_together`)."""
    forward = fit_documents(pairs, sample, seed) if choice != QUERIES else None
    back = fit_queries(pairs, sample, seed) if choice != DOCUMENTS else None
    return put_together(choice, forward, back, pairs, sample, mixed=mixed)


def fit_documents(pairs: Pairs, sample: Sample, seed: int) -> AffineMap:
    """Fit the map from the old to the new space by `fit_retrieval`."""
    x, y = HiddenStates(pairs.old, sample.old), HiddenStates(pairs.new, sample.new)
    return _fit(x, y, Use.documents, sample, seed)


def fit_queries(pairs: Pairs, sample: Sample, seed: int) -> AffineMap:
    """Fit the map from the new to the old space by `fit_retrieval`."""
    x, y = HiddenStates(pairs.new, sample.new), HiddenStates(pairs.old, sample.old)
    return _fit(x, y, Use.queries, sample, seed)


def _fit(x: HiddenStates, y: HiddenStates, use: Use, sample: Sample, seed: int) -> AffineMap:
    """Fit for a search in which other documents come too."""
    return fit_retrieval(x, y, use=use, whole=False, metric=sample.metric, seed=seed)[0]


def put_together(
    choice: str,
    forward: AffineMap | None,
    back: AffineMap | None,
    pairs: Pairs,
    sample: Sample,
    *,
    mixed: bool = False,
) -> Maps:
    """Return the maps of a way of migrating; forward: from the old to the new space.

    mixed: mapped documents will stand among the new model's own vectors (`with_spread`).
    documents: old to new. queries: new to old. both: documents become (map(x), x) and queries
    (y, map(y)), so that a score is the sum of those in both spaces.
    """
    if forward is None:
        return Maps(queries=back)
    if back is None or choice == DOCUMENTS:
        return Maps(documents=with_spread(forward, pairs.old, pairs.new) if mixed else forward)
    if choice == QUERIES:
        return Maps(queries=back)
    name = f"{sample.new.name or 'new'} + {sample.old.name or 'old'}"[:256]
    space = Space(sample.new.dim + sample.old.dim, name=name)
    weights = np.ones(2)
    for i, rows in enumerate((pairs.new, pairs.old)):  # both halves count alike
        weights[i] = 1 / np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1).mean())
    return Maps(
        documents=_stacked(forward, None, weights, space),
        queries=_stacked(None, back, weights, space),
    )


def best(measured: Sequence[Measured]) -> str:
    """Name the way with the least work among those that the best one does not clearly beat."""
    top = max(measured, key=lambda m: m.retention.value)
    bound = top.retention.value - (top.retention.value - top.retention.low) / 2
    good = {m.name for m in measured if m.retention.value >= bound}
    return next(name for name in CHOICES if name in good)


def _stacked(
    new: AffineMap | None, old: AffineMap | None, weights: npt.NDArray[np.float64], space: Space
) -> AffineMap:
    """Return x ↦ (new(x), x) or x ↦ (x, old(x)), the halves weighted."""
    affine = new if new is not None else old
    assert affine is not None
    own = np.eye(affine.weight.shape[1], dtype=np.float32)
    halves = [(affine.weight, affine.bias), (own, np.zeros(len(own), np.float32))]
    if new is None:
        halves.reverse()
    w, b = zip(*halves, strict=True)
    weight = np.concatenate([part * f for part, f in zip(w, weights, strict=True)])
    bias = np.concatenate([part * f for part, f in zip(b, weights, strict=True)])
    return AffineMap(
        weight.astype(np.float32), bias.astype(np.float32), affine.source, space, affine.card
    )


def _alike(mapped: Array, new: Array) -> Array:
    """Scale mapped vectors to the mean length of the new model's, beside which they stand."""
    lengths = [np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1)).mean() for rows in (new, mapped)]
    scaled: Array = (mapped * (lengths[0] / max(lengths[1], 1e-30))).astype(np.float32)
    return scaled
