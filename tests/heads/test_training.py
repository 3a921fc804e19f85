"""Classifiers against scikit-learn, and their evaluation."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from linalign_lite.alignment.least_squares import fit
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.metrics import (
    bootstrap_accuracy,
    cross_entropy,
    mean_cosine,
    r2,
    recall_per_class,
)
from linalign_lite.core.space import Space
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.heads.evaluation import evaluate, next_map
from linalign_lite.heads.training import train_head


class Neither:
    """Stands for pandas.NA: equal to nothing, and neither true nor false."""

    def __eq__(self, _other):
        return self

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    __hash__ = None


@pytest.fixture
def labelled(rng) -> HiddenStates:
    centres = rng.normal(size=(4, 10)) * 1.5
    ids = rng.integers(0, 4, size=600).astype(np.int32)
    states = centres[ids] + rng.normal(size=(600, 10)) * rng.uniform(0.2, 5, size=10) + 20
    return HiddenStates(states, labels=("a", "b", "c", "d"), label_ids=ids)


def test_ridge_is_ridge_on_one_hot(labelled):
    head, report = train_head(labelled, method="ridge", penalty=0.1)
    x = labelled.states.astype(float)
    alpha = 0.1 * ((x - x.mean(0)) ** 2).sum() / 10
    oracle = Ridge(alpha=alpha).fit(x, np.eye(4)[labelled.label_ids])
    np.testing.assert_allclose(head.weight, oracle.coef_, atol=1e-5)
    np.testing.assert_allclose(head.bias, oracle.intercept_, atol=1e-4)
    assert report.penalty == 0.1


def test_logistic_is_scikit_learns_on_standardised_states(labelled):
    penalty = 1e-2
    head, _ = train_head(labelled, method="logistic", penalty=penalty)
    x = labelled.states.astype(float)
    standard = (x - x.mean(0)) / x.std(0)
    oracle = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-8, max_iter=2000)
    oracle.fit(standard, labelled.label_ids)
    wanted = oracle.predict_log_proba(standard)
    scores = head(labelled.states).astype(float)
    got = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    np.testing.assert_allclose(got, wanted, atol=5e-3)


def test_constant_dimensions_get_weight_zero(labelled):
    dead = np.hstack([labelled.states, np.full((600, 1), 3.0, dtype=np.float32)])
    states = HiddenStates(dead, labels=labelled.labels, label_ids=labelled.label_ids)
    for method in ("ridge", "logistic"):
        head, _ = train_head(states, method=method)
        assert np.isfinite(head.weight).all()
        np.testing.assert_allclose(head.weight[:, -1], 0, atol=1e-6)


@pytest.mark.parametrize("method", ["ridge", "logistic"])
def test_a_rare_class_beside_an_outlier_dimension_is_still_learned(rng, method):
    """Under strong penalties only the commonest label is predicted; the search must continue."""
    ids = (rng.random(2000) < 0.1).astype(np.int32)
    states = rng.normal(size=(2000, 64))
    states[:, :8] += ids[:, None]
    states[:, 63] *= 30
    data = HiddenStates(states, labels=("common", "rare"), label_ids=ids)
    head, _ = train_head(data, method=method)
    assert evaluate(head, data).per_class["rare"] > 0.5


def test_auto_takes_the_better_by_cross_validation(labelled):
    head, report = train_head(labelled)
    assert set(report.tried) == {"ridge", "logistic"}
    assert report.held_out_accuracy == max(report.tried.values())
    assert head.card["method"] == report.method
    assert evaluate(head, labelled).accuracy.value > 0.6


def test_held_out_accuracy_of_random_labels_is_at_chance(rng):
    """With random labels the held-out accuracy is at chance level although d is large."""
    states = HiddenStates(
        rng.normal(size=(300, 200)),
        labels=("x", "y"),
        label_ids=rng.integers(0, 2, size=300).astype(np.int32),
    )
    _, report = train_head(states)
    assert 0.35 < report.held_out_accuracy < 0.65


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "forest"}, "unknown method: got forest"),
        ({"penalty": 1.0}, "a penalty needs a method"),
        ({"method": "ridge", "penalty": 0}, "expected above 0"),
        ({"method": "ridge", "penalty": "much"}, "got much"),
    ],
)
def test_wrong_options_are_named(labelled, options, words):
    with pytest.raises(InputError, match=words):
        train_head(labelled, **options)


def test_labels_are_needed(labelled):
    with pytest.raises(InputError, match="no labels"):
        train_head(HiddenStates(labelled.states))
    one = HiddenStates(labelled.states, labels=("a",), label_ids=np.zeros(600, dtype=np.int32))
    with pytest.raises(InputError, match="two labels"):
        train_head(one)


# --- evaluation ---------------------------------------------------------------------------------


def test_labels_are_matched_by_name_not_by_number(labelled):
    head, _ = train_head(labelled)
    order = [2, 0, 3, 1]
    ids = np.array([order.index(i) for i in labelled.label_ids], dtype=np.int32)
    renamed = HiddenStates(
        labelled.states, labels=tuple(labelled.labels[i] for i in order), label_ids=ids
    )
    assert evaluate(head, renamed).accuracy == evaluate(head, labelled).accuracy


def test_unknown_labels_are_wrong_and_counted(labelled):
    head, _ = train_head(labelled)
    labels = ("a", "b", "c", "new")
    renamed = HiddenStates(labelled.states, labels=labels, label_ids=labelled.label_ids)
    found = evaluate(head, renamed)
    assert found.unknown == int((labelled.label_ids == 3).sum())
    assert found.accuracy.value <= 1 - found.unknown / 600
    strangers = HiddenStates(labelled.states, labels=tuple("wxyz"), label_ids=labelled.label_ids)
    with pytest.raises(InputError, match="no label in common"):
        evaluate(head, strangers)


def test_evaluation_through_a_map(labelled, rng):
    other = HiddenStates(
        labelled.states @ rng.normal(size=(10, 14)) + 1,
        labels=labelled.labels,
        label_ids=labelled.label_ids,
    )
    head, _ = train_head(labelled)
    affine, _ = fit(other, labelled, penalty=1e-8)
    direct, mapped = evaluate(head, labelled), evaluate(head, other, affine=affine)
    assert mapped.accuracy.value == pytest.approx(direct.accuracy.value, abs=0.01)
    folded_in = evaluate(head @ affine, other)
    assert folded_in.accuracy.value == pytest.approx(mapped.accuracy.value, abs=0.005)


def test_a_head_of_another_model_is_refused(labelled):
    head = Head(np.zeros((4, 10)), np.zeros(4), labelled.labels, Space(10, "a" * 64, "ash"))
    states = HiddenStates(
        labelled.states,
        Space(10, "b" * 64, "birch"),
        labels=("a",),
        label_ids=np.zeros(600, dtype=np.int32),
    )
    with pytest.raises(MismatchError, match=r"got birch .* expected ash"):
        evaluate(head, states)
    affine = AffineMap(np.eye(10), np.zeros(10), Space(10, "c" * 64, "cedar"), head.space)
    with pytest.raises(MismatchError, match="does not read these states"):
        evaluate(head, states, affine=affine)


# --- metrics ------------------------------------------------------------------------------------


def test_metrics_by_hand():
    truth = np.array([[0.0, 0], [2, 2]])
    assert r2(truth, truth) == 1.0
    assert r2(truth, np.ones((2, 2))) == 0.0
    assert mean_cosine(np.array([[1.0, 0], [0, 0]]), np.array([[2.0, 0], [1, 1]])) == 0.5
    assert cross_entropy(np.zeros((3, 4)), np.array([0, 1, 2])) == pytest.approx(np.log(4))
    assert cross_entropy(np.array([[1e4, 0.0]]), np.array([0])) == 0.0
    recall = recall_per_class(np.array([0, 0, 2]), np.array([0, 1, 2]), 3)
    np.testing.assert_array_equal(recall, [0.5, np.nan, 1.0])
    with pytest.raises(InputError, match="all the same"):
        r2(np.ones((3, 2)), truth[:1])


def test_the_bootstrap_interval_covers(rng):
    """In 200 samples with a true accuracy of 0.8, about 95 % of the intervals contain it."""
    hits = 0
    for _ in range(200):
        guess = (rng.random(400) > 0.8).astype(int)
        interval = bootstrap_accuracy(np.zeros(400, dtype=int), guess)
        hits += interval.low <= 0.8 <= interval.high
    assert 180 <= hits <= 199


# --- labels as people have them ---------------------------------------------------------------


@pytest.mark.parametrize("kind", [list, tuple, np.asarray])
def test_arrays_with_a_label_a_row_are_the_same_as_labelled_states(kind, labelled):
    y = kind([labelled.labels[i] for i in labelled.label_ids])
    bare = HiddenStates(labelled.states)
    expected, report = train_head(dataclasses.replace(labelled, space=bare.space))
    for states, labels in (
        (labelled.states, y),
        (bare, y),
        (HiddenStates(bare.states, labels=y), None),
    ):
        head, found = train_head(states, labels)
        assert (head.labels, found) == (tuple(sorted(expected.labels)), report)
        assert evaluate(head, states, labels) == evaluate(head, labelled.states, y)
    assert evaluate(head, bare, y).accuracy == evaluate(expected, bare, y).accuracy


def test_labels_may_be_numbers(labelled):
    y = labelled.label_ids * 5 + 5
    head, _ = train_head(labelled.states, y)
    assert head.labels == tuple(str(5 * i + 5) for i in range(len(labelled.labels)))
    assert evaluate(head, labelled.states, y).accuracy.value > 0.6


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["a"], "there are not as many labels as rows: got 1 labels, expected 2 rows"),
        ([0.5, 1.5], "the labels are not usable: got float64, shape (2,), expected one a row"),
        ([["a"], ["b"]], "the labels are not usable: got <U1, shape (2, 1)"),
        ([None, "a"], "1 of 2 rows have no label: got row 0"),
        (["", "a"], "1 of 2 rows have no label: got row 0"),
        ([1, float("nan")], "1 of 2 rows have no label: got row 1"),
        (np.array(["a", Neither()], dtype=object), "1 of 2 rows have no label: got row 1"),
        (np.array(["a", 1.5], dtype=object), "the labels are not usable: got object, shape (2,)"),
        (["a", "b\n"], "the labels of the states are not usable"),
    ],
)  # fmt: skip
def test_labels_that_are_not_usable(labels, said):
    for make in (
        lambda: HiddenStates(np.eye(2), labels=labels),
        lambda: train_head(np.eye(2), labels),
        lambda: evaluate(Head(np.eye(2), np.zeros(2), labels=("a", "b")), np.eye(2), labels),
    ):
        with pytest.raises(InputError) as e:
            make()
        assert said in str(e.value)


def test_repeated_texts_are_remarked(labelled):
    assert train_head(labelled)[1].warnings == ()
    twice = labelled.rows(np.r_[:600, :30])
    (said,) = train_head(twice)[1].warnings
    assert said.startswith("30 of 630 rows repeat another, so held-out accuracy is of rows")


def test_the_texts_of_the_training_are_no_test(labelled):
    named = dataclasses.replace(labelled, text_digest="5" * 64)
    head, _ = train_head(named)
    found = evaluate(head, named).verdict
    assert found.grade == "poor"
    assert "on the texts that the head was trained on" in found.reason
    assert evaluate(head, labelled).verdict.grade != "poor"  # other texts, or unknown ones


def test_advice_goes_on_from_what_the_map_was_fitted_with():
    assert "--with-few" in next_map({}, 5)
    assert next_map({"n_few": 10}, 5).startswith("more of the few texts (10 now)")
    assert "--objective kl" in next_map({"n_few": 30}, 5)
    assert "without --objective kl" in next_map({"n_few": 10, "head": "5"}, 5)
    assert next_map({"n_few": 30, "head": "5"}, 5).startswith("first see what is left to gain")
