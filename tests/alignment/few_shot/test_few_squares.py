"""Least squares from public and few moments, against dense oracles; what is chosen, and refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import aligned_states

from linalign_lite.alignment.few_shot.joint_fit import fit_with_few
from linalign_lite.alignment.few_shot.weighting import (
    FEW_ONLY,
    PUBLIC_ONLY,
    WEIGHTS,
    least_squares_trials,
)
from linalign_lite.alignment.least_squares import fit
from linalign_lite.alignment.moments import fold_index, folded, measure
from linalign_lite.core import serialization
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.metrics import error_of_mean
from linalign_lite.core.space import Space
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.heads.serialization import save


def two_kinds(seed=0, n_public=300, n_few=40, apart=0.3, dims=(7, 5), shift=2.0, noise=0.3):
    """Public and few rows whose maps are ``apart``, few rows to judge by, and their true map."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=dims)
    kinds = []
    for i, (n, away) in enumerate(((n_public, 0.0), (n_few, apart), (2000, apart))):
        own = np.random.default_rng(seed + 99).normal(size=dims)
        x = rng.normal(size=(n, dims[0])) * np.linspace(0.3, 2, dims[0]) + shift * (i > 0)
        y = x @ (common + away * own) + noise * rng.normal(size=(n, dims[1])) + 1
        kinds.append((x.astype(np.float32), y.astype(np.float32)))
    return kinds


def weighted_ridge(x, y, w, penalty):
    """minimise Σ wᵢ‖W xᵢ + b − yᵢ‖² + λ‖W‖², of dense rows."""
    x, y, w = x.astype(float), y.astype(float), w / w.sum()
    mean_x, mean_y = w @ x, w @ y
    a, b = x - mean_x, y - mean_y
    gram = (a * w[:, None]).T @ a
    unit = np.trace(gram) / len(gram)
    weight = np.linalg.solve(gram + penalty * unit * np.eye(len(gram)), (a * w[:, None]).T @ b).T
    return weight, mean_y - weight @ mean_x


def both(public, few, weight):
    """Rows of both sides and what each counts for."""
    (px, py), (x, y) = public, few
    if weight == FEW_ONLY:
        return x, y, np.ones(len(x))
    mass = np.r_[np.full(len(px), 1 / len(px)), np.full(len(x), weight / len(x))]
    return np.concatenate([px, x]), np.concatenate([py, y]), mass


# --- moments that count for more or less ---------------------------------------------------------


@settings(deadline=None)  # the first example loads SciPy
@given(st.integers(0, 1000), st.floats(0, 1e6), st.floats(1e-6, 1e6))
def test_scaled_moments_merge_like_weighted_rows(seed, a, b):
    rng = np.random.default_rng(seed)
    parts = [(rng.normal(size=(n, 3)) + n, rng.normal(size=(n, 2)) - n) for n in (5, 9)]
    found = measure(*parts[0]).scaled(a) + measure(*parts[1]).scaled(b)
    x, y = (np.concatenate(side) for side in zip(*parts, strict=True))
    w = np.r_[np.full(5, a), np.full(9, b)]
    mean_x, mean_y = np.average(x, axis=0, weights=w), np.average(y, axis=0, weights=w)
    np.testing.assert_allclose(found.n, w.sum())
    np.testing.assert_allclose(found.mean_x, mean_x, rtol=1e-9)
    x, y = x - mean_x, y - mean_y
    size = w.sum() * 100
    np.testing.assert_allclose(found.xx, (x * w[:, None]).T @ x, atol=1e-12 * size)
    np.testing.assert_allclose(found.xy, (x * w[:, None]).T @ y, atol=1e-12 * size)
    np.testing.assert_allclose(found.yy, w @ y**2, atol=1e-12 * size)


@pytest.mark.parametrize("factor", [-1e-9, float("inf"), float("nan")])
def test_pairs_cannot_count_so_often(factor, rng):
    with pytest.raises(InputError, match="cannot count so often"):
        measure(rng.normal(size=(3, 2)), rng.normal(size=(3, 2))).scaled(factor)


