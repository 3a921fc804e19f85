"""Cross-validation of detectors over labels: held-out labels are the outlying class."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ood_cases import SPACE, head_for, labelled

from linalign_lite import HiddenStates, InputError, compare_detectors, fit_detector
from linalign_lite.core.metrics import auroc


@pytest.fixture
def many(rng) -> HiddenStates:
    """Ten labels, and five dimensions of much larger noise, which whitening removes."""
    ids = np.arange(800, dtype=np.int32) % 10
    centres = rng.normal(size=(10, 5)) * 6
    states = np.hstack([centres[ids] + rng.normal(size=(800, 5)), rng.normal(size=(800, 5)) * 99])
    return HiddenStates(states + 3, labels=tuple("abcdefghij"), label_ids=ids)


def test_it_finds_that_whitening_is_needed(many):
    found = compare_detectors(many)
    assert set(found.auroc) == {"mahalanobis", "relative-mahalanobis", "cosine", "knn",
                                "whitened-knn"}  # fmt: skip
    assert found.auroc["knn"] < 0.6
    assert found.auroc[found.best] == max(found.auroc.values()) > 0.75
    assert found.folds == 5


def test_folds_are_as_documented(rng):
    """Three labels make two folds, of two labels and of one; AUROC is recomputed by hand."""
    full = labelled(rng)
    some = full.rows(np.flatnonzero(full.label_ids < 3))
    held = labelled(rng, 200)
    held = held.rows(np.flatnonzero(held.label_ids < 3))
    found = compare_detectors(some, {"m": {"method": "mahalanobis"}}, validation=held)
    assert found.folds == 2
    by_hand = []
    for labels in ([0], [1], [2], [0, 1], [0, 2], [1, 2]):
        left = np.isin(some.label_ids, labels)
        fitted = fit_detector(some.rows(np.flatnonzero(~left)))
        out = np.isin(held.label_ids, labels)
        low, high = (fitted.scores(held.rows(np.flatnonzero(x))) for x in (~out, out))
        by_hand.append(auroc(low, high))
    pairs = [(by_hand[i] + by_hand[5 - i]) / 2 for i in range(3)]
    assert min(abs(found.auroc["m"] - p) for p in pairs) < 1e-12


def test_a_head_loses_the_outputs_that_are_left_out(rng):
    """With these outputs, texts of held-out labels would get the highest logits."""
    train = labelled(rng)
    head = head_for(train)
    found = compare_detectors(train, {"e": {"method": "max-logit"}}, head=head)
    assert found.auroc["e"] > 0.8


def test_states_that_cannot_be_compared_are_refused(rng):
    train = labelled(rng)
    bare = dataclasses.replace(train, labels=(), label_ids=None)
    two = train.rows(np.flatnonzero(train.label_ids < 2))
    for states in (bare, two):
        with pytest.raises(InputError, match="three labels or more"):
            compare_detectors(states)
    with pytest.raises(InputError, match="validation states have no labels"):
        compare_detectors(train, validation=bare)
    one = train.rows(np.flatnonzero(train.label_ids == 0))
    with pytest.raises(InputError, match="no text to evaluate on"):
        compare_detectors(train, validation=one)
    assert train.space == SPACE


def test_arrays_and_labels_are_compared_as_states_are(rng):
    rows = rng.normal(size=(120, 6))
    labels = np.array(list("abcd"))[np.arange(120) % 4]
    rows[np.arange(120), np.arange(120) % 4] += 3
    assert compare_detectors(rows, labels=labels) == compare_detectors(
        HiddenStates(rows, labels=labels)
    )
