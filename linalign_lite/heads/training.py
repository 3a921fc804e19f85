"""Train a linear classifier on labelled hidden states.

Two objectives, both with an intercept that is not penalised:

ridge       minimise ‖Z_c Vᵀ − T_c‖² + λ‖V‖², T the one-hot labels, λ = penalty · trace(Z_cᵀZ_c)/d
logistic    minimise mean(−log softmax(Ẑ Vᵀ + c)[label]) + penalty/2 · ‖V‖², Ẑ the standardised
            states; the standardisation is folded into the head, which reads states as they are

Penalties are chosen by K-fold accuracy; of penalties as good as each other the strongest wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.moments import Float64, fold_index, measure
from linalign_lite.alignment.ridge import ridge, spectrum
from linalign_lite.core.affine_map import Array
from linalign_lite.core.choices import HeadMethod, values_of
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.text_tables import Pairs
from linalign_lite.errors import InputError

METHODS = values_of(HeadMethod)
RIDGE_PENALTIES = tuple(
    10.0**e for e in (1, 0.5, 0, -0.5, -1, -1.5, -2, -2.5, -3, -3.5, -4, -5, -6, -7)
)
LOGISTIC_PENALTIES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
PATIENCE = 2  # penalties worse than the best, in a row, after which weaker ones are not tried
ROUGH, FINE = 1e-5, 1e-7  # relative decrease of the loss at which L-BFGS stops: to choose, to keep
MAX_ITERATIONS = 300
DEAD = 1e-6  # a dimension with less than this share of the largest deviation is not used

Ids = npt.NDArray[np.int32]
Progress = Callable[[str], None]


@dataclass(frozen=True)
class HeadReport:
    """Which method and penalty won, and the K-fold accuracy of each method that was tried."""

    method: str
    penalty: float
    n: int
    d: int
    classes: int
    folds: int
    held_out_accuracy: float
    tried: dict[str, float]

    def rows(self) -> Pairs:
        """Names and values of the report for printing."""
        tried = ", ".join(f"{name} {score:.4f}" for name, score in self.tried.items())
        return [
            ("method", f"{self.method}, penalty {self.penalty:.3g}"),
            ("classes", self.classes),
            ("texts", self.n),
            ("held-out accuracy", f"{tried} ({self.folds} folds)"),
        ]


@dataclass(frozen=True, eq=False)
class _Data:
    states: Array  # shape: (n, d)
    ids: Ids  # shape: (n,)
    classes: int

    def rows(self, keep: npt.NDArray[np.bool_]) -> _Data:
        return _Data(self.states[keep], self.ids[keep], self.classes)


def train_head(
    states: HiddenStates,
    *,
    method: str = "auto",
    penalty: float | str = "auto",
    folds: int = 3,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Head, HeadReport]:
    """Train a classifier on labelled states; returns the head (float32) and a report.

    method: "ridge", "logistic", or "auto" (the better of the two by K-fold accuracy).
    Raises InputError when the states have no labels or only one, for an unknown method or penalty.
    """
    data = _labelled(states)
    if method != "auto" and method not in METHODS:
        raise InputError("unknown method", got=method, expected="auto, ridge or logistic")
    if penalty != "auto" and method == "auto":
        raise InputError("a penalty needs a method", hint="add --method ridge or logistic")
    say = progress or (lambda _: None)
    index = fold_index(states.groups, folds, seed)
    results: dict[str, tuple[float, float]] = {}
    for name in METHODS if method == "auto" else (method,):
        say(f"choosing the penalty of {name}")
        grid = _grid(name) if penalty == "auto" else (_penalty(penalty),)
        results[name] = _choose(data, index, name, grid)
    best = max(results, key=lambda name: results[name][1])
    chosen, held_out = results[best]
    say(f"training {best}")
    weight, bias = next(_solver(best)(data, (chosen,), FINE))
    report = HeadReport(
        method=best,
        penalty=chosen,
        n=len(states),
        d=states.space.dim,
        classes=data.classes,
        folds=folds,
        held_out_accuracy=held_out,
        tried={name: score for name, (_, score) in results.items()},
    )
    card = {**asdict(report), "text_digest": states.text_digest}
    head = Head(
        weight.astype(np.float32), bias.astype(np.float32), states.labels, states.space, card=card
    )
    return head, report


def _choose(
    data: _Data, index: npt.NDArray[np.int64], method: str, grid: tuple[float, ...]
) -> tuple[float, float]:
    """The penalty with the best K-fold accuracy, and that accuracy.

    The folds go down the grid side by side, from the strongest penalty. Logistic regression, whose
    every penalty costs a descent, stops when PATIENCE penalties in a row did worse than the best so
    far; equal is not worse, because strong penalties all say the commonest label alike.
    """
    folds = range(int(index.max()) + 1)
    held_out = [data.rows(index == k) for k in folds]
    paths = [_solver(method)(data.rows(index != k), grid, ROUGH) for k in folds]
    hits: list[int] = []
    for solutions in zip(*paths, strict=True):
        hits.append(sum(_hits(d, *s) for d, s in zip(held_out, solutions, strict=True)))
        best = int(np.argmax(hits))  # the first, so the strongest, of equals
        worse = [h < hits[best] for h in hits[-PATIENCE:]]
        if method == "logistic" and len(worse) == PATIENCE and all(worse):
            break
    return grid[best], hits[best] / len(data.ids)


def _hits(data: _Data, weight: Float64, bias: Float64) -> int:
    guess = np.argmax(data.states @ weight.T.astype(np.float32) + bias, axis=1)
    return int((guess == data.ids).sum())


# weight (classes, d) and bias (classes,) of one penalty after another
Solutions = Iterator[tuple[Float64, Float64]]


def _ridge_path(data: _Data, penalties: tuple[float, ...], _tolerance: float) -> Solutions:
    """One eigendecomposition serves every penalty."""
    onehot = np.eye(data.classes)[data.ids]
    basis = spectrum(measure(data.states, onehot))
    for penalty in penalties:
        yield ridge(basis, penalty)


def _logistic_path(data: _Data, penalties: tuple[float, ...], tolerance: float) -> Solutions:
    """From the strongest penalty to the weakest, each started from the one before."""
    mean = data.states.mean(axis=0, dtype=np.float64)
    deviation = data.states.std(axis=0, dtype=np.float64)
    alive = deviation > DEAD * deviation.max()
    scale = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=alive)
    standard = ((data.states - mean) * scale).astype(np.float32)
    solution = np.zeros((data.classes, standard.shape[1] + 1))
    for penalty in penalties:
        solution = _logistic(standard, data.ids, penalty, solution, tolerance)
        weight = solution[:, :-1] * scale
        yield weight, solution[:, -1] - weight @ mean


def _logistic(x: Array, ids: Ids, penalty: float, start: Float64, tolerance: float) -> Float64:
    """L-BFGS on mean(logsumexp(z) − z[label]) + penalty/2 ‖V‖², z = x Vᵀ + c.

    x: (n, d) float32; start and result: (classes, d + 1), the last column being c. Products are
    made in float32, sums in float64: the gradient is good to about 1e-6, below the stopping rule.
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
    solution: Float64 = result.x.reshape(start.shape)
    return solution


def _solver(method: str) -> Callable[[_Data, tuple[float, ...], float], Solutions]:
    return _ridge_path if method == "ridge" else _logistic_path


def _grid(method: str) -> tuple[float, ...]:
    return RIDGE_PENALTIES if method == "ridge" else LOGISTIC_PENALTIES


def _labelled(states: HiddenStates) -> _Data:
    if states.label_ids is None:
        raise InputError(
            "these states have no labels",
            expected="a label for every text",
            hint="extract from a .jsonl or .csv file with a `label` field",
        )
    if len(np.unique(states.label_ids)) < 2:
        raise InputError("a classifier needs two labels or more", got="one label")
    return _Data(states.states.astype(np.float32), states.label_ids, len(states.labels))


def _penalty(value: float | str) -> float:
    try:
        penalty = float(value)
    except ValueError:
        penalty = -1.0
    if not 0 < penalty < float("inf"):
        raise InputError("the penalty is not usable", got=str(value)[:40], expected="above 0")
    return penalty
