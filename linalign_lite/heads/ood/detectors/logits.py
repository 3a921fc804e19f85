"""Detectors on a head's scores: energy, maximum softmax probability, maximum logit.

scores: (n, n_outputs), n ≥ 1, two outputs or more; functions return (n,).
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array
from linalign_lite.core.head import Head
from linalign_lite.core.metrics import cross_entropy
from linalign_lite.errors import InputError
from linalign_lite.heads.evaluation import label_outputs
from linalign_lite.heads.ood.detectors.base import FitData, Float64, Rule, as_float64
from linalign_lite.storage.schema import Range, parse

TEMPERATURE = Range(1e-6, 1e6)
Temperature = Annotated[float, TEMPERATURE]
CALIBRATED = (1e-3, 1e3)  # bounds of the search for a calibrated temperature


@dataclass(frozen=True, eq=False)
class LogitRule(Rule):
    """Base of the rules on a head's scores; without a head, on given scores."""

    n_outputs: int
    temperature: float = 1.0
    head: Head | None = None

    needs_head = True
    settings: ClassVar = {"n_outputs": int, "temperature": float}

    def __post_init__(self) -> None:
        parse(Temperature, float(self.temperature), "the temperature")
        if self.n_outputs < 2:
            raise InputError("too few outputs", got=str(self.n_outputs), expected="2 or more")
        if self.head is not None:
            require_outputs(self.head, self.n_outputs)

    @staticmethod
    @abstractmethod
    def of_logits(scores: Array, temperature: float) -> Float64:
        """Score rows of a head's scores (n, n_outputs); returns (n,)."""

    @classmethod
    def fit(cls, data: FitData) -> tuple[Self, dict[str, Any]]:
        """Keep the head; only the temperature may be fitted."""
        assert data.head is not None
        return cls(data.head.n_outputs, cls.fit_temperature(data, data.head), data.head), {}

    @staticmethod
    def fit_temperature(data: FitData, _head: Head) -> float:
        """Return the temperature given, 1 for "auto"."""
        return 1.0 if data.temperature is None else data.temperature

    @property
    def dim(self) -> int | None:
        return None if self.head is None else int(self.head.weight.shape[1])

    @property
    def width(self) -> int:
        return self.n_outputs

    def score(self, states: Float64) -> Float64:
        if self.head is None:
            raise InputError(
                "this detector reads scores, not states",
                hint="use it on decrypted scores, or fit one with its head",
            )
        return self.of_scores(self.head(states))

    def of_scores(self, scores: Array) -> Float64:
        """Score rows of a head's scores (n, n_outputs); returns (n,)."""
        if np.ndim(scores) != 2 or np.shape(scores)[1] != self.n_outputs:
            raise InputError(
                "scores do not fit this detector",
                got=f"shape {np.shape(scores)}",
                expected=f"(n, {self.n_outputs})",
            )
        return self.of_logits(scores, self.temperature)


class Energy(LogitRule):
    """−T·log Σₖ exp(sₖ/T). Liu et al. 2020, "Energy-based Out-of-distribution Detection"."""

    method = "energy"

    @staticmethod
    def of_logits(scores: Array, temperature: float = 1.0) -> Float64:
        z = _usable(scores) / parse(Temperature, float(temperature), "the temperature")
        top = z.max(axis=1, keepdims=True)
        return as_float64(-temperature * (np.log(np.exp(z - top).sum(axis=1)) + top[:, 0]))

    @staticmethod
    def fit_temperature(data: FitData, head: Head) -> float:
        """Return the temperature given; for "auto" calibrate on labels, 1 without labels."""
        if data.temperature is not None:
            return data.temperature
        for states in (data.validation, data.training):
            if states is None or states.label_ids is None or not head.labels:
                continue
            truth = label_outputs(head, states)
            known = np.flatnonzero(truth >= 0)
            if known.size:
                return calibrated_temperature(head(states.states[known]), truth[known])
        return 1.0


class MaxSoftmax(LogitRule):
    """−maxₖ softmax(s/T)ₖ.

    Hendrycks & Gimpel 2017, "A Baseline for Detecting Misclassified and Out-of-Distribution
    Examples in Neural Networks", section 2 (T = 1); with T, the score of Liang et al. 2018 (ODIN).
    """

    method = "msp"

    @staticmethod
    def of_logits(scores: Array, temperature: float = 1.0) -> Float64:
        z = _usable(scores) / parse(Temperature, float(temperature), "the temperature")
        return as_float64(-1.0 / np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1))


class MaxLogit(LogitRule):
    """−maxₖ sₖ; the temperature is not used.

    Hendrycks et al. 2022, "Scaling Out-of-Distribution Detection for Real-World Settings".
    """

    method = "max-logit"

    @staticmethod
    def of_logits(scores: Array, temperature: float = 1.0) -> Float64:  # noqa: ARG004
        return as_float64(-_usable(scores).max(axis=1))

    @staticmethod
    def fit_temperature(_data: FitData, _head: Head) -> float:
        return 1.0


def calibrated_temperature(scores: Array, truth: npt.NDArray[np.integer[Any]]) -> float:
    """The T from 0.001 to 1,000 that minimises the mean of −log softmax(s/T)[truth].

    Guo et al. 2017, "On Calibration of Modern Neural Networks", section 4.2. Golden-section search
    over log T: the loss is convex in 1/T. truth: (n,), the true output of each row.
    """
    z = _usable(scores)
    low, high = np.log(CALIBRATED)
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


def require_outputs(head: Head, n_outputs: int) -> None:
    """Raise InputError unless the head has ``n_outputs`` outputs."""
    if head.n_outputs != n_outputs:
        raise InputError("n_outputs does not fit", got=str(n_outputs), expected=str(head.n_outputs))


def _usable(scores: Array) -> Float64:
    z = as_float64(scores)
    if z.ndim != 2 or z.shape[0] < 1 or z.shape[1] < 2:
        raise InputError(
            "scores have the wrong shape",
            got=str(z.shape),
            expected="(n, n_outputs), two outputs or more",
        )
    if not np.isfinite(z).all():
        raise InputError("scores hold values that are not finite")
    return z
