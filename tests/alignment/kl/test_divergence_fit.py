"""Head-aware fits as a whole: what they gain, what they leave alone, and what they refuse."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from kl_cases import Case, blind_spot, make_case, reference

from linalign_lite.alignment.kl import divergence_fit, problem, validation
from linalign_lite.alignment.kl.checkpoint import digest_of
from linalign_lite.alignment.kl.divergence_fit import fit_kl
from linalign_lite.alignment.kl.objective import Teaching
from linalign_lite.alignment.kl.report import Step
from linalign_lite.alignment.kl.validation import (
    CLASSIFIER_TEACHING,
    LARGE_TEACHING,
    TOKEN_TEACHING,
)
from linalign_lite.alignment.least_squares import fit
from linalign_lite.alignment.moments import fold_index, measure
from linalign_lite.alignment.ridge import ridge, spectrum
from linalign_lite.core import serialization
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import NO_TOKEN, HiddenStates, text_digest
from linalign_lite.core.space import Space
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.heads.serialization import save

TRAINED = 400  # rows of `blind_spot` that are fitted on


@pytest.fixture(scope="module")
def spot():
    return blind_spot()


@pytest.fixture(scope="module")
def fitted(spot):
    head, x, y = spot
    steps: list[Step] = []
    found = fit_kl(x[:TRAINED], y[:TRAINED], head, watch=steps.append)
    return *found, steps


def token_states(rng, texts=30, each=6, outputs=11, dims=(5, 4), labels=()):
    """Token states of two models, a text's last token without a next one, and a head."""
    n = texts * each
    index = np.repeat(np.arange(texts, dtype=np.int32), each)
    next_token = rng.integers(0, outputs, size=n).astype(np.int32)
    next_token[each - 1 :: each] = NO_TOKEN
    causes = rng.normal(size=(n, 3))
    sides = [
        HiddenStates(
            (causes @ rng.normal(size=(3, d)) + 0.3 * rng.normal(size=(n, d))).astype(np.float32),
            Space(d, name * 64, name, "tokens"), text_digest(["made"]), n_texts=texts,
            text_index=index, char_end=np.tile(np.arange(1, each + 1, dtype=np.int32), texts),
            next_token=next_token,
        )
        for d, name in zip(dims, "ab", strict=True)
    ]  # fmt: skip
    weight = rng.normal(size=(outputs, dims[1])).astype(np.float32)
    return *sides, Head(weight, np.zeros(outputs, np.float32), space=sides[1].space)


def same_map(a: AffineMap, b: AffineMap) -> None:
    np.testing.assert_array_equal(a.weight, b.weight)
    np.testing.assert_array_equal(a.bias, b.bias)


# --- what it is for -----------------------------------------------------------------------------


@pytest.mark.parametrize(("outputs", "seed"), [(10, 1), (30, 1), (10, 2), (30, 5), (3, 1)])
def test_it_serves_the_head_where_least_squares_does_not(outputs, seed):
    """Seeds among them where the strongest penalties differ by noise alone."""
    head, x, y = blind_spot(outputs, seed=seed)
    plain, _ = fit(x[:TRAINED], y[:TRAINED])
    affine, report = fit_kl(x[:TRAINED], y[:TRAINED], head)
    truth = head.predict(y[TRAINED:])
    before = np.mean(head.predict(plain(x[TRAINED:])) == truth)
    after = np.mean(head.predict(affine(x[TRAINED:])) == truth)
    assert after > 0.8
    assert after > before + 0.1
    assert report.held_out_agreement > report.start_agreement
    assert report.held_out_divergence < report.start_divergence / 2


