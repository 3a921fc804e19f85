"""Head-aware maps from public texts and few others.

    minimise  Σ_few KL(pᵢ ‖ qᵢ)/n_few + λu/2 · ‖F^½ (W − W₀)‖²,

as in kl, but W₀ is the ridge map of public and few moments merged with a weight. The public texts
enter through W₀; the divergence is of the few texts alone, because a head of another domain is
uninformative on public texts (figures in docs/DESIGN.md). Weight, W₀'s penalty and λ are chosen by
cross-validation on the few texts (HeldOutDivergence): first the start, at one λ, then λ.

Where a classifier has few texts an output, the map of the lowest divergence often has fewer of the
head's first choices than that of least squares: `agreement_of_squares` is what it is compared by.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.few_shot import weighting
from linalign_lite.alignment.few_shot.weighting import FEW_ONLY, PUBLIC_ONLY, FewShotTrial, lowest
from linalign_lite.alignment.kl import divergence_fit, optimizer
from linalign_lite.alignment.kl.objective import DistillationData, divergences
from linalign_lite.alignment.kl.optimizer import Eigenbases, ReducedMap
from linalign_lite.alignment.kl.problem import DivergenceProblem
from linalign_lite.alignment.kl.report import Step
from linalign_lite.alignment.kl.softmax import Float32, Softmax
from linalign_lite.alignment.moments import Float64, FoldedMoments, Moments
from linalign_lite.alignment.ridge import Spectrum, ridge
from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.metrics import error_of_mean

START_PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1)
FIRST = 3.0  # λ at which starts are compared
PENALTIES = (100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
TRIED = 7  # minimum λ tried: from a useless start the loss first rises, then falls
ITERATIONS = 60  # in the search
# rows to be fitted on, and the eigenbases of a reparametrization of them
FoldData = tuple[DistillationData, Eigenbases]
WORK, FEWEST_ROWS = 3e8, 512  # multiplications of a pass in the search, minimum rows
SCALES = tuple(float(s) for s in np.logspace(-1.5, 0.5, 17))
MOST_PROBABILITIES = 1 << 26  # maximum probabilities that are held of a classifier


@dataclass(frozen=True, eq=False)
class HeldOutDivergence:
    """The divergence of each row, for a classifier at several scales of the mapped scores.

    A map from few texts is miscalibrated; the top classes of a classifier do not depend on that.
    So each map is compared at the best scale of its scores. A token head, whose probabilities are
    used, is compared at scale 1.
    """

    softmax: Softmax
    data: DistillationData
    teacher: Float32 | None  # shape: (n, n_outputs)  p of every row; None: scale 1 alone

    def losses(self, rows: npt.NDArray[np.intp], affine: ReducedMap) -> Float64:
        """(n_scales, len(rows))."""
        data = self.data.rows(rows)
        if self.teacher is None:
            return divergences(self.softmax, data, affine.weight, affine.bias)[None]
        scores = self._scores(rows, affine).astype(np.float64)
        scores -= scores.max(axis=1, keepdims=True)
        p = self.teacher[rows].astype(np.float64)
        expected = np.einsum("ij,ij->i", p, scores)
        negative_entropy = np.einsum(
            "ij,ij->i", p, np.log(np.maximum(p, np.finfo(np.float32).tiny))
        )
        partitions = [np.log(np.exp(scores * s).sum(axis=1)) for s in SCALES]
        terms = zip(SCALES, partitions, strict=True)
        return np.array([z - s * expected + negative_entropy for s, z in terms])

    def agrees(self, rows: npt.NDArray[np.intp], affine: ReducedMap) -> Float64:
        """1 where the first choice is the target's own, else 0, (len(rows),); NaN: a token head."""
        if self.teacher is None:
            return np.full(len(rows), np.nan)
        own = self.teacher[rows].argmax(axis=1)
        same: Float64 = (self._scores(rows, affine).argmax(axis=1) == own).astype(np.float64)
        return same

    def _scores(self, rows: npt.NDArray[np.intp], affine: ReducedMap) -> Float32:
        source = np.asarray(self.data.rows(rows).source, dtype=np.float64)
        mapped = source @ affine.weight.T + affine.bias
        scores: Float32 = self.softmax.scores(mapped.astype(np.float32))
        return scores


def held_out_divergence(
    softmax: Softmax, data: DistillationData, target: Array, *, classifier: bool
) -> HeldOutDivergence:
    """Return the measure of divergence. target: (n, d) states of the few texts."""
    if not classifier or len(data) * len(softmax.factor) > MOST_PROBABILITIES:
        return HeldOutDivergence(softmax, data, None)
    teacher, _ = softmax.probabilities(softmax.coordinates(target), data.teaching.temperature)
    return HeldOutDivergence(softmax, data, teacher)


def at_best_scale(losses: Float64) -> Float64:
    """(n_scales, n) → (n,): at the scale whose mean is lowest."""
    best: Float64 = losses[losses.mean(axis=1).argmin()]
    return best


