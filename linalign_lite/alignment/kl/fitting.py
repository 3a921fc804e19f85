"""Fit a map for a head: penalty chosen on held-out texts, then all texts, in growing parts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.kl.checkpoint import Checkpoint, Trial, digest_of, fingerprint
from linalign_lite.alignment.kl.objective import (
    Lesson,
    Softmax,
    Teaching,
    agreement,
    divergence,
    divergences,
    learn,
    reduce_head,
)
from linalign_lite.alignment.kl.optimizer import Affine, Where, axes_of, chart_on, descend
from linalign_lite.alignment.kl.report import KlReport, Step, Watch
from linalign_lite.alignment.kl.validation import true_outputs, usable_penalty, usable_weights
from linalign_lite.alignment.least_squares import fit
from linalign_lite.alignment.moments import Float64, fold_index, measure
from linalign_lite.alignment.ridge import ridge, spectrum
from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates, as_states
from linalign_lite.core.metrics import error_of_mean
from linalign_lite.errors import InputError
from linalign_lite.storage.arrays import drop_pages

PENALTIES = tuple(float(p) for p in np.logspace(1, -5, 13))
PATIENCE = 2  # penalties in a row that did worse than the best, after which weaker ones are left
TRIED = 6  # penalties looked at in any case: the strongest differ by noise alone
HELD_OUT = 10  # every tenth text judges
SLACK = 0.5  # standard errors by which a stronger penalty may do worse than the best
WORK = 3e9  # multiplications of a pass in the search, which has as many rows as that allows
FEWEST_ROWS, GROWTH = 1024, 6
ITERATIONS = 200
LOOK = 5  # iterations between two looks at the held-out rows
CLASSES = Teaching(temperature=0.7)  # docs/DESIGN.md, section 4, has what was tried
TOKENS = Teaching(temperature=0.5, truth=0.2)
ROUGH, FINE = 1e-4, 1e-6  # relative decrease at which a descent ends: to choose, to keep


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
    """Fit the affine map for which ``head`` says on mapped states what it says on true ones.

    minimise Σ wᵢ KL(pᵢ ‖ qᵢ)/Σwᵢ + λu/2 ‖F^½(W − W₀)‖² (kl.objective, kl.descent), W₀ the ridge
    map. source: (n, d_source), target: (n, d_target), row i of both the same text or token.
    penalty: λ, or "auto": chosen on a tenth of the texts, W₀ itself (λ = ∞) among what is tried.
    weights: (n,), how much each row counts; those of weight 0 are left out. W₀, Σ and u take the
    others alike.
    teaching: the temperature of p and the share of the truth in it; by default 0.5 and 0.2 for a
    token head, where the target's states know their next tokens, else 0.7 and 0.
    The result's card names the head. ``checkpoint``: a job that was stopped goes on from it.

    Raises MismatchError when head and states do not belong together, InputError for weights or a
    penalty that cannot be used.
    """
    x, y = as_states(source), as_states(target)
    x.require_same_texts(y)
    head.space.require(y.space, "this head does not read the target's states")
    if iterations < 1:
        raise InputError("the number of iterations is not usable", got=str(iterations))
    given = usable_penalty(penalty)
    taught = usable_teaching(teaching, y, head)
    mass = usable_weights(weights, len(x))
    if not mass.all():  # such rows might as well not be there
        kept = np.flatnonzero(mass)
        x, y, mass = x.rows(kept), y.rows(kept), mass[kept]
    following = true_outputs(y, head) if taught.truth else None
    softmax, memory = reduce_head(head), checkpoint or Checkpoint(None)
    job_key = fingerprint(x, y, head, mass, f"{given} {iterations} {seed} {taught}")
    memory.open(job_key, (softmax.rank, x.space.dim))
    drop_pages(head.weight)  # ``softmax`` has what is needed of it
    start, least_squares = fit(x, y, seed=seed, folds=min(5, max(2, len(np.unique(x.groups)))))
    order = np.random.default_rng(seed).permutation(len(x))  # any part is a sample of all
    judged = fold_index(x.groups, min(HELD_OUT, len(np.unique(x.groups))), seed)[order] == 0
    order = np.concatenate([order[~judged], order[judged]])
    lesson, curvature = learn(
        softmax,
        x.states[order],
        y.states[order],
        mass[order],
        teaching=taught,
        following=None if following is None else following[order],
    )
    training = len(order) - int(judged.sum())
    seen = _ridge(lesson.source[:training], y.states[order[:training]], least_squares.penalty)
    job = _Job(softmax, lesson, curvature, lowered(softmax, seen), x.groups[order], training,
               iterations, watch or (lambda _: None))  # fmt: skip
    grid = PENALTIES if given is None else (given * len(x) / job.sample,)
    tried = search(job, grid, memory)
    origin = lowered(softmax, start)  # of all rows, the judging ones included
    begun = Trial(float("inf"), job.judge(job.origin), 0, job.origin)
    best = tried[0]
    if len(tried) > 1:
        best = tried[strongest_of_the_best([t.penalty for t in tried], *job.losses(tried))]
    fair = job.sample == job.training  # else the start has seen more rows than any trial
    if given is None and fair and begun.divergence < best.divergence:
        best = begun
    if best is begun:
        found, count = origin, 0
    else:
        whole = replace(job, origin=origin)
        at = _moved(best.affine, job.origin, origin)
        found, count = settle(whole, best.penalty * job.sample / len(x), at, memory)
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
    weight, bias = raised(softmax, start, origin, found)
    affine = AffineMap(weight.astype(np.float32), bias.astype(np.float32), x.space, y.space, card)
    memory.close()
    return affine, report


@dataclass(frozen=True, eq=False)
class _Job:
    """What stays the same through search and settling. Rows are shuffled, the judging ones last."""

    softmax: Softmax
    lesson: Lesson
    curvature: Float64
    origin: Affine  # the least-squares map in the head's coordinates
    groups: npt.NDArray[np.int64]  # shape: (n,)  the text of each row
    training: int  # rows that are not held out
    iterations: int
    watch: Watch

    @property
    def sample(self) -> int:
        """Rows of the search: what makes a pass of WORK multiplications."""
        outputs, rank = self.softmax.factor.shape
        fewest = max(FEWEST_ROWS, 2 * self.lesson.source.shape[1])  # fewer fit anything
        return int(min(self.training, max(fewest, WORK / (2 * outputs * rank))))

    @property
    def held_out(self) -> Lesson:
        stop = self.training + max(FEWEST_ROWS, self.sample // 4)
        return self.lesson.rows(slice(self.training, stop))

    def judge(self, affine: Affine) -> float:
        value, _, _ = divergence(self.softmax, self.held_out, affine.weight, affine.bias)
        return value

    def losses(self, tried: list[Trial]) -> tuple[Float64, npt.NDArray[np.int64]]:
        """Of each trial on each held-out row, weighted; and the rows' texts."""
        rows = self.held_out
        maps = [t.affine for t in tried]
        each = np.array([divergences(self.softmax, rows, a.weight, a.bias) for a in maps])
        share = rows.weight / rows.weight.mean()
        return each * share, self.groups[self.training :][: len(rows)]