def test_the_report_says_what_was_found(spot, fitted):
    head, x, y = spot
    affine, report, _ = fitted
    assert (report.n, report.n_held_out) == (TRAINED, TRAINED // 10)
    assert (report.d_source, report.d_target, report.n_outputs) == (12, 12, 10)
    assert Teaching(report.temperature, report.truth) == CLASSIFIER_TEACHING
    _, ridge = fit(x[:TRAINED], y[:TRAINED])
    assert (report.start_method, report.start_penalty) == ("ridge", ridge.penalty)
    assert report.warnings == ()
    assert report.iterations > 10
    penalties, scores = zip(*report.curve, strict=True)
    assert list(penalties) == sorted(penalties, reverse=True)
    chosen = penalties.index(report.penalty)
    assert report.held_out_divergence == scores[chosen] <= min(scores) * 1.05
    assert chosen <= scores.index(min(scores))
    # the held-out figures are near to what other texts give
    case = Case(head, x[TRAINED:], y[TRAINED:], teaching=CLASSIFIER_TEACHING)
    new = reference(case, affine.weight.astype(float), affine.bias.astype(float))
    assert new / 2 < report.held_out_divergence < new * 2


def test_the_start_figures_are_those_of_the_ridge_map():
    """A start that is judged on the held-out rows alone: their share of weight is all there is."""
    case = make_case(9, 4, n=40)
    x, y = np.repeat(case.x[:2], 20, axis=0), np.repeat(case.y[:2], 20, axis=0)
    x[0] += 1e-3
    plain, _ = fit(x, y)
    _, report = fit_kl(x, y, case.head, penalty=1.0, teaching=Teaching())
    ends = [
        reference(Case(case.head, x[i : i + 1], y[i : i + 1]), plain.weight, plain.bias)
        for i in (1, 39)
    ]
    shares = [(a * ends[0] + (4 - a) * ends[1]) / 4 for a in range(5)]
    assert min(abs(report.start_divergence - s) for s in shares) < 1e-3


def test_the_card_names_the_head_and_the_file_comes_back(fitted, spot, tmp_path):
    affine, report, _ = fitted
    json.dumps(dict(affine.card), allow_nan=False)
    save(tmp_path / "x.map.npz", affine)
    found = serialization.load_map(tmp_path / "x.map.npz")
    same_map(found, affine)
    assert found.weight.dtype == np.float32
    assert found.card["method"] == "kl"
    assert found.card["head"] == {
        "digest": digest_of(spot[0]),
        "outputs": 10,
        "space": spot[0].space.describe(),
    }
    for name in ("penalty", "n", "held_out_divergence", "start_agreement", "temperature"):
        assert found.card[name] == getattr(report, name)
    assert "curve" not in found.card


def test_spaces_and_texts_go_into_the_map(rng):
    x, y, head = token_states(rng)
    affine, _ = fit_kl(x, y, head, penalty=0.1, iterations=3)
    assert (affine.source, affine.target) == (x.space, y.space)
    assert affine.card["text_digest"] == x.text_digest
    head @ affine  # they belong together


def test_watching_shows_every_step_and_what_was_held_out(fitted):
    _, report, steps = fitted
    assert len(steps) == report.iterations
    stages = list(dict.fromkeys(s.stage for s in steps))
    assert stages[0] == "penalty 1e+01"
    assert stages[-1] == f"{TRAINED} rows"
    assert len(stages) == len(report.curve) + 1
    for stage in stages:
        mine = [s for s in steps if s.stage == stage]
        assert [s.iteration for s in mine] == list(range(1, len(mine) + 1))
        assert mine[-1].loss <= mine[0].loss
    looks = [s for s in steps if s.held_out == s.held_out]
    assert {s.iteration % problem.EVALUATE_EVERY for s in looks} == {0}
    assert len(looks) == sum(s.iteration % problem.EVALUATE_EVERY == 0 for s in steps[: -len(mine)])
    assert min(s.held_out for s in looks) < report.start_divergence / 2


# --- what it leaves alone -----------------------------------------------------------------------


def test_where_the_head_does_not_look_the_map_stays_ridge():
    head, x, y = blind_spot(3)
    plain, _ = fit(x[:TRAINED], y[:TRAINED])
    affine, _ = fit_kl(x[:TRAINED], y[:TRAINED], head)
    centred = head.weight - head.weight.mean(axis=0)
    _, _, rows = np.linalg.svd(centred.astype(float))
    step = np.column_stack([affine.weight - plain.weight, affine.bias - plain.bias])
    size = np.abs(plain.weight).max()
    assert np.abs(rows[2:] @ step).max() < 1e-5 * size
    assert np.abs(rows[:2] @ step).max() > 1e-2 * size


@pytest.mark.parametrize("outputs", [3, 30])
@pytest.mark.parametrize("penalty", [1e12, 1e90])
def test_a_huge_penalty_leaves_the_ridge_map(outputs, penalty):
    """But for the bias in the coordinates that the head sees: it is not penalised."""
    head, x, y = blind_spot(outputs)
    plain, _ = fit(x, y)
    affine, report = fit_kl(x, y, head, penalty=penalty)
    np.testing.assert_allclose(affine.weight, plain.weight, atol=1e-6)
    assert report.penalty == pytest.approx(penalty)
    assert len(report.curve) == 1
    freed, _ = fit_kl(x, y, head, penalty=1e-3)
    assert np.abs(freed.weight - plain.weight).max() > 1e-2


def test_a_given_penalty_is_that_of_the_objective_on_all_rows():
    """The map is the minimum with that λ, whatever number of rows the search had."""
    head, x, y = blind_spot(3, n=300)
    affine, _ = fit_kl(x, y, head, penalty=0.01, iterations=500, teaching=Teaching())
    plain, _ = fit(x, y)
    case = Case(head, x, y)
    p = np.exp((z := head(y).astype(float)) - z.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    v = head.weight.astype(float)
    metric = np.mean([v.T @ (np.diag(a) - np.outer(a, a)) @ v for a in p], axis=0)
    unit = x.astype(float).var(axis=0).mean()

    def objective(penalty, share):
        """At a point on the line from the ridge map through what was found."""
        weight = plain.weight + share * (affine.weight - plain.weight).astype(float)
        bias = plain.bias + share * (affine.bias - plain.bias).astype(float)
        gap = weight - plain.weight
        value = reference(case, weight, bias)
        return value + penalty * unit / 2 * float(np.trace(gap.T @ metric @ gap))

    shares = np.linspace(0.5, 1.5, 201)
    best = {p: shares[np.argmin([objective(p, s) for s in shares])] for p in (0.005, 0.01, 0.02)}
    assert best[0.01] == pytest.approx(1, abs=0.011)
    assert best[0.005] > 1.02
    assert best[0.02] < 0.98


# --- weights, seeds, parts ----------------------------------------------------------------------


def test_rows_of_weight_0_might_as_well_not_be_there(spot):
    head, x, y = (spot[0], *(a[:200] for a in spot[1:]))
    rng = np.random.default_rng(4)
    where = np.sort(rng.permutation(260)[:200])
    weight = np.zeros(260)
    weight[where] = 3
    wide = [rng.normal(size=(260, 12)).astype(np.float32) * 50 for _ in range(2)]
    wide[0][where], wide[1][where] = x, y
    found, report = fit_kl(*wide, head, weights=weight, penalty=0.01)
    wanted, without = fit_kl(x, y, head, penalty=0.01)
    same_map(found, wanted)
    assert report == without
    assert report.n == 200


def test_weights_move_the_map_to_the_rows_that_count():
    """Two kinds of rows that ask for different maps."""
    head, x, y = blind_spot(10, n=400)
    other = y.copy()
    other[:, 8:] *= -1
    both = np.vstack([x, x]), np.vstack([y, other])
    agreement = {}
    for share in (0.02, 50):
        weight = np.r_[np.full(400, share), np.ones(400)]
        affine, _ = fit_kl(*both, head, weights=weight, penalty=1e-3, iterations=60)
        agreement[share] = np.mean(head.predict(affine(x)) == head.predict(y))
    assert agreement[0.02] < 0.2
    assert agreement[50] > 0.8


def test_weights_mean_nothing_but_their_ratios(spot):
    head, x, y = (spot[0], *(a[:150] for a in spot[1:]))
    weight = np.random.default_rng(0).exponential(size=150)
    maps = [
        fit_kl(x, y, head, weights=weight * np.float64(scale), penalty=0.01, iterations=20)[0]
        for scale in (1, 2.0**40, 2.0**900)
    ]
    same_map(maps[0], maps[1])
    same_map(maps[0], maps[2])


@pytest.mark.parametrize(
    "weight",
    [np.ones(3), np.ones((5, 1)), -np.ones(5), np.zeros(5), [1, 1, np.nan, 1, 1],
     [1, np.inf, 1, 1, 1], 1.0],
)  # fmt: skip
def test_weights_that_cannot_be_used_are_refused(weight, rng):
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 4))
    with pytest.raises(InputError, match=r"weights of the rows.*expected \(5,\), none below 0"):
        fit_kl(x, y, Head(rng.normal(size=(2, 4)), np.zeros(2)), weights=weight)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(spot):
    head, x, y = (spot[0], *(a[:200] for a in spot[1:]))
    first, report = fit_kl(x, y, head, seed=3)
    again, same = fit_kl(x, y, head, seed=3)
    same_map(first, again)
    assert report == same
    _, other = fit_kl(x, y, head, seed=4)
    assert other.start_divergence != report.start_divergence


