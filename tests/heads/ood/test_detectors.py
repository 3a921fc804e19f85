"""Each detector against a dense oracle or scikit-learn, and properties of all detectors."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ood_cases import CLASSES, NAMES, SPACE, D, every, head_for, labelled, outlying
from sklearn.covariance import EmpiricalCovariance, LedoitWolf
from sklearn.neighbors import NearestNeighbors

from linalign_lite import (
    AffineMap,
    Detector,
    Head,
    HiddenStates,
    InputError,
    MismatchError,
    Space,
    evaluate_detector,
    fit_detector,
    outlyingness,
)
from linalign_lite.heads.ood import detector as detector_module
from linalign_lite.heads.ood.covariance import covariance_about, ledoit_wolf
from linalign_lite.heads.ood.detector import threshold_for
from linalign_lite.heads.ood.detectors import METHODS, NEEDS_HEAD, nearest_neighbours
from linalign_lite.heads.ood.detectors.cosine import Cosine
from linalign_lite.heads.ood.detectors.logits import Energy
from linalign_lite.heads.ood.detectors.mahalanobis import Mahalanobis, RelativeMahalanobis
from linalign_lite.heads.ood.detectors.nearest_neighbours import (
    NearestNeighbours,
    WhitenedNearestNeighbours,
)
from linalign_lite.heads.ood.detectors.vim import VirtualLogit


@pytest.fixture
def alive(rng) -> HiddenStates:
    """Labelled states in which every dimension varies."""
    full = labelled(rng)
    space = Space(D - 1)
    return HiddenStates(full.states[:, :-1], space, labels=NAMES, label_ids=full.label_ids)


@pytest.fixture
def queries(rng) -> np.ndarray:
    return (rng.normal(size=(50, D - 1)) * 2 + 5).astype(np.float32)


def residuals(states):
    x = states.states.astype(float)
    centres = np.stack([x[states.label_ids == i].mean(0) for i in range(CLASSES)])
    return x - centres[states.label_ids], centres


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shrinkage", "peer"), [("auto", LedoitWolf), (0, EmpiricalCovariance)])
def test_mahalanobis_is_scikit_learns(alive, queries, shrinkage, peer):
    rest, centres = residuals(alive)
    shared = peer(assume_centered=True).fit(rest)
    away = np.stack([shared.mahalanobis(queries - c) for c in centres], axis=1)
    got = fit_detector(alive, method="mahalanobis", shrinkage=shrinkage).scores(queries)
    np.testing.assert_allclose(got, away.min(axis=1), rtol=1e-6)
    x = alive.states.astype(float)
    everything = peer(assume_centered=True).fit(x - x.mean(0)).mahalanobis(queries - x.mean(0))
    got = fit_detector(alive, method="relative-mahalanobis", shrinkage=shrinkage).scores(queries)
    np.testing.assert_allclose(got, away.min(axis=1) - everything, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("n", [12, 40, 3000])
def test_shrinkage_is_scikit_learns(rng, n):
    """Ledoit-Wolf shrinkage, also with fewer rows than dimensions."""
    x = rng.normal(size=(n, 20)) @ rng.normal(size=(20, 20))
    x -= x.mean(axis=0)
    ours = ledoit_wolf(covariance_about(x, np.zeros((1, 20)), np.zeros(n, dtype=int)))
    assert ours == pytest.approx(LedoitWolf(assume_centered=True).fit(x).shrinkage_, rel=1e-9)
    assert 0 < ours <= 1


def test_fewer_states_than_dimensions_are_shrunk_not_singular(rng):
    few = HiddenStates(
        rng.normal(size=(8, 30)), labels=("a", "b"), label_ids=np.arange(8, dtype=np.int32) % 2
    )
    fitted = fit_detector(few)
    near, far = fitted.scores(few), fitted.scores(rng.normal(size=(20, 30)) * 3)
    assert near.max() < far.min()


def test_cosine_by_its_definition(alive, queries):
    rest, centres = residuals(alive)
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit(rest).covariance_)
    x = alive.states.astype(float)
    z, c = queries - x.mean(0), centres - x.mean(0)
    inner = z @ precision @ c.T
    lengths = [np.sqrt(np.einsum("ij,jk,ik->i", a, precision, a)) for a in (z, c)]
    wanted = -(inner / np.outer(*lengths)).max(axis=1)
    got = fit_detector(alive, method="cosine").scores(queries)
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 7])
def test_knn_is_scikit_learns(alive, queries, k, monkeypatch):
    monkeypatch.setattr(nearest_neighbours, "QUERIES", 11)  # blocks that do not divide the rows
    monkeypatch.setattr(nearest_neighbours, "BANK", 5)
    rows = alive.states.astype(float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    asked = queries / np.linalg.norm(queries.astype(float), axis=1, keepdims=True)
    wanted = NearestNeighbors(n_neighbors=k).fit(rows).kneighbors(asked)[0][:, -1]
    got = fit_detector(alive, method="knn", k=k).scores(queries)
    np.testing.assert_allclose(got, wanted, atol=1e-6)
    rest, _ = residuals(alive)
    white = np.linalg.cholesky(
        np.linalg.inv(LedoitWolf(assume_centered=True).fit(rest).covariance_)
    )
    mean = alive.states.astype(float).mean(0)
    rows, asked = (np.asarray(a, dtype=float) - mean for a in (alive.states, queries))
    rows, asked = (
        a @ white / np.linalg.norm(a @ white, axis=1, keepdims=True) for a in (rows, asked)
    )
    wanted = NearestNeighbors(n_neighbors=k).fit(rows).kneighbors(asked)[0][:, -1]
    got = fit_detector(alive, method="whitened-knn", k=k).scores(queries)
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_vim_by_its_definition(alive, queries):
    head = head_for(alive)
    x, w, b = (np.asarray(a, dtype=float) for a in (alive.states, head.weight, head.bias))
    origin = -np.linalg.pinv(w, rcond=1e-6) @ b
    _, _, directions = np.linalg.svd(x - origin)
    residual = directions[3:]
    alpha = head(x).max(1).mean() / np.linalg.norm((x - origin) @ residual.T, axis=1).mean()
    virtual = alpha * np.linalg.norm((queries - origin) @ residual.T, axis=1)
    energy = np.log(np.exp(head(queries.astype(float))).sum(1))
    got = fit_detector(alive, method="vim", head=head, components=3).scores(queries)
    np.testing.assert_allclose(got, virtual - energy, rtol=1e-6)
    fitted = fit_detector(alive, method="vim", head=head)
    assert fitted.card["components"] == 1  # an eighth of nine


def test_energy_of_a_head_is_calibrated_on_validation_labels_and_msp_is_not(rng):
    train, held_out = labelled(rng), labelled(rng, 200)
    wrong = held_out.label_ids.copy()
    wrong[:20] = 0  # else the smallest temperature would be the best
    held_out = dataclasses.replace(held_out, label_ids=wrong)
    head = head_for(train)
    hot = Head(head.weight * 9, head.bias * 9, head.labels, head.space)
    of = {
        (name, how): fit_detector(train, method=name, head=h, **options).rule.temperature
        for name, h, how, options in [
            ("energy", head, "plain", {"validation": held_out}),
            ("energy", hot, "hot", {"validation": held_out}),
            ("energy", hot, "train", {}),
            ("energy", hot, "given", {"temperature": 2.5}),
            ("msp", hot, "hot", {"validation": held_out}),
            ("max-logit", hot, "hot", {"temperature": 2.5}),
        ]
    }
    assert of["energy", "hot"] == pytest.approx(9 * of["energy", "plain"], rel=1e-3)
    assert of["energy", "train"] != of["energy", "hot"]
    assert of["energy", "given"] == 2.5
    assert of["msp", "hot"] == of["max-logit", "hot"] == 1
    bare = dataclasses.replace(train, labels=(), label_ids=None)
    assert fit_detector(bare, method="energy", head=hot).rule.temperature == 1


# --- properties of all ----------------------------------------------------------------------------


def test_every_detector_separates_outlying_states_and_keeps_its_tpr(rng):
    test, between = labelled(rng, 2000), outlying(rng)
    around = HiddenStates((rng.normal(size=(200, D)) * 3 + 5).astype(np.float32), SPACE)
    for method, fitted in every(rng).items():  # vim: outside their plane
        strange = around if method == "vim" else between
        found = evaluate_detector(fitted, test, strange)
        assert found.method == fitted.method == method
        assert found.auroc.value > 0.8, method
        assert 0.92 <= found.kept <= 0.98, method
        assert found.caught == fitted.outlying(strange).mean()
        assert found.caught > 0.2, method


def test_a_dimension_that_never_changes_is_left_out(rng):
    """There is no division by its variance, and its value after a map does not change scores."""
    strange = outlying(rng)
    moved = HiddenStates(strange.states + np.eye(D)[-1] * 0.1, SPACE)
    for method, fitted in every(rng).items():
        assert np.isfinite(fitted.scores(strange)).all()
        for name in ("whitening", "background", "residual"):
            matrix = getattr(fitted.rule, name, None)
            if matrix is not None and name != "residual":
                np.testing.assert_array_equal(matrix[:, -1], 0)
        if method not in {"knn", "vim"}:
            np.testing.assert_allclose(fitted.scores(moved), fitted.scores(strange), rtol=1e-4)


def test_scores_do_not_depend_on_blocks_and_a_map_is_applied_first(rng, monkeypatch):
    test = labelled(rng, 100)
    turn = AffineMap(rng.normal(size=(D, 6)), rng.normal(size=D), Space(6, "ee" * 32), SPACE)
    source = HiddenStates(rng.normal(size=(100, 6)), turn.source)
    before = {}
    for method, fitted in every(rng).items():
        before[method] = fitted, fitted.scores(test), fitted.scores(source, turn)
        np.testing.assert_allclose(
            before[method][2], fitted.scores(turn(source.states.astype(float))), rtol=1e-4
        )
    monkeypatch.setattr(detector_module, "ROWS", 7)
    for fitted, plain, mapped in before.values():
        np.testing.assert_allclose(fitted.scores(test), plain, rtol=1e-9)
        np.testing.assert_allclose(fitted.scores(source, turn), mapped, rtol=1e-9)


def test_states_of_another_model_are_refused(rng):
    other = Space(D, "aa" * 32, "birch", "mean")
    test, strange = labelled(rng, 40), HiddenStates(outlying(rng).states, other)
    out_of = AffineMap(np.eye(D), np.zeros(D), SPACE, other)
    for fitted in every(rng).values():
        with pytest.raises(MismatchError, match="this detector does not read these states"):
            fitted.scores(strange)
        with pytest.raises(MismatchError, match="does not lead into this detector's space"):
            fitted.scores(test, out_of)
        with pytest.raises(MismatchError, match="this map does not read these states"):
            fitted.scores(strange, out_of)
    head = dataclasses.replace(head_for(labelled(rng)), space=other)
    with pytest.raises(MismatchError, match="this head does not read these states"):
        fit_detector(test, method="energy", head=head)
    with pytest.raises(MismatchError, match="validation states are of another space"):
        fit_detector(test, validation=strange)


def test_scores_that_overflow_are_an_error_not_infinity(rng):
    far = np.full((1, D), 3e38, dtype=np.float32)
    far[0, -1] = 1.5
    fitted = fit_detector(labelled(rng))
    huge = Detector(
        Mahalanobis(fitted.rule.mean, fitted.rule.whitening * 1e150, fitted.rule.centres), SPACE
    )
    with pytest.raises(InputError, match="not finite"):
        huge.scores(far)


def test_a_state_of_length_zero_has_a_score(rng):
    train = labelled(rng)
    rows = train.states.copy()
    rows[5] = 0
    bank = dataclasses.replace(train, states=rows)
    fitted = fit_detector(bank, method="knn", k=3)
    assert len(fitted.rule.bank) == len(rows) - 1
    assert fitted.scores(np.zeros((1, D)))[0] == pytest.approx(1)
    with pytest.raises(InputError, match="every state has length 0"):
        fit_detector(dataclasses.replace(bank, states=rows * 0), method="knn")


# --- thresholds ----------------------------------------------------------------------------------


def test_the_threshold_keeps_its_tpr_on_new_states(rng):
    """Split conformal prediction: over many draws, tpr or slightly more of new states are kept."""
    for n, tpr in ((19, 0.95), (30, 0.8), (200, 0.95)):
        kept = [
            (rng.normal(size=50) <= threshold_for(rng.normal(size=n), tpr)).mean()
            for _ in range(2000)
        ]
        assert tpr - 0.006 <= np.mean(kept) <= tpr + 1 / n + 0.006


def test_too_few_validation_states_are_named():
    with pytest.raises(InputError, match=r"got 18 states for .* 0.95, expected at least 19"):
        threshold_for(np.arange(18.0), 0.95)
    assert threshold_for(np.arange(19.0), 0.95) == 18
    with pytest.raises(InputError, match="share to keep is not usable"):
        threshold_for(np.arange(19.0), 1.0)


def test_without_a_threshold_there_is_no_decision(rng):
    fitted = fit_detector(labelled(rng))
    with pytest.raises(InputError, match="has no threshold"):
        fitted.outlying(labelled(rng))
    again = fitted.with_threshold(fitted.scores(labelled(rng)), 0.9)
    assert 0.05 < again.outlying(labelled(rng)).mean() < 0.15
    assert fitted.threshold is None


# --- labels, heads, banks ------------------------------------------------------------------------


def test_without_labels_the_head_predicts_the_class_or_there_is_one_class(rng):
    train = labelled(rng)
    bare = dataclasses.replace(train, labels=(), label_ids=None)
    head = head_for(train)
    said = dataclasses.replace(train, label_ids=head.predict(train.states).astype(np.int32))
    for method in ("mahalanobis", "relative-mahalanobis", "cosine", "whitened-knn"):
        by_head = fit_detector(bare, method=method, head=head)
        assert (by_head.card["classes_from"], by_head.card["classes"]) == ("head", CLASSES)
        np.testing.assert_allclose(
            by_head.scores(train), fit_detector(said, method=method).scores(train)
        )
    x = bare.states[:, :-1].astype(float)
    alone = LedoitWolf().fit(x)
    found = fit_detector(bare)
    assert found.card["classes_from"] == "none"
    np.testing.assert_allclose(found.scores(bare), alone.mahalanobis(x), rtol=1e-6)
    for method in ("relative-mahalanobis", "cosine"):
        with pytest.raises(InputError, match=f"{method} needs states of two labels or more"):
            fit_detector(bare, method=method)


def test_classes_without_a_row_and_labels_in_another_order_change_nothing(rng):
    train = labelled(rng)
    order = [3, 1, 4, 0]  # the name in the middle has no row
    renamed = HiddenStates(
        train.states,
        SPACE,
        labels=("b", "e", "x", "a", "c"),
        label_ids=np.array([order[i] for i in train.label_ids], dtype=np.int32),
    )
    for method in ("mahalanobis", "relative-mahalanobis", "cosine"):
        a, b = (fit_detector(s, method=method).scores(train) for s in (train, renamed))
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_the_bank_is_drawn_with_its_seed(rng):
    train = labelled(rng)
    banks = [fit_detector(train, method="knn", bank=50, seed=s).rule.bank for s in (0, 0, 1)]
    assert all(len(bank) == 50 for bank in banks)
    np.testing.assert_array_equal(banks[0], banks[1])
    assert not np.array_equal(banks[0], banks[2])
    rows = train.states / np.linalg.norm(train.states, axis=1, keepdims=True)
    assert all(np.abs(rows - row).max(axis=1).min() < 1e-6 for row in banks[2])


def test_a_detector_without_its_head_reads_scores(rng):
    train, test = labelled(rng), labelled(rng, 60)
    head = head_for(train)
    for method in ("energy", "msp", "max-logit"):
        whole = fit_detector(train, method=method, head=head, validation=labelled(rng, 100))
        bare = whole.without_head()
        assert bare.rule.head is None
        assert bare.threshold == whole.threshold
        np.testing.assert_array_equal(
            bare.of_scores(head(test.states.astype(float))), whole.scores(test)
        )
        swapped = tuple(reversed(NAMES))
        assert bare.of_scores(head(test.states), swapped).shape == (60,)
        with pytest.raises(InputError, match="reads scores, not states"):
            bare.scores(test)
        with pytest.raises(MismatchError, match="another head: got 1 unknown labels"):
            bare.of_scores(head(test.states), ("a", "b", "c", "new"))
        with pytest.raises(InputError, match=r"scores do not fit .* expected \(n, 4\)"):
            bare.of_scores(np.zeros((3, 5)))
    with pytest.raises(InputError, match="reads states, not scores"):
        fit_detector(train).of_scores(np.zeros((2, 4)))
    with pytest.raises(InputError, match="reads states, not scores"):
        fit_detector(train).without_head()


def test_scores_are_states_too(rng):
    """A distance detector fitted on a head's scores can be used on decrypted scores."""
    train, test = labelled(rng), labelled(rng, 300)
    head = head_for(train)
    on_scores = HiddenStates(head(train.states), labels=NAMES, label_ids=train.label_ids)
    fitted = fit_detector(on_scores, method="knn")
    far = fitted.scores(head(outlying(rng).states))
    assert np.median(far) > np.median(fitted.scores(head(test.states)))


