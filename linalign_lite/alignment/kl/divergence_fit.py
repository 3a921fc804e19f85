"""Fit a map for a head: choose a penalty on held-out texts, then fit all, in growing subsets."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.kl.checkpoint import Checkpoint, PenaltyTrial, digest_of, fingerprint
from linalign_lite.alignment.kl.objective import (
    DistillationData,
    Softmax,
    Teaching,
    agreement,
    distillation_data,
    divergence,
    divergences,
    reduce_head,
)
from linalign_lite.alignment.kl.optimizer import (
    CurrentMap,
    ReducedMap,
    eigenbases_of,
    expand_map,
    minimise_divergence,
    reduce_map,
    reparametrize,
)
from linalign_lite.alignment.kl.report import KlReport, Step, Watch
from linalign_lite.alignment.kl.validation import (
    next_token_outputs,
    usable_teaching,
    usable_weights,
)
from linalign_lite.alignment.least_squares import fit
from linalign_lite.alignment.moments import Float64, fold_index, measure
from linalign_lite.alignment.ridge import ridge, spectrum, usable_penalty
from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates, as_states
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
ITERATIONS = 200
EVALUATE_EVERY = 5  # iterations between two evaluations on held-out rows
SEARCH_TOLERANCE = 1e-4  # relative decrease at which a minimisation of the search ends
FINAL_TOLERANCE = 1e-6


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

    minimise Σ wᵢ KL(pᵢ ‖ qᵢ)/Σwᵢ + λu/2 ‖F^½(W − W₀)‖² (kl.objective, kl.descent), W₀ the ridge
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
    x, y = as_states(source), as_states(target)
    x.require_same_texts(y)
    head.space.require(y.space, "this head does not read the target's states")
    if iterations < 1:
        raise InputError("the number of iterations is not usable", got=str(iterations))
    given = usable_penalty(penalty, limit=MAX_PENALTY)
    taught = usable_teaching(teaching, y, head)
    mass = usable_weights(weights, len(x))
    if not mass.all():  # rows of weight 0 have no effect
        kept = np.flatnonzero(mass)
        x, y, mass = x.rows(kept), y.rows(kept), mass[kept]
    following = next_token_outputs(y, head) if taught.truth else None
    softmax, memory = reduce_head(head), checkpoint or Checkpoint(None)
    job_key = fingerprint(x, y, head, mass, f"{given} {iterations} {seed} {taught}")
    memory.open(job_key, (softmax.rank, x.space.dim))
    drop_pages(head.weight)  # ``softmax`` holds what is needed
    start, least_squares = fit(x, y, seed=seed, folds=min(5, max(2, len(np.unique(x.groups)))))
    order = np.random.default_rng(seed).permutation(len(x))  # any subset is a sample of all
    judged = fold_index(x.groups, min(HELD_OUT, len(np.unique(x.groups))), seed)[order] == 0
    order = np.concatenate([order[~judged], order[judged]])
    data, curvature = distillation_data(
        softmax,
        x.states[order],
        y.states[order],
        mass[order],
        teaching=taught,
        following=None if following is None else following[order],
    )
    training = len(order) - int(judged.sum())
    seen = _ridge(data.source[:training], y.states[order[:training]], least_squares.penalty)
    job = KlProblem(softmax, data, curvature, reduce_map(softmax, seen), x.groups[order], training,
               iterations, watch or (lambda _: None))  # fmt: skip
    grid = PENALTIES if given is None else (given * len(x) / job.sample,)
    tried = search_penalties(job, grid, memory)
    origin = reduce_map(softmax, start)  # of all rows, held-out ones included
    begun = PenaltyTrial(float("inf"), job.judge(job.origin), 0, job.origin)
    best = tried[0]
    if len(tried) > 1:
        best = tried[select_penalty([t.penalty for t in tried], *job.losses(tried))]
    fair = job.sample == job.training  # else the start has seen more rows than any trial
    if given is None and fair and begun.divergence < best.divergence:
        best = begun
    if best is begun:
        found, count = origin, 0
    else:
        whole = replace(job, origin=origin)
        at = _moved(best.affine, job.origin, origin)
        found, count = refine(whole, best.penalty * job.sample / len(x), at, memory)
    truth = y.states[order][job.training :]
    held_out = job.held_out
    report = KlReport(
        penalty=best.penalty * job.sample / len(x),
        n=len(x),
        n_held_out=len(held_out),
        d_source=x.space.dim,
        d_target=y.space.dim,
        n_outputs=head.n_outputs,
        temperature=taught.temperature,
        truth=taught.truth,
        start_method=least_squares.method,
        start_penalty=least_squares.penalty,
        start_divergence=begun.divergence,
        start_agreement=_agreement(job, truth, job.origin),
        held_out_divergence=best.divergence,
        held_out_agreement=_agreement(job, truth, best.affine),
        iterations=count + sum(t.iterations for t in tried),
        warnings=_warnings(tried, best, begun),
        curve=tuple((t.penalty * job.sample / len(x), t.divergence) for t in tried),
    )
    card = {**report.as_card(), "head": head_name(head), "text_digest": x.text_digest}
    weight, bias = expand_map(softmax, start, origin, found)
    affine = AffineMap(weight.astype(np.float32), bias.astype(np.float32), x.space, y.space, card)
    memory.close()
    return affine, report


@dataclass(frozen=True, eq=False)
class KlProblem:
    """Data and options of a fit. Rows are shuffled; the held-out ones come last."""

    softmax: Softmax
    data: DistillationData
    curvature: Float64
    origin: ReducedMap  # the least-squares map in the head's coordinates
    groups: npt.NDArray[np.int64]  # shape: (n,)  the text of each row
    training: int  # rows that are not held out
    iterations: int
    watch: Watch

    @property
    def sample(self) -> int:
        """Rows of the search: what makes a pass of WORK multiplications."""
        outputs, rank = self.softmax.factor.shape
        fewest = max(FEWEST_ROWS, 2 * self.data.source.shape[1])  # fewer fit anything
        return int(min(self.training, max(fewest, WORK / (2 * outputs * rank))))

    @property
    def held_out(self) -> DistillationData:
        stop = self.training + max(FEWEST_ROWS, self.sample // 4)
        return self.data.rows(slice(self.training, stop))

    def judge(self, affine: ReducedMap) -> float:
        value, _, _ = divergence(self.softmax, self.held_out, affine.weight, affine.bias)
        return value

    def losses(self, tried: list[PenaltyTrial]) -> tuple[Float64, npt.NDArray[np.int64]]:
        """Weighted loss of each trial on each held-out row, and the texts of the rows."""
        rows = self.held_out
        maps = [t.affine for t in tried]
        each = np.array([divergences(self.softmax, rows, a.weight, a.bias) for a in maps])
        share = rows.weight / rows.weight.mean()
        return each * share, self.groups[self.training :][: len(rows)]


def search_penalties(
    job: KlProblem, grid: tuple[float, ...], memory: Checkpoint
) -> list[PenaltyTrial]:
    """Try penalties from the strongest to the weakest, each from the minimum of the last."""
    tried: list[PenaltyTrial] = []
    data = job.data.rows(slice(0, job.sample))
    eigenbases = eigenbases_of(data, job.curvature)  # every penalty has these rows
    at = job.origin
    for penalty in grid:
        known = memory.trial(penalty)
        if known is None:
            count = 0

            def watch(done: int, loss: float, here: CurrentMap, penalty: float = penalty) -> bool:
                nonlocal count
                count = done
                score = job.judge(here()) if done % EVALUATE_EVERY == 0 else float("nan")
                job.watch(Step(f"penalty {penalty:.0e}", done, loss, score))
                return False

            reparam = reparametrize(eigenbases, job.origin, penalty)
            end, _ = minimise_divergence(
                job.softmax,
                data,
                reparam,
                at,
                iterations=job.iterations,
                tolerance=SEARCH_TOLERANCE,
                watch=watch,
            )
            known = PenaltyTrial(penalty, job.judge(end), count, end)
            memory.remember(known)
        tried.append(known)
        at = known.affine
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
    job: KlProblem, penalty: float, at: ReducedMap, memory: Checkpoint
) -> tuple[ReducedMap, int]:
    """Minimise on all rows, held-out ones included, through growing subsets."""
    n, total = len(job.data), 0
    sizes = [n]
    while sizes[0] > GROWTH * job.sample:
        sizes.insert(0, sizes[0] // GROWTH)
    everything = np.random.default_rng(n).permutation(n)  # the held-out rows come last: mix
    for size in sizes:
        known = memory.subset(size)
        if known is None:
            data = job.data.rows(everything[:size]) if size < n else job.data
            count = 0

            def watch(count_: int, loss: float, _: CurrentMap, size: int = size) -> bool:
                nonlocal count
                count = count_
                job.watch(Step(f"{size} rows", count, loss, float("nan")))
                return False

            reparam = reparametrize(
                eigenbases_of(data, job.curvature), job.origin, penalty * n / size
            )
            tolerance = FINAL_TOLERANCE if n <= job.sample * GROWTH else SEARCH_TOLERANCE
            at, _ = minimise_divergence(
                job.softmax,
                data,
                reparam,
                at,
                iterations=job.iterations,
                tolerance=tolerance,
                watch=watch,
            )
            memory.remember_subset(size, at, count)
            known = at, count
        at, count = known
        total += count
    return at, total


def _ridge(x: Array, y: Array, penalty: float) -> AffineMap:
    """Fit a ridge map on training rows alone, so that held-out rows stay unseen."""
    return AffineMap(*ridge(spectrum(measure(x, y)), penalty))


def _moved(affine: ReducedMap, old: ReducedMap, new: ReducedMap) -> ReducedMap:
    """Move a map by the difference of the two starts."""
    return ReducedMap(affine.weight - old.weight + new.weight, affine.bias - old.bias + new.bias)


def head_name(head: Head) -> dict[str, Any]:
    """Return the card's description of the head that a map was fitted for."""
    return {"digest": digest_of(head), "outputs": head.n_outputs, "space": head.space.describe()}


def _agreement(job: KlProblem, truth: Array, affine: ReducedMap) -> float:
    held_out = job.held_out
    return agreement(job.softmax, held_out, truth[: len(held_out)], affine.weight, affine.bias)


def _warnings(
    tried: list[PenaltyTrial], best: PenaltyTrial, begun: PenaltyTrial
) -> tuple[str, ...]:
    if best is begun:
        return (
            "on held-out texts no penalty did better than least squares: the map is that of ridge",
        )
    if len(tried) > 1 and best is tried[0]:
        return ("no weaker penalty did better on held-out texts: the map stays close to ridge",)
    return ()