def test_growing_parts_end_at_the_same_minimum(spot, monkeypatch):
    """Many rows: a search on a few, then parts of them, then all."""
    head, x, y = spot
    steps: list[Step] = []
    whole, _ = fit_kl(x, y, head, penalty=0.003)
    monkeypatch.setattr(divergence_fit, "FEWEST_ROWS", 30)
    monkeypatch.setattr(divergence_fit, "WORK", 1)
    monkeypatch.setattr(divergence_fit, "GROWTH", 3)
    monkeypatch.setattr(divergence_fit, "SEARCH_TOLERANCE", 1e-7)
    parts, report = fit_kl(x, y, head, penalty=0.003, watch=steps.append)
    stages = [s for s in dict.fromkeys(s.stage for s in steps) if s.endswith("rows")]
    counts = [int(s.split()[0]) for s in stages]
    assert counts[-1] == 600
    assert counts == sorted(counts)
    assert len(counts) >= 2
    assert report.iterations == len(steps)
    assert report.penalty == pytest.approx(0.003)
    case = Case(head, x, y, teaching=CLASSIFIER_TEACHING)
    ends = [reference(case, m.weight.astype(float), m.bias.astype(float)) for m in (whole, parts)]
    assert ends[0] == pytest.approx(ends[1], rel=0.02)


