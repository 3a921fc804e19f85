"""Minimise the divergence by stochastic steps, where a pass over all rows and outputs takes long.

Adam (Kingma and Ba, arXiv 1412.6980) in the coordinates Θ of `optimizer`, in which the curvature is
close to the identity, so that one step size serves every direction. The step size rises over the
first steps, when Adam's averages are of few batches, and falls as a half cosine to 0, which
averages the noise of the batches away.

A step has BATCH rows. Of the outputs it has those that hold all but REST of the probability, found
anew before each epoch, and a draw from the rest, each of which stands for as many as it was drawn
from (sampled softmax: Bengio and Senécal, "Adaptive importance sampling", 2008). The teacher's part
of the gradient is exact.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.kl.objective import DistillationData, block_divergence
from linalign_lite.alignment.kl.optimizer import ReducedMap, Reparametrization, Watch
from linalign_lite.alignment.kl.softmax import Float32, Softmax

BATCH = 256  # rows
STEP = 0.06  # norm of the first steps in Θ, where a step of norm 1 changes the loss by about 1/2
WARM = 20  # steps over which the step size rises
REST, DRAWN = 0.01, 2048  # probability of the outputs that are drawn from; how many are
ROWS = 1024  # on which the probability of each output is measured
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
    rng = np.random.default_rng(seed)
    steps = steps_of_epoch(len(data))

    def coordinates(part: DistillationData) -> tuple[Float32, Float32]:
        """x in Θ's coordinates, (n, k), and ζ, (n, r)."""
        x = np.asarray(part.source, dtype=np.float32) - mean
        inner = (x @ right).astype(np.float32)
        moved = inner @ matrix.T.astype(np.float32) + shift.astype(np.float32)
        return inner, (x @ start_weight.T + start_bias + moved @ left.T).astype(np.float32)

    for step in range(epochs * steps):
        if step % steps == 0:
            batches = _batches(len(data), rng)
            outputs = _Outputs.of(
                softmax, coordinates(data.rows(rng.permutation(len(data))[:ROWS]))[1]
            )
        part = data.rows(batches[step % steps])
        inner, zeta = coordinates(part)
        divergences, slope = block_divergence(outputs.draw(softmax, rng), part, zeta)
        share = part.weight / part.weight.sum()
        losses.append(float(share @ divergences) + reparam.penalty(theta))
        slope = (slope * share[:, None]) @ left
        matrix_gradient[:] = slope.T @ inner
        matrix_gradient += matrix * reparam.column_penalties
        shift_gradient[:] = slope.sum(axis=0)
        average += (1 - DECAY) * (gradient - average)
        squares += (1 - SQUARES_DECAY) * (gradient**2 - squares)
        size = STEP / np.sqrt(theta.size) * _schedule(step, epochs * steps)
        size *= np.sqrt(1 - SQUARES_DECAY ** (step + 1)) / (1 - DECAY ** (step + 1))
        theta -= size * average / (np.sqrt(squares) + np.finfo(float).tiny)
        if (step + 1) % WATCH_EVERY == 0 or step + 1 == epochs * steps:
            if watch(step + 1, float(np.mean(losses)), partial(reparam.affine, theta)):
                break
            losses.clear()
    return reparam.affine(theta)


def _batches(n: int, rng: np.random.Generator) -> list[npt.NDArray[np.intp]]:
    """The rows of each step of an epoch: about BATCH, every row once."""
    return np.array_split(rng.permutation(n), steps_of_epoch(n))


def steps_of_epoch(n: int) -> int:
    """Count the steps of an epoch of n rows."""
    return max(1, n // BATCH)


def _schedule(step: int, total: int) -> float:
    """Share of the step size: a rise over WARM steps, then a half cosine to 0."""
    fall = 0.5 * (1 + np.cos(np.pi * step / total))
    return float(min(1.0, (step + 1) / WARM) * fall)


@dataclass(frozen=True, eq=False)
class _Outputs:
    """Outputs that every step has, with their rows of the factor, and those to draw from."""

    common: Softmax
    rest: npt.NDArray[np.intp]

    @classmethod
    def of(cls, softmax: Softmax, zeta: Float32) -> "_Outputs":
        """The outputs that hold all but REST of the mean probability at ζ, (n, r)."""
        if softmax.softcap is not None or len(softmax.factor) <= 4 * DRAWN:
            return cls(softmax, np.empty(0, dtype=np.intp))
        usage = np.zeros(len(softmax.factor))
        for rows in softmax.blocks(len(zeta)):
            usage += softmax.probabilities(zeta[rows])[0].sum(axis=0, dtype=np.float64)
        order = np.argsort(-usage)
        count = int(np.searchsorted(np.cumsum(usage[order]), (1 - REST) * usage.sum())) + 1
        kept = np.sort(order[:count])
        return cls(_some(softmax, kept), order[count:])

    def draw(self, softmax: Softmax, rng: np.random.Generator) -> Softmax:
        """The softmax of a step."""
        if len(self.rest) <= DRAWN:
            return softmax if len(self.rest) else self.common
        drawn = _some(softmax, rng.choice(self.rest, DRAWN, replace=False))
        weight = np.float32(np.log(len(self.rest) / DRAWN))
        return Softmax(
            np.concatenate([self.common.factor, drawn.factor]),
            np.concatenate([self.common.bias, drawn.bias + weight]),
            softmax.basis,
        )


def _some(softmax: Softmax, outputs: npt.NDArray[np.intp]) -> Softmax:
    factor = np.asarray(softmax.factor[outputs], dtype=np.float32)
    return Softmax(factor, softmax.bias[outputs], softmax.basis)
