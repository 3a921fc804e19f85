"""Maps for a head, from public texts and few: the objective, the choice, the limits, tokens."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "kl"))

from kl_cases import Case, blind_spot, make_case, reference, scores_of, softmax_of, taught

from linalign_lite.alignment.few_shot import head_aware
from linalign_lite.alignment.few_shot.joint_fit import fit_with_few
from linalign_lite.alignment.few_shot.weighting import FEW_ONLY, PUBLIC_ONLY, WEIGHTS
from linalign_lite.alignment.kl import divergence_fit
from linalign_lite.alignment.kl.checkpoint import digest_of
from linalign_lite.alignment.kl.divergence_fit import fit_kl
from linalign_lite.alignment.kl.objective import Teaching, distillation_data, divergences
from linalign_lite.alignment.kl.optimizer import ReducedMap
from linalign_lite.alignment.kl.softmax import reduce_head
from linalign_lite.alignment.kl.validation import CLASSIFIER_TEACHING, TOKEN_TEACHING
from linalign_lite.alignment.moments import measure
from linalign_lite.alignment.ridge import ridge, spectrum
from linalign_lite.core import serialization
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import NO_TOKEN, HiddenStates
from linalign_lite.core.space import Space
from linalign_lite.errors import InputError
from linalign_lite.heads.serialization import save

PUBLIC_ROWS, FEW_ROWS = 400, 60


def spot_parts(few=FEW_ROWS, seed=0, relation="same", outputs=10):
    """A head that least squares serves badly, public texts, few texts, and others to judge by.

    relation "none": the public texts' two sides have nothing to do with each other.
    """
    head, x, y = blind_spot(outputs, n=1400, seed=seed)
    public = x[:PUBLIC_ROWS], y[:PUBLIC_ROWS]
    if relation == "none":
        public = public[0], np.random.default_rng(seed).permutation(public[1])
    rest = slice(PUBLIC_ROWS, PUBLIC_ROWS + few)
    return head, public, (x[rest], y[rest]), (x[-800:], y[-800:])


def loss_of(head, judge, affine):
    case = Case(head, *judge, teaching=CLASSIFIER_TEACHING)
    return reference(case, affine.weight.astype(float), affine.bias.astype(float))


@pytest.fixture(scope="module")
def parts():
    return spot_parts()


@pytest.fixture(scope="module")
def fitted(parts):
    head, public, few, _ = parts
    return fit_with_few(*public, *few, head=head)


# --- the objective -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "weighted", "capped"])
def test_divergences_of_rows_are_those_of_the_definition(name, rng):
    case = make_case(23, 6, weighted=name == "weighted", softcap=2.0 if name == "capped" else None,
                     temperature=0.5)  # fmt: skip
    softmax = reduce_head(case.head)
    data, _ = distillation_data(softmax, case.x, case.y, case.weight, teaching=case.teaching)
    weight, bias = rng.normal(size=(6, 5)), rng.normal(size=6)
    found = divergences(softmax, data, weight, bias)
    assert found.shape == (40,)
    for i in (0, 5, 39):  # row 5 weighs nothing, where rows weigh
        one = Case(case.head, case.x[i : i + 1], case.y[i : i + 1], teaching=case.teaching)
        np.testing.assert_allclose(found[i], reference(one, weight, bias), rtol=1e-4)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_a_classifiers_losses_are_divergences_at_each_scale_of_its_scores(softcap, rng):
    case = make_case(9, 6, softcap=softcap, temperature=0.7)
    softmax = reduce_head(case.head)
    data, _ = distillation_data(softmax, case.x, case.y, teaching=case.teaching)
    judge = head_aware.held_out_divergence(softmax, data, case.y, classifier=True)
    end, rows = ReducedMap(rng.normal(size=(6, 5)), rng.normal(size=6)), np.array([7, 0, 31])
    found = judge.losses(rows, end)
    scores, p = scores_of(case.head, case.x @ end.weight.T + end.bias)[rows], taught(case)[rows]
    for scale, losses in zip(head_aware.SCALES, found, strict=True):
        q = softmax_of(scale * scores)
        np.testing.assert_allclose(losses, (p * np.log(p / q)).sum(axis=1), rtol=1e-4, atol=1e-6)
    assert 1.0 in head_aware.SCALES
    np.testing.assert_array_equal(head_aware.at_best_scale(found), min(found, key=np.mean))
    plain = head_aware.held_out_divergence(softmax, data, case.y, classifier=False).losses(
        rows, end
    )
    assert plain.shape == (1, 3)
    np.testing.assert_allclose(plain[0], found[head_aware.SCALES.index(1.0)], rtol=1e-4)


def test_a_classifier_that_says_too_much_to_be_kept_is_judged_as_a_token_head(monkeypatch):
    case = make_case(9, 6)
    softmax = reduce_head(case.head)
    data, _ = distillation_data(softmax, case.x, case.y)
    monkeypatch.setattr(head_aware, "MOST_PROBABILITIES", 9 * 40 - 1)
    assert head_aware.held_out_divergence(softmax, data, case.y, classifier=True).teacher is None


def test_the_map_is_the_minimum_of_what_is_stated(parts, monkeypatch):
    """Σ_few KL/n + λu/2 ‖F^½(W − W₀)‖² with W₀ the ridge map of merged moments."""
    _, public, few, _ = parts
    monkeypatch.setattr(divergence_fit, "FINAL_TOLERANCE", 1e-12)
    head = Head(np.random.default_rng(3).normal(size=(20, 12)) / 10, np.zeros(20))
    affine, report = fit_with_few(
        *public, *few, head=head, weight=0.5, penalty=0.2, iterations=2000
    )
    mass = measure(*public).scaled(1 / PUBLIC_ROWS) + measure(*few).scaled(0.5 / FEW_ROWS)
    start, _ = ridge(spectrum(mass), report.start_penalty)
    case = Case(head, *few, teaching=CLASSIFIER_TEACHING)
    v, p = head.weight.astype(float), taught(case)
    metric = np.mean([v.T @ (np.diag(a) - np.outer(a, a)) @ v for a in p], axis=0)
    metric += 1e-4 * np.linalg.eigvalsh(metric)[-1] * np.eye(12)  # directions hardly looked at
    unit = few[0].astype(float).var(axis=0).mean()

    def objective(weight, bias):
        step = weight - start
        held = np.einsum("ij,ik,kj->", step, metric, step)
        return reference(case, weight, bias) + 0.2 * unit / 2 * held

    weight, bias = affine.weight.astype(float), affine.bias.astype(float)
    best, rng = objective(weight, bias), np.random.default_rng(0)
    assert best < objective(start, bias) - 1e-3
    for _ in range(20):
        step = rng.normal(size=weight.shape) * 0.02, rng.normal(size=bias.shape) * 0.02
        ends = [objective(weight + s * step[0], bias + s * step[1]) for s in (-1, 1)]
        assert min(ends) > best
        slope = (ends[1] - ends[0]) / 2
        curve = (ends[1] + ends[0]) / 2 - best
        assert abs(slope) < 0.05 * curve  # no further than a fortieth of the step away


def test_a_huge_penalty_leaves_the_merged_ridge_map(parts):
    head, public, few, _ = parts
    affine, report = fit_with_few(*public, *few, head=head, weight=2.0, penalty=1e9)
    mass = measure(*public).scaled(1 / PUBLIC_ROWS) + measure(*few).scaled(2 / FEW_ROWS)
    start, _ = ridge(spectrum(mass), report.start_penalty)
    np.testing.assert_allclose(affine.weight, start, atol=1e-6)
    assert report.start_penalty in head_aware.START_PENALTIES


# --- the limits ----------------------------------------------------------------------------------


def test_weight_0_is_the_public_texts_alone(parts):
    head, public, few, _ = parts
    plain, alone = fit_kl(*public, head)
    affine, report = fit_with_few(*public, *few, head=head, weight=0)
    np.testing.assert_array_equal(affine.weight, plain.weight)
    np.testing.assert_array_equal(affine.bias, plain.bias)
    assert (report.penalty, report.few_weight) == (alone.penalty, PUBLIC_ONLY)
    assert report.loss == pytest.approx(loss_of(head, few, plain), rel=1e-3)
    assert (report.few_loss, report.both_loss) == (None, None)
    assert report.public_loss == report.loss


def test_weight_inf_is_the_few_alone_whatever_the_public_texts_are(parts):
    head, public, few, _ = parts
    affine, report = fit_with_few(*public, *few, head=head, weight=FEW_ONLY)
    other, again = fit_with_few(
        *(side[::-1][:100] * 3 for side in public), *few, head=head, weight="inf"
    )
    np.testing.assert_array_equal(affine.weight, other.weight)
    assert report.loss == again.loss
    assert report.public_loss is None
    start, _ = ridge(spectrum(measure(*few)), report.start_penalty)
    held, _ = fit_with_few(*public, *few, head=head, weight=FEW_ONLY, penalty=1e9)
    again = min(
        (ridge(spectrum(measure(*few)), p)[0] for p in head_aware.START_PENALTIES),
        key=lambda w: np.abs(w - held.weight).max(),
    )
    np.testing.assert_allclose(held.weight, again, atol=1e-6)
    assert start.shape == affine.weight.shape


# --- the choice ----------------------------------------------------------------------------------


def test_losses_are_those_of_maps_that_never_saw_the_rows(parts, monkeypatch):
    """Each fold judged by a fit on the others, made by hand through the public door."""
    head, public, few, _ = parts
    monkeypatch.setattr(head_aware, "SCALES", (1.0,))
    monkeypatch.setattr(head_aware, "START_PENALTIES", (1.0,))
    monkeypatch.setattr(head_aware, "ITERATIONS", 500)
    monkeypatch.setattr(divergence_fit, "SEARCH_TOLERANCE", 1e-9)
    monkeypatch.setattr(divergence_fit, "FINAL_TOLERANCE", 1e-9)
    _, report = fit_with_few(*public, *few, head=head, weight=1.0, penalty=0.5, folds=3)
    index = np.arange(FEW_ROWS) % 3
    np.random.default_rng(0).shuffle(index)
    total = 0.0
    for k in range(3):
        rest = [side[index != k] for side in few]
        # λ is kept for the number of rows, and the metric is that of all the few
        affine, _ = fit_with_few(
            *public, *rest, head=head, weight=1.0, penalty=0.75, folds=2, iterations=500
        )
        held_out = [side[index == k] for side in few]
        total += loss_of(head, held_out, affine) * (index == k).sum()
    assert report.loss == pytest.approx(total / FEW_ROWS, rel=0.02)


def test_the_report_says_what_was_tried(parts, fitted, tmp_path):
    head, _, _, judge = parts
    affine, report = fitted
    assert (report.objective, report.n_public, report.n_few) == ("kl", PUBLIC_ROWS, FEW_ROWS)
    assert (report.n_outputs, report.temperature, report.truth) == (10, 0.7, 0.0)
    assert {w for w, *_ in report.curve} == set(WEIGHTS)
    assert report.loss == min(loss for *_, loss in report.curve)
    assert report.loss == min(report.public_loss, report.few_loss, report.both_loss)
    new = loss_of(head, judge, affine)
    assert abs(new - report.loss) < 4 * report.loss_error + 0.2 * new
    save(tmp_path / "x.map.npz", affine)
    card = serialization.load_map(tmp_path / "x.map.npz").card
    json.dumps(dict(card), allow_nan=False)
    assert card["method"] == "kl"
    assert card["head"]["digest"] == digest_of(head)
    assert card["loss"] == report.loss


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("relation", "few"),
    [("same", 9), ("same", 60), ("none", 150)],
    ids=["few too few", "both of use", "public useless"],
)
def test_it_is_never_worse_than_the_better_side_alone_by_more_than_noise(relation, few, seed):
    head, public, some, judge = spot_parts(few, seed, relation)
    affine, report = fit_with_few(*public, *some, head=head)
    alone = [fit_kl(*side, head)[0] for side in (public, some)]
    better = min(loss_of(head, judge, a) for a in alone)
    assert loss_of(head, judge, affine) <= 1.15 * better + report.loss_error
    if relation == "none":
        assert report.public_loss > 2 * report.few_loss


def test_the_same_seed_gives_the_same_bits(parts, fitted):
    head, public, few, _ = parts
    again, report = fit_with_few(*public, *few, head=head)
    np.testing.assert_array_equal(again.weight, fitted[0].weight)
    assert report.as_card() == fitted[1].as_card()


def test_watching_shows_what_is_done(parts):
    head, public, few, _ = parts
    steps = []
    _, report = fit_with_few(*public, *few, head=head, watch=steps.append)
    judged = [s for s in steps if s.stage.startswith("weight")]
    assert len(judged) == len(report.curve) - 1  # the public texts alone are fit_kl's to show
    assert min(s.held_out for s in judged) == min(report.few_loss, report.both_loss)
    assert any(s.stage.startswith("penalty") for s in steps)


def test_an_expensive_head_is_searched_with_a_part_of_the_rows(parts, monkeypatch):
    head, public, few, _ = parts
    monkeypatch.setattr(head_aware, "WORK", 1.0)
    monkeypatch.setattr(head_aware, "FEWEST_ROWS", 20)
    sizes, plain = [], head_aware.optimizer.minimise_divergence

    def minimise_divergence(softmax, data, *args, **options):
        sizes.append(len(data))
        return plain(softmax, data, *args, **options)

    monkeypatch.setattr(head_aware.optimizer, "minimise_divergence", minimise_divergence)
    fit_with_few(*public, *few, head=head, weight=1.0)
    assert set(sizes[:-1]) == {24}  # twice the source's dimensions
    assert sizes[-1] == FEW_ROWS


# --- tokens --------------------------------------------------------------------------------------


def token_sides(rng, texts, each=5, outputs=11, dims=(5, 4)):
    n = texts * each
    index = np.repeat(np.arange(texts, dtype=np.int32), each)
    following = rng.integers(0, outputs, size=n).astype(np.int32)
    following[each - 1 :: each] = NO_TOKEN
    causes = rng.normal(size=(n, 3))
    mixes = [np.random.default_rng(d).normal(size=(3, d)) for d in dims]
    return [
        HiddenStates(
            (causes @ mix + 0.3 * rng.normal(size=(n, mix.shape[1]))).astype(np.float32),
            Space(mix.shape[1], name * 64, name, "tokens"), n_texts=texts, text_index=index,
            char_end=np.tile(np.arange(1, each + 1, dtype=np.int32), texts), next_token=following,
        )
        for mix, name in zip(mixes, "ab", strict=True)
    ]  # fmt: skip


def test_token_heads_are_taught_as_by_kl(rng):
    public, few = token_sides(rng, 40), token_sides(rng, 10)
    head = Head(rng.normal(size=(11, 4)), np.zeros(11), space=few[1].space)
    affine, report = fit_with_few(*public, *few, head=head)
    assert Teaching(report.temperature, report.truth) == TOKEN_TEACHING
    assert (report.n_public, report.n_few) == (200, 50)
    head @ affine
    with pytest.raises(InputError, match="got 7, expected 8"):
        fit_with_few(*public, *token_sides(rng, 7), head=head)


def test_half_precision_heads_of_two_outputs_and_dead_dimensions(parts):
    head, public, few, _ = parts
    two = Head(head.weight[:2].astype(np.float16), np.zeros(2, np.float16))
    sides = [side.astype(np.float16) for side in (*public, *few)]
    sides[0][:, 2] = sides[2][:, 2] = 1
    affine, report = fit_with_few(*sides, head=two)
    assert np.isfinite(report.loss)
    assert np.abs(affine.weight[:, 2]).max() < 1e-9


# --- least squares in its place ------------------------------------------------------------------


def test_agreement_is_that_of_least_squares_on_rows_it_never_saw(parts, monkeypatch):
    head, public, few, _ = parts
    asked = []
    measured = head_aware.FewShotProblem.agreement_of_squares

    def noted(problem, weight, penalty):
        asked.append((weight, penalty, measured(problem, weight, penalty)))
        return 0.0

    monkeypatch.setattr(head_aware.FewShotProblem, "agreement_of_squares", noted)
    many = Head(np.tile(head.weight, (2, 1)), np.r_[head.bias, head.bias - 50])  # 3 texts an output
    fit_with_few(*public, *few, head=many, folds=3)
    ((weight, penalty, found),) = asked
    index = np.arange(FEW_ROWS) % 3
    np.random.default_rng(0).shuffle(index)
    same = np.empty(FEW_ROWS)
    for k in range(3):
        rest = [side[index != k] for side in few]
        affine, _ = fit_with_few(*public, *rest, weight=weight, penalty=penalty, folds=2)
        x, y = (side[index == k] for side in few)
        same[index == k] = many(affine(x)).argmax(axis=1) == many(y).argmax(axis=1)
    assert found == pytest.approx(same.mean(), abs=1.5 / FEW_ROWS)


def test_where_it_has_more_of_the_heads_choices_it_is_taken(parts, monkeypatch):
    head, public, few, _ = parts
    monkeypatch.setattr(head_aware.FewShotProblem, "agreement_of_squares", lambda *_: 1.0)
    affine, report = fit_with_few(*public, *few, head=head)
    assert report.objective == "kl"  # 6 texts an output are many
    some = [side[:30] for side in few]
    affine, report = fit_with_few(*public, *some, head=head)
    plain, _ = fit_with_few(*public, *some)
    assert report.objective == "least-squares"
    assert "least squares: of the head's choices on held-out few texts they keep 1.000" in str(
        report
    )
    np.testing.assert_array_equal(affine.weight, plain.weight)
    assert fit_with_few(*public, *some, head=head, penalty=1.0)[1].objective == "kl"  # as asked
