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

from linalign_lite.alignment.few_shot.validation import HeldOutDivergence, at_best_scale
from linalign_lite.alignment.few_shot.weighting import FEW_ONLY, FewShotTrial, lowest, merged
from linalign_lite.alignment.kl.divergence_fit import FINAL_TOLERANCE, SEARCH_TOLERANCE
from linalign_lite.alignment.kl.objective import DistillationData, Softmax
from linalign_lite.alignment.kl.optimizer import (
    CurrentMap,
    Eigenbases,
    ReducedMap,
    eigenbases_of,
    minimise_divergence,
    reduce_map,
    reparametrize,
)
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
class FoldData:
    """Rows to be fitted on, and the eigenbases of a reparametrization of them."""

    data: DistillationData
    eigenbases: Eigenbases


@dataclass(frozen=True, eq=False)
class FewShotProblem:
    """The few texts as the head sees them, and the moments of both sides."""

    softmax: Softmax
    data: DistillationData
    judge: HeldOutDivergence
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
        most = int(max(FEWEST_ROWS, 2 * self.data.source.shape[1], WORK / (2 * outputs * rank)))
        return rows if len(rows) <= most else np.random.default_rng(fold).permutation(rows)[:most]

    def fold_data(self) -> list[FoldData]:
        """What is fitted on when each fold is held out in turn; every λ and start shares it."""
        data_sets = [self.data.rows(self.training(fold)) for fold in range(self.folds)]
        return [FoldData(data, eigenbases_of(data, self.curvature)) for data in data_sets]

    def bases(self, weight: float) -> list[Spectrum]:
        """Of the merged moments, each fold held out in turn."""
        return [spectrum(merged(self.public, train, weight)) for train, _ in self.moments.splits()]

    def start(self, basis: Spectrum, penalty: float) -> AffineMap:
        return AffineMap(*ridge(basis, penalty))


def trials(
    few: FewShotProblem, weights: tuple[float, ...], penalties: tuple[float, ...]
) -> list[FewShotTrial]:
    """Divergence on held-out few texts: of every start, then of every λ for the best start.

    The best start of the few alone is given every λ as well, so that it is judged at its best.
    """
    first = (FIRST,) if FIRST in penalties else penalties[:1]
    found: list[FewShotTrial] = []
    fold_data = few.fold_data()
    for weight in weights:
        bases = few.bases(weight)
        for start in START_PENALTIES:
            found += _penalty_path(few, fold_data, bases, weight, start, first)
    alone = [t for t in found if t.weight == FEW_ONLY]
    winners = {lowest(found), lowest(alone or found)}
    if len(penalties) > 1:
        for best in sorted(winners, key=lambda t: t.weight):
            bases = few.bases(best.weight)
            found += _penalty_path(
                few, fold_data, bases, best.weight, best.start_penalty, penalties
            )
    return found


def _penalty_path(
    few: FewShotProblem,
    fold_data: list[FoldData],
    bases: list[Spectrum],
    weight: float,
    start: float,
    penalties: tuple[float, ...],
) -> list[FewShotTrial]:
    """From the strongest λ to the weakest, each begun where the last ended, the folds abreast."""
    n = len(few.data)
    origins = [reduce_map(few.softmax, few.start(basis, start)) for basis in bases]
    ends, found = list(origins), list[FewShotTrial]()
    for penalty in penalties:
        losses_of_folds = []
        for fold, origin in enumerate(origins):
            held_out = np.flatnonzero(few.index == fold)
            shared = penalty * n / len(fold_data[fold].data)
            at = _minimise(
                few, fold_data[fold], origin, ends[fold], shared, ITERATIONS, SEARCH_TOLERANCE
            )
            losses_of_folds.append((held_out, few.judge.losses(held_out, at)))
            ends[fold] = at
        losses = np.empty(n)
        losses[np.concatenate([r for r, _ in losses_of_folds])] = at_best_scale(
            np.concatenate([each for _, each in losses_of_folds], axis=1)
        )
        mean = float(losses.mean())
        few.watch(Step(f"weight {weight:g}, penalty {penalty:g}", 1, mean, mean))
        found.append(FewShotTrial(weight, penalty, mean, error_of_mean(losses, few.groups), start))
        if len(found) >= TRIED and _rising(found):
            break
    return found


def _rising(found: list[FewShotTrial]) -> bool:
    """Whether the last λ but one did worse than the one before, and the last one still worse."""
    before, last_but_one, last = (t.loss for t in found[-3:])
    return before < last_but_one < last


def score_map(
    few: FewShotProblem, affine: AffineMap, weight: float, penalty: float
) -> FewShotTrial:
    """A map that was made without the few, on all of them."""
    everything = np.arange(len(few.data))
    each = at_best_scale(few.judge.losses(everything, reduce_map(few.softmax, affine)))
    return FewShotTrial(weight, penalty, float(each.mean()), error_of_mean(each, few.groups))


def refine_few_shot(
    few: FewShotProblem, best: FewShotTrial, iterations: int
) -> tuple[AffineMap, ReducedMap, ReducedMap]:
    """The start of what was chosen, where it lies, and the minimum, on all the few."""
    basis = spectrum(merged(few.public, few.moments.total, best.weight))
    start = few.start(basis, best.start_penalty)
    origin = reduce_map(few.softmax, start)
    side = FoldData(few.data, eigenbases_of(few.data, few.curvature))
    found = _minimise(few, side, origin, origin, best.penalty, iterations, FINAL_TOLERANCE)
    return start, origin, found


def _minimise(
    few: FewShotProblem,
    side: FoldData,
    origin: ReducedMap,
    at: ReducedMap,
    penalty: float,
    most: int,
    tolerance: float,
) -> ReducedMap:
    reparam = reparametrize(side.eigenbases, origin, penalty)

    def watch(count: int, loss: float, _: CurrentMap) -> bool:
        few.watch(Step(f"few, penalty {penalty:.2g}", count, loss, float("nan")))
        return False

    return minimise_divergence(
        few.softmax, side.data, reparam, at, iterations=most, tolerance=tolerance, watch=watch
    )[0]
