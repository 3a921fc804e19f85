"""Figures of merit. Each is a plain function of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.errors import InputError
from linalign_lite.linear import Array

Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Interval:
    """A value with the bounds of its bootstrap interval."""

    value: float
    low: float
    high: float
    confidence: float = 0.95


def r2(truth: Array, guess: Array) -> float:
    """1 − ‖truth − guess‖² / ‖truth − mean‖², over all dimensions together. Both (n, d)."""
    truth = np.asarray(truth, dtype=np.float64)
    residual = truth - guess
    spread = truth - truth.mean(axis=0)
    total = float(np.einsum("ij,ij->", spread, spread))
    if total == 0:
        raise InputError("R² is not defined for states that are all the same")
    return 1.0 - float(np.einsum("ij,ij->", residual, residual)) / total


def mean_cosine(a: Array, b: Array) -> float:
    """Mean over rows of the cosine between a[i] and b[i]. Both (n, d); a zero row counts as 0."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = np.einsum("ij,ij->i", a, b)
    return float(np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0).mean())


def accuracy(truth: Ints, guess: Ints) -> float:
    """Share of rows where truth and guess are the same. Both (n,)."""
    return float(np.mean(np.asarray(truth) == np.asarray(guess)))


def bootstrap_accuracy(
    truth: Ints, guess: Ints, *, rounds: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Accuracy and its percentile bootstrap interval (Efron 1979).

    Drawing n rows with replacement makes the number of hits binomial, so the rounds are drawn from
    Binomial(n, accuracy) directly: the same distribution without n × rounds indices.
    """
    hits = np.asarray(truth) == np.asarray(guess)
    n, value = len(hits), float(hits.mean())
    draws = np.random.default_rng(seed).binomial(n, value, size=rounds) / n
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, float(low), float(high), confidence)


def recall_per_class(truth: Ints, guess: Ints, classes: int) -> npt.NDArray[np.float64]:
    """Share of each class's rows that were recognised, (classes,); NaN for a class without rows."""
    hits = np.bincount(truth, weights=np.asarray(truth) == np.asarray(guess), minlength=classes)
    counts = np.bincount(truth, minlength=classes)
    recall: npt.NDArray[np.float64] = np.full(classes, np.nan)
    np.divide(hits, counts, out=recall, where=counts > 0)
    return recall


def cross_entropy(scores: Array, truth: Ints) -> float:
    """Mean of −log softmax(scores)[truth], in nats. scores: (n, classes), truth: (n,)."""
    scores = np.asarray(scores, dtype=np.float64)
    top = scores.max(axis=1, keepdims=True)
    logs = np.log(np.exp(scores - top).sum(axis=1)) + top[:, 0]
    return float(np.mean(logs - scores[np.arange(len(scores)), truth]))
