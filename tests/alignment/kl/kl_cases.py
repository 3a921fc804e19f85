"""Heads and states to learn from, and the divergence as it is defined, in float64."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from linalign_lite.alignment.kl.objective import Teaching
from linalign_lite.core.head import Head

SOURCE = 5  # dimensions


@dataclass(frozen=True)
class Case:
    """Something to learn: a head, states of both sides, and how they are taken."""

    head: Head
    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None = None
    teaching: Teaching = field(default_factory=Teaching)
    next_token: np.ndarray | None = None


def make_case(outputs, dims, *, n=40, seed=0, softcap=None, weighted=False, **teaching) -> Case:
    rng = np.random.default_rng(seed)
    head = Head(
        rng.normal(size=(outputs, dims)).astype(np.float32),
        rng.normal(size=outputs).astype(np.float32),
        softcap=softcap,
    )
    next_token = None
    if "truth" in teaching:
        next_token = rng.integers(0, outputs, size=n).astype(np.int32)
        next_token[::3] = -1  # a text's last token has no next one
    weight = None
    if weighted:
        weight = rng.exponential(size=n).astype(np.float32)
        weight[5] = 0
    return Case(
        head,
        (rng.normal(size=(n, SOURCE)) + 1).astype(np.float32),
        rng.normal(size=(n, dims)).astype(np.float32),
        weight,
        Teaching(**teaching),
        next_token,
    )


CASES = {
    "tokens": make_case(23, 6),
    "tokens, weighted": make_case(23, 6, weighted=True),
    "tokens, sharpened": make_case(23, 6, temperature=0.4),
    "tokens, flattened": make_case(23, 6, temperature=2.5),
    "tokens, truth": make_case(23, 6, truth=0.3),
    "tokens, all of it": make_case(23, 6, weighted=True, temperature=0.5, truth=0.2),
    "capped": make_case(23, 6, softcap=1.5),
    "capped, all of it": make_case(23, 6, softcap=1.5, weighted=True, temperature=0.5, truth=0.2),
    "capped, few outputs": make_case(3, 6, softcap=2.0, weighted=True),
    "classes": make_case(4, 7),
    "classes, all of it": make_case(4, 7, weighted=True, temperature=0.7, truth=0.2),
    "as many as dimensions": make_case(6, 6, weighted=True),
    "two classes": make_case(2, 6, temperature=0.7),
}


def scores_of(head: Head, z: np.ndarray) -> np.ndarray:
    scores = z.astype(float) @ head.weight.astype(float).T + head.bias.astype(float)
    return scores if head.softcap is None else np.tanh(scores / head.softcap) * head.softcap


def softmax_of(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def taught(case: Case) -> np.ndarray:
    """p of every row: sharpened, and mixed with what is true where that is known."""
    p = softmax_of(scores_of(case.head, case.y) / case.teaching.temperature)
    if case.next_token is not None:
        for i, token in enumerate(case.next_token):
            if token >= 0:
                p[i] *= 1 - case.teaching.truth
                p[i, token] += case.teaching.truth
    return p


def reference(case: Case, weight: np.ndarray, bias: np.ndarray) -> float:
    """Σ w Σ p log(p/q) / Σ w, of everything in float64."""
    p = taught(case)
    q = softmax_of(scores_of(case.head, case.x.astype(float) @ weight.T + bias))
    with np.errstate(divide="ignore"):  # what never happens counts for nothing
        each = np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0).sum(axis=1)
    return float(np.average(each, weights=case.weight))


def blind_spot(outputs: int = 10, n: int = 600, seed: int = 0) -> tuple[Head, np.ndarray, ...]:
    """A head that least squares serves badly, source states and target states.

    What varies most in the target, and is best seen in the source, is what the head ignores.
    """
    rng = np.random.default_rng(seed)
    seen, unseen = rng.normal(size=(n, 4)), rng.normal(size=(n, 8))
    faint = 0.3 * seen + 0.03 * rng.normal(size=seen.shape)
    loud = 3 * unseen + 6 * rng.normal(size=unseen.shape)
    turn = np.linalg.qr(rng.normal(size=(12, 12)))[0]
    weight = np.hstack([np.zeros((outputs, 8)), rng.normal(size=(outputs, 4)) * 2])
    head = Head(weight.astype(np.float32), np.zeros(outputs, np.float32))
    x, y = np.hstack([loud, faint]) @ turn, np.hstack([20 * unseen, seen])
    return head, x.astype(np.float32), y.astype(np.float32)
