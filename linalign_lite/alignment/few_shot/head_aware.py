"""Head-aware maps from public texts and few others.

    minimise  Σ_few KL(pᵢ ‖ qᵢ)/n_few + λu/2 · ‖F^½ (W − W₀)‖²,

as in kl, but W₀, where the map is held, is the ridge map of public and few moments merged with a
weight: what the public texts say of the two models comes in there, and what the head looks at is
learnt from the few alone, because on public texts a head of another trade says little that is of
use (docs/DESIGN.md has the figures). Weight, W₀'s penalty and λ are chosen by cross-validation on
the few (few.judging): first the start, at one λ, then λ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.few_shot.validation import Judge, at_best_scale
from linalign_lite.alignment.few_shot.weighting import FEW, Trial, lowest, merged
from linalign_lite.alignment.kl.fitting import FINE, ROUGH, lowered
from linalign_lite.alignment.kl.objective import Lesson, Softmax
from linalign_lite.alignment.kl.optimizer import Affine, Axes, Where, axes_of, chart_on, descend
from linalign_lite.alignment.kl.report import Step, Watch
from linalign_lite.alignment.moments import Float64, FoldedMoments, Moments
from linalign_lite.alignment.ridge import Spectrum, ridge, spectrum
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.metrics import error_of_mean

START_PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1)
FIRST = 3.0  # λ at which starts are compared
PENALTIES = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
TRIED = 7  # λ looked at in any case: where the start is of no use, the loss first rises, then falls
ITERATIONS = 60  # in the search
WORK, FEWEST_ROWS = 3e8, 512  # multiplications of a pass in the search, rows it has in any case


@dataclass(frozen=True, eq=False)
class Side:
    """Rows to be fitted on, and the axes of a chart of them."""

    lesson: Lesson
    axes: Axes


@dataclass(frozen=True, eq=False)
class Few:
    """The few texts as the head sees them, and the moments of both sides."""

    softmax: Softmax
    lesson: Lesson
    judge: Judge
    curvature: Float64
    public: Moments
    moments: FoldedMoments
    index: npt.NDArray[np.int64]  # shape: (n,)  the fold of each row
    groups: npt.NDArray[np.int64]  # shape: (n,)  the text of each row
    watch: Watch

    @property
    def folds(self) -> int:
        return len(self.moments.folds)

    def training(self, fold: int) -> npt.NDArray[np.intp]:
        """Rows that are fitted on when a fold is held out: as many as a pass may have."""
        rows = np.flatnonzero(self.index != fold)
        outputs, rank = self.softmax.factor.shape
        most = int(max(FEWEST_ROWS, 2 * self.lesson.source.shape[1], WORK / (2 * outputs * rank)))
        return rows if len(rows) <= most else np.random.default_rng(fold).permutation(rows)[:most]

    def sides(self) -> list[Side]:
        """What is fitted on when each fold is held out in turn; every λ and start shares it."""
        lessons = [self.lesson.rows(self.training(fold)) for fold in range(self.folds)]
        return [Side(lesson, axes_of(lesson, self.curvature)) for lesson in lessons]

    def bases(self, weight: float) -> list[Spectrum]:
        """Of the merged moments, each fold held out in turn."""
        return [spectrum(merged(self.public, train, weight)) for train, _ in self.moments.splits()]

    def start(self, basis: Spectrum, penalty: float) -> AffineMap:
        return AffineMap(*ridge(basis, penalty))


def trials(few: Few, weights: tuple[float, ...], penalties: tuple[float, ...]) -> list[Trial]:
    """Divergence on held-out few texts: of every start, then of every λ for the best start.

    The best start of the few alone is given every λ as well, so that it is judged at its best.
    """
    first = (FIRST,) if FIRST in penalties else penalties[:1]
    found: list[Trial] = []
    sides = few.sides()
    for weight in weights:
        bases = few.bases(weight)
        for start in START_PENALTIES:
            found += _path(few, sides, bases, weight, start, first)
    alone = [t for t in found if t.weight == FEW]
    winners = {lowest(found), lowest(alone or found)}
    if len(penalties) > 1:
        for best in sorted(winners, key=lambda t: t.weight):
            bases = few.bases(best.weight)
            found += _path(few, sides, bases, best.weight, best.start_penalty, penalties)
    return found


def _path(
    few: Few, sides: list[Side], bases: list[Spectrum], weight: float, start: float,
    penalties: tuple[float, ...],
) -> list[Trial]:  # fmt: skip
    """From the strongest λ to the weakest, each begun where the last ended, the folds abreast."""
    n = len(few.lesson)
    origins = [lowered(few.softmax, few.start(basis, start)) for basis in bases]
    ends, found = list(origins), list[Trial]()
    for penalty in penalties:
        judged = []
        for fold, origin in enumerate(origins):
            held_out = np.flatnonzero(few.index == fold)
            shared = penalty * n / len(sides[fold].lesson)
            at = _descend(few, sides[fold], origin, ends[fold], shared, ITERATIONS, ROUGH)
            judged.append((held_out, few.judge.losses(held_out, at)))
            ends[fold] = at
        losses = np.empty(n)
        losses[np.concatenate([r for r, _ in judged])] = at_best_scale(
            np.concatenate([each for _, each in judged], axis=1)
        )
        mean = float(losses.mean())
        few.watch(Step(f"weight {weight:g}, penalty {penalty:g}", 1, mean, mean))
        found.append(Trial(weight, penalty, mean, error_of_mean(losses, few.groups), start))
        if len(found) >= TRIED and _rising(found):
            break
    return found


def _rising(found: list[Trial]) -> bool:
    """Whether the last λ but one did worse than the one before, and the last one still worse."""
    before, last_but_one, last = (t.loss for t in found[-3:])
    return before < last_but_one < last


def judged(few: Few, affine: AffineMap, weight: float, penalty: float) -> Trial:
    """A map that was made without the few, on all of them."""
    everything = np.arange(len(few.lesson))
    each = at_best_scale(few.judge.losses(everything, lowered(few.softmax, affine)))
    return Trial(weight, penalty, float(each.mean()), error_of_mean(each, few.groups))


def settle(few: Few, best: Trial, iterations: int) -> tuple[AffineMap, Affine, Affine]:
    """The start of what was chosen, where it lies, and the minimum, on all the few."""
    basis = spectrum(merged(few.public, few.moments.total, best.weight))
    start = few.start(basis, best.start_penalty)
    origin = lowered(few.softmax, start)
    side = Side(few.lesson, axes_of(few.lesson, few.curvature))
    found = _descend(few, side, origin, origin, best.penalty, iterations, FINE)
    return start, origin, found


def _descend(
    few: Few, side: Side, origin: Affine, at: Affine, penalty: float, most: int, tolerance: float
) -> Affine:
    chart = chart_on(side.axes, origin, penalty)

    def watch(count: int, loss: float, _: Where) -> bool:
        few.watch(Step(f"few, penalty {penalty:.2g}", count, loss, float("nan")))
        return False

    return descend(
        few.softmax, side.lesson, chart, at, iterations=most, tolerance=tolerance, watch=watch
    )[0]