def search(job: _Job, grid: tuple[float, ...], memory: Checkpoint) -> list[Trial]:
    """From the strongest penalty to the weakest, each begun where the last ended."""
    tried: list[Trial] = []
    lesson = job.lesson.rows(slice(0, job.sample))
    axes = axes_of(lesson, job.curvature)  # every penalty has these rows
    at = job.origin
    for penalty in grid:
        known = memory.trial(penalty)
        if known is None:
            count = 0

            def watch(done: int, loss: float, here: Where, penalty: float = penalty) -> bool:
                nonlocal count
                count = done
                score = job.judge(here()) if done % LOOK == 0 else float("nan")
                job.watch(Step(f"penalty {penalty:.0e}", done, loss, score))
                return False

            chart = chart_on(axes, job.origin, penalty)
            end, _ = descend(job.softmax, lesson, chart, at, iterations=job.iterations,
                             tolerance=ROUGH, watch=watch)  # fmt: skip
            known = Trial(penalty, job.judge(end), count, end)
            memory.remember(known)
        tried.append(known)
        at = known.affine
        lowest = min(t.divergence for t in tried)
        if len(tried) >= TRIED and all(t.divergence > lowest for t in tried[-PATIENCE:]):
            break
    return tried


def strongest_of_the_best(
    penalties: list[float], losses: Float64, groups: npt.NDArray[np.int64]
) -> int:
    """The strongest penalty that does no worse on held-out rows than the best, but for noise.

    losses: (n_penalties, n), groups: (n,) texts. Noise: SLACK standard errors, over texts, of the
    mean difference. Where few rows judge, the weakest penalty is often the lowest by chance.
    """
    best = int(losses.mean(axis=1).argmin())
    for k in sorted(range(len(penalties)), key=lambda k: -penalties[k]):
        more = losses[k] - losses[best]
        if k == best or more.mean() <= SLACK * error_of_mean(more, groups):
            return k
    return best


