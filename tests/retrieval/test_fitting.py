"""Maps for search: against dense formulas, ridge and Procrustes; the choice on held-out texts."""

from __future__ import annotations

import numpy as np
import pytest
from command_line import run

import linalign_lite as la
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.retrieval.fitting import SHAPES, Shape, spectra


def pair(n=300, d=(8, 11), seed=0, noise=0.3):
    """States of documents and, two of each, pseudo-queries, with other means."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(n, 6))
    asked = np.repeat(causes, 2, axis=0) + 0.5 * rng.normal(size=(2 * n, 6))
    found = []
    for dim in d:
        turn, stretch = rng.normal(size=(6, dim)), np.linspace(0.3, 3, dim)
        of = [c @ turn + noise * rng.normal(size=(len(c), dim)) for c in (causes, asked)]
        found.append([(z * stretch + 2 * rng.normal(size=dim)).astype(np.float32) for z in of])
    (x, px), (y, py) = found
    return x, y, (px, py)


def power(matrix, exponent, penalty):
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * (values + penalty * values.mean()) ** exponent) @ vectors.T


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.describe())
def test_weights_are_those_of_the_formula(shape):
    x, y, pseudo = pair()
    sets = [(x, y), pseudo]
    a, b = (np.concatenate([s[i] - s[i].mean(axis=0) for s in sets]).astype(float) for i in (0, 1))
    if shape.method == "procrustes":
        u, _, vt = np.linalg.svd(b.T @ a, full_matrices=False)
        expected = u @ vt
    else:
        left = power(b.T @ b, -shape.target_power, shape.penalty)
        expected = left @ b.T @ a @ power(a.T @ a, -shape.source_power, shape.penalty)
    expected *= (b * (a @ expected.T)).sum() / ((a @ expected.T) ** 2).sum()
    np.testing.assert_allclose(spectra(sets).weight(shape), expected, rtol=2e-3, atol=2e-4)


def test_a_zero_and_b_one_is_ridge():
    x, y, _ = pair()
    weight = spectra([(x, y)]).weight(Shape("whitened", 0, 1, 0.1))
    ridge, _ = la.fit(x, y, penalty=0.1)
    direction = weight * (ridge.weight * weight).sum() / (weight**2).sum()
    np.testing.assert_allclose(direction, ridge.weight, atol=1e-4)


@pytest.mark.parametrize("use", ["queries", "documents"])
@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_the_choice_is_the_best_trial_and_the_card_says_it(use, metric):
    x, y, pseudo = pair()
    made, report = la.fit_retrieval(x, y, pseudo=pseudo, use=use, metric=metric)
    assert report.score == max(score for _, score in report.curve)
    assert len(report.curve) == 2 * 3 * len(SHAPES)
    assert report.score >= report.ridge_score
    assert report.score == pytest.approx((report.found + report.overlap) / 2)
    card = made.card
    assert card["objective"] == "retrieval"
    assert (card["use"], card["metric"], card["normalized"]) == (use, metric, metric == "cosine")
    for name in ("method", "fitted_on", "mean_share", "penalty", "recalibration", "score"):
        assert name in card
    of = pseudo if use == "queries" else (x, y)
    mean = of[0].mean(axis=0), of[1].mean(axis=0)
    np.testing.assert_allclose(made(mean[0]), report.mean_share * mean[1], atol=1e-3)
    again, _ = la.fit_retrieval(x, y, pseudo=pseudo, use=use, metric=metric)
    np.testing.assert_array_equal(made.weight, again.weight)


def test_it_finds_more_than_chance_and_keeps_rankings_of_new_texts():
    x, y, pseudo = pair(n=500)
    new = slice(400, None)
    fitted, report = la.fit_retrieval(
        x[:400], y[:400], pseudo=(pseudo[0][:800], pseudo[1][:800]), whole=False
    )
    rows, _ = la.search(fitted(pseudo[0][800:]), y[new], 10)
    native, _ = la.search(pseudo[1][800:], y[new], 10)
    kept = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, native, strict=True)])
    assert kept > 0.6
    assert report.overlap > 0.5


def test_a_recalibrated_threshold_keeps_its_meaning():
    x, y, pseudo = pair(n=500)
    fitted, report = la.fit_retrieval(x, y, pseudo=pseudo)
    slope, shift = report.recalibration
    rows, native = la.search(pseudo[1], y, 10)
    mapped = fitted(pseudo[0])
    mapped /= np.linalg.norm(mapped, axis=1, keepdims=True)
    unit = y / np.linalg.norm(y, axis=1, keepdims=True)
    scores = np.einsum("qd,qkd->qk", mapped, unit[rows])
    recalibrated = slope * scores + shift
    assert abs(recalibrated.mean() - native.mean()) < 0.02
    assert abs(recalibrated.mean() - native.mean()) <= abs(scores.mean() - native.mean()) + 1e-3


def test_without_pseudo_queries_texts_are_held_out():
    x, y, _ = pair()
    _, report = la.fit_retrieval(x, y)
    assert (report.n_pseudo, report.fitted_on) == (0, "texts")
    assert len(report.curve) == 3 * len(SHAPES)


def test_what_does_not_fit_is_named():
    x, y, pseudo = pair()
    with pytest.raises(InputError, match="too few texts"):
        la.fit_retrieval(x[:20], y[:20])
    with pytest.raises(InputError, match="as many of each document"):
        la.fit_retrieval(x, y, pseudo=(pseudo[0][:-1], pseudo[1][:-1]))
    with pytest.raises(InputError, match="unknown use"):
        la.fit_retrieval(x, y, use="both")
    with pytest.raises(InputError, match="unknown metric"):
        la.fit_retrieval(x, y, metric="euclidean")
    with pytest.raises(InputError, match="folds do not fit"):
        la.fit_retrieval(x, y, folds=1)
    with pytest.raises(InputError, match="all the same"):
        la.fit_retrieval(np.ones_like(x), y)
    with pytest.raises(MismatchError):
        la.fit_retrieval(x, y[:-1])


def test_the_command(tmp_path, monkeypatch):
    x, y, pseudo = pair()
    monkeypatch.chdir(tmp_path)
    for name, states in {"x": x, "y": y, "px": pseudo[0], "py": pseudo[1]}.items():
        la.save(f"{name}.states.npz", la.HiddenStates(states))
    said = run(
        "fit", "x.states.npz", "y.states.npz", "m.map.npz", "--objective", "retrieval",
        "--pseudo", "px.states.npz", "py.states.npz", "--use", "documents",
    ).stdout  # fmt: skip
    assert "held-out texts find their document" in said
    expected, _ = la.fit_retrieval(x, y, pseudo=pseudo, use="documents")
    np.testing.assert_allclose(la.load_map("m.map.npz").weight, expected.weight, atol=1e-5)
    assert la.load_map("m.map.npz").card["use"] == "documents"
    assert la.load_map("m.map.npz").card["folds"] == 3
    wrong = [
        ("--use", "queries"),
        ("--objective", "retrieval", "--method", "procrustes"),
        ("--objective", "retrieval", "--head", "h.npz"),
    ]
    for options in wrong:
        run("fit", "x.states.npz", "y.states.npz", "n.map.npz", *options, code=2)
    assert not (tmp_path / "n.map.npz").exists()


def test_repeated_texts_are_remarked(rng):
    x = rng.normal(size=(60, 8))
    y = x @ rng.normal(size=(8, 6))
    assert not la.fit_retrieval(x, y)[1].warnings
    (said,) = la.fit_retrieval(np.r_[x, x], np.r_[y, y])[1].warnings
    assert said.startswith("60 of 120 rows repeat another")
