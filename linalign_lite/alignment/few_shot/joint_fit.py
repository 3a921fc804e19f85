"""Fit a map from many public texts and few in-domain texts."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from linalign_lite.alignment.few_shot import head_aware, weighting
from linalign_lite.alignment.few_shot.report import FewReport
from linalign_lite.alignment.few_shot.weighting import FEW_ONLY, PUBLIC_ONLY, FewShotTrial, lowest
from linalign_lite.alignment.kl import validation
from linalign_lite.alignment.kl.divergence_fit import ITERATIONS, fit_kl, head_name
from linalign_lite.alignment.kl.objective import Teaching, distillation_data
from linalign_lite.alignment.kl.report import Watch
from linalign_lite.alignment.kl.softmax import reduce_head
from linalign_lite.alignment.moments import fold_index, folded, measure
from linalign_lite.alignment.report import FEW_AN_OUTPUT, not_new
from linalign_lite.alignment.ridge import PENALTIES, ridge, usable_penalty
from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.choices import MAP_FOLDS
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates, as_states
from linalign_lite.errors import InputError

FEWEST = 8  # texts
NO_BETTER_MAP = {
    PUBLIC_ONLY: "the few texts made no map better than that of the public texts alone",
    FEW_ONLY: "the public texts made no map better than that of the few alone",
}


def fit_with_few(
    public_source: HiddenStates | Array,
    public_target: HiddenStates | Array,
    few_source: HiddenStates | Array,
    few_target: HiddenStates | Array,
    *,
    head: Head | None = None,
    weight: float | str = "auto",
    penalty: float | str = "auto",
    folds: int = MAP_FOLDS,
    seed: int = 0,
    iterations: int = ITERATIONS,
    teaching: Teaching | None = None,
    watch: Watch | None = None,
) -> tuple[AffineMap, FewReport]:
    """Fit an affine map from public texts and a few in-domain texts.

    Without a head: least squares on merged moments (few_shot.weighting). With one:
    divergence on the few texts, penalised towards the least-squares map of both
    (few_shot.head_aware); of fewer than 4 texts an output of a classifier, least squares where
    they make more of its choices on held-out few texts, which a warning says.
    public_source, few_source: (n, d_source); public_target, few_target: (n, d_target); row i of
    both sides the same text.
    weight: total weight of the few texts relative to that of the public texts; 0 is the public
    texts alone (with a head, by fit_kl), inf the few alone. "auto" tries both and weights between,
    and takes the best on the few texts, by K-fold cross-validation.
    penalty: relative to the mean variance of the source, or "auto": chosen in the same way.
    No label is used.

    Raises MismatchError when states or head do not belong together, InputError for fewer than
    8 few texts, and for a weight, a penalty or folds that cannot be used.
    """
    public = as_states(public_source), as_states(public_target)
    few = as_states(few_source), as_states(few_target)
    public[0].require_same_texts(public[1])
    few[0].require_same_texts(few[1])
    for many, some, side in zip(public, few, ("source", "target"), strict=True):
        many.space.require(some.space, f"the few texts' {side} states are not like the public ones")
    if (n := len(np.unique(few[0].groups))) < FEWEST:
        problem = "the few texts are too few to choose anything by"
        raise InputError(problem, got=str(n), expected=f"{FEWEST} or more")
    inputs = FewShotInputs(
        public, few, weighting.usable_weight(weight), usable_penalty(penalty), folds, seed
    )
    if iterations < 1:
        raise InputError("the number of iterations is not usable", got=str(iterations))
    if head is None:
        affine, report = _fit_least_squares(inputs)
    else:
        head.space.require(few[1].space, "this head does not read the target's states")
        affine, report = _fit_for_head(inputs, head, iterations, teaching, watch)
    card = {
        **report.as_card(),
        "text_digest": public[0].text_digest or public[1].text_digest,
        "few_text_digest": few[0].text_digest or few[1].text_digest,
    }
    if head is not None:
        card["head"] = head_name(head)
    weight32, bias32 = affine.weight.astype(np.float32), affine.bias.astype(np.float32)
    return AffineMap(weight32, bias32, public[0].space, public[1].space, card), report


StatePair = tuple[HiddenStates, HiddenStates]


@dataclass(frozen=True, eq=False)
class FewShotInputs:
    """States of both sets, source and target each, and the options of the cross-validation."""

    public: StatePair
    few: StatePair
    weights: tuple[float, ...]
    penalty: float | None  # None: chosen by cross-validation
    folds: int
    seed: int

    def report(
        self,
        objective: str,
        tried: list[FewShotTrial],
        head: Head | None = None,
        teaching: Teaching | None = None,
    ) -> FewReport:
        best, single = lowest(tried), {PUBLIC_ONLY: "public", FEW_ONLY: "few"}
        losses: dict[str, Any] = {}
        for side in ("public", "few", "both"):
            trials = [t for t in tried if single.get(t.weight, "both") == side]
            losses[f"{side}_loss"] = lowest(trials).loss if trials else None
            losses[f"{side}_error"] = lowest(trials).error if trials else None
        several = len({t.weight for t in tried}) > 1
        warnings = not_new(self.few[0], "what held-out texts tell")
        if several and best.weight in single:
            warnings = (NO_BETTER_MAP[best.weight], *warnings)
        return FewReport(
            objective=objective,
            few_weight=best.weight,
            penalty=best.penalty,
            start_penalty=None if np.isnan(best.start_penalty) else best.start_penalty,
            n_public=len(self.public[0]),
            n_few=len(self.few[0]),
            folds=self.folds,
            d_source=self.few[0].space.dim,
            d_target=self.few[1].space.dim,
            n_outputs=None if head is None else head.n_outputs,
            temperature=None if teaching is None else teaching.temperature,
            truth=None if teaching is None else teaching.truth,
            loss=best.loss,
            loss_error=best.error,
            warnings=warnings,
            curve=tuple((t.weight, t.start_penalty, t.penalty, t.loss) for t in tried),
            **losses,
        )


def _fit_least_squares(inputs: FewShotInputs) -> tuple[AffineMap, FewReport]:
    (px, py), (x, y) = inputs.public, inputs.few
    public = measure(px.states, py.states)
    few = folded(x.states, y.states, inputs.folds, x.groups, inputs.seed)
    penalties = PENALTIES if inputs.penalty is None else np.array([inputs.penalty])
    tried = list(weighting.least_squares_trials(public, few, inputs.weights, penalties))
    best = lowest(tried)
    basis = weighting.merged_spectrum(public, few.total, best.weight)
    if not basis.values[-1] > 0:
        raise InputError("the source states are all the same, so no map can be fitted")
    return AffineMap(*ridge(basis, best.penalty)), inputs.report("least-squares", tried)


def _plainer(
    inputs: FewShotInputs, problem: head_aware.FewShotProblem, best: FewShotTrial
) -> tuple[AffineMap, FewReport] | None:
    """Least squares, where few texts an output make more of a classifier's choices with them.

    More by a standard error of the difference on the held-out few texts.
    """
    n, chosen = len(problem.data), best.agreement
    if np.isnan(chosen) or n >= FEW_AN_OUTPUT * len(problem.softmax.factor):
        return None
    affine, report = _fit_least_squares(inputs)
    squares = problem.agreement_of_squares(report.few_weight, report.penalty)
    if squares - chosen <= np.sqrt((squares * (1 - squares) + chosen * (1 - chosen)) / n):
        return None
    text = (f"least squares: of the head's choices on held-out few texts they keep {squares:.3f}, "
            f"a fit for the head {chosen:.3f}; more texts may change that")  # fmt: skip
    return affine, replace(report, warnings=(*report.warnings, text))


def _fit_for_head(
    inputs: FewShotInputs,
    head: Head,
    iterations: int,
    teaching: Teaching | None,
    watch: Watch | None,
) -> tuple[AffineMap, FewReport]:
    (px, py), (x, y) = inputs.public, inputs.few
    teaching = validation.usable_teaching(teaching, y, head)
    softmax = reduce_head(head)
    next_token = validation.next_token_outputs(y, head, teaching)
    data, curvature = distillation_data(
        softmax, x.states, y.states, teaching=teaching, next_token=next_token
    )
    classifier = validation.is_classifier(y, head)
    problem = head_aware.FewShotProblem(
        softmax=softmax,
        data=data,
        held_out=head_aware.held_out_divergence(softmax, data, y.states, classifier=classifier),
        curvature=curvature,
        public=measure(px.states, py.states),
        moments=folded(x.states, y.states, inputs.folds, x.groups, inputs.seed),
        index=fold_index(x.groups, inputs.folds, inputs.seed),
        groups=x.groups,
        watch=watch or (lambda _: None),
    )
    tried, alone, given = [], None, inputs.penalty
    if PUBLIC_ONLY in inputs.weights:
        alone, found = fit_kl(
            px,
            py,
            head,
            penalty="auto" if given is None else given,
            iterations=iterations,
            seed=inputs.seed,
            watch=watch,
            teaching=teaching,
        )
        tried.append(head_aware.score_public_map(problem, alone, found.penalty))
    if both := tuple(w for w in inputs.weights if w != PUBLIC_ONLY):
        penalties = head_aware.PENALTIES if given is None else (given,)
        tried += head_aware.trials(problem, both, penalties)
    best = lowest(tried)
    if inputs.penalty is None and (plain := _plainer(inputs, problem, best)):
        return plain
    report = inputs.report("kl", tried, head, teaching)
    if best.weight == PUBLIC_ONLY and alone is not None:
        return alone, report
    return head_aware.refine_few_shot(problem, best, iterations), report