def test_each_descent_begins_where_the_last_ended(spot, monkeypatch):
    """With the penalty that stands for the same on as many rows as it has."""
    for name, value in {"FEWEST_ROWS": 30, "WORK": 1, "GROWTH": 3}.items():
        monkeypatch.setattr(divergence_fit, name, value)
    plain, plain_reparametrize, found = (
        divergence_fit.optimizer.minimise_divergence,
        divergence_fit.optimizer.reparametrize,
        [],
    )

    def reparam(eigenbases, start, penalty):
        found.append([start, penalty])
        return plain_reparametrize(eigenbases, start, penalty)

    def minimise_divergence(softmax, data, reparam, begin, **options):
        end = plain(softmax, data, reparam, begin, **options)
        found[-1] += [len(data), begin, end[0]]
        return end

    monkeypatch.setattr(divergence_fit.optimizer, "reparametrize", reparam)
    monkeypatch.setattr(divergence_fit.optimizer, "minimise_divergence", minimise_divergence)
    head, x, y = spot
    _, report = fit_kl(x, y, head, iterations=30)
    starts, penalties, sizes, begins, ends = zip(*found, strict=True)
    tried = len(report.curve)
    assert penalties[:tried] == divergence_fit.PENALTIES[:tried]
    assert set(sizes[:tried]) == {30}
    assert list(sizes[tried:]) == sorted(sizes[tried:])
    assert len(sizes) >= tried + 3
    assert sizes[-1] == 600
    mass = [p * n for p, n in zip(penalties, sizes, strict=True)]
    np.testing.assert_allclose(mass[tried:], report.penalty * 600)
    best = min(range(tried), key=lambda i: report.curve[i][1])
    np.testing.assert_allclose(mass[best], report.penalty * 600)
    before = [*range(tried - 1), best, *range(tried, len(ends) - 1)]
    for i, (begin, last) in enumerate(zip(begins[1:], before, strict=True), 1):
        if i != tried:
            assert begin is ends[last]
    # all rows have another ridge map than those that do not judge: as far from it as before
    step = ends[best].weight - starts[0].weight
    np.testing.assert_allclose(begins[tried].weight - starts[tried].weight, step, atol=1e-12)
    assert np.abs(starts[0].weight - starts[tried].weight).max() > 1e-6


