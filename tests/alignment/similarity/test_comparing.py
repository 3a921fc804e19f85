"""N models at once, the null of shuffled pairs, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from similarity_cases import ORACLES
from support import aligned_states

from linalign_lite import HiddenStates, InputError, MismatchError, compare, compare_all
from linalign_lite.alignment.moments import fold_index
from linalign_lite.alignment.similarity import model_statistics
from linalign_lite.alignment.similarity.comparison import common_rows, shuffles
from linalign_lite.alignment.similarity.pair_statistics import pair_measures
from linalign_lite.alignment.similarity.results import DIRECTED, ERRORS, MEASURES, SYMMETRIC

scipy_stats = pytest.importorskip("scipy.stats")


def folds_of(n, folds=5):
    index = fold_index(np.arange(n), folds)
    return [np.flatnonzero(index == i) for i in range(folds)]


def viewed(states, n):
    return model_statistics.statistics_of(
        "a", states, folds_of(n), dim=states.shape[1], k=5, share=0.99
    )


def every(found):
    """(name, Measured) of both ways."""
    return [*found.measures.items(), *found.back.items()]


# --- the null -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(90, 8, 5), (30, 40, 7)])
def test_a_shuffle_is_what_it_would_be_from_scratch(rng, shape):
    """Everything that is kept of each model, against states whose rows were really moved."""
    n, d_x, d_y = shape
    x, y = (s.states for s in aligned_states(rng, n, d_x, d_y, 0.5))
    one, other = viewed(x, n), viewed(y, n)
    for order in shuffles(folds_of(n), 3, seed=1):
        quick = pair_measures(one, other, MEASURES, order)
        anew = pair_measures(viewed(x, n), viewed(y[order], n), MEASURES)
        for a, b in zip(quick, anew, strict=True):
            assert a == pytest.approx(b, rel=1e-6, abs=1e-9)
        assert quick[0]["cka"] == pytest.approx(ORACLES["cka"](x, y[order]), rel=1e-6)
        assert quick[0]["r2"] == pytest.approx(ORACLES["r2"](x, y[order]), rel=1e-6, abs=1e-9)
        assert quick[1]["cycle"] == pytest.approx(ORACLES["cycle"](y[order], x), rel=1e-6)


def test_shuffles_keep_folds_and_follow_the_seed():
    folds = folds_of(53)
    orders = list(shuffles(folds, 20, seed=3))
    for order in orders:
        for fold in folds:
            assert sorted(order[fold]) == list(fold)
    assert len({tuple(o) for o in orders}) == 20
    assert all(np.array_equal(a, b) for a, b in zip(orders, shuffles(folds, 20, 3), strict=True))
    assert not np.array_equal(orders[0], next(shuffles(folds, 1, 4)))


@pytest.fixture(scope="module")
def unrelated():
    """p of every measure, on 200 pairs of states that have nothing to do with each other."""
    rng = np.random.default_rng(11)
    found = {}
    for i in range(200):
        x, y = rng.normal(size=(36, 4)) + 1, rng.gamma(1.0, size=(36, 3))
        for name, one in every(compare(x, y, permutations=19, folds=3, k=3, seed=i)):
            found.setdefault(name, []).append(one.p)
    return found


@pytest.mark.parametrize("measure", MEASURES)
def test_p_is_uniform_where_nothing_is_shared(unrelated, measure):
    """20 values are possible, each as likely; a directed measure has two ways, taken in turn."""
    p = np.array(unrelated[measure])
    p = p[:: len(p) // 200]
    counts = np.histogram(np.round(p * 20), bins=np.arange(0.5, 21, 4))[0]
    assert counts.sum() == 200
    assert scipy_stats.chisquare(counts).pvalue > 1e-3
    assert (p <= 0.05).sum() <= scipy_stats.binom.ppf(0.9999, 200, 0.05)


@pytest.mark.parametrize("measure", MEASURES)
def test_p_is_as_small_as_it_can_be_where_all_is_shared(pair, measure):
    for _, one in every(compare(*pair, measures=[measure], permutations=49)):
        null = one.null
        assert one.p == 1 / 50
        beyond = null.extreme > null.observed if measure in ERRORS else null.extreme < null.observed
        assert beyond
        assert null.permutations == 49


def test_many_dimensions_and_few_rows_look_alike_until_shuffled(rng):
    """CKA of 30 unrelated rows is near 0.9; so is that of any other pairing of them."""
    x, y = rng.normal(size=(30, 500)), rng.normal(size=(30, 400))
    found = compare(x, y, permutations=99, k=3, share=1.0)
    assert found["cka"].value > 0.85
    assert found["cka"].p > 0.02
    assert abs(found["cka_debiased"].value) < 0.1
    assert found["svcca"].value == pytest.approx(1, abs=1e-6)
    assert found["svcca"].p == 1.0  # all are equal but for rounding
    assert "svcca keeps 29 and 29 directions of 30 rows" in found.warnings[0]


def test_rows_of_one_text_are_not_taken_for_independent():
    """40 texts of 25 tokens: all tokens of a text alike, the two models unrelated."""
    texts = np.repeat(np.arange(40, dtype=np.int32), 25)
    ends = np.tile(np.arange(25, dtype=np.int32), 40)
    p, naive = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        x, y = (
            HiddenStates(
                rng.normal(size=(40, 3))[texts] + 0.1 * rng.normal(size=(1000, 3)),
                text_index=texts,
                char_end=ends,
            )
            for _ in range(2)
        )
        found = compare(x, y, measures=["cka"], permutations=19, seed=seed)
        assert (found["cka"].n, found["cka"].null.n) == (1000, 40)
        p.append(found["cka"].p)
        loose = compare(x.states, y.states, measures=["cka"], permutations=19, seed=seed)
        naive.append(loose["cka"].p)
    assert np.sum(np.array(p) <= 0.05) <= 8  # 2 expected
    assert np.sum(np.array(naive) <= 0.05) >= 30  # what shuffling all rows would say


def test_what_is_drawn_and_what_is_whole(rng):
    x, y = aligned_states(rng, 300)
    whole = compare(x, y, permutations=5)
    drawn = compare(x, y, permutations=5, null_rows=80, knn_rows=120)
    for (name, a), (_, b) in zip(every(whole), every(drawn), strict=True):
        assert a.n == a.null.n == 300
        assert a.null.observed == a.value
        assert b.null.n == 80
        assert b.null.observed != a.value
        assert b.n == (120 if name == "mutual_knn" else 300)
        assert (b.value == a.value) == (name != "mutual_knn")
    assert drawn == compare(x, y, permutations=5, null_rows=80, knn_rows=120)
    assert drawn != compare(x, y, permutations=5, null_rows=80, knn_rows=120, seed=1)
    none = compare(x, y, permutations=0)
    assert all(one.null is None and one.p is None for _, one in every(none))
    assert [one.value for _, one in every(none)] == [one.value for _, one in every(whole)]


# --- N models -------------------------------------------------------------------------------------


def three(rng, n=200):
    x, y = aligned_states(rng, n, 7, 5)
    return {"a": x, "b": y, "c": HiddenStates(rng.normal(size=(n, 4)))}


def test_all_pairs_are_what_two_alone_would_be(rng):
    states = three(rng)
    ticks = []
    found = compare_all(states, permutations=4, null_rows=100, progress=ticks.append)
    assert found.names == ("a", "b", "c")
    assert [(p.first, p.second) for p in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert sum(ticks) == 12
    for pair in found:
        alone = compare(states[pair.first], states[pair.second], permutations=4, null_rows=100)
        assert (pair.measures, pair.back) == (alone.measures, alone.back)


def test_each_model_is_measured_once(rng, monkeypatch):
    """N models take N passes for XᵀX and N(K + 1) eigendecompositions, and the null as many."""
    counts = {"eigen": 0, "own": 0, "nearest": 0}

    def counted(name, call):
        def counting(*args, **options):
            counts[name] += 1
            return call(*args, **options)

        return counting

    monkeypatch.setattr(model_statistics, "eigen", counted("eigen", model_statistics.eigen))
    monkeypatch.setattr(model_statistics, "nearest", counted("nearest", model_statistics.nearest))
    monkeypatch.setattr(
        model_statistics, "FoldProducts", counted("own", model_statistics.FoldProducts)
    )
    states = {f"m{i}": HiddenStates(rng.normal(size=(120, 3 + i))) for i in range(4)}
    compare_all(states, permutations=0, folds=3)
    assert counts == {"eigen": 4 * 4, "own": 4, "nearest": 4}
    compare_all(states, permutations=7, folds=3, null_rows=60)
    assert counts == {"eigen": 3 * 4 * 4, "own": 3 * 4, "nearest": 3 * 4}
    compare_all(states, permutations=7, folds=3, measures=["cka", "cka_debiased"], null_rows=60)
    assert counts == {"eigen": 3 * 4 * 4, "own": 5 * 4, "nearest": 3 * 4}


def test_a_pair_is_seen_from_either_side(rng):
    found = compare_all(three(rng), permutations=3)
    forth, back = found.between("a", "c"), found.between("c", "a")
    assert (back.first, back.second) == ("c", "a")
    for name in SYMMETRIC:
        assert forth[name] == back[name]
    for name in DIRECTED:
        assert forth[name] == back.back[name]
        assert forth.back[name] == back[name]
    assert back.swapped() == forth
    with pytest.raises(InputError, match="these two were not compared: expected two of a, b, c"):
        found.between("a", "a")
    written = json.loads(json.dumps(forth.as_dict(), allow_nan=False))
    assert written["measures"]["cka"]["null"]["p"] == forth["cka"].p
    assert set(written["back"]) == set(DIRECTED)


def test_token_states_meet_where_every_models_tokens_end():
    def tokens(text, ends, d, seed):
        text, ends = np.array(text, np.int32), np.array(ends, np.int32)
        states = np.random.default_rng(seed).normal(size=(len(ends), d))
        return HiddenStates(states, text_index=text, char_end=ends)

    sets = {
        "a": tokens([0, 0, 0, 1, 1], [2, 4, 6, 3, 5], 3, 0),
        "b": tokens([0, 0, 1, 1], [4, 6, 3, 4], 2, 1),
        "c": tokens([0, 0, 1], [1, 4, 3], 4, 2),
    }
    found = common_rows(sets)
    for name, rows in (("a", [1, 3]), ("b", [0, 2]), ("c", [1, 2])):
        assert np.array_equal(found[name].states, sets[name].states[rows])
        assert found[name].char_end.tolist() == [4, 3]
    plain = {"a": HiddenStates(np.eye(4)), "b": HiddenStates(np.eye(4))}
    assert common_rows(plain) == plain
    with pytest.raises(MismatchError, match="no token positions"):
        common_rows({"a": sets["a"], "b": plain["b"]})


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"measures": ["cca"]}, "unknown measure: got cca, expected some of cka, cka_debiased"),
        ({"measures": []}, "no measure is given"),
        ({"permutations": -1}, "permutations is not usable: got -1"),
        ({"permutations": 10**7}, "permutations is not usable: got 10000000, expected 0 to"),
        ({"seed": -1}, "seed is not usable"),
        ({"share": 0.0}, "share of variance is not usable: got 0.0"),
        ({"share": 1.1}, "share of variance is not usable"),
        ({"share": float("nan")}, "share of variance is not usable: got nan"),
        ({"k": 0}, "number of neighbours does not fit the rows: got 0, expected 1 to 49"),
        ({"k": 50}, "number of neighbours does not fit the rows: got 50"),
        ({"k": 20, "knn_rows": 20}, "number of neighbours does not fit the rows: got 20, "
                                    "expected 1 to 19"),
        ({"k": 20, "null_rows": 20}, "number of neighbours does not fit the rows: got 20, "
                                     "expected 1 to 19"),
        ({"null_rows": 3}, "null_rows is not usable: got 3, expected 4 or more"),
        ({"knn_rows": 0}, "knn_rows is not usable"),
        ({"folds": 1}, "number of folds does not fit the data: got 1 folds for 50 texts"),
        ({"folds": 51}, "number of folds does not fit the data"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit(rng, options, words):
    x, y = rng.normal(size=(50, 3)), rng.normal(size=(50, 2))
    with pytest.raises(InputError, match=words):
        compare(x, y, **options)


def test_states_that_cannot_be_compared(rng):
    x = rng.normal(size=(50, 3))
    with pytest.raises(InputError, match="the states of second are all the same: got 50 equal"):
        compare(x, np.full((50, 2), 0.1))
    with pytest.raises(MismatchError, match="number of rows: got 40, expected 50"):
        compare(x, x[:40])
    with pytest.raises(MismatchError, match="made from different texts"):
        compare(HiddenStates(x, text_digest="a" * 64), HiddenStates(x, text_digest="b" * 64))
    with pytest.raises(InputError, match="too few rows to compare: got 3, expected 4 or more"):
        compare(x[:3], x[:3])
    with pytest.raises(InputError, match="needs states of two models: got 1"):
        compare_all({"a": HiddenStates(x)})
    lone = np.zeros((50, 2))
    lone[0] = 1
    with pytest.raises(InputError, match="debiased CKA is not defined for the states of second"):
        compare(x, lone, permutations=0)
    found = compare(x, lone, permutations=0, measures=["cka"])
    assert found["cka"].value == pytest.approx(ORACLES["cka"](x, lone))


def test_the_fewest_rows(rng):
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))
    found = compare(x, y, folds=2, k=1, permutations=3)
    for name, one in every(found):
        assert np.isfinite(one.value), name
    assert found["cka"].value == pytest.approx(ORACLES["cka"](x, y))
    assert found["cka_debiased"].value == pytest.approx(ORACLES["cka_debiased"](x, y))


def test_a_fold_whose_training_rows_are_all_the_same_is_no_failure():
    x = np.zeros((10, 2))
    x[0] = (1, 2)
    y = np.random.default_rng(0).normal(size=(10, 2))
    found = compare(x, y, measures=["r2", "cycle", "svcca", "cka"], permutations=5)
    assert all(np.isfinite(one.value) for _, one in every(found))
    assert found["r2"].value < 0.05
