"""Moments and maps against dense oracles: NumPy, SciPy and scikit-learn on the rows themselves."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression, Ridge
from support import aligned_states

from linalign_lite.alignment.least_squares import fit, fit_moments
from linalign_lite.alignment.moments import Moments, fold_index, folded, measure, merge
from linalign_lite.alignment.ridge import PENALTIES
from linalign_lite.alignment.solvers import procrustes
from linalign_lite.core.hidden_states import HiddenStates, text_digest
from linalign_lite.core.metrics import r2
from linalign_lite.errors import InputError, MismatchError


def close(a: Moments, b: Moments) -> None:
    assert a.n == b.n
    for name in ("mean_x", "mean_y", "xx", "xy", "yy"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-9, atol=1e-7)


# --- moments ------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 40), min_size=1, max_size=5))
@settings(max_examples=40, deadline=None)
def test_merging_parts_is_measuring_the_whole(seed, sizes):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(sum(sizes), 4)) + rng.normal(size=4) * 100
    y = rng.normal(size=(sum(sizes), 3))
    cuts = np.cumsum(sizes)[:-1]
    parts = [measure(a, b) for a, b in zip(np.split(x, cuts), np.split(y, cuts), strict=True)]
    close(merge(parts), measure(x, y))
    close(merge(parts[::-1]), measure(x, y))


def test_moments_are_the_centred_products(rng, monkeypatch):
    monkeypatch.setattr("linalign_lite.alignment.float64_blocks.BLOCK", 37)
    monkeypatch.setattr("linalign_lite.alignment.moments.PRODUCT", 10)
    x, y = rng.normal(size=(100, 4)) + 3, rng.normal(size=(100, 2))
    m = measure(x.astype(np.float32), y.astype(np.float32))
    x, y = x.astype(np.float32).astype(float), y.astype(np.float32).astype(float)
    xc, yc = x - x.mean(0), y - y.mean(0)
    np.testing.assert_allclose(m.xx, xc.T @ xc, rtol=1e-10)
    np.testing.assert_allclose(m.xy, xc.T @ yc, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(m.yy, (yc**2).sum(0), rtol=1e-10)


def test_a_mean_far_from_zero_costs_no_digits(rng):
    x = rng.normal(size=(500, 3))
    shifted = measure(x + 1e6, x)
    np.testing.assert_allclose(shifted.xx, measure(x, x).xx, rtol=1e-8)


def test_folds_keep_groups_together(rng):
    groups = rng.integers(0, 30, size=200)
    index = fold_index(groups, 5)
    for group in range(30):
        assert len(set(index[groups == group])) <= 1
    assert set(index) == set(range(5))


@pytest.mark.parametrize("folds", [0, 1, 11])
def test_folds_must_fit(folds):
    with pytest.raises(InputError, match=r"folds for 10 texts, expected 2 to 10"):
        folded(np.zeros((10, 2)), np.zeros((10, 2)), folds)


# --- solvers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [1e-6, 1e-2, 1.0])
def test_ridge_is_scikit_learns_ridge(pair, penalty):
    x, y = pair
    affine, report = fit(x, y, penalty=penalty)
    xc = x.states - x.states.mean(0)
    alpha = penalty * float((xc.astype(float) ** 2).sum()) / x.space.dim
    oracle = Ridge(alpha=alpha).fit(x.states.astype(float), y.states.astype(float))
    np.testing.assert_allclose(affine.weight, oracle.coef_, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(affine.bias, oracle.intercept_, rtol=1e-4, atol=1e-4)
    assert report.penalty == penalty


def test_held_out_r2_is_brute_force_cross_validation(pair):
    x, y = pair
    _, report = fit(x, y, penalty=0.01, folds=4)
    index = fold_index(x.groups, 4)
    residual = spread = 0.0
    for k in range(4):
        a, b = x.states[index != k].astype(float), y.states[index != k].astype(float)
        alpha = 0.01 * ((a - a.mean(0)) ** 2).sum() / x.space.dim
        guess = Ridge(alpha=alpha).fit(a, b).predict(x.states[index == k].astype(float))
        truth = y.states[index == k].astype(float)
        residual += ((truth - guess) ** 2).sum()
        spread += ((truth - y.states.astype(float).mean(0)) ** 2).sum()
    assert report.held_out_r2 == pytest.approx(1 - residual / spread, abs=1e-6)


def test_the_chosen_penalty_is_the_best_of_the_curve(rng):
    x, y = aligned_states(rng, n=60, d_source=30, noise=1.0)
    _, report = fit(x, y)
    assert report.held_out_r2 == max(score for _, score in report.curve)
    assert len(report.curve) == len(PENALTIES)
    by_hand = {p: fit(x, y, penalty=p)[1].held_out_r2 for p in PENALTIES[::10]}
    assert report.held_out_r2 >= max(by_hand.values()) - 1e-12


def test_lstsq_is_linear_regression(pair):
    x, y = pair
    affine, _ = fit(x, y, method="lstsq")
    oracle = LinearRegression().fit(x.states.astype(float), y.states.astype(float))
    np.testing.assert_allclose(affine.weight, oracle.coef_, rtol=1e-3, atol=1e-4)
    assert r2(y.states, affine(x.states)) == pytest.approx(
        oracle.score(x.states, y.states, None), abs=0.05
    )


def test_lstsq_of_too_few_rows_is_the_minimum_norm_solution(rng):
    x, y = aligned_states(rng, n=8, d_source=12)
    affine, report = fit(x, y, method="lstsq", folds=2)
    wide_x, wide_y = x.states.astype(float), y.states.astype(float)
    oracle = np.linalg.pinv(wide_x - wide_x.mean(0)) @ (wide_y - wide_y.mean(0))
    np.testing.assert_allclose(affine.weight, oracle.T, rtol=1e-3, atol=1e-3)
    assert report.rank == 7
    assert report.condition == float("inf")
    assert any("8 rows are few for 12" in w for w in report.warnings)


def test_lstsq_is_judged_on_the_rows(rng):
    """A column of tiny scale that decides everything: squares of it would drown in rounding."""
    x = rng.normal(size=(300, 10))
    y = x[:, :1] + 0.01 * rng.normal(size=(300, 1))
    x[:, 0] *= 1e-7
    affine, report = fit(HiddenStates(x), HiddenStates(y), method="lstsq")
    assert report.held_out_r2 > 0.99
    assert report.rank == 10
    assert report.condition == pytest.approx(np.linalg.cond(x - x.mean(0)) ** 2, rel=1e-2)
    assert r2(HiddenStates(y).states, affine(HiddenStates(x).states)) > 0.99


def test_procrustes_is_the_minimum_where_it_says_so_and_never_worse_than_padding(rng):
    def error(x, y, weight):
        return ((x @ weight.T - y) ** 2).sum()

    for d_source, d_target in ((4, 4), (3, 5), (6, 2)):
        x, y = (
            rng.normal(size=(80, d_source)) * [*range(1, d_source + 1)],
            rng.normal(size=(80, d_target)),
        )
        x, y = x - x.mean(0), y - y.mean(0)
        weight, _ = procrustes(measure(x, y))
        wide = max(d_source, d_target)
        pad = [np.pad(a, ((0, 0), (0, wide - a.shape[1]))) for a in (x, y)]
        rotation, nuclear = scipy.linalg.orthogonal_procrustes(*pad)
        padded = (rotation * nuclear / (pad[0] ** 2).sum())[:d_source, :d_target].T
        assert error(x, y, weight) <= error(x, y, padded) * (1 + 1e-9)
        if d_source <= d_target:
            for _ in range(300):
                other = np.linalg.qr(rng.normal(size=(d_target, d_source)))[0]
                z = x @ other.T
                scale = (z * y).sum() / (z**2).sum()
                assert error(x, y, weight) <= error(x, y, scale * other) + 1e-9


@pytest.mark.parametrize(("d_source", "d_target"), [(7, 7), (9, 5), (5, 9)])
def test_procrustes_is_scipys(rng, d_source, d_target):
    x, y = rng.normal(size=(200, d_source)), rng.normal(size=(200, d_target))
    weight, bias = procrustes(measure(x, y))
    xc, yc = x - x.mean(0), y - y.mean(0)
    wide = max(d_source, d_target)
    pad = [np.pad(a, ((0, 0), (0, wide - a.shape[1]))) for a in (xc, yc)]
    rotation, nuclear = scipy.linalg.orthogonal_procrustes(*pad)
    rotation = rotation[:d_source, :d_target]
    scale = nuclear / ((xc @ rotation) ** 2).sum()
    np.testing.assert_allclose(weight, scale * rotation.T, atol=1e-8)
    np.testing.assert_allclose(bias, y.mean(0) - weight @ x.mean(0), atol=1e-8)


def test_procrustes_recovers_a_rotation_and_a_scale(rng):
    x = rng.normal(size=(300, 6))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    y = 3 * x @ rotation + 5
    affine, report = fit(HiddenStates(x), HiddenStates(y), method="procrustes")
    np.testing.assert_allclose(affine.weight, 3 * rotation.T, atol=1e-4)
    assert report.held_out_r2 == pytest.approx(1.0, abs=1e-6)


def test_dead_dimensions_are_harmless(rng):
    x, y = aligned_states(rng)
    dead = np.hstack([x.states, np.full((len(x), 2), 0.25, dtype=np.float32)])
    for method in ("ridge", "lstsq", "procrustes"):
        affine, report = fit(HiddenStates(dead), y, method=method)
        assert np.isfinite(affine.weight).all()
        np.testing.assert_allclose(affine.weight[:, -2:], 0, atol=1e-4)
        assert report.rank == x.space.dim
        assert report.condition == float("inf")


def test_moments_of_shards_give_the_same_map(pair):
    x, y = pair
    whole = folded(x.states, y.states, 4)
    index = fold_index(x.groups, 4)
    halves = [slice(0, 200), slice(200, 400)]
    shards = [
        [measure(x.states[h][index[h] == k], y.states[h][index[h] == k]) for k in range(4)]
        for h in halves
    ]
    merged = type(whole)(tuple(a + b for a, b in zip(*shards, strict=True)))
    for a, b in zip(fit_moments(whole)[:2], fit_moments(merged)[:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)


# --- refusals -----------------------------------------------------------------------------------


def test_states_of_other_texts_are_refused(pair):
    x, y = pair
    a = HiddenStates(x.states, text_digest=text_digest(["a"]))
    b = HiddenStates(y.states, text_digest=text_digest(["b"]))
    with pytest.raises(MismatchError, match=r"different texts: got text digest .* expected"):
        fit(a, b)
    with pytest.raises(MismatchError, match="same number of rows: got 399, expected 400"):
        fit(x, HiddenStates(y.states[1:]))


def test_rows_that_do_not_belong_together_are_suspected(pair):
    x, y = (side.states for side in pair)
    assert "is the same text" not in fit(x, y)[1].verdict.advice
    assert "see that row i of both sides is the same text" in fit(x, y[::-1])[1].verdict.advice


def test_a_side_that_is_not_usable_is_named(pair):
    x, y = (side.states for side in pair)
    for sides, name in (((x * np.nan, y), "source"), ((x, y * np.nan), "target")):
        with pytest.raises(
            InputError, match=f"of the {name}, states hold values that are not finite"
        ):
            fit(*sides)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "magic"}, "unknown method: got magic"),
        ({"penalty": -1}, "penalty is not usable: got -1"),
        ({"penalty": "lots"}, "got lots"),
        ({"penalty": float("nan")}, "got nan"),
        ({"method": "lstsq", "penalty": 1.0}, "lstsq has no penalty"),
        ({"folds": 1}, "expected 2 to 400"),
    ],
)
def test_wrong_options_are_named(pair, options, words):
    with pytest.raises(InputError, match=words):
        fit(*pair, **options)


def test_constant_sources_are_named(pair):
    _, y = pair
    with pytest.raises(InputError, match="source states are all the same"):
        fit(HiddenStates(np.ones((len(y), 3))), y)


@pytest.mark.parametrize("method", ["ridge", "lstsq", "procrustes"])
def test_constant_targets_are_named(pair, method):
    x, _ = pair
    with pytest.raises(InputError, match="all the same"):
        fit(x, HiddenStates(np.ones((len(x), 3))), method=method)


def test_repeated_rows_are_remarked(rng):
    x = rng.normal(size=(300, 20)).astype(np.float32)
    y = x[:, :5] + rng.normal(size=(300, 5)).astype(np.float32)
    assert not [text for text in fit(x, y)[1].warnings if "repeat" in text]
    twice = fit(np.concatenate([x, x[:30]]), np.concatenate([y, y[:30]]))[1].warnings
    assert [text for text in twice if text.startswith("30 of 330 rows repeat another")]