def test_counting_twice_is_being_there_twice(rng):
    x, y = rng.normal(size=(6, 3)), rng.normal(size=(6, 2))
    twice = measure(np.repeat(x, 2, axis=0), np.repeat(y, 2, axis=0))
    found = measure(x, y).scaled(2)
    assert found.n == twice.n
    for name in ("mean_x", "mean_y", "xx", "xy", "yy"):
        np.testing.assert_allclose(getattr(found, name), getattr(twice, name), atol=1e-12)


# --- what is found -------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [PUBLIC_ONLY, 0.2, 1.0, 7.0, FEW_ONLY])
def test_losses_are_brute_force_cross_validation_on_the_few(weight):
    public, few, _ = two_kinds()
    penalties = np.array([0.0, 1e-3, 0.1, 10.0])
    some = folded(*few, 4, seed=3)
    found = list(least_squares_trials(measure(*public), some, (weight,), penalties))
    index = fold_index(np.arange(len(few[0])), 4, 3)
    spread = ((few[1] - few[1].mean(axis=0)) ** 2).sum()
    for penalty, trial in zip(penalties, found, strict=True):
        folds = []
        for k in range(4):
            rest = [side[index != k] for side in few]
            w, b = weighted_ridge(*both(public, rest, weight), penalty)
            folds.append(((few[0][index == k] @ w.T + b - few[1][index == k]) ** 2).sum())
        assert (trial.weight, trial.penalty) == (weight, penalty)
        np.testing.assert_allclose(trial.loss, sum(folds) / spread, rtol=1e-5)
        means = np.array(folds) / np.bincount(index) * len(index) / spread
        np.testing.assert_allclose(trial.error, means.std(ddof=1) / 2, rtol=1e-4)


@pytest.mark.parametrize("weight", [0.05, 1.0, 30.0])
def test_the_map_is_weighted_ridge_of_all_rows(weight):
    public, few, _ = two_kinds()
    affine, report = fit_with_few(*public, *few, weight=weight, penalty=0.02)
    w, b = weighted_ridge(*both(public, few, weight), 0.02)
    np.testing.assert_allclose(affine.weight, w, atol=1e-5)
    np.testing.assert_allclose(affine.bias, b, atol=1e-5)
    assert (report.few_weight, report.penalty) == (weight, 0.02)
    assert (report.public_loss, report.few_loss) == (None, None)
    assert report.both_loss == report.loss


def test_at_its_limits_it_is_public_alone_and_few_alone():
    public, few, _ = two_kinds()
    for weight, near, (x, y) in ((PUBLIC_ONLY, 1e-9, public), (FEW_ONLY, 1e9, few)):
        plain, _ = fit(x, y, penalty=0.03)
        affine, _ = fit_with_few(*public, *few, weight=weight, penalty=0.03)
        np.testing.assert_allclose(affine.weight, plain.weight, atol=1e-6)
        np.testing.assert_allclose(affine.bias, plain.bias, atol=1e-6)
        close, _ = fit_with_few(*public, *few, weight=near, penalty=0.03)
        np.testing.assert_allclose(close.weight, plain.weight, atol=1e-4)


def test_few_alone_is_fit_with_its_own_choice_of_penalty():
    public, few, _ = two_kinds()
    plain, ridge = fit(*few, seed=5, folds=4)
    affine, report = fit_with_few(*public, *few, weight=FEW_ONLY, seed=5, folds=4)
    np.testing.assert_array_equal(affine.weight, plain.weight)
    assert report.penalty == ridge.penalty
    np.testing.assert_allclose(1 - report.loss, ridge.held_out_r2, rtol=1e-9)


def test_few_rows_repeated_weigh_as_much_as_their_number():
    public, few, _ = two_kinds()
    rows = [np.concatenate([p, np.repeat(f, 3, axis=0)]) for p, f in zip(public, few, strict=True)]
    plain, _ = fit(*rows, penalty=0.01)
    weight = 3 * len(few[0]) / len(public[0])
    affine, _ = fit_with_few(*public, *few, weight=weight, penalty=0.01)
    np.testing.assert_allclose(affine.weight, plain.weight, atol=1e-5)