# --- what states and heads may be ---------------------------------------------------------------


def test_half_precision_states_fit_too(spot):
    head, x, y = spot
    halves = [HiddenStates(a[:TRAINED].astype(np.float16)) for a in (x, y)]
    affine, _ = fit_kl(*halves, head)
    truth = head.predict(y[TRAINED:])
    assert np.mean(head.predict(affine(x[TRAINED:])) == truth) > 0.8


@pytest.mark.parametrize("penalty", ["auto", 0])
def test_dimensions_that_never_change_get_no_weight(spot, penalty):
    """However large they are: the slope there is rounding."""
    head, x, y = spot
    still = np.insert(x, [3, 7], [5000.0, 0.0], axis=1)
    affine, _ = fit_kl(still[:TRAINED], y[:TRAINED], head, penalty=penalty)
    assert np.abs(affine.weight[:, [3, 8]]).max() < 1e-6
    truth = head.predict(y[TRAINED:])
    assert np.mean(head.predict(affine(still[TRAINED:])) == truth) > 0.8


@pytest.mark.parametrize("outputs", [1, 2])
def test_heads_of_one_and_of_two_outputs(outputs):
    head, x, y = blind_spot(outputs)
    affine, report = fit_kl(x[:TRAINED], y[:TRAINED], head)
    plain, _ = fit(x[:TRAINED], y[:TRAINED])
    truth = head.predict(y[TRAINED:])
    assert np.mean(head.predict(affine(x[TRAINED:])) == truth) > 0.85
    if outputs == 1:  # it says the same of everything
        assert report.held_out_divergence == 0
        np.testing.assert_allclose(affine.weight, plain.weight, atol=1e-6)


@pytest.mark.parametrize("scale", [1e3, 1e5])
def test_a_head_that_is_always_sure_gives_a_map_all_the_same(spot, scale):
    head, x, y = spot
    sure = dataclasses.replace(head, weight=head.weight * np.float32(scale))
    affine, report = fit_kl(x[:100], y[:100], sure, iterations=30)
    assert np.isfinite(affine.weight).all()
    assert np.isfinite(report.held_out_divergence)
    json.dumps(report.as_card(), allow_nan=False)


@pytest.mark.parametrize("n", [2, 3, 4, 11])
@pytest.mark.parametrize("outputs", [4, 12])
def test_few_texts_give_a_map(n, outputs, rng):
    case = make_case(outputs, 6, n=n)
    for seed in range(3):
        affine, report = fit_kl(case.x, case.y, case.head, seed=seed)
        assert (report.n, report.n_held_out) == (n, 1 + (n > 10))
        assert np.abs(affine(case.x)).max() < 100
        assert report.held_out_divergence < 20


def test_one_text_is_refused(rng):
    case = make_case(4, 6, n=1)
    with pytest.raises(InputError, match="for 1 texts"):
        fit_kl(case.x, case.y, case.head)
    x, y, head = token_states(rng, texts=1, each=40)
    with pytest.raises(InputError, match="for 1 texts"):
        fit_kl(x, y, head)


def test_states_that_are_all_the_same_are_refused(rng):
    case = make_case(4, 6, n=20)
    with pytest.raises(InputError, match="source states are all the same"):
        fit_kl(np.ones((20, 3)), case.y, case.head)
    with pytest.raises(InputError, match="target states are all the same"):
        fit_kl(case.x, np.ones((20, 6)), case.head)


# --- tokens -------------------------------------------------------------------------------------


