"""Fit a map for a head: choose a penalty on held-out texts, then fit all, in growing subsets."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.kl import objective, optimizer, validation
from linalign_lite.alignment.kl.checkpoint import Checkpoint, PenaltyTrial, digest_of, fingerprint
from linalign_lite.alignment.kl.objective import DistillationData, Teaching
from linalign_lite.alignment.kl.optimizer import ReducedMap
from linalign_lite.alignment.kl.problem import DivergenceProblem, is_stochastic
from linalign_lite.alignment.kl.report import KlReport, Watch
from linalign_lite.alignment.kl.softmax import reduce_head
from linalign_lite.alignment.least_squares import fit
from linalign_lite.alignment.moments import Float64, fold_index, measure
from linalign_lite.alignment.report import not_new
from linalign_lite.alignment.ridge import ridge, spectrum, usable_penalty
from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates, as_sides
from linalign_lite.core.metrics import error_of_mean
from linalign_lite.errors import InputError
from linalign_lite.storage.arrays import drop_pages

PENALTIES = tuple(float(p) for p in np.logspace(1, -5, 13))
MAX_PENALTY = 1e100  # so that its product with the variance of the source is finite
PATIENCE = 2  # penalties in a row worse than the best that end the search
TRIED = 6  # minimum penalties tried: the strongest differ by noise alone
HELD_OUT = 10  # every tenth text is held out
SLACK = 0.5  # standard errors by which a stronger penalty may do worse than the best
WORK = 3e9  # multiplications of a pass in the search, which has as many rows as that allows
FEWEST_ROWS, GROWTH = 1024, 6
STOCHASTIC_ROWS, STOCHASTIC_PENALTIES = 4096, (1.0, 0.1, 0.01, 1e-3)  # of the search
SEARCH_EPOCHS, SEARCH_STEPS = 2, 32  # steps at least, where rows are few
ITERATIONS = 200
SEARCH_TOLERANCE = 1e-4  # relative decrease at which a minimisation of the search ends
FINAL_TOLERANCE = 1e-6
NO_BETTER_PENALTY = (
    "on held-out texts no penalty did better than least squares: the map is that of ridge"
)
STRONGEST_PENALTY = "no weaker penalty did better on held-out texts: the map stays close to ridge"


def fit_kl(
    source: HiddenStates | Array,
    target: HiddenStates | Array,
    head: Head,
    *,
    penalty: float | str = "auto",
    weights: npt.ArrayLike | None = None,
    iterations: int = ITERATIONS,
    seed: int = 0,
    watch: Watch | None = None,
    checkpoint: Checkpoint | None = None,
    teaching: Teaching | None = None,
) -> tuple[AffineMap, KlReport]:
    """Fit the affine map under which ``head`` predicts on mapped states what it does on true ones.

    minimise Σ wᵢ KL(pᵢ ‖ qᵢ)/Σwᵢ + λu/2 ‖F^½(W − W₀)‖² (kl.objective, kl.optimizer), W₀ the ridge
    map. source: (n, d_source), target: (n, d_target), row i of both the same text or token.
    penalty: λ, or "auto": chosen on a tenth of the texts, W₀ itself (λ = ∞) among what is tried.
    weights: (n,), how much each row counts; those of weight 0 are left out. W₀, Σ and u take the
    others alike.
    teaching: the temperature of p and the share of the truth in it; by default 0.5 and 0.2 for a
    token head, where the target's states know their next tokens, else 0.7 and 0.
    The result's card names the head. ``checkpoint``: an interrupted fit resumes from it.

    Raises MismatchError when head and states do not belong together, InputError for weights or a
    penalty that cannot be used.
    """
    x, y = as_sides(source, target)
    x.require_same_texts(y)
    head.space.require(
        y.space,
        "this head does not read the target's states",
        hint="are the sides swapped?" if head.space.agrees(x.space) else "",
    )
    if iterations < 1:
        raise InputError("the number of iterations is not usable", got=str(iterations))
    given = usable_penalty(penalty, limit=MAX_PENALTY)
    teaching = validation.usable_teaching(teaching, y, head)
    mass = validation.usable_weights(weights, len(x))
    if not mass.all():  # rows of weight 0 have no effect
        kept = np.flatnonzero(mass)
        x, y, mass = x.rows(kept), y.rows(kept), mass[kept]
    n, next_token = len(x), validation.next_token_outputs(y, head, teaching)
    softmax, checkpoint = reduce_head(head), checkpoint or Checkpoint(None)
    key = fingerprint(x, y, head, mass, f"{given} {iterations} {seed} {teaching}")
    checkpoint.open(key, (softmax.rank, x.space.dim))
    drop_pages(head.weight)  # ``softmax`` holds what is needed
    texts = len(np.unique(x.groups))
    start, least_squares = fit(x, y, seed=seed, folds=min(5, max(2, texts)))
    order = np.random.default_rng(seed).permutation(n)  # any subset is a sample of all
    is_held_out = fold_index(x.groups, min(HELD_OUT, texts), seed)[order] == 0
    training = n - int(is_held_out.sum())
    order = np.concatenate([order[~is_held_out], order[is_held_out]])
    data, curvature = objective.distillation_data(
        softmax,
        x.states[order],
        y.states[order],
        mass[order],
        teaching=teaching,
        next_token=None if next_token is None else next_token[order],
        sample=STOCHASTIC_ROWS if is_stochastic(n, softmax) else None,
    )
    # of training rows alone, so that held-out rows stay unseen
    unseen = ridge(
        spectrum(measure(data.source[:training], y.states[order[:training]])), least_squares.penalty
    )
    origin, watch = optimizer.reduce_map(softmax, AffineMap(*unseen)), watch or (lambda _: None)
    problem = KlProblem(
        softmax, data, curvature, watch, origin, x.groups[order], training, iterations
    )
    sample = problem.sample
    tried = search_penalties(
        problem, problem.penalties if given is None else (given * n / sample,), checkpoint
    )
    baseline = PenaltyTrial(math.inf, problem.score(origin), 0, origin)
    best, warnings = tried[0], list[str]()
    if len(tried) > 1:
        best = tried[select_penalty([t.penalty for t in tried], *problem.losses(tried))]
        if best is tried[0]:
            warnings = [STRONGEST_PENALTY]
    # with fewer rows in the search, the start has seen more rows than any trial
    if given is None and sample == training and baseline.divergence < best.divergence:
        best, warnings = baseline, [NO_BETTER_PENALTY]
    begin = found = optimizer.reduce_map(softmax, start)  # of all rows, held-out ones included
    count = 0
    if best is not baseline:
        at = ReducedMap(
            best.affine.weight - origin.weight + begin.weight,
            best.affine.bias - origin.bias + begin.bias,
        )
        found, count = refine(
            replace(problem, origin=begin), best.penalty * sample / n, at, checkpoint
        )
    held_out = problem.held_out
    truth = y.states[order[training:]][: len(held_out)]
    agreements = [
        objective.agreement(softmax, held_out, truth, a.weight, a.bias)
        for a in (origin, best.affine)
    ]
    report = KlReport(
        penalty=best.penalty * sample / n,
        n=n,
        n_held_out=len(held_out),
        d_source=x.space.dim,
        d_target=y.space.dim,
        n_outputs=head.n_outputs,
        temperature=teaching.temperature,
        truth=teaching.truth,
        start_method=least_squares.method,
        start_penalty=least_squares.penalty,
        start_divergence=baseline.divergence,
        start_agreement=agreements[0],
        held_out_divergence=best.divergence,
        held_out_agreement=agreements[1],
        iterations=count + sum(t.iterations for t in tried),
        warnings=(*warnings, *not_new(x, "held-out agreement")),
        curve=tuple((t.penalty * sample / n, t.divergence) for t in tried),
    )
    card = {**report.as_card(), "head": head_name(head), "text_digest": x.text_digest}
    weight, bias = optimizer.expand_map(softmax, start, begin, found)
    affine = AffineMap(weight.astype(np.float32), bias.astype(np.float32), x.space, y.space, card)
    checkpoint.close()
    return affine, report


@dataclass(frozen=True, eq=False)
class KlProblem(DivergenceProblem):
    """Data and options of a fit. Rows are shuffled; the held-out ones come last."""

    origin: ReducedMap  # the least-squares map in the head's coordinates
    groups: npt.NDArray[np.int64]  # shape: (n,)  the text of each row
    training: int  # rows that are not held out
    iterations: int

    @property
    def sample(self) -> int:
        """Number of rows of the search."""
        fewest = STOCHASTIC_ROWS if self.stochastic else FEWEST_ROWS
        return min(self.training, self.rows_of_pass(WORK, fewest))

    @property
    def penalties(self) -> tuple[float, ...]:
        """Penalties of the search, from the strongest to the weakest."""
        return STOCHASTIC_PENALTIES if self.stochastic else PENALTIES

    @property
    def held_out(self) -> DistillationData:
        stop = self.training + max(FEWEST_ROWS, self.sample // 4)
        return self.data.rows(slice(self.training, stop))

    def score(self, affine: ReducedMap) -> float:
        return objective.divergence(self.softmax, self.held_out, affine.weight, affine.bias)[0]

    def losses(self, tried: list[PenaltyTrial]) -> tuple[Float64, npt.NDArray[np.int64]]:
        """Weighted loss of each trial on each held-out row, and the texts of the rows."""
        rows = self.held_out
        maps = [t.affine for t in tried]
        losses = [objective.divergences(self.softmax, rows, a.weight, a.bias) for a in maps]
        share = rows.weight / rows.weight.mean()
        return np.array(losses) * share, self.groups[self.training :][: len(rows)]


def search_penalties(
    problem: KlProblem, penalties: tuple[float, ...], checkpoint: Checkpoint
) -> list[PenaltyTrial]:
    """Try penalties from the strongest to the weakest, each from the minimum of the last."""
    tried: list[PenaltyTrial] = []
    data = problem.data.rows(slice(0, problem.sample))
    eigenbases = optimizer.eigenbases_of(data, problem.curvature)  # every penalty has these rows
    at = problem.origin
    for penalty in penalties:
        trial = checkpoint.trial(penalty)
        if trial is None:
            reparam = optimizer.reparametrize(eigenbases, problem.origin, penalty)
            stage = f"penalty {penalty:.0e}"
            found, count = problem.minimise(
                data, reparam, at, stage, problem.iterations, SEARCH_TOLERANCE,
                epochs=SEARCH_EPOCHS, steps=SEARCH_STEPS, evaluate=problem.score,
            )  # fmt: skip
            trial = PenaltyTrial(penalty, problem.score(found), count, found)
            checkpoint.remember(trial)
        tried.append(trial)
        at = trial.affine
        lowest = min(t.divergence for t in tried)
        if len(tried) >= TRIED and all(t.divergence > lowest for t in tried[-PATIENCE:]):
            break
    return tried


def select_penalty(penalties: list[float], losses: Float64, groups: npt.NDArray[np.int64]) -> int:
    """Select the strongest penalty that is within noise of the best on held-out rows.

    losses: (n_penalties, n), groups: (n,) texts. Noise: SLACK standard errors, over texts, of the
    mean difference. With few held-out rows the weakest penalty is often the best by chance.
    """
    best = int(losses.mean(axis=1).argmin())
    for k in sorted(range(len(penalties)), key=lambda k: -penalties[k]):
        more = losses[k] - losses[best]
        if k == best or more.mean() <= SLACK * error_of_mean(more, groups):
            return k
    return best


def refine(
    problem: KlProblem, penalty: float, at: ReducedMap, checkpoint: Checkpoint
) -> tuple[ReducedMap, int]:
    """Minimise on all rows, held-out ones included, through growing subsets.

    Stochastic steps begin at least squares: the first ones are as long from ``at``, and would have
    to undo what the rows of the search alone asked for.
    """
    n, total = len(problem.data), 0
    at = problem.origin if problem.stochastic else at
    sizes = [n]
    while sizes[0] > GROWTH * problem.sample and not problem.stochastic:
        sizes.insert(0, sizes[0] // GROWTH)
    tolerance = FINAL_TOLERANCE if len(sizes) == 1 else SEARCH_TOLERANCE
    mixed = np.random.default_rng(n).permutation(n)  # the held-out rows come last
    for size in sizes:
        saved = checkpoint.subset(size)
        if saved is None:
            data = problem.data.rows(mixed[:size]) if size < n else problem.data
            reparam = optimizer.reparametrize(
                optimizer.eigenbases_of(data, problem.curvature), problem.origin, penalty * n / size
            )
            stage = f"{size} rows"
            saved = problem.minimise(
                data, reparam, at, stage, problem.iterations, tolerance, last=size == n
            )
            checkpoint.remember_subset(size, *saved)
        at, count = saved
        total += count
    return at, total


def head_name(head: Head) -> dict[str, Any]:
    """Return the card's description of the head that a map was fitted for."""
    return {"digest": digest_of(head), "outputs": head.n_outputs, "space": head.space.describe()}
