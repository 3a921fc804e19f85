"""Train a linear classifier on labelled hidden states.

Two objectives, both with an unpenalised intercept:

ridge       minimise ‖Z_c Vᵀ − T_c‖² + λ‖V‖², T the one-hot labels, λ = penalty · trace(Z_cᵀZ_c)/d
logistic    minimise mean(−log softmax(Ẑ Vᵀ + c)[label]) + penalty/2 · ‖V‖², Ẑ the standardised
            states; the standardisation is folded into the head, which reads raw states

Penalties are chosen by K-fold accuracy; of equally accurate penalties the strongest is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.moments import Float64, fold_index, measure
from linalign_lite.alignment.report import not_new
from linalign_lite.alignment.ridge import number_or_auto, ridge, spectrum
from linalign_lite.core.affine_map import Array
from linalign_lite.core.choices import HEAD_FOLDS, HeadMethod, values_of
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates, as_states
from linalign_lite.core.metrics import majority
from linalign_lite.core.text_tables import Pairs
from linalign_lite.core.verdict import Measurement, Verdict, of_accuracy
from linalign_lite.errors import InputError

PENALTIES = {
    "ridge": tuple(
        10.0**e for e in (1, 0.5, 0, -0.5, -1, -1.5, -2, -2.5, -3, -3.5, -4, -5, -6, -7)
    ),
    "logistic": (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5),
}
PATIENCE = 2  # consecutive penalties worse than the best after which weaker ones are not tried
ROUGH, FINE = 1e-5, 1e-7  # decrease of the loss at which L-BFGS stops: to choose, for the head
MAX_ITERATIONS = 300
MIN_DEVIATION = 1e-6  # share of the largest deviation below which a dimension is not used

Ids = npt.NDArray[np.int32]
Solutions = Iterator[tuple[Float64, Float64]]  # weight (classes, d), bias (classes,) per penalty


@dataclass(frozen=True)
class HeadReport(Measurement):
    """Report of a fit: the chosen method and penalty, and K-fold accuracies.

    ``tried``: K-fold accuracy of each method; ``held_out_accuracy``: of the chosen one;
    ``majority``: of always predicting the most frequent label.
    """

    method: str
    penalty: float
    n: int
    d: int
    classes: int
    folds: int
    held_out_accuracy: float
    majority: float
    tried: dict[str, float]
    warnings: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Grade of the held-out accuracy; its lower end is two standard errors below it."""
        value = self.held_out_accuracy
        low = value - 2 * math.sqrt(value * (1 - value) / self.n)
        step = f"more labelled texts than {self.n:,}, or another model"
        return of_accuracy(value, low, self.majority, advice=step)

    def rows(self) -> Pairs:
        """Names and values of the report for printing."""
        tried = ", ".join(f"{name} {score:.4f}" for name, score in self.tried.items())
        return [
            ("method", f"{self.method}, penalty {self.penalty:.3g}"),
            ("classes", self.classes),
            ("texts", self.n),
            ("held-out accuracy", f"{tried} ({self.folds} folds)"),
            ("majority label", f"{self.majority:.4f}"),
        ]


@dataclass(frozen=True, eq=False)
class _Data:
    states: Array  # shape: (n, d)
    ids: Ids  # shape: (n,)
    classes: int

    def rows(self, keep: npt.NDArray[np.bool_]) -> _Data:
        return _Data(self.states[keep], self.ids[keep], self.classes)