# --- wrong options -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "forest"}, "unknown method: got forest, expected energy, msp"),
        *[({"method": m}, f"{m} reads a head's scores") for m in NEEDS_HEAD],
        ({"shrinkage": 1.5}, "shrinkage is not usable: got 1.5, expected auto, or 0 to 1"),
        ({"shrinkage": "much"}, "shrinkage is not usable: got much, expected auto, or 0 to 1"),
        ({"method": "knn", "k": 0}, "number of neighbours is not usable: got 0"),
        ({"method": "knn", "k": 601}, "got 601, expected 1 to 600"),
        ({"method": "knn", "bank": 0}, "size of the bank"),
        ({"tpr": 1.5, "validation": True}, "share to keep is not usable"),
        ({"method": "energy", "head": True, "temperature": "hot"}, "temperature is not usable"),
        ({"method": "energy", "head": True, "temperature": -1}, "temperature is not usable"),
        ({"method": "vim", "head": True, "components": 99}, "leaves no residual: got 99"),
    ],
)
def test_wrong_options_are_named(rng, options, words):
    train = labelled(rng)
    given = {**options}
    if given.get("head"):
        given["head"] = head_for(train)
    if given.get("validation"):
        given["validation"] = labelled(rng, 100)
    with pytest.raises(InputError, match=words):
        fit_detector(train, **given)


