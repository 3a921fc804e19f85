"""Minimise the divergence plus a penalty on the distance from the starting map.

    minimise  L(W, b) + λu/2 · ‖F^½ (W − W₀)‖²,

F being the head's curvature and u the mean variance of the source's dimensions, so λ means the same
at every scale of states and head. It is solved in the coordinates Θ = F^½ (W − W₀) (Σ + λu)^½,
Σ the source's covariance, where the curvature is close to the identity: L-BFGS (SciPy's) then needs
tens of iterations instead of thousands.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from linalign_lite.alignment.kl.objective import DistillationData, divergence
from linalign_lite.alignment.kl.softmax import Softmax
from linalign_lite.alignment.moments import Float64, measure
from linalign_lite.core.affine_map import AffineMap, row_blocks

FLOOR = 1e-4  # of the largest curvature: smaller curvatures are raised to it
NOISE = 1e-13  # of the largest variance or the mean's square: no more than float32's rounding
MEMORY = 1 << 29  # bytes for the history of L-BFGS
# iteration, loss, function that returns the current map → True to stop
Watch = Callable[[int, float, "CurrentMap"], bool]
CurrentMap = Callable[[], "ReducedMap"]
Objective = Callable[[Float64], tuple[float, Float64]]
WINDOW = 5  # iterations over which the decrease is measured
LOCAL = 1 << 26  # bytes of rows and head in the reparametrization's own coordinates


@dataclass(frozen=True, eq=False)
class ReducedMap:
    """ζ = weight·x + bias, in the head's coordinates."""

    weight: Float64  # shape: (r, d_source)
    bias: Float64  # shape: (r,)


def reduce_map(softmax: Softmax, affine: AffineMap) -> ReducedMap:
    """Return a map in the head's coordinates."""
    weight, bias = affine.weight.astype(np.float64), affine.bias.astype(np.float64)
    if softmax.basis is None:
        return ReducedMap(weight, bias)
    return ReducedMap(softmax.basis.T @ weight, softmax.basis.T @ bias)


def expand_map(
    softmax: Softmax, start: AffineMap, origin: ReducedMap, found: ReducedMap
) -> tuple[Float64, Float64]:
    """Return weight and bias of the map; directions that the head ignores keep the start's."""
    step, shift = found.weight - origin.weight, found.bias - origin.bias
    if softmax.basis is not None:
        step, shift = softmax.basis @ step, softmax.basis @ shift
    return start.weight + step, start.bias + shift


@dataclass(frozen=True, eq=False)
class Reparametrization:
    """Coordinates Θ around a starting map, and the penalty in them.

    Directions in which the source does not vary keep their starting values.
    """

    start: ReducedMap
    mean: Float64  # shape: (d_source,)
    left: Float64  # shape: (r, r)  F^-½ up to a rotation
    right: Float64  # shape: (d_source, k)  (Σ + λu)^-½, as above, on the k directions of Σ
    column_penalties: Float64  # shape: (k,)  penalty on each column of Θ

    def affine(self, theta: Float64) -> ReducedMap:
        """Return the map at Θ. The last part of Θ shifts the image of the mean."""
        matrix, shift = self.parts(theta)
        weight = self.left @ matrix @ self.right.T
        bias = self.start.bias + self.left @ shift - weight @ self.mean
        weight += self.start.weight
        return ReducedMap(weight, bias)

    def theta(self, affine: ReducedMap) -> Float64:
        """Θ of a map, or of the nearest map that Θ can express: the inverse of ``affine``."""
        step = affine.weight - self.start.weight
        left_inverse = _inverse(self.left)
        shift = left_inverse @ (affine.bias - self.start.bias + step @ self.mean)
        return np.concatenate([(left_inverse @ step @ _inverse(self.right).T).ravel(), shift])

    def gradient(self, slope: Float64, shift: Float64, theta: Float64) -> Float64:
        """Convert the gradient in (weight, bias) to that in Θ, and add that of the penalty.

        ``slope`` is overwritten: the matrices of a large map take most memory of a fit.
        """
        matrix, _ = self.parts(theta)
        for rows in row_blocks(slope):
            slope[rows] -= shift[rows, None] * self.mean
        found = np.empty_like(theta)
        matrix_gradient, shift_gradient = self.parts(found)
        np.matmul(self.left.T @ slope, self.right, out=matrix_gradient)
        for rows in row_blocks(slope):
            matrix_gradient[rows] += matrix[rows] * self.column_penalties
        shift_gradient[:] = self.left.T @ shift
        return found

    def penalty(self, theta: Float64) -> float:
        matrix, _ = self.parts(theta)
        sums = sum((matrix[rows] ** 2).sum(axis=0) for rows in row_blocks(matrix))
        return 0.5 * float(sums @ self.column_penalties)

    def parts(self, theta: Float64) -> tuple[Float64, Float64]:
        """Return views of Θ's matrix (r, d_source) and of its last part (r,)."""
        r = len(self.left)
        return theta[:-r].reshape(r, -1), theta[-r:]


def _inverse(columns: Float64) -> Float64:
    """Compute the pseudo-inverse of a matrix with orthogonal columns."""
    squares = np.einsum("ij,ij->j", columns, columns)
    found: Float64 = np.divide(columns, squares, out=np.zeros_like(columns), where=squares > 0).T
    return found


