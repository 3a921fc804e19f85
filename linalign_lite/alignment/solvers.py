"""Solve for weight and bias of an affine map: one function per method, and the table of methods.

A new method is a function from `Problem` and penalty to `Solution` in this file, an entry in
`SOLVERS`, and a value of `MapMethod`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.moments import Float64, FoldedMoments, Moments
from linalign_lite.alignment.ridge import (
    PENALTIES,
    Spectrum,
    held_out_errors,
    ridge,
    spectrum,
    usable_penalty,
)
from linalign_lite.core.affine_map import Array
from linalign_lite.errors import InputError

Errors = TypeVar("Errors", float, Float64)
Curve = tuple[tuple[float, float], ...]  # (penalty, held-out R²) of each penalty


@dataclass(frozen=True, eq=False)
class Rows:
    """The pairs themselves, with the fold of each."""

    source: Array  # shape: (n, d_source)
    target: Array  # shape: (n, d_target)
    folds: npt.NDArray[np.int64]  # shape: (n,)


@dataclass(frozen=True, eq=False)
class Problem:
    """Moments of the pairs; and the rows, where they are in memory."""

    moments: FoldedMoments
    rows: Rows | None = None


@dataclass(frozen=True, eq=False)
class Solution:
    """A map with its penalty and its K-fold held-out R²."""

    weight: Float64  # shape: (d_target, d_source)
    bias: Float64  # shape: (d_target,)
    held_out_r2: float
    penalty: float = 0.0
    curve: Curve = ()
    spectrum: Spectrum | None = None  # of all pairs, where it was computed
    singular: Float64 | None = None  # singular values of the centred rows, where computed


def solve_ridge(problem: Problem, penalty: float | str) -> Solution:
    """Minimise ‖X_c Wᵀ − Y_c‖² + λ‖W‖², λ = penalty · trace(X_cᵀX_c) / d_source.

    penalty "auto" takes the best held-out R² of `PENALTIES`.
    """
    given = usable_penalty(penalty)
    grid = PENALTIES if given is None else np.array([given])
    errors = np.zeros(len(grid))
    for train, held_out in problem.moments.splits():
        errors += held_out_errors(spectrum(train), held_out, grid)
    chosen, score, curve = best_penalty(grid, r2(errors, problem.moments))
    total = spectrum(problem.moments.total)
    weight, bias = ridge(total, chosen)
    return Solution(weight, bias, score, chosen, () if given is not None else curve, total)


def best_penalty(penalties: Float64, scores: Float64) -> tuple[float, float, Curve]:
    """Return the penalty of the highest held-out R², that R², and the whole curve."""
    curve = tuple((float(p), float(s)) for p, s in zip(penalties, scores, strict=True))
    return *curve[int(np.argmax(scores))], curve


def solve_lstsq(problem: Problem, penalty: float | str) -> Solution:
    """Minimise ‖X_c Wᵀ − Y_c‖² on the rows; the minimum of least norm where X_c is singular."""
    _require_no_penalty("lstsq", penalty)
    rows = problem.rows
    if rows is None:
        raise needs_rows("lstsq")
    error = 0.0
    for k in range(len(problem.moments.folds)):
        inside = rows.folds != k
        weight, bias, _ = _lstsq(rows.source[inside], rows.target[inside])
        rest = rows.target[~inside] - (rows.source[~inside].astype(np.float64) @ weight.T + bias)
        error += float((rest**2).sum())
    weight, bias, singular = _lstsq(rows.source, rows.target)
    return Solution(weight, bias, r2(error, problem.moments), singular=singular)


def _lstsq(x: Array, y: Array) -> tuple[Float64, Float64, Float64]:
    """Solve on the centred rows, so that the condition is not squared.

    Returns weight, bias and the singular values of the centred rows.
    """
    from scipy.linalg import lstsq

    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    mean_x, mean_y = x64.mean(axis=0), y64.mean(axis=0)
    solution, _, _, singular = lstsq(
        x64 - mean_x, y64 - mean_y, row_cutoff(x.shape), overwrite_a=True, overwrite_b=True
    )
    return solution.T, mean_y - solution.T @ mean_x, singular


def row_cutoff(shape: tuple[int, ...]) -> float:
    """Share of the largest singular value of centred rows below which others are rounding."""
    return float(max(shape) * np.finfo(np.float64).eps)


def solve_procrustes(problem: Problem, penalty: float | str) -> Solution:
    """Minimise ‖s X_c Rᵀ − Y_c‖² over a scale s and a rotation R (`procrustes`)."""
    _require_no_penalty("procrustes", penalty)
    error = 0.0
    for train, held_out in problem.moments.splits():
        weight, _ = procrustes(train)
        part = held_out.about(train.mean_x, train.mean_y)
        # ‖X Wᵀ − Y‖² = tr(yy) − 2 tr(W xy) + tr(W xx Wᵀ)
        cross, square = (weight * part.xy.T).sum(), ((weight @ part.xx) * weight).sum()
        error += float(part.yy.sum() - 2 * cross + square)
    weight, bias = procrustes(problem.moments.total)
    return Solution(weight, bias, r2(error, problem.moments))


def procrustes(moments: Moments) -> tuple[Float64, Float64]:
    """The scaled rotation s·R: R = V Uᵀ with X_cᵀY_c = U S Vᵀ, s = trace(S) / ‖X_c Rᵀ‖².

    Where d_source ≤ d_target this minimises ‖s X_c Rᵀ − Y_c‖² over s and R with RᵀR = 1
    (Schönemann 1966). Where d_source > d_target, R is the rotation that solves the problem with Y
    padded with zeros, cut to the real dimensions, and s the best scale for it: never worse than the
    padded solution, but not the minimum over all R with orthonormal rows.
    """
    u, s, vt = np.linalg.svd(moments.xy, full_matrices=False)
    rotation = vt.T @ u.T  # shape: (d_target, d_source)
    size = float(((rotation @ moments.xx) * rotation).sum())
    weight = rotation * (s.sum() / size if size > 0 else 0.0)
    return weight, moments.mean_y - weight @ moments.mean_x


Solver = Callable[[Problem, "float | str"], Solution]
SOLVERS: Mapping[str, Solver] = {
    "ridge": solve_ridge,
    "lstsq": solve_lstsq,
    "procrustes": solve_procrustes,
}


def r2(errors: Errors, moments: FoldedMoments) -> Errors:
    """Cross-validated R², 1 − errors / ‖Y − mean‖²; errors: squared, summed over the folds."""
    return 1.0 - errors / spread(moments.total)


def spread(moments: Moments) -> float:
    """‖Y − mean‖². Raises InputError when all target states are equal."""
    found = float(moments.yy.sum())
    if found <= 0:
        raise InputError("the target states are all the same, so no map can be judged")
    return found


def _require_no_penalty(method: str, penalty: float | str) -> None:
    if penalty not in ("auto", 0, 0.0):
        raise InputError(f"{method} has no penalty", got=str(penalty), hint="use --method ridge")


def needs_rows(method: str) -> InputError:
    return InputError(
        "this method cannot be fitted from moments",
        got=method[:20],
        expected="ridge or procrustes",
        hint="lstsq needs the states themselves, in memory",
    )
