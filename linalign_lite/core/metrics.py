"""Metrics: plain functions of arrays."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array
from linalign_lite.errors import InputError

Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Interval:
    """A value with the bounds of its confidence interval."""

    value: float
    low: float
    high: float
    confidence: float = 0.95


def r2(truth: Array, guess: Array) -> float:
    """Compute 1 − ‖truth − guess‖² / ‖truth − mean‖², over all dimensions. Both (n, d)."""
    truth = np.asarray(truth, dtype=np.float64)
    residual = truth - guess
    spread = truth - truth.mean(axis=0)
    total = float(np.einsum("ij,ij->", spread, spread))
    if total == 0:
        raise InputError("R² is not defined for states that are all the same")
    return 1.0 - float(np.einsum("ij,ij->", residual, residual)) / total


def error_of_mean(losses: npt.NDArray[np.float64], groups: npt.NDArray[np.int64]) -> float:
    """Compute the standard error of the mean of losses (n,), clustered by text: groups (n,)."""
    _, text = np.unique(groups, return_inverse=True)
    sums = np.bincount(text, losses - losses.mean())
    count = len(sums)
    return float(np.sqrt(count / max(count - 1, 1) * (sums**2).sum()) / len(losses))


def mean_cosine(a: Array, b: Array) -> float:
    """Compute the mean of the cosines of a[i] and b[i]. Both (n, d); a zero row counts as 0."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = np.einsum("ij,ij->i", a, b)
    return float(np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0).mean())


def accuracy(truth: Ints, guess: Ints) -> float:
    """Compute the share of rows where truth and guess are equal. Both (n,)."""
    return float(np.mean(np.asarray(truth) == np.asarray(guess)))


def majority(truth: Ints) -> float:
    """Compute the accuracy of always predicting the most frequent label; −1: a label unknown."""
    truth = np.asarray(truth)
    known = truth[truth >= 0]
    return float(np.bincount(known).max() / len(truth)) if len(known) else 0.0


def bootstrap_accuracy(
    truth: Ints, guess: Ints, *, rounds: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Interval:
    """Compute the accuracy and its percentile bootstrap interval (Efron 1979).

    The number of hits among n rows drawn with replacement is binomial, so the rounds are drawn from
    Binomial(n, accuracy) directly: the same distribution without n × rounds indices.
    """
    hits = np.asarray(truth) == np.asarray(guess)
    n, value = len(hits), float(hits.mean())
    draws = np.random.default_rng(seed).binomial(n, value, size=rounds) / n
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, float(low), float(high), confidence)


def recall_per_class(truth: Ints, guess: Ints, classes: int) -> npt.NDArray[np.float64]:
    """Compute the recall of each class, (classes,); NaN for a class without rows."""
    hits = np.bincount(truth, weights=np.asarray(truth) == np.asarray(guess), minlength=classes)
    counts = np.bincount(truth, minlength=classes)
    recall: npt.NDArray[np.float64] = np.full(classes, np.nan)
    np.divide(hits, counts, out=recall, where=counts > 0)
    return recall


def cross_entropy(scores: Array, truth: Ints) -> float:
    """Compute the mean of −log softmax(scores)[truth], in nats. scores (n, classes), truth (n,)."""
    scores = np.asarray(scores, dtype=np.float64)
    top = scores.max(axis=1, keepdims=True)
    logs = np.log(np.exp(scores - top).sum(axis=1)) + top[:, 0]
    return float(np.mean(logs - scores[np.arange(len(scores)), truth]))


# --- detection of outliers: higher scores are more outlying; inlying (n,), outlying (m,) ----------


def auroc(inlying: Array, outlying: Array) -> float:
    """Compute the area under the ROC curve: P(outlying > inlying) + ½ P(both equal).

    By ranks (Mann & Whitney 1947); equal scores get their mean rank.
    """
    return float(_placements(*_checked_scores(inlying, outlying))[0].mean())


