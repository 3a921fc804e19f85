"""Definitions, error bounds and calibration of energy, msp and max-logit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from linalign_lite import InputError, outlyingness
from linalign_lite.core.metrics import cross_entropy
from linalign_lite.heads.ood.detectors import SCORE_METHODS
from linalign_lite.heads.ood.detectors.logits import (
    Energy,
    MaxLogit,
    MaxSoftmax,
    calibrated_temperature,
)

SCORES = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 5), st.integers(2, 6)), elements=st.floats(-300, 300)
)


@given(SCORES, st.floats(0.01, 100))
@settings(max_examples=60, deadline=None)
def test_scores_follow_their_definitions(z, t):
    np.testing.assert_allclose(
        Energy.of_logits(z, t), -t * logsumexp(z / t, axis=1), rtol=1e-12, atol=1e-9
    )
    np.testing.assert_allclose(
        MaxSoftmax.of_logits(z, t), -softmax(z / t, axis=1).max(axis=1), rtol=1e-12
    )
    np.testing.assert_array_equal(MaxLogit.of_logits(z), -z.max(axis=1))


@given(SCORES, st.floats(0.1, 10), st.floats(1e-9, 1e-2), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_an_error_of_the_scores_moves_them_no_more_than_documented(z, t, error, seed):
    moved = z + np.random.default_rng(seed).uniform(-error, error, size=z.shape)
    slack = 1e-10
    assert np.abs(Energy.of_logits(moved, t) - Energy.of_logits(z, t)).max() <= error + slack
    assert np.abs(MaxLogit.of_logits(moved) - MaxLogit.of_logits(z)).max() <= error + slack
    assert (
        np.abs(MaxSoftmax.of_logits(moved, t) - MaxSoftmax.of_logits(z, t)).max()
        <= error / (2 * t) + slack
    )


def test_large_scores_do_not_overflow_and_are_not_changed():
    z = np.array([[1e5, -1e5], [3.0, 3.0]])
    before = z.copy()
    for method in SCORE_METHODS:
        assert np.isfinite(outlyingness(z, method, 0.01)).all()
    np.testing.assert_array_equal(z, before)


def test_the_temperature_calibrates(rng):
    """For labels drawn from softmax(z/3) the temperature is 3, and that of SciPy's minimiser."""
    z = rng.normal(size=(20_000, 5)) * 6
    truth = np.array([rng.choice(5, p=p) for p in softmax(z / 3, axis=1)])
    found = calibrated_temperature(z, truth)
    assert found == pytest.approx(3, rel=0.05)
    oracle = minimize_scalar(lambda a: cross_entropy(z / np.exp(a), truth), bounds=(-3, 3),
                             method="bounded", options={"xatol": 1e-8})  # fmt: skip
    assert found == pytest.approx(float(np.exp(oracle.x)), rel=1e-3)


@pytest.mark.parametrize(
    ("scores", "method", "temperature", "words"),
    [
        (np.zeros((2, 3)), "entropy", 1.0, "got entropy, expected energy, msp, max-logit"),
        (np.zeros(3), "energy", 1.0, r"got \(3,\)"),
        (np.zeros((2, 1)), "msp", 1.0, "two outputs or more"),
        (np.zeros((0, 3)), "msp", 1.0, "wrong shape"),
        (np.full((2, 3), np.nan), "max-logit", 1.0, "not finite"),
        (np.zeros((2, 3)), "energy", 0.0, "the temperature is not usable: got 0.0"),
        (np.zeros((2, 3)), "energy", float("nan"), "the temperature is not usable"),
    ],
)
def test_unusable_arguments_are_refused(scores, method, temperature, words):
    with pytest.raises(InputError, match=words):
        outlyingness(scores, method, temperature)
