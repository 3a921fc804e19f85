"""Measures of rankings against judgements, per query, and their bootstrap intervals.

A ranking is an array of rows of documents (q, depth), best first; judgements are one mapping per
query from rows of documents to grades. A document is relevant if its grade is above 0; documents
without a judgement are not. Definitions and values are those of trec_eval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from linalign_lite.core.metrics import Interval
from linalign_lite.errors import InputError
from linalign_lite.retrieval.search import Rows

Values = npt.NDArray[np.float64]
Judgements = Sequence[Mapping[int, int]]  # of each query: grades of rows of documents


def by_query(
    judgements: Judgements | Mapping[int, Mapping[int, int]], n_queries: int
) -> Judgements:
    """Return judgements of each of ``n_queries``, in their order; a mapping may leave queries out.

    Raises InputError where there are not so many, or where they are no mappings by row.
    """
    given = judgements
    if isinstance(given, Mapping) and all(query in range(n_queries) for query in given):
        given = [given.get(i, {}) for i in range(n_queries)]
    if isinstance(given, Mapping) or not all(isinstance(found, Mapping) for found in given):
        raise InputError(
            "the judgements are not of rows",
            expected="of each query a mapping from rows of documents to grades",
            hint="read_collection takes ids",
        )
    if len(given) != n_queries:
        problem = "the judgements do not fit the queries"
        raise InputError(problem, got=f"{len(given)} queries judged", expected=str(n_queries))
    return given


def gains(ranking: Rows, judgements: Judgements) -> Values:
    """Grade of each ranked document, 0 where it is not judged or below 0, (q, depth)."""
    pairs = zip(ranking.tolist(), judgements, strict=True)
    found = [[max(grades.get(row, 0), 0) for row in rows] for rows, grades in pairs]
    return np.array(found, dtype=np.float64).reshape(ranking.shape)


def recall(ranking: Rows, judgements: Judgements, k: int) -> Values:
    """Share of the relevant documents among the first k, (q,)."""
    relevant = np.array([sum(g > 0 for g in grades.values()) for grades in judgements])
    found: Values = (gains(ranking[:, :k], judgements) > 0).sum(axis=1) / np.maximum(relevant, 1)
    return found


def chance_ndcg(judgements: Judgements, n_documents: int, k: int) -> float:
    """Mean nDCG of the first k of random rankings, every grade above 0 counted as 1."""
    discounts = np.cumsum(1 / np.log2(np.arange(2, k + 2)))
    relevant = np.array([sum(g > 0 for g in grades.values()) for grades in judgements])
    best = discounts[np.clip(relevant, 1, k) - 1]
    shown = discounts[min(k, n_documents) - 1]
    return float((relevant / n_documents * shown / best).mean())


def ndcg(ranking: Rows, judgements: Judgements, k: int) -> Values:
    """Normalised discounted cumulative gain of the first k, (q,) (Järvelin & Kekäläinen 2002).

    Σᵢ gradeᵢ / log₂(i + 1) over that of the best ranking of the judged documents.
    """
    got = gains(ranking[:, :k], judgements)
    best: Values = np.zeros((len(judgements), k))
    for row, grades in zip(best, judgements, strict=True):
        top = sorted((g for g in grades.values() if g > 0), reverse=True)[:k]
        row[: len(top)] = top
    discount = 1 / np.log2(np.arange(k) + 2.0)
    ideal = best @ discount
    found: Values = np.divide(
        got @ discount[: got.shape[1]], ideal, out=np.zeros(len(got)), where=ideal > 0
    )
    return found


def reciprocal_rank(ranking: Rows, judgements: Judgements, k: int) -> Values:
    """1 / rank of the first relevant document, 0 if it is not among the first k, (q,)."""
    hits = gains(ranking[:, :k], judgements) > 0
    return np.where(hits.any(axis=1), 1.0 / (hits.argmax(axis=1) + 1), 0.0)


def overlap(ranking: Rows, other: Rows, k: int) -> Values:
    """Share of the first k documents that two rankings have in common, (q,)."""
    k = min(k, ranking.shape[1], other.shape[1])
    pairs = zip(ranking[:, :k].tolist(), other[:, :k].tolist(), strict=True)
    return np.array([len(set(a) & set(b)) / k for a, b in pairs])


def bootstrap(
    values: Values, *, rounds: int = 2000, confidence: float = 0.95, seed: int = 0
) -> list[Interval]:
    """Mean of each column of values (q, m) with its percentile interval over resampled queries.

    All columns share the draws, so that a column of differences has the interval of a paired
    comparison.
    """
    means = _means(values, rounds, seed)
    pairs = zip(values.mean(axis=0), means.T, strict=True)
    return [_interval(value, drawn, confidence) for value, drawn in pairs]


def ratio(
    values: Values, base: Values, *, rounds: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Mean of values over mean of base, (q,) each, with its percentile interval.

    Both share the resampled queries. 0 where the base is.
    """
    both = np.stack([values, base], axis=1)
    means = np.concatenate([both.mean(axis=0)[None], _means(both, rounds, seed)])
    top, bottom = means.T
    found = np.divide(top, bottom, out=np.zeros(len(means)), where=bottom > 0)
    return _interval(found[0], found[1:], confidence)


def _interval(value: float, drawn: Values, confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high), confidence)


def _means(values: Values, rounds: int, seed: int) -> Values:
    """Means of each column of values (q, m) over resampled queries, (rounds, m)."""
    n, rng = len(values), np.random.default_rng(seed)
    return np.concatenate(
        [
            rng.multinomial(n, np.full(n, 1 / n), size=min(100, rounds - start)) @ values / n
            for start in range(0, rounds, 100)
        ]
    )