def test_tokens_are_taught_their_truth_and_classes_are_not(rng):
    x, y, head = token_states(rng)
    _, report = fit_kl(x, y, head, penalty=1.0, iterations=2)
    assert Teaching(report.temperature, report.truth) == TOKEN_TEACHING
    labelled = dataclasses.replace(head, labels=tuple("abcdefghijk"))
    _, report = fit_kl(x, y, labelled, penalty=1.0, iterations=2)
    assert Teaching(report.temperature, report.truth) == CLASSIFIER_TEACHING
    bare = dataclasses.replace(y, next_token=None)
    _, report = fit_kl(x, bare, head, penalty=1.0, iterations=2)
    assert Teaching(report.temperature, report.truth) == CLASSIFIER_TEACHING


def test_a_large_vocabulary_is_taught_its_own_distribution(rng, monkeypatch):
    x, y, head = token_states(rng)
    monkeypatch.setattr(validation, "LARGE", head.n_outputs - 1)
    _, report = fit_kl(x, y, head, penalty=1.0, iterations=2)
    assert Teaching(report.temperature, report.truth) == LARGE_TEACHING


def test_the_truth_is_each_rows_own(rng):
    """Learning nothing but the truth, the head says what follows: the rows keep their order."""
    x, y, head = token_states(rng, texts=60, outputs=6, dims=(5, 5))
    told = head.predict(y.states).astype(np.int32)
    # of the head itself nothing is learnt, and the truth is not what it says
    truth = np.where(y.next_token == NO_TOKEN, NO_TOKEN, (told + 1) % 6).astype(np.int32)
    wrong = dataclasses.replace(y, next_token=truth)
    only, _ = fit_kl(x, wrong, head, penalty=1e-4, teaching=Teaching(truth=1.0))
    none, _ = fit_kl(x, wrong, head, penalty=1e-4, teaching=Teaching(truth=0.0))
    known = truth >= 0

    def hits(affine, wanted):
        return np.mean(head.predict(affine(x.states))[known] == wanted[known])

    assert hits(none, told) > 0.6
    assert hits(none, truth) < 0.4
    assert hits(only, truth) > 0.6


def test_rows_of_a_text_are_held_out_together(rng):
    """Ten texts, of which one judges."""
    x, y, head = token_states(rng, texts=10, each=7)
    _, report = fit_kl(x, y, head, penalty=1.0, iterations=2)
    assert report.n_held_out == 7


# --- what is refused ----------------------------------------------------------------------------


def test_a_head_of_another_space_is_refused(rng):
    x, y, head = token_states(rng)
    other = dataclasses.replace(head, space=Space(4, "c" * 64, "cedar", "tokens"))
    with pytest.raises(MismatchError, match=r"this head does not read .* expected cedar"):
        fit_kl(x, y, other)
    with pytest.raises(MismatchError, match="this head does not read"):
        fit_kl(y, x, head)
    with pytest.raises(MismatchError, match="this head does not read"):
        fit_kl(x.states, y.states, Head(np.ones((2, 9)), np.zeros(2)))


def test_states_of_other_texts_are_refused(rng):
    x, y, head = token_states(rng)
    with pytest.raises(MismatchError, match="different texts"):
        fit_kl(dataclasses.replace(x, text_digest="f" * 64), y, head)
    with pytest.raises(MismatchError, match="number of rows"):
        fit_kl(x.states[:-1], y.states, head)


@pytest.mark.parametrize("penalty", [-1, float("nan"), float("inf"), "nonsense", "", None, 1e200])
def test_penalties_that_cannot_be_used_are_refused_at_once(penalty, rng, monkeypatch):
    x, y, head = token_states(rng)
    monkeypatch.setattr(divergence_fit.objective, "distillation_data", None)  # nor is any work done
    with pytest.raises(InputError, match="penalty is not usable"):
        fit_kl(x, y, head, penalty=penalty)


@pytest.mark.parametrize("iterations", [0, -3])
def test_iterations_that_cannot_be_used_are_refused(iterations, rng):
    x, y, head = token_states(rng)
    with pytest.raises(InputError, match=f"number of iterations is not usable: got {iterations}"):
        fit_kl(x, y, head, iterations=iterations)


