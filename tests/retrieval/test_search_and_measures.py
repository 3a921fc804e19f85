"""Search and measures against slow computations, pytrec_eval and FAISS."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite.errors import InputError
from linalign_lite.retrieval import measures
from linalign_lite.retrieval import search as searching
from linalign_lite.retrieval.search import search


def slow_search(queries, documents, k, metric):
    rows, scores = [], []
    for q in queries.astype(np.float64):
        s = []
        for d in documents.astype(np.float64):
            length = np.linalg.norm(q) * np.linalg.norm(d) if metric == "cosine" else 1.0
            s.append(q @ d / length if length else 0.0)
        order = sorted(range(len(s)), key=lambda i: (-s[i], i))[:k]
        rows.append(order)
        scores.append([s[i] for i in order])
    return np.array(rows), np.array(scores)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("library", ["numpy", "faiss", "auto"])
def test_search_is_the_slow_search(metric, library, monkeypatch):
    if library == "faiss":
        pytest.importorskip("faiss")
    monkeypatch.setattr(searching, "BLOCK", 4 * 30 * 7)  # several blocks of documents
    rng = np.random.default_rng(0)
    queries, documents = rng.normal(size=(30, 8)), rng.normal(size=(55, 8)).astype(np.float32)
    queries[3] = 0
    rows, scores = search(queries, documents, 5, metric=metric, library=library)
    expected, values = slow_search(queries, documents, 5, metric)
    np.testing.assert_allclose(scores, values, atol=1e-5)
    kept = np.arange(30) != 3  # all documents score 0 there
    np.testing.assert_array_equal(rows[kept], expected[kept])


def test_equal_scores_are_in_the_order_of_rows_and_k_may_exceed_the_documents():
    documents = np.tile(np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), (3, 1))
    rows, scores = search(np.array([[1.0, 0.0]], np.float32), documents, 50, library="numpy")
    assert rows.tolist() == [[0, 2, 4, 1, 3, 5]]
    assert scores.tolist() == [[1, 1, 1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"k": 0}, "k is not usable"),
        ({"metric": "euclidean"}, "unknown metric"),
        ({"library": "annoy"}, "unknown search library"),
        ({"queries": np.ones((2, 3))}, "the same dimensions"),
        ({"queries": np.ones(4)}, "queries are not usable"),
        ({"documents": np.full((2, 4), np.nan)}, "not finite"),
    ],
)
def test_bad_input_is_named(change, word):
    given_ = {"queries": np.ones((2, 4)), "documents": np.ones((3, 4)), "k": 2} | change
    with pytest.raises(InputError, match=word):
        search(given_.pop("queries"), given_.pop("documents"), **given_)


CASES = st.lists(  # per query: a permutation of 12 documents, and grades of some
    st.tuples(st.permutations(range(12)), st.dictionaries(st.integers(0, 11), st.integers(-1, 3))),
    min_size=1,
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(CASES)
def test_measures_are_those_of_trec_eval(cases):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    cases = [(r, g) for r, g in cases if any(v > 0 for v in g.values())]
    if not cases:
        return
    names = {"ndcg_cut.5", "recall.5", "recip_rank"}
    judged = {str(i): {str(d): v for d, v in g.items()} for i, (_, g) in enumerate(cases)}
    run = {str(i): {str(d): 12.0 - at for at, d in enumerate(r)} for i, (r, _) in enumerate(cases)}
    theirs = pytrec_eval.RelevanceEvaluator(judged, names).evaluate(run)
    ranking, grades = np.array([r for r, _ in cases]), [g for _, g in cases]
    ours = {
        "ndcg_cut_5": measures.ndcg(ranking, grades, 5),
        "recall_5": measures.recall(ranking, grades, 5),
        "recip_rank": measures.reciprocal_rank(ranking, grades, 12),
    }
    for name, values in ours.items():
        expected = [theirs[str(i)][name] for i in range(len(cases))]
        np.testing.assert_allclose(values, expected, atol=1e-6, err_msg=name)


def test_measures_of_a_ranking_by_hand():
    ranking, judged = np.array([[4, 2, 0], [1, 0, 3]]), [{2: 2, 0: 1, 9: 1}, {3: 1}]
    ideal = 2 / np.log2(2) + 1 / np.log2(3) + 1 / np.log2(4)
    got = 2 / np.log2(3) + 1 / np.log2(4)
    np.testing.assert_allclose(measures.ndcg(ranking, judged, 3), [got / ideal, 0.5])
    np.testing.assert_allclose(measures.recall(ranking, judged, 2), [1 / 3, 0])
    np.testing.assert_allclose(measures.reciprocal_rank(ranking, judged, 3), [1 / 2, 1 / 3])
    np.testing.assert_allclose(measures.reciprocal_rank(ranking, judged, 2), [1 / 2, 0])
    np.testing.assert_allclose(measures.overlap(ranking, ranking[:, ::-1], 2), [0.5, 0.5])


def test_bootstrap_intervals_are_those_of_resampling_and_shared_by_columns():
    values = np.random.default_rng(1).uniform(size=(80, 1))
    both = np.concatenate([values, values + 1, np.zeros((80, 1))], axis=1)
    a, b, zero = measures.bootstrap(both)
    assert a.value == pytest.approx(values.mean())
    assert (b.low - a.low, b.high - a.high) == (pytest.approx(1), pytest.approx(1))
    assert (zero.low, zero.high) == (0, 0)
    half = 1.96 * values.std() / np.sqrt(80)
    assert a.low == pytest.approx(a.value - half, abs=0.2 * half)
    assert a.high == pytest.approx(a.value + half, abs=0.2 * half)
    assert measures.bootstrap(both)[0] == a  # seeded