def error_of(affine, judge):
    x, y = judge
    return float(((affine(x) - y) ** 2).sum() / ((y - y.mean(axis=0)) ** 2).sum())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("apart", "n_few"),
    [(0.0, 10), (0.05, 12), (0.3, 25), (3.0, 100)],
    ids=["the same", "almost", "somewhat", "another"],
)
def test_it_is_never_worse_than_the_better_side_alone_by_more_than_noise(seed, apart, n_few):
    """From public texts that say all to public texts that say nothing."""
    public, few, judge = two_kinds(seed, apart=apart, n_few=n_few, noise=1.0)
    affine, report = fit_with_few(*public, *few)
    alone = [fit(*few)[0], fit(*public)[0]]
    better = min(error_of(a, judge) for a in alone)
    assert error_of(affine, judge) <= 1.1 * better + report.loss_error / 4
    assert report.loss == min(report.public_loss, report.few_loss, report.both_loss)


def test_where_both_are_of_use_it_is_better_than_either():
    ahead = []
    for seed in range(6):
        public, few, judge = two_kinds(seed, apart=0.3, n_few=12, noise=1.0)
        affine, _ = fit_with_few(*public, *few)
        better = min(error_of(fit(*side)[0], judge) for side in (public, few))
        ahead.append(error_of(affine, judge) / better)
    assert np.mean(ahead) < 0.9


def test_the_report_says_what_was_tried(tmp_path):
    public, few, _ = two_kinds(n_few=12, noise=1.0)
    affine, report = fit_with_few(*public, *few)
    assert (report.objective, report.n_public, report.n_few) == ("least-squares", 300, 12)
    assert PUBLIC_ONLY < report.few_weight < FEW_ONLY
    assert (report.d_source, report.d_target, report.n_outputs) == (7, 5, None)
    assert report.start_penalty is None
    assert tuple(dict.fromkeys(w for w, *_ in report.curve)) == WEIGHTS
    assert report.loss == min(loss for *_, loss in report.curve)
    assert 0 < report.loss_error < report.loss
    save(tmp_path / "x.map.npz", affine)
    card = serialization.load_map(tmp_path / "x.map.npz").card
    json.dumps(dict(card), allow_nan=False)
    assert card["method"] == "ridge"
    assert card["few_weight"] == report.few_weight
    assert "curve" not in card


@pytest.mark.parametrize(
    ("kind", "words"),
    [("public", "better than that of the public texts"), ("few", "better than that of the few")],
)
def test_a_side_that_is_of_no_use_is_named(kind, words, monkeypatch):
    weights = (PUBLIC_ONLY, FEW_ONLY)
    monkeypatch.setattr("linalign_lite.alignment.few_shot.weighting.WEIGHTS", weights)
    far = kind == "few"
    public, few, _ = two_kinds(apart=5.0 * far, n_few=200 if far else 10, noise=1.0)
    affine, report = fit_with_few(*public, *few)
    assert report.few_weight == (FEW_ONLY if far else PUBLIC_ONLY)
    assert len(report.warnings) == 1
    assert words in report.warnings[0]
    assert affine.card["few_weight"] == (None if far else 0)


def test_rows_of_one_text_share_a_fold():
    """A text that stands many times would otherwise judge itself."""
    public, few, _ = two_kinds(n_few=20)
    index = np.repeat(np.arange(20, dtype=np.int32), 3)
    sides = [
        HiddenStates(np.repeat(side, 3, axis=0), Space(side.shape[1], pooling="tokens"),
                     text_index=index, char_end=index)
        for side in few
    ]  # fmt: skip
    _, once = fit_with_few(*public, *few, penalty=1e-6, weight=FEW_ONLY)
    _, thrice = fit_with_few(*public, *sides, penalty=1e-6, weight=FEW_ONLY)
    assert (once.n_few, thrice.n_few) == (20, 60)
    np.testing.assert_allclose(once.loss, thrice.loss, rtol=1e-4)