@pytest.mark.parametrize(
    "teaching",
    [Teaching(0.0), Teaching(-1.0), Teaching(float("nan")), Teaching(float("inf")),
     Teaching(1.0, -0.1), Teaching(1.0, 1.1), Teaching(1.0, float("nan"))],
)  # fmt: skip
def test_teaching_that_cannot_be_used_is_refused(teaching, rng):
    x, y, head = token_states(rng)
    with pytest.raises(InputError, match="temperature or the share of the truth"):
        fit_kl(x, y, head, teaching=teaching)


@pytest.mark.parametrize("temperature", [1e-4, 1e-30, 1e300])
def test_temperatures_next_to_nothing_or_beyond_everything_do_no_harm(temperature, rng):
    x, y, head = token_states(rng)
    affine, _ = fit_kl(x, y, head, iterations=5, teaching=Teaching(temperature))
    assert np.isfinite(affine.weight).all()
    with pytest.raises(InputError, match="higher temperature"):
        fit_kl(x, y, head, teaching=Teaching(1e-60))


def test_truth_needs_next_tokens_that_are_outputs_of_the_head(rng):
    x, y, head = token_states(rng, outputs=11)
    bare = dataclasses.replace(y, next_token=None)
    with pytest.raises(InputError, match="have no next tokens"):
        fit_kl(x, bare, head, teaching=Teaching(1.0, 0.2))
    largest = int(y.next_token.max())
    narrow = Head(head.weight[:largest], head.bias[:largest], space=head.space)
    with pytest.raises(InputError, match=f"got token {largest}, expected below {largest}"):
        fit_kl(x, y, narrow)
    fit_kl(x, y, narrow, teaching=Teaching(1.0, 0.0), penalty=1.0, iterations=2)


def test_a_negative_seed_is_refused(rng):
    x, y, head = token_states(rng)
    with pytest.raises(InputError, match="seed is not usable"):
        fit_kl(x, y, head, seed=-1)


# --- where least squares is not to be bettered --------------------------------------------------


def hopeless(seed, n=60):
    """Very large scores, and a source that says nothing of what the head looks at."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, 20)), rng.normal(size=(n, 6))
    head = Head((30 * rng.normal(size=(8, 6))).astype(np.float32), np.zeros(8, np.float32))
    return head, x.astype(np.float32), y.astype(np.float32)


def test_the_start_wins_where_no_penalty_does_better_and_a_warning_says_so():
    won = 0
    for seed in range(6):
        head, x, y = hopeless(seed)
        affine, report = fit_kl(x, y, head, seed=seed)
        assert report.held_out_divergence <= report.start_divergence
        if report.penalty < float("inf"):
            continue
        won += 1
        plain, _ = fit(x, y, seed=seed)
        np.testing.assert_allclose(affine.weight, plain.weight, atol=1e-7)
        np.testing.assert_allclose(affine.bias, plain.bias, atol=1e-7)
        assert report.held_out_divergence == report.start_divergence
        assert report.held_out_divergence < min(score for _, score in report.curve)
        assert report.held_out_agreement == report.start_agreement
        assert report.warnings == (
            "on held-out texts no penalty did better than least squares: the map is that of ridge",
        )
        assert affine.card["penalty"] is None
        json.dumps(dict(affine.card), allow_nan=False)
    assert won >= 2


def test_a_given_penalty_is_kept_though_the_start_is_better():
    head, x, y = next(
        case for case in map(hopeless, range(6)) if fit_kl(*case[1:], case[0])[1].warnings
    )
    affine, report = fit_kl(x, y, head, penalty=1e-3)
    assert report.penalty == pytest.approx(1e-3)
    assert report.held_out_divergence > report.start_divergence
    assert np.abs(affine.weight - fit(x, y)[0].weight).max() > 1e-3


def test_the_start_has_not_seen_the_rows_that_judge_it():
    """More dimensions than rows: a start that knew them would be nearly exact on them."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 40)).astype(np.float32), rng.normal(size=(30, 6)).astype(np.float32)
    head = Head(rng.normal(size=(8, 6)), np.zeros(8))
    _, report = fit_kl(x, y, head, penalty=1.0, teaching=Teaching())
    judges = fold_index(np.arange(30), divergence_fit.HELD_OUT, 0) == 0
    start = ridge(spectrum(measure(x[~judges], y[~judges])), report.start_penalty)
    wanted = reference(Case(head, x[judges], y[judges]), *start)
    assert report.start_divergence == pytest.approx(wanted, rel=1e-4)
    knew = ridge(spectrum(measure(x, y)), report.start_penalty)
    assert abs(wanted - reference(Case(head, x[judges], y[judges]), *knew)) > 1e-3


