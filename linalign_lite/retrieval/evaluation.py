"""Retrieval evaluated natively and across models, in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.choices import Metric, SearchLibrary
from linalign_lite.core.hidden_states import HiddenStates, as_states
from linalign_lite.core.metrics import Interval
from linalign_lite.core.text_tables import Pairs, column_lines
from linalign_lite.core.verdict import NDCG_KEPT, Grade, Measurement, Verdict
from linalign_lite.errors import InputError
from linalign_lite.retrieval import measures
from linalign_lite.retrieval.collection import Judged
from linalign_lite.retrieval.measures import Judgements
from linalign_lite.retrieval.search import Rows, search

ODD = 3.0  # times: a ranking so far behind another is of rows in another order
NATIVE_SOURCE, NATIVE_TARGET = "native source", "native target"
QUERIES, DOCUMENTS = "mapped queries", "mapped documents"


@dataclass(frozen=True, eq=False)
class CollectionStates:
    """States of a collection's queries and documents under one model."""

    queries: HiddenStates
    documents: HiddenStates

    def __post_init__(self) -> None:
        self.documents.space.require(
            self.queries.space, "queries and documents are not of the same model", any_prompt=True
        )


States = CollectionStates | tuple[HiddenStates | Array, HiddenStates | Array]


@dataclass(frozen=True)
class Ranking:
    """Measures of one ranking: means over queries with 95 % bootstrap intervals.

    ``difference``: nDCG minus that of the target's own ranking, of the same queries; None for it.
    """

    measures: Mapping[str, Interval]
    difference: Interval | None = None


@dataclass(frozen=True)
class RetrievalReport(Measurement):
    """Rankings by name, native and mapped (`evaluate_retrieval`)."""

    rankings: Mapping[str, Ranking]
    n_queries: int
    n_documents: int
    metric: str
    k: int
    chance: float = 0.0  # nDCG of a random ranking

    @property
    def verdict(self) -> Verdict:
        """Grade of the better of the two ways across models, beside the target's own nDCG."""
        first = f"ndcg@{self.k}"
        value = {n: ranking.measures[first].value for n, ranking in self.rankings.items()}
        ways = sorted((QUERIES, DOCUMENTS), key=value.__getitem__)
        (other, way), own = ways, value[NATIVE_TARGET]
        step = "a map fitted for this search, on its documents (fit --objective retrieval)"
        order = "first see that queries, documents and judgements are in one order"
        if self.rankings[NATIVE_TARGET].measures[first].low <= self.chance:
            reason = f"the target's own nDCG {own:.3f} is no better than chance, {self.chance:.3f}"
            return Verdict(Grade.poor, reason, order)
        if (most := max(value.values())) > ODD * own:
            reason = f"the target's own nDCG {own:.3f} is far below another's, {most:.3f}"
            return Verdict(Grade.poor, reason, order)
        found = NDCG_KEPT.judge(value[way] / own, step)
        both = f"{way}: {found.reason}; {other} {value[other] / own:.3f}"
        return Verdict(found.grade, both, found.advice)

    def as_dict(self) -> dict[str, Any]:
        """Values of the report for JSON."""
        rankings = {
            name: {
                "measures": {n: asdict(v) for n, v in r.measures.items()},
                "difference": None if r.difference is None else asdict(r.difference),
            }
            for name, r in self.rankings.items()
        }
        return {**vars(self), "rankings": rankings}

    def rows(self) -> Pairs:
        """nDCG of each ranking, and the size of the collection, by name."""
        first = f"ndcg@{self.k}"
        found: Pairs = [
            (name, f"{first} {r.measures[first].value:.3f}") for name, r in self.rankings.items()
        ]
        return [*found, ("queries, documents", f"{self.n_queries}, {self.n_documents}")]

    def lines(self) -> list[str]:
        """Lines of the report for printing: one for each ranking."""
        first = f"ndcg@{self.k}"
        others = [n for n in self.rankings[NATIVE_TARGET].measures if n != first]
        table = [["ranking", first, "interval", "to the target's", *others]]
        for name, r in self.rankings.items():
            n, d = r.measures[first], r.difference
            change = "–" if d is None else f"{d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f})"
            row = [name, f"{n.value:.3f}", f"{n.low:.3f} to {n.high:.3f}", change]
            table.append(row + [f"{r.measures[m].value:.3f}" for m in others])
        told = f"{self.n_queries} queries, {self.n_documents} documents, metric {self.metric}"
        return [*column_lines(table), "", told]


