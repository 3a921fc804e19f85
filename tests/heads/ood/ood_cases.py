"""Synthetic states for the tests of detectors, and one detector of each method."""

from __future__ import annotations

import numpy as np

from linalign_lite import Detector, Head, HiddenStates, Space, fit_detector, train_head
from linalign_lite.heads.ood.detectors import METHODS

D, CLASSES = 10, 4
SPACE = Space(D, "cd" * 32, "ash", "mean")
NAMES = tuple("abcd")


def labelled(rng: np.random.Generator, n: int = 600) -> HiddenStates:
    """Four Gaussian classes with one covariance, far from zero; the last dimension is constant."""
    state = np.random.default_rng(3)  # the same classes in every test
    centres, mix = state.normal(size=(CLASSES, D)) * 2, state.normal(size=(D, D)) / 2
    centres -= centres.mean(axis=0)
    ids = np.arange(n, dtype=np.int32) % CLASSES
    states = centres[ids] + rng.normal(size=(n, D)) @ mix + 5
    states[:, -1] = 1.5
    return HiddenStates(states.astype(np.float32), SPACE, labels=NAMES, label_ids=ids)


def outlying(rng: np.random.Generator, n: int = 200) -> HiddenStates:
    """States between the class means."""
    states = rng.normal(size=(n, D)) * 0.7 + 5
    states[:, -1] = 1.5
    return HiddenStates(states.astype(np.float32), SPACE)


def head_for(states: HiddenStates) -> Head:
    return train_head(states, method="logistic", penalty=1e-3)[0]


def every(rng: np.random.Generator, **options: object) -> dict[str, Detector]:
    """A detector of each method, with a threshold."""
    train, held_out = labelled(rng), labelled(rng, 200)
    head = head_for(train)
    return {
        method: fit_detector(train, method=method, head=head, validation=held_out, **options)
        for method in METHODS
    }
