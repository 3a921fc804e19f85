"""Fit a map from many public texts and few in-domain texts."""

from dataclasses import replace

import numpy as np

from linalign_lite.alignment.few_shot import head_aware, weighted_least_squares
from linalign_lite.alignment.few_shot.report import FewReport
from linalign_lite.alignment.few_shot.validation import held_out_divergence
from linalign_lite.alignment.few_shot.weighting import (
    FEW_ONLY,
    PUBLIC_ONLY,
    FewShotTrial,
    lowest,
    usable_weight,
)
from linalign_lite.alignment.kl.divergence_fit import ITERATIONS, fit_kl, head_name
from linalign_lite.alignment.kl.objective import Teaching, distillation_data, reduce_head
from linalign_lite.alignment.kl.optimizer import expand_map
from linalign_lite.alignment.kl.report import Watch
from linalign_lite.alignment.kl.validation import is_classifier, next_token_outputs, usable_teaching
from linalign_lite.alignment.moments import fold_index, folded, measure
from linalign_lite.alignment.ridge import PENALTIES, ridge, usable_penalty
from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates, as_states
from linalign_lite.errors import InputError

FEWEST = 8  # texts


def fit_with_few(
    public_source: HiddenStates | Array,
    public_target: HiddenStates | Array,
    few_source: HiddenStates | Array,
    few_target: HiddenStates | Array,
    *,
    head: Head | None = None,
    weight: float | str = "auto",
    penalty: float | str = "auto",
    folds: int = 5,
    seed: int = 0,
    iterations: int = ITERATIONS,
    teaching: Teaching | None = None,
    watch: Watch | None = None,
) -> tuple[AffineMap, FewReport]:
    """Fit an affine map from public texts and a few in-domain texts.

    Without a head: least squares on merged moments (few_shot.weighted_least_squares). With one:
    divergence on the few texts, penalised towards the least-squares map of both
    (few_shot.head_aware). public_source, few_source:
    (n, d_source); public_target, few_target: (n, d_target); row i of both sides the same text.
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
    _require_comparable(public, few)
    weights = usable_weight(weight)
    given = usable_penalty(penalty)
    if iterations < 1:
        raise InputError("the number of iterations is not usable", got=str(iterations))
    if head is None:
        affine, report = _fit_least_squares(public, few, weights, given, folds, seed)
    else:
        head.space.require(few[1].space, "this head does not read the target's states")
        affine, report = _fit_for_head(
            public,
            few,
            head,
            weights,
            given,
            folds=folds,
            seed=seed,
            iterations=iterations,
            teaching=teaching,
            watch=watch,
        )
    card = {
        **report.as_card(),
        "text_digest": public[0].text_digest or public[1].text_digest,
        "few_text_digest": few[0].text_digest or few[1].text_digest,
    }
    if head is not None:
        card["head"] = head_name(head)
    return replace(affine, card=card), report


StatePair = tuple[HiddenStates, HiddenStates]


def _require_comparable(public: StatePair, few: StatePair) -> None:
    """Require that both pairs have the same spaces, and that there are enough few texts."""
    for x, y in (public, few):
        x.require_same_texts(y)
    for many, some, side in zip(public, few, ("source", "target"), strict=True):
        many.space.require(some.space, f"the few texts' {side} states are not like the public ones")
    count = len(np.unique(few[0].groups))
    if count < FEWEST:
        raise InputError(
            "the few texts are too few to choose anything by",
            got=f"{count}",
            expected=f"{FEWEST} or more",
        )


def _fit_least_squares(
    public: StatePair, few: StatePair, weights: tuple[float, ...], given: float | None,
    folds: int, seed: int,
) -> tuple[AffineMap, FewReport]:  # fmt: skip
    (px, py), (x, y) = public, few
    many = measure(px.states, py.states)
    some = folded(x.states, y.states, folds, x.groups, seed)
    penalties = PENALTIES if given is None else np.array([given])
    tried = list(weighted_least_squares.trials(many, some, weights, penalties))
    best = lowest(tried)
    basis = weighted_least_squares.basis_of(many, some, best.weight)
    if not basis.values[-1] > 0:
        raise InputError("the source states are all the same, so no map can be fitted")
    parts = [p.astype(np.float32) for p in ridge(basis, best.penalty)]
    report = _report("least-squares", public, few, folds, tried, best)
    return AffineMap(parts[0], parts[1], px.space, py.space), report


def _fit_for_head(
    public: StatePair,
    few: StatePair,
    head: Head,
    weights: tuple[float, ...],
    given: float | None,
    *,
    folds: int,
    seed: int,
    iterations: int,
    teaching: Teaching | None,
    watch: Watch | None,
) -> tuple[AffineMap, FewReport]:
    px, py = public
    taught = usable_teaching(teaching, few[1], head)
    job = _problem(public, few, head, taught, folds, seed, watch or (lambda _: None))
    tried, alone = [], None
    if PUBLIC_ONLY in weights:
        alone, found = fit_kl(px, py, head, penalty="auto" if given is None else given,
                              iterations=iterations, seed=seed, watch=watch,
                              teaching=taught)  # fmt: skip
        tried.append(head_aware.score_map(job, alone, PUBLIC_ONLY, found.penalty))
    both = tuple(w for w in weights if w != PUBLIC_ONLY)
    if both:
        tried += head_aware.trials(job, both, head_aware.PENALTIES if given is None else (given,))
    best = lowest(tried)
    report = _report("kl", public, few, folds, tried, best, outputs=head.n_outputs, taught=taught)
    if best.weight == PUBLIC_ONLY and alone is not None:
        return alone, report
    start, origin, end = head_aware.refine_few_shot(job, best, iterations)
    parts = [p.astype(np.float32) for p in expand_map(job.softmax, start, origin, end)]
    return AffineMap(parts[0], parts[1], px.space, py.space), report


def _problem(
    public: StatePair,
    few: StatePair,
    head: Head,
    taught: Teaching,
    folds: int,
    seed: int,
    watch: Watch,
) -> head_aware.FewShotProblem:
    (px, py), (x, y) = public, few
    softmax = reduce_head(head)
    following = next_token_outputs(y, head) if taught.truth else None
    data, curvature = distillation_data(
        softmax, x.states, y.states, teaching=taught, following=following
    )
    return head_aware.FewShotProblem(
        softmax=softmax,
        data=data,
        judge=held_out_divergence(softmax, data, y.states, classifier=is_classifier(y, head)),
        curvature=curvature,
        public=measure(px.states, py.states),
        moments=folded(x.states, y.states, folds, x.groups, seed),
        index=fold_index(x.groups, folds, seed),
        groups=x.groups,
        watch=watch,
    )


def _report(
    objective: str,
    public: StatePair,
    few: StatePair,
    folds: int,
    tried: list[FewShotTrial],
    best: FewShotTrial,
    *,
    outputs: int | None = None,
    taught: Teaching | None = None,
) -> FewReport:
    alone = _best(tried, PUBLIC_ONLY, PUBLIC_ONLY), _best(tried, FEW_ONLY, FEW_ONLY)
    both = _best(tried, np.nextafter(PUBLIC_ONLY, 1), np.finfo(float).max)
    return FewReport(
        objective=objective,
        few_weight=best.weight,
        penalty=best.penalty,
        start_penalty=None if np.isnan(best.start_penalty) else best.start_penalty,
        n_public=len(public[0]),
        n_few=len(few[0]),
        folds=folds,
        d_source=few[0].space.dim,
        d_target=few[1].space.dim,
        n_outputs=outputs,
        temperature=None if taught is None else taught.temperature,
        truth=None if taught is None else taught.truth,
        loss=best.loss,
        loss_error=best.error,
        public_loss=alone[0][0],
        public_error=alone[0][1],
        few_loss=alone[1][0],
        few_error=alone[1][1],
        both_loss=both[0],
        both_error=both[1],
        warnings=_warnings(best, len({t.weight for t in tried})),
        curve=tuple((t.weight, t.start_penalty, t.penalty, t.loss) for t in tried),
    )


def _best(
    tried: list[FewShotTrial], least: float, most: float
) -> tuple[float | None, float | None]:
    """Return loss and error of the best trial in a range of weights, None without a trial."""
    mine = [t for t in tried if least <= t.weight <= most]
    if not mine:
        return None, None
    best = lowest(mine)
    return best.loss, best.error


def _warnings(best: FewShotTrial, weights: int) -> tuple[str, ...]:
    if weights > 1 and best.weight == PUBLIC_ONLY:
        return ("the few texts made no map better than that of the public texts alone",)
    if weights > 1 and best.weight == FEW_ONLY:
        return ("the public texts made no map better than that of the few alone",)
    return ()