def test_vim_refuses_a_head_whose_scores_are_below_zero(rng):
    train = labelled(rng)
    head = head_for(train)
    low = Head(head.weight, head.bias - 1000, head.labels, head.space)
    with pytest.raises(InputError, match="vim does not fit this head"):
        fit_detector(train, method="vim", head=low)


def test_states_that_are_all_the_same_are_named():
    same = HiddenStates(
        np.ones((30, 3)), labels=("a", "b"), label_ids=np.arange(30, dtype=np.int32) % 2
    )
    for method in ("mahalanobis", "cosine", "whitened-knn"):
        with pytest.raises(InputError, match="do not vary"):
            fit_detector(same, method=method)


def test_rules_check_their_parts():
    one, eye = np.ones(3), np.eye(3)
    head = Head(np.eye(2, 3), np.zeros(2))
    cases = [
        (lambda: Mahalanobis(one, np.eye(2), eye), "whitening does not fit"),
        (lambda: Mahalanobis(one, eye, np.eye(2)), "what is compared with does not fit"),
        (lambda: RelativeMahalanobis(one, eye, eye, np.eye(2)), "background does not fit"),
        (lambda: Cosine(one, eye, eye * 2), "rows of centres do not have length 1"),
        (lambda: NearestNeighbours(eye * 0, 1), "rows of bank do not have length 1"),
        (lambda: NearestNeighbours(eye, 4), "got 4, expected 1 to 3"),
        (lambda: WhitenedNearestNeighbours(eye, 1, one, np.eye(2)), "whitening does not fit"),
        (lambda: VirtualLogit(head, one, eye, 0.0), "alpha is not usable"),
        (lambda: VirtualLogit(head, np.ones(2), eye, 1.0), "mean does not fit"),
        (lambda: Energy(3, 1.0, head), "n_outputs does not fit: got 3, expected 2"),
        (lambda: Energy(1), "too few outputs: got 1, expected 2 or more"),
        (lambda: outlyingness(eye, "sum"), "no score of this name"),
        (lambda: Detector(Cosine(one, eye, eye), Space(4)), "space does not fit"),
        (lambda: Detector(Cosine(one, eye, eye), threshold=1.0), "threshold and tpr go together"),
        (lambda: Detector(Cosine(one, eye, eye), labels=("a",)), "labels do not fit"),
        (lambda: Detector(Cosine(one, eye, eye), threshold=np.inf, tpr=0.9), "not finite"),
    ]
    for make, words in cases:
        with pytest.raises(InputError, match=words):
            make()


def test_every_method_is_in_the_format_and_has_its_docstring():
    from support import ROOT

    page = (ROOT / "docs" / "FORMAT.md").read_text(encoding="utf-8")
    for method in METHODS:
        assert f"| `{method}` |" in page