def train_head(
    states: HiddenStates | Array,
    labels: npt.ArrayLike | None = None,
    *,
    method: str = "auto",
    penalty: float | str = "auto",
    folds: int = HEAD_FOLDS,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> tuple[Head, HeadReport]:
    """Train a classifier on labelled states; returns the head (float32) and a report.

    labels: (n,), the label of each row, strings or whole numbers; default: those of the states.
    method: "ridge", "logistic", or "auto" (the better of the two by K-fold accuracy).
    Raises InputError when the states have no labels or only one, for an unknown method or penalty.
    """
    states = as_states(states, labels)
    data = _labelled(states)
    if method not in HeadMethod.__members__:
        raise InputError("unknown method", got=method, expected="auto, ridge or logistic")
    if penalty != "auto" and method == "auto":
        raise InputError("a penalty needs a method", hint="add --method ridge or logistic")
    given = number_or_auto(penalty, "the penalty", lambda p: 0 < p < np.inf, "above 0")
    note = progress or (lambda _: None)
    index = fold_index(states.groups, folds, seed)
    results: dict[str, tuple[float, float]] = {}
    for name in values_of(HeadMethod) if method == "auto" else (method,):
        note(f"choosing the penalty of {name}")
        penalties = PENALTIES[name] if given is None else (given,)
        results[name] = _choose(data, index, name, penalties)
    best = max(results, key=lambda name: results[name][1])
    chosen, held_out = results[best]
    note(f"training {best}")
    weight, bias = (a.astype(np.float32) for a in next(_path(best, data, (chosen,), FINE)))
    report = HeadReport(
        method=best,
        penalty=chosen,
        n=len(states),
        d=states.space.dim,
        classes=data.classes,
        folds=folds,
        held_out_accuracy=held_out,
        majority=majority(data.ids),
        tried={name: accuracy for name, (_, accuracy) in results.items()},
        warnings=not_new(states, "held-out accuracy"),
    )
    card = {**asdict(report), "text_digest": states.text_digest, "warnings": [*report.warnings]}
    return Head(weight, bias, states.labels, states.space, card=card), report


def _choose(
    data: _Data, index: npt.NDArray[np.int64], method: str, penalties: tuple[float, ...]
) -> tuple[float, float]:
    """The penalty with the best K-fold accuracy, and that accuracy.

    All folds take one penalty after another, from the strongest. Logistic regression, where each
    costs an optimisation, stops after PATIENCE penalties in a row that are worse than the best;
    equal is not worse, because under strong penalties only the commonest label is predicted.
    """
    folds = range(int(index.max()) + 1)
    held_out = [data.rows(index == k) for k in folds]
    paths = [_path(method, data.rows(index != k), penalties, ROUGH) for k in folds]
    hits: list[int] = []
    for solutions in zip(*paths, strict=True):
        hits.append(sum(_hits(d, *s) for d, s in zip(held_out, solutions, strict=True)))
        best = int(np.argmax(hits))  # the first, so the strongest, of equals
        worse = [h < hits[best] for h in hits[-PATIENCE:]]
        if method == "logistic" and len(worse) == PATIENCE and all(worse):
            break
    return penalties[best], hits[best] / len(data.ids)


def _hits(data: _Data, weight: Float64, bias: Float64) -> int:
    guess = np.argmax(data.states @ weight.T.astype(np.float32) + bias, axis=1)
    return int((guess == data.ids).sum())


def _path(method: str, data: _Data, penalties: tuple[float, ...], tolerance: float) -> Solutions:
    """Compute one solution per penalty."""
    if method == "logistic":
        return _logistic_path(data, penalties, tolerance)
    basis = spectrum(measure(data.states, np.eye(data.classes)[data.ids]))  # for every penalty
    return (ridge(basis, penalty) for penalty in penalties)


def _logistic_path(data: _Data, penalties: tuple[float, ...], tolerance: float) -> Solutions:
    """Solve from the strongest penalty to the weakest, each started from the one before."""
    mean = data.states.mean(axis=0, dtype=np.float64)
    deviation = data.states.std(axis=0, dtype=np.float64)
    alive = deviation > MIN_DEVIATION * deviation.max()
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=alive)
    standard = ((data.states - mean) * scale).astype(np.float32)
    solution = np.zeros((data.classes, standard.shape[1] + 1))
    for penalty in penalties:
        solution = _logistic(standard, data.ids, penalty, solution, tolerance)
        weight = solution[:, :-1] * scale
        yield weight, solution[:, -1] - weight @ mean


def _logistic(x: Array, ids: Ids, penalty: float, start: Float64, tolerance: float) -> Float64:
    """L-BFGS on mean(logsumexp(z) − z[label]) + penalty/2 ‖V‖², z = x Vᵀ + c.

    x: (n, d) float32; start and result: (classes, d + 1), c in the last column. Products are
    float32, sums float64: the gradient's error is about 1e-6, below the stopping rule.
    """
    from scipy.optimize import minimize

    n, rows = len(x), np.arange(len(x))

    def loss(flat: Float64) -> tuple[float, Float64]:
        v = flat.reshape(start.shape)
        scores = x @ v[:, :-1].T.astype(np.float32)
        scores += v[:, -1].astype(np.float32)
        scores -= scores.max(axis=1, keepdims=True)
        picked = scores[rows, ids].sum(dtype=np.float64)
        np.exp(scores, out=scores)
        sums = scores.sum(axis=1, keepdims=True)
        value = (np.log(sums).sum(dtype=np.float64) - picked) / n
        scores /= sums
        scores[rows, ids] -= 1.0
        gradient = np.empty_like(start)
        gradient[:, :-1] = (scores.T @ x) / n + penalty * v[:, :-1]
        gradient[:, -1] = scores.sum(axis=0, dtype=np.float64) / n
        return value + 0.5 * penalty * float((v[:, :-1] ** 2).sum()), gradient.ravel()

    options = {"maxiter": MAX_ITERATIONS, "maxcor": 20, "ftol": tolerance, "gtol": 1e-7}
    result = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    return np.asarray(result.x).reshape(start.shape)


def _labelled(states: HiddenStates) -> _Data:
    if states.label_ids is None:
        raise InputError(
            "these states have no labels",
            expected="a label for every text",
            hint="extract from a .jsonl or .csv file with `label`; vectors have it as payload",
        )
    if len(np.unique(states.label_ids)) < 2:
        raise InputError("a classifier needs two labels or more", got="one label")
    return _Data(states.states.astype(np.float32), states.label_ids, len(states.labels))
