"""Minimise the divergence by stochastic steps, where a pass over all rows and outputs takes long.

Adam (Kingma and Ba, arXiv 1412.6980) in the coordinates Θ of `optimizer`, in which the curvature is
close to the identity, so that one step size serves every direction. A step has the exact gradient
of BATCH rows over all outputs; the step size falls as a half cosine to 0, which averages the noise
of the batches away.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.kl.objective import DistillationData, block_divergence
from linalign_lite.alignment.kl.optimizer import ReducedMap, Reparametrization, Watch
from linalign_lite.alignment.kl.softmax import Softmax

BATCH = 256  # rows
STEP = 0.06  # norm of the first steps in Θ, where a step of norm 1 changes the loss by about 1/2
DECAY, SQUARES_DECAY = 0.9, 0.99  # of Adam's averages of the gradient and of its squares
WATCH_EVERY = 10  # steps


def descend(
    softmax: Softmax,
    data: DistillationData,
    reparam: Reparametrization,
    begin: ReducedMap,
    *,
    epochs: int,
    watch: Watch,
    seed: int = 0,
) -> ReducedMap:
    """Return the map after ``epochs`` passes over the rows, from ``begin``.

    Minimises Σ wᵢ KL(pᵢ ‖ qᵢ)/Σwᵢ plus the penalty of ``reparam``. watch: as of
    `minimise_divergence`, called every WATCH_EVERY steps with their number and mean loss, penalty
    included; True ends the descent.
    """
    theta = reparam.theta(begin)
    matrix, shift = reparam.parts(theta)
    left, right, mean, start_weight = (
        a.astype(np.float32)
        for a in (reparam.left, reparam.right, reparam.mean, reparam.start.weight)
    )
    start_bias = (reparam.start.weight @ reparam.mean + reparam.start.bias).astype(np.float32)
    average, squares, gradient = np.zeros_like(theta), np.zeros_like(theta), np.empty_like(theta)
    matrix_gradient, shift_gradient = reparam.parts(gradient)
    losses: list[float] = []
    total = epochs * _steps(len(data))
    for step, batch in enumerate(_batches(len(data), epochs, seed)):
        part = data.rows(batch)
        x = np.asarray(part.source, dtype=np.float32) - mean
        inner = x @ right
        moved = inner @ matrix.T.astype(np.float32) + shift.astype(np.float32)
        zeta = (x @ start_weight.T + start_bias + moved @ left.T).astype(np.float32)
        divergences, slope = block_divergence(softmax, part, zeta)
        share = part.weight / part.weight.sum()
        losses.append(float(share @ divergences) + reparam.penalty(theta))
        slope = (slope * share[:, None]) @ left
        matrix_gradient[:] = slope.T @ inner
        matrix_gradient += matrix * reparam.column_penalties
        shift_gradient[:] = slope.sum(axis=0)
        average += (1 - DECAY) * (gradient - average)
        squares += (1 - SQUARES_DECAY) * (gradient**2 - squares)
        size = STEP / np.sqrt(theta.size) * 0.5 * (1 + np.cos(np.pi * step / total))
        size *= np.sqrt(1 - SQUARES_DECAY ** (step + 1)) / (1 - DECAY ** (step + 1))
        theta -= size * average / (np.sqrt(squares) + np.finfo(float).tiny)
        if (step + 1) % WATCH_EVERY == 0 or step + 1 == total:
            if watch(step + 1, float(np.mean(losses)), partial(reparam.affine, theta)):
                break
            losses.clear()
    return reparam.affine(theta)


def _steps(n: int) -> int:
    """Count the steps of an epoch of n rows."""
    return max(1, n // BATCH)


def _batches(n: int, epochs: int, seed: int) -> Iterator[npt.NDArray[np.intp]]:
    """Yield the rows of each step: about BATCH, every row once an epoch."""
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        yield from np.array_split(rng.permutation(n), _steps(n))