def evaluate_retrieval(
    source: States,
    target: States,
    affine: AffineMap,
    judgements: Judgements | Mapping[int, Mapping[int, int]] | Judged,
    *,
    documents_map: AffineMap | None = None,
    k: int = 10,
    metric: str = Metric.cosine,
    library: str = SearchLibrary.auto,
    seed: int = 0,
) -> RetrievalReport:
    """Measure search across models beside each model's own.

    source, target: states of the same queries and documents under both models, row by row
    (`CollectionStates`, or a pair of states or arrays: queries, documents). affine: the map from
    source to target. Four rankings of all documents by ``metric`` ("cosine" or "dot", see
    `search`; nothing else is centred or scaled) are measured: *native source* and *native target*,
    each model alone; *mapped queries*, which search the target's documents; *mapped documents*,
    searched by the target's queries, with ``documents_map`` if given. Each has nDCG@k, recall@k,
    recall@10k and reciprocal rank ("mrr@k") against the judgements, and overlap@k with the native
    target's ranking, over the queries that have a relevant document. judgements: of each query,
    {row of a document: grade}, in a list or by the query's row, or a collection. Raises InputError
    when rows do not fit or no query has a relevant document, MismatchError for states of other
    texts or models.
    """
    old, new = _states(source), _states(target)
    given = judgements.judgements if isinstance(judgements, Judged) else judgements
    judged = measures.by_query(given, len(old.queries))
    _check(old, new, judged, affine, documents_map or affine)
    kept = [i for i, grades in enumerate(judged) if any(g > 0 for g in grades.values())]
    if not kept:
        raise InputError("no query has a relevant document", expected="a grade above 0")
    some = [judged[i] for i in kept]
    x, y = old.queries.states[kept], new.queries.states[kept]
    mapped = (documents_map or affine)(old.documents.states)
    sides = {
        NATIVE_SOURCE: (x, old.documents.states),
        NATIVE_TARGET: (y, new.documents.states),
        QUERIES: (affine(x), new.documents.states),
        DOCUMENTS: (y, mapped),
    }
    found = {
        name: search(q, d, 10 * k, metric=metric, library=library)[0]
        for name, (q, d) in sides.items()
    }
    return RetrievalReport(
        rankings=_measured(found, some, k, seed),
        n_queries=len(kept),
        n_documents=len(new.documents),
        metric=str(metric),
        k=k,
        chance=measures.chance_ndcg(some, len(new.documents), k),
    )


def _measured(
    found: Mapping[str, Rows], judged: Sequence[Mapping[int, int]], k: int, seed: int
) -> dict[str, Ranking]:
    """Measures of each ranking; all means and differences share the draws of the bootstrap."""
    native = found[NATIVE_TARGET]
    per_query = {
        name: {
            f"ndcg@{k}": measures.ndcg(rows, judged, k),
            f"recall@{k}": measures.recall(rows, judged, k),
            f"recall@{10 * k}": measures.recall(rows, judged, 10 * k),
            f"mrr@{k}": measures.reciprocal_rank(rows, judged, k),
            f"overlap@{k}": measures.overlap(rows, native, k),
        }
        for name, rows in found.items()
    }
    base = per_query[NATIVE_TARGET][f"ndcg@{k}"]
    for values in per_query.values():
        values["difference"] = values[f"ndcg@{k}"] - base
    columns = [v for values in per_query.values() for v in values.values()]
    intervals = iter(measures.bootstrap(np.stack(columns, axis=1), seed=seed))
    rankings = {}
    for name, values in per_query.items():
        means = {n: next(intervals) for n in values}
        difference = means.pop("difference")
        rankings[name] = Ranking(means, None if name == NATIVE_TARGET else difference)
    return rankings


def _states(value: States) -> CollectionStates:
    if isinstance(value, CollectionStates):
        return value
    queries, documents = value
    return CollectionStates(as_states(queries), as_states(documents))


def _check(
    old: CollectionStates,
    new: CollectionStates,
    judged: Judgements,
    affine: AffineMap,
    documents_map: AffineMap,
) -> None:
    old.queries.require_same_texts(new.queries)
    old.documents.require_same_texts(new.documents)
    highest = max((max(grades) for grades in judged if grades), default=0)
    if highest >= len(old.documents):
        raise InputError(
            "a judgement is of a document that is not there",
            got=f"row {highest}",
            expected=f"0 to {len(old.documents) - 1}",
        )
    for found in (affine, documents_map):
        for space, states, side in (
            (found.source, old.documents, "source"),
            (found.target, new.documents, "target"),
        ):
            what = f"the map's {side} and these states are not of the same model"
            space.require(states.space, what, any_prompt=True)
