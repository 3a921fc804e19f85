"""Outlyingness read from a head's scores alone: for a client, from decrypted ones.

scores: (n, n_outputs), n ≥ 1, two outputs or more; each function returns (n,), higher for what is
more outlying. A score that is off by ε moves energy and max-logit by ε at most, msp by ε/(2T).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array
from linalign_lite.core.metrics import cross_entropy
from linalign_lite.errors import InputError

Float64 = npt.NDArray[np.float64]
SCORE_METHODS = ("energy", "msp", "max-logit")
TEMPERATURES = (1e-3, 1e3)  # those that calibration looks between


def energy(scores: Array, temperature: float = 1.0) -> Float64:
    """−T·log Σₖ exp(sₖ/T). Liu et al. 2020, "Energy-based Out-of-distribution Detection"."""
    return -temperature * _log_sum(_divided(scores, temperature))


def max_softmax(scores: Array, temperature: float = 1.0) -> Float64:
    """−maxₖ softmax(s/T)ₖ.

    Hendrycks & Gimpel 2017, "A Baseline for Detecting Misclassified and Out-of-Distribution
    Examples in Neural Networks", section 2 (T = 1); with T, the score of Liang et al. 2018 (ODIN).
    """
    z = _divided(scores, temperature)
    odds: Float64 = np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1)
    return -1.0 / odds


def max_logit(scores: Array) -> Float64:
    """−maxₖ sₖ. Hendrycks et al. 2022, "Scaling Out-of-Distribution Detection for Real-World
    Settings".
    """
    highest: Float64 = _scores(scores).max(axis=1)
    return -highest


def outlyingness(scores: Array, method: str = "energy", temperature: float = 1.0) -> Float64:
    """``energy``, ``msp`` or ``max-logit`` of scores (n, n_outputs); returns (n,).

    Raises InputError for an unknown method, a temperature that is not above 0, or scores of
    another shape or not finite.
    """
    if method == "energy":
        return energy(scores, temperature)
    if method == "msp":
        return max_softmax(scores, temperature)
    if method == "max-logit":
        return max_logit(scores)
    raise InputError("no score of this name", got=method, expected=", ".join(SCORE_METHODS))


def calibrated_temperature(scores: Array, truth: npt.NDArray[np.integer[Any]]) -> float:
    """The T that minimises the mean of −log softmax(s/T)[truth], between 0.001 and 1,000.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2. Convex in 1/T, so a
    golden-section search over log T finds it. truth: (n,), the right output of each row.
    """
    z = _scores(scores)
    low, high = np.log(TEMPERATURES)
    ratio = (np.sqrt(5) - 1) / 2

    def loss(at: float) -> float:
        return cross_entropy(z / np.exp(at), truth)

    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = loss(left), loss(right)
    while high - low > 1e-4:
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = loss(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = loss(right)
    return float(np.exp((low + high) / 2))


def usable_temperature(value: float) -> float:
    """The temperature as a float. Raises InputError unless it is a finite number above 0."""
    if not 1e-6 <= value <= 1e6:
        raise InputError(
            "the temperature is not usable", got=str(value)[:40], expected="0.000001 to 1,000,000"
        )
    return float(value)


def _scores(scores: Array) -> Float64:
    z = np.asarray(scores, dtype=np.float64)
    if z.ndim != 2 or z.shape[0] < 1 or z.shape[1] < 2:
        raise InputError(
            "scores have the wrong shape",
            got=str(z.shape),
            expected="(n, n_outputs), two outputs or more",
        )
    if not np.isfinite(z).all():
        raise InputError("scores hold values that are not finite")
    return z


def _divided(scores: Array, temperature: float) -> Float64:
    return _scores(scores) / usable_temperature(temperature)


def _log_sum(z: Float64) -> Float64:
    top = z.max(axis=1, keepdims=True)
    result: Float64 = np.log(np.exp(z - top).sum(axis=1)) + top[:, 0]
    return result