def test_the_strongest_penalty_is_taken_of_those_that_noise_alone_sets_apart(rng):
    texts, noise = np.arange(60), rng.normal(size=60)
    noise = (noise - noise.mean()) / (noise.std(ddof=1) / np.sqrt(60))  # a standard error of 1
    best = 5 + rng.normal(size=60)
    choose = divergence_fit.select_penalty
    for more, wanted in ((0.4, 0), (0.6, 1)):
        assert choose([10.0, 1.0, 0.1], np.array([best + more + noise, best, best + 1]), texts) == (
            wanted
        )
    # the order is that of the penalties, and a weaker one must be better than all
    assert choose([1.0, 10.0], np.array([best, best + 0.4 + noise]), texts) == 1
    assert choose([10.0, 1.0], np.array([best, best + 0.4 + noise]), texts) == 0
    # rows of one text are one: here two texts, which differ by as much as their means do
    pair, gap = np.repeat([0, 1], 30), np.repeat([3.0, -1.0], 30)
    assert choose([10.0, 1.0], np.array([best + gap, best]), pair) == 0
    assert choose([10.0, 1.0], np.array([best + gap, best]), texts) == 1


def test_the_strongest_penalty_is_named_as_what_it_is(monkeypatch):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 5))
    y = x @ rng.normal(size=(5, 4)) + 0.5 * rng.normal(size=(300, 4))
    head = Head(3 * rng.normal(size=(6, 4)), np.zeros(6))
    zero = divergence_fit.ReducedMap(np.zeros((4, 5)), np.zeros(4))
    monkeypatch.setattr(divergence_fit, "search_penalties", lambda *_: [
        divergence_fit.PenaltyTrial(10.0, 0.0, 1, zero),
        divergence_fit.PenaltyTrial(1.0, 0.1, 1, zero),
    ])  # fmt: skip
    _, report = fit_kl(x, y, head)
    assert report.warnings == (
        "no weaker penalty did better on held-out texts: the map stays close to ridge",
    )


def test_a_start_that_saw_more_rows_than_the_search_is_no_candidate(monkeypatch):
    monkeypatch.setattr(divergence_fit, "WORK", 1.0)
    monkeypatch.setattr(divergence_fit, "FEWEST_ROWS", 45)  # of the 54 that do not judge
    for seed in range(6):
        head, x, y = hopeless(seed)
        _, report = fit_kl(x, y, head, seed=seed)
        assert report.penalty < float("inf")


def test_a_map_for_a_head_shows_the_span_of_its_rows(rng):
    """A product with the head's rows (less their mean) is added to the ridge map."""
    x = rng.normal(size=(800, 12))
    y = np.tanh(x @ rng.normal(size=(12, 10))) + 0.5 * rng.normal(size=(800, 10))
    head = Head(3 * rng.normal(size=(4, 10)).astype("f4"), np.zeros(4, "f4"))
    affine, report = fit_kl(x, y, head)
    ridge, _ = fit(x, y, penalty=report.start_penalty)
    added = (affine.weight - ridge.weight).astype(float)
    rows = head.weight - head.weight.mean(axis=0)
    basis = np.linalg.svd(rows.astype(float))[2][:3]
    assert np.linalg.norm(added) > 1e-2
    assert np.linalg.norm(added - basis.T @ basis @ added) < 1e-5 * np.linalg.norm(added)