@dataclass(frozen=True, eq=False)
class FewShotProblem(DivergenceProblem):
    """Distillation data of the few texts, and moments of public and few texts."""

    held_out: HeldOutDivergence
    public: Moments
    moments: FoldedMoments
    index: npt.NDArray[np.int64]  # shape: (n,)  the fold of each row
    groups: npt.NDArray[np.int64]  # shape: (n,)  the text of each row

    def fold_data(self) -> list[FoldData]:
        """Return the training data of each fold, at most as many rows as a pass may have."""
        found, most = [], self.rows_of_pass(WORK, FEWEST_ROWS)
        for fold in range(len(self.moments.folds)):
            rows = np.flatnonzero(self.index != fold)
            if len(rows) > most:
                rows = np.random.default_rng(fold).permutation(rows)[:most]
            data = self.data.rows(rows)
            found.append((data, optimizer.eigenbases_of(data, self.curvature)))
        return found

    def bases(self, weight: float) -> list[Spectrum]:
        """Decompose the merged moments, each fold held out in turn."""
        splits = self.moments.splits()
        return [weighting.merged_spectrum(self.public, train, weight) for train, _ in splits]

    def trial(
        self, weight: float, penalty: float, losses: Float64, start: float, agrees: Float64
    ) -> FewShotTrial:
        error = error_of_mean(losses, self.groups)
        loss, agreement = float(losses.mean()), float(agrees.mean())
        return FewShotTrial(weight, penalty, loss, error, start, agreement)

    def agreement_of_squares(self, weight: float, penalty: float) -> float:
        """Agreement on held-out few texts of the maps of least squares; NaN of token heads."""
        agrees = np.empty(len(self.data))
        for fold, basis in enumerate(self.bases(weight)):
            rows = np.flatnonzero(self.index == fold)
            reduced = optimizer.reduce_map(self.softmax, AffineMap(*ridge(basis, penalty)))
            agrees[rows] = self.held_out.agrees(rows, reduced)
        return float(agrees.mean())


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
            start = best.start_penalty
            found += _penalty_path(few, fold_data, bases, best.weight, start, penalties)
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
    n, found = len(few.data), list[FewShotTrial]()
    origins = [optimizer.reduce_map(few.softmax, AffineMap(*ridge(b, start))) for b in bases]
    ends = list(origins)
    held_out = [np.flatnonzero(few.index == fold) for fold in range(len(origins))]
    for penalty in penalties:
        losses_of_folds, agrees = [], np.empty(n)
        for fold, origin in enumerate(origins):
            data, eigenbases = fold_data[fold]
            shared = penalty * n / len(data)
            reparam = optimizer.reparametrize(eigenbases, origin, shared)
            stage = f"few, penalty {shared:.2g}"
            ends[fold], _ = few.minimise(
                data, reparam, ends[fold], stage, ITERATIONS, divergence_fit.SEARCH_TOLERANCE
            )
            losses_of_folds.append(few.held_out.losses(held_out[fold], ends[fold]))
            agrees[held_out[fold]] = few.held_out.agrees(held_out[fold], ends[fold])
        losses = np.empty(n)
        losses[np.concatenate(held_out)] = at_best_scale(np.concatenate(losses_of_folds, axis=1))
        trial = few.trial(weight, penalty, losses, start, agrees)
        few.watch(Step(f"weight {weight:g}, penalty {penalty:g}", 1, trial.loss, trial.loss))
        found.append(trial)
        if len(found) >= TRIED and found[-3].loss < found[-2].loss < trial.loss:
            break
    return found


def score_public_map(few: FewShotProblem, affine: AffineMap, penalty: float) -> FewShotTrial:
    """Evaluate on all few texts a map that was fitted on public texts alone."""
    everything = np.arange(len(few.data))
    reduced = optimizer.reduce_map(few.softmax, affine)
    losses = at_best_scale(few.held_out.losses(everything, reduced))
    agrees = few.held_out.agrees(everything, reduced)
    return few.trial(PUBLIC_ONLY, penalty, losses, float("nan"), agrees)


def refine_few_shot(few: FewShotProblem, best: FewShotTrial, iterations: int) -> AffineMap:
    """Minimise on all few texts from the start that was chosen."""
    basis = weighting.merged_spectrum(few.public, few.moments.total, best.weight)
    start = AffineMap(*ridge(basis, best.start_penalty))
    origin = optimizer.reduce_map(few.softmax, start)
    reparam = optimizer.reparametrize(
        optimizer.eigenbases_of(few.data, few.curvature), origin, best.penalty
    )
    stage = f"few, penalty {best.penalty:.2g}"
    found, _ = few.minimise(
        few.data, reparam, origin, stage, iterations, divergence_fit.FINAL_TOLERANCE, last=True
    )
    return AffineMap(*optimizer.expand_map(few.softmax, start, origin, found))
