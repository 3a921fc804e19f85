"""Minimise a head's divergence: by exact passes, or by stochastic steps where those take long."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from linalign_lite.alignment.kl import optimizer, stochastic
from linalign_lite.alignment.kl.objective import DistillationData
from linalign_lite.alignment.kl.optimizer import ReducedMap, Reparametrization
from linalign_lite.alignment.kl.report import Step, Watch
from linalign_lite.alignment.kl.softmax import Softmax
from linalign_lite.alignment.moments import Float64

STOCHASTIC = 3e11  # multiplications of a product of all rows and outputs; above, kl.stochastic
LARGE_HEAD = 1e7  # numbers of a head whose exact search takes longer than any stochastic fit
EPOCHS, STEPS = 3, 240  # steps at least, where rows are few
# exact iterations that end stochastic steps: at least, at most, and their number times rows ×
# outputs × dimensions at most
FEWEST, EXACT, EXACT_WORK = 3, 6, 1.2e13
EVALUATE_EVERY = 5  # iterations between two evaluations on held-out rows


def is_stochastic(n: int, softmax: Softmax) -> bool:
    """Return True if passes over all outputs take so long that steps have few rows and outputs."""
    return n * softmax.factor.size > STOCHASTIC or softmax.factor.size > LARGE_HEAD


@dataclass(frozen=True, eq=False)
class DivergenceProblem:
    """A head, the data on which the divergence is minimised, and the observer of its progress."""

    softmax: Softmax
    data: DistillationData
    curvature: Float64  # shape: (r, r)
    watch: Watch

    def rows_of_pass(self, work: float, fewest: int) -> int:
        """Compute the rows of a pass of so many multiplications; fewer would fit anything."""
        outputs, rank = self.softmax.factor.shape
        return int(max(fewest, 2 * self.data.source.shape[1], work / (2 * outputs * rank)))

    def minimise(
        self,
        data: DistillationData,
        reparam: Reparametrization,
        at: ReducedMap,
        stage: str,
        iterations: int,
        tolerance: float,
        *,
        epochs: int = EPOCHS,
        steps: int = STEPS,
        evaluate: Callable[[ReducedMap], float] | None = None,
        last: bool = False,
    ) -> tuple[ReducedMap, int]:
        """Return the minimum on ``data``, from ``at``, and the number of iterations.

        epochs: number of passes where the steps are stochastic, more if they have fewer than
        ``steps`` steps. evaluate: computes the loss on held-out rows, every EVALUATE_EVERY
        iterations of the exact minimisation. last: exact iterations follow the stochastic steps
        where they can be afforded.
        """
        count = before = 0

        def watch(iteration: int, loss: float, current: optimizer.CurrentMap) -> bool:
            nonlocal count
            count = before + iteration
            held_out = math.nan
            if evaluate and not self.stochastic and iteration % EVALUATE_EVERY == 0:
                held_out = evaluate(current())
            self.watch(Step(stage, iteration, loss, held_out))
            return False

        if self.stochastic:
            epochs = min(max(epochs, -(-steps // stochastic.steps_of_epoch(len(data)))), iterations)
            at = stochastic.descend(self.softmax, data, reparam, at, epochs=epochs, watch=watch)
            exact = min(EXACT, int(EXACT_WORK / (len(data) * self.softmax.factor.size)), iterations)
            if not last or exact < FEWEST:
                return at, count
            before, stage, iterations, tolerance = count, f"{stage}, all outputs", exact, 0.0
        found, _ = optimizer.minimise_divergence(
            self.softmax, data, reparam, at, iterations=iterations, tolerance=tolerance, watch=watch
        )
        return found, count

    @property
    def stochastic(self) -> bool:
        """True if the steps are of few rows."""
        return is_stochastic(len(self.data), self.softmax)