def settle(job: _Job, penalty: float, at: Affine, memory: Checkpoint) -> tuple[Affine, int]:
    """The minimum on all rows, held-out ones included, by way of growing parts of them."""
    n, total = len(job.lesson), 0
    sizes = [n]
    while sizes[0] > GROWTH * job.sample:
        sizes.insert(0, sizes[0] // GROWTH)
    everything = np.random.default_rng(n).permutation(n)  # the held-out rows stand last: mix
    for size in sizes:
        known = memory.part(size)
        if known is None:
            lesson = job.lesson.rows(everything[:size]) if size < n else job.lesson
            count = 0

            def watch(count_: int, loss: float, _: Where, size: int = size) -> bool:
                nonlocal count
                count = count_
                job.watch(Step(f"{size} rows", count, loss, float("nan")))
                return False

            chart = chart_on(axes_of(lesson, job.curvature), job.origin, penalty * n / size)
            tolerance = FINE if n <= job.sample * GROWTH else ROUGH
            at, _ = descend(job.softmax, lesson, chart, at, iterations=job.iterations,
                            tolerance=tolerance, watch=watch)  # fmt: skip
            memory.remember_part(size, at, count)
            known = at, count
        at, count = known
        total += count
    return at, total


def _ridge(x: Array, y: Array, penalty: float) -> AffineMap:
    """The ridge map of these rows alone: what judges it must not have taught it."""
    return AffineMap(*ridge(spectrum(measure(x, y)), penalty))


def _moved(affine: Affine, old: Affine, new: Affine) -> Affine:
    """As far from the new start as it was from the old one."""
    return Affine(affine.weight - old.weight + new.weight, affine.bias - old.bias + new.bias)


def lowered(softmax: Softmax, affine: AffineMap) -> Affine:
    """A map in the head's coordinates."""
    weight, bias = affine.weight.astype(np.float64), affine.bias.astype(np.float64)
    if softmax.basis is None:
        return Affine(weight, bias)
    return Affine(softmax.basis.T @ weight, softmax.basis.T @ bias)


def raised(
    softmax: Softmax, start: AffineMap, origin: Affine, found: Affine
) -> tuple[Float64, Float64]:
    """The map itself: where the head does not look, as it started."""
    step, shift = found.weight - origin.weight, found.bias - origin.bias
    if softmax.basis is not None:
        step, shift = softmax.basis @ step, softmax.basis @ shift
    return start.weight + step, start.bias + shift


def head_name(head: Head) -> dict[str, Any]:
    """What a map's card says of the head it was fitted for."""
    return {"digest": digest_of(head), "outputs": head.n_outputs, "space": head.space.describe()}


def _agreement(job: _Job, truth: Array, affine: Affine) -> float:
    held_out = job.held_out
    return agreement(job.softmax, held_out, truth[: len(held_out)], affine.weight, affine.bias)


def default_teaching(target: HiddenStates, head: Head) -> Teaching:
    """TOKENS for a token head whose target states know their next tokens, else CLASSES."""
    return CLASSES if is_classifier(target, head) else TOKENS


def is_classifier(target: HiddenStates, head: Head) -> bool:
    """Whether first choices are what counts: a token head's states know their next tokens."""
    return bool(head.labels) or target.next_token is None


def usable_teaching(given: Teaching | None, target: HiddenStates, head: Head) -> Teaching:
    if given is None:
        return default_teaching(target, head)
    if not 0 < given.temperature < float("inf") or not 0 <= given.truth <= 1:
        raise InputError(
            "the temperature or the share of the truth is not usable",
            got=f"{given.temperature} and {given.truth}",
            expected="above 0, and 0 to 1",
        )
    if given.truth and target.next_token is None:
        raise InputError(
            "the target's states do not know their next tokens",
            hint="extract them with --pooling tokens, or leave the truth out",
        )
    return given


def _warnings(tried: list[Trial], best: Trial, begun: Trial) -> tuple[str, ...]:
    if best is begun:
        return (
            "on held-out texts no penalty did better than least squares: the map is that of ridge",
        )
    if len(tried) > 1 and best is tried[0]:
        return ("no weaker penalty did better on held-out texts: the map stays close to ridge",)
    return ()