@dataclass(frozen=True, eq=False)
class Eigenbases:
    """Decompositions that reparametrizations of the same rows and head share."""

    mean: Float64  # shape: (d_source,)
    variances: Float64  # shape: (d_source,)  eigenvalues of Σ
    directions: Float64  # shape: (d_source, d_source)  its eigenvectors, in columns
    left: Float64  # shape: (r, r)  F^-½ up to a rotation


def compute_eigenbases(mean: Float64, covariance: Float64, curvature: Float64) -> Eigenbases:
    """covariance: Σ, (d_source, d_source), of the source's rows. curvature: F, (r, r)."""
    f, rotation = np.linalg.eigh(curvature)
    f = np.maximum(f, 0) + FLOOR * max(f[-1], np.finfo(float).tiny)
    return Eigenbases(mean, *np.linalg.eigh(covariance), rotation / np.sqrt(f))


def eigenbases_of(data: DistillationData, curvature: Float64) -> Eigenbases:
    """Compute the eigenbases of the data's source rows and of a head's curvature."""
    moments = measure(data.source, np.zeros((len(data), 1)))
    return compute_eigenbases(moments.mean_x, moments.xx / len(data), curvature)


def reparametrize(eigenbases: Eigenbases, start: ReducedMap, penalty: float) -> Reparametrization:
    """Return the coordinates around ``start``. penalty: λ."""
    s, mean = eigenbases.variances, eigenbases.mean
    unit = float(s.sum()) / len(mean) or 1.0
    varying = s > NOISE * max(s[-1], float(mean @ mean) / len(mean))
    shifted = np.maximum(s, 0) + (penalty + 1e-9) * unit
    # in constant directions the gradient would be rounding
    kept = varying if varying.any() else np.arange(len(s)) == len(s) - 1
    right = np.where(varying[kept], eigenbases.directions[:, kept] / np.sqrt(shifted[kept]), 0.0)
    return Reparametrization(start, mean, eigenbases.left, right, penalty * unit / shifted[kept])


def _reparametrized_objective(
    softmax: Softmax, data: DistillationData, reparam: Reparametrization
) -> Objective:
    """Return the objective with rows, head and teacher transformed to the coordinates Θ once.

    ζ = left·(ζ₀ + Θ x̃ + shift) with x̃ = rightᵀ(x − mean) and ζ₀ the start's, so a pass does not
    compute the map of Θ, nearly all the work for few rows. The rows are held twice.
    """
    x = np.asarray(data.source, dtype=np.float64) - reparam.mean
    rows = (x @ reparam.right).astype(np.float32)
    middle = reparam.start.weight @ reparam.mean + reparam.start.bias
    offset = ((x @ reparam.start.weight.T + middle) @ _inverse(reparam.left).T).astype(np.float32)
    rotated = replace(
        softmax, factor=(softmax.factor @ reparam.left).astype(np.float32), basis=None
    )
    reduced = replace(data, source=rows, summary=(data.summary @ reparam.left).astype(np.float32))

    def objective(theta: Float64) -> tuple[float, Float64]:
        matrix, shift = reparam.parts(theta)
        value, slope, shift_gradient = divergence(rotated, reduced, matrix, shift, offset)
        slope += matrix * reparam.column_penalties
        return value + reparam.penalty(theta), np.concatenate([slope.ravel(), shift_gradient])

    return objective


def _converged(losses: list[float], tolerance: float) -> bool:
    """Return True if the last WINDOW iterations gained less than ``tolerance`` each."""
    if len(losses) <= WINDOW:
        return False
    gained = losses[-1 - WINDOW] - losses[-1]
    return gained <= WINDOW * tolerance * max(abs(losses[-1]), abs(losses[-1 - WINDOW]))


def minimise_divergence(
    softmax: Softmax,
    data: DistillationData,
    reparam: Reparametrization,
    begin: ReducedMap,
    *,
    iterations: int,
    tolerance: float,
    watch: Watch,
) -> tuple[ReducedMap, float]:
    """Return the minimum, or the map at which ``watch`` stopped, and the objective there.

    tolerance: relative decrease of the objective per iteration, over the last WINDOW, at which it
    ends. One slow step is no criterion: before L-BFGS has estimated the curvature, the first
    steps from a point near the minimum are all slow.
    """
    from scipy.optimize import minimize

    def original_objective(theta: Float64) -> tuple[float, Float64]:
        here = reparam.affine(theta)
        value, slope, shift = divergence(softmax, data, here.weight, here.bias)
        return value + reparam.penalty(theta), reparam.gradient(slope, shift, theta)

    size = 4 * (len(data) * (reparam.right.shape[1] + 2 * softmax.rank) + softmax.factor.size)
    local = size <= LOCAL and data.target is None  # a soft cap needs the head as it is
    objective = _reparametrized_objective(softmax, data, reparam) if local else original_objective
    losses: list[float] = []

    def callback(intermediate_result: Any) -> None:
        losses.append(float(intermediate_result.fun))
        current = partial(reparam.affine, intermediate_result.x)
        if watch(len(losses), losses[-1], current) or _converged(losses, tolerance):
            raise StopIteration

    begin_at = reparam.theta(begin)
    history = int(np.clip(MEMORY // (16 * begin_at.size), 3, 20))
    result = minimize(
        objective,
        begin_at,
        jac=True,
        method="L-BFGS-B",
        callback=callback,
        options={"maxiter": iterations, "maxcor": history, "ftol": 0.0, "gtol": 1e-9},
    )
    return reparam.affine(result.x), float(result.fun)
