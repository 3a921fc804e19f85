"""Head-aware maps from public texts and few others.

    minimise  Σ_few KL(pᵢ ‖ qᵢ)/n_few + λu/2 · ‖F^½ (W − W₀)‖²,

as in kl, but W₀ is the ridge map of public and few moments merged with a weight. The public texts
enter through W₀; the divergence is of the few texts alone, because a head of another domain is
uninformative on public texts (figures in docs/DESIGN.md). Weight, W₀'s penalty and λ are chosen by
cross-validation on the few texts (few_shot.validation): first the start, at one λ, then λ.
"""

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
TRIED = 7  # minimum λ tried: from a useless start the loss first rises, then falls
ITERATIONS = 60  # in the search
WORK, FEWEST_ROWS = 3e8, 512  # multiplications of a pass in the search, minimum rows


@dataclass(frozen=True, eq=False)
class FoldData:
    """Rows to be fitted on, and the eigenbases of a reparametrization of them."""

    data: DistillationData
    eigenbases: Eigenbases


@dataclass(frozen=True, eq=False)
class FewShotProblem:
    """Distillation data of the few texts, and moments of public and few texts."""

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
        """Return the training rows when a fold is held out, at most as many as a pass may have."""
        rows = np.flatnonzero(self.index != fold)
        outputs, rank = self.softmax.factor.shape
        most = int(max(FEWEST_ROWS, 2 * self.data.source.shape[1], WORK / (2 * outputs * rank)))
        return rows if len(rows) <= most else np.random.default_rng(fold).permutation(rows)[:most]

    def fold_data(self) -> list[FoldData]:
        """Return the training data of each fold, which every λ and start share."""
        data_sets = [self.data.rows(self.training(fold)) for fold in range(self.folds)]
        return [FoldData(data, eigenbases_of(data, self.curvature)) for data in data_sets]

    def bases(self, weight: float) -> list[Spectrum]:
        """Decompose the merged moments, each fold held out in turn."""
        return [spectrum(merged(self.public, train, weight)) for train, _ in self.moments.splits()]

    def start(self, basis: Spectrum, penalty: float) -> AffineMap:
        return AffineMap(*ridge(basis, penalty))


def trials(
    few: FewShotProblem, weights: tuple[float, ...], penalties: tuple[float, ...]
) -> list[FewShotTrial]:
    """Compute the divergence on held-out few texts of every start, then of every λ for the best.

    The best start of the few alone is tried with every λ as well.
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
    """Try λ from the strongest to the weakest, each from the minimum of the last, in all folds."""
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
    """Return True if the loss rose with each of the last two λ."""
    before, last_but_one, last = (t.loss for t in found[-3:])
    return before < last_but_one < last


def score_map(
    few: FewShotProblem, affine: AffineMap, weight: float, penalty: float
) -> FewShotTrial:
    """Evaluate on all few texts a map that was fitted without them."""
    everything = np.arange(len(few.data))
    each = at_best_scale(few.judge.losses(everything, reduce_map(few.softmax, affine)))
    return FewShotTrial(weight, penalty, float(each.mean()), error_of_mean(each, few.groups))


def refine_few_shot(
    few: FewShotProblem, best: FewShotTrial, iterations: int
) -> tuple[AffineMap, ReducedMap, ReducedMap]:
    """Chosen start, the start in reduced coordinates, and the minimum on all few texts."""
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