def test_the_error_of_a_mean_is_that_over_texts(rng):
    each = rng.normal(size=50)
    groups = np.arange(50)
    np.testing.assert_allclose(error_of_mean(each, groups), each.std(ddof=1) / np.sqrt(50))
    repeated = error_of_mean(np.repeat(each, 4), np.repeat(groups, 4))
    np.testing.assert_allclose(repeated, error_of_mean(each, groups))


def test_dimensions_that_never_change_do_no_harm():
    public, few, _ = two_kinds()
    for x, _ in (public, few):
        x[:, 3] = 2.5
    affine, _ = fit_with_few(*public, *few)
    np.testing.assert_allclose(affine.weight[:, 3], 0, atol=1e-9)


def test_spaces_and_texts_go_into_the_map():
    rng = np.random.default_rng(0)
    spaces = Space(12, "a" * 64, "a", "mean"), Space(9, "b" * 64, "b", "mean")
    many, some = (
        [
            replace(s, space=p, text_digest=digest)
            for s, p in zip(aligned_states(rng, n), spaces, strict=True)
        ]
        for n, digest in ((200, "1" * 64), (30, "2" * 64))
    )
    affine, _ = fit_with_few(*many, *some)
    assert (affine.source, affine.target) == spaces
    assert (affine.card["text_digest"], affine.card["few_text_digest"]) == ("1" * 64, "2" * 64)
    other = replace(some[1], space=replace(spaces[1], model="c" * 64))
    with pytest.raises(MismatchError, match="few texts' target states are not like the public"):
        fit_with_few(*many, some[0], other)
    with pytest.raises(MismatchError, match="few texts' source states are not like the public"):
        fit_with_few(*many, *some[::-1])
    for sides in (
        (*many, some[0], replace(some[1], text_digest="3" * 64)),
        (many[0], replace(many[1], text_digest="3" * 64), *some),
    ):
        with pytest.raises(MismatchError, match="different texts"):
            fit_with_few(*sides)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weight": -1}, "weight of the few texts is not usable"),
        ({"weight": "much"}, "weight of the few texts is not usable"),
        ({"weight": float("nan")}, "weight of the few texts is not usable"),
        ({"weight": 1e13}, "weight of the few texts is not usable"),
        ({"penalty": -1}, "penalty is not usable"),
        ({"penalty": "strong"}, "penalty is not usable"),
        ({"folds": 1}, "number of folds"),
        ({"folds": 41}, "number of folds"),
        ({"seed": -1}, "seed is not usable"),
        ({"iterations": 0}, "number of iterations"),
    ],
)
def test_wrong_options_are_named(options, words):
    public, few, _ = two_kinds(n_public=60)
    with pytest.raises(InputError, match=words):
        fit_with_few(*public, *few, **options)


def test_seven_texts_are_too_few():
    public, few, _ = two_kinds(n_few=7)
    with pytest.raises(InputError, match="too few to choose anything by: got 7, expected 8"):
        fit_with_few(*public, *few)
    public, few, _ = two_kinds(n_few=8)
    fit_with_few(*public, *few)


def test_states_that_say_nothing_are_named():
    public, few, _ = two_kinds()
    still = np.ones_like(few[1])
    with pytest.raises(InputError, match="target states are all the same"):
        fit_with_few(*public, few[0], still)
    with pytest.raises(InputError, match="source states are all the same"):
        fit_with_few(np.ones_like(public[0]), public[1], np.ones_like(few[0]), few[1])


def test_a_head_of_another_space_is_refused():
    public, few, _ = two_kinds()
    with pytest.raises(MismatchError, match="does not read the target's states"):
        fit_with_few(*public, *few, head=Head(np.ones((3, 9)), np.zeros(3)))


def test_few_texts_of_which_nothing_is_predicted_are_poor(rng):
    x, y = rng.normal(size=(200, 6)), rng.normal(size=(200, 5))
    _, report = fit_with_few(x, y, x[:40], y[:40])
    assert report.verdict.grade == "poor"
    assert "held-out R² of the few texts" in report.verdict.reason
    _, report = fit_with_few(x, x[:, :5], x[:40], x[:40, :5])
    assert report.verdict is None
    assert "what it keeps" in str(report)