def auroc_interval(inlying: Array, outlying: Array, confidence: float = 0.95) -> Interval:
    """Compute the AUROC and its normal interval (variance of DeLong et al. 1988), within 0 to 1."""
    from statistics import NormalDist

    low, high = _checked_scores(inlying, outlying)
    of_high, of_low = _placements(low, high)
    variance = sum(float(p.var(ddof=1)) / len(p) for p in (of_high, of_low) if len(p) > 1)
    value = float(of_high.mean())
    reach = NormalDist().inv_cdf(0.5 + confidence / 2) * variance**0.5
    return Interval(value, max(0.0, value - reach), min(1.0, value + reach), confidence)


def aupr_out(inlying: Array, outlying: Array) -> float:
    """Compute the average precision Σ (Rᵢ − Rᵢ₋₁) Pᵢ with outlying as the positive class.

    One step per distinct score, from the highest down, as scikit-learn does; interpolating between
    steps would overestimate it (Davis & Goadrich 2006).
    """
    out, kept = _cumulative_counts(*_checked_scores(inlying, outlying))
    precision = out / (out + kept)
    return float((np.diff(out, prepend=0.0) * precision).sum() / out[-1])


def aupr_in(inlying: Array, outlying: Array) -> float:
    """Compute the average precision as `aupr_out`, with inlying as the positive class."""
    low, high = _checked_scores(inlying, outlying)
    return aupr_out(-high, -low)


def fpr_at(inlying: Array, outlying: Array, tpr: float = 0.95) -> float:
    """Compute the share of outlying scores below the lowest threshold that accepts at least a
    share ``tpr`` of the inlying ones.

    Inlying is the positive class, as in Hendrycks & Gimpel 2017 and Liu et al. 2020. With outlying
    as the positive class (pytorch-ood) the metric is ``fpr_at(-outlying, -inlying)``.
    """
    low, high = _checked_scores(inlying, outlying)
    if not 0 < tpr <= 1:
        raise InputError("the share to keep is not usable", got=str(tpr), expected="above 0, to 1")
    rank = int(np.ceil(round(tpr * len(low), 9)))
    return float((high <= np.sort(low)[rank - 1]).mean())


def roc_curve(inlying: Array, outlying: Array, points: int = 200) -> list[tuple[float, float]]:
    """Return (share of inlying, share of outlying) scores at or above thresholds, from (0, 0) to
    (1, 1): at most ``points`` pairs, evenly along the curve.
    """
    low, high = _checked_scores(inlying, outlying)
    out, kept = _cumulative_counts(low, high)
    x = np.concatenate([[0.0], kept / len(low)])
    y = np.concatenate([[0.0], out / len(high)])
    if len(x) > points:
        along = x + y  # from 0 to 2, growing at each step
        wanted = np.searchsorted(along, np.linspace(0.0, 2.0, points) - 1e-12)
        chosen = np.unique(np.minimum(wanted, len(x) - 1))
        x, y = x[chosen], y[chosen]
    return list(zip(x.tolist(), y.tolist(), strict=True))


def _checked_scores(inlying: Array, outlying: Array) -> tuple[Array, Array]:
    low, high = (np.asarray(a, dtype=np.float64) for a in (inlying, outlying))
    for name, scores in (("inlying", low), ("outlying", high)):
        if scores.ndim != 1 or not scores.size or not np.isfinite(scores).all():
            raise InputError(
                f"the {name} scores are not usable",
                got=f"shape {scores.shape}",
                expected="finite numbers, (n,), at least one",
            )
    return low, high


def _placements(low: Array, high: Array) -> tuple[Array, Array]:
    """Return for each high score the share of low ones below it, and for each low score the share
    of high ones above it; equal ones count half.
    """
    below, above = np.sort(low), np.sort(high)
    of_high = (np.searchsorted(below, high) + np.searchsorted(below, high, "right")) / 2
    of_low = (np.searchsorted(above, low) + np.searchsorted(above, low, "right")) / 2
    return of_high / len(low), 1.0 - of_low / len(high)


def _cumulative_counts(low: Array, high: Array) -> tuple[Array, Array]:
    """Count the high and the low scores at or above each distinct score, from the highest down."""
    values = np.unique(np.concatenate([low, high]))[::-1]
    reach = [len(a) - np.searchsorted(np.sort(a), values) for a in (high, low)]
    return reach[0].astype(np.float64), reach[1].astype(np.float64)
