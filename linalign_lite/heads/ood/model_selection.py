"""Compare detectors without any outlying text: labels that were left out stand in for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.moments import fold_index
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.metrics import auroc
from linalign_lite.errors import InputError
from linalign_lite.heads.ood.detector_training import fit_detector
from linalign_lite.heads.ood.detectors import METHODS, NEEDS_HEAD

Candidates = Mapping[str, Mapping[str, Any]]
# what is chosen among by default: a head has seen the labels that are left out
USUAL: Candidates = {m: {"method": m} for m in METHODS if m not in NEEDS_HEAD}
FOLDS = 5
HELD_OUT = 5  # one text in so many judges, where there are no validation states


@dataclass(frozen=True)
class DetectorComparison:
    """Mean AUROC of each candidate over the folds, and the name of the best."""

    best: str
    auroc: Mapping[str, float]
    folds: int


def compare_detectors(
    states: HiddenStates,
    candidates: Candidates = USUAL,
    *,
    validation: HiddenStates | None = None,
    head: Head | None = None,
    folds: int = FOLDS,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> DetectorComparison:
    """Which detector best tells labels that it was not fitted on from those that it was?

    The labels are dealt into folds. For each, every candidate (options of fit_detector, by name) is
    fitted on the states of the other labels, and judged on ``validation``, or on a fifth of the
    states that is kept back: texts of the labels left out are the outlying. A head loses its
    outputs for them, but has seen them in training: figures of candidates with a head are too good
    to be compared with those of the others.

    Raises InputError when there are fewer than three labels, or a fold has no text to judge on.
    """
    if states.label_ids is None or len(np.unique(states.label_ids)) < 3:
        raise InputError(
            "comparing detectors needs states of three labels or more", hint="name a method instead"
        )
    train, judging = _parts(states, validation, seed)
    names = np.array(states.labels)[np.unique(states.label_ids)]
    folds = min(folds, len(names) // 2 + len(names) % 2)  # two labels stay, or more
    dealt = dict(zip(names.tolist(), fold_index(np.arange(len(names)), folds, seed), strict=True))
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for fold in range(folds):
        left_out = {name for name, k in dealt.items() if k == fold}
        kept = train.rows(_where(train, left_out, inside=False))
        low, high = (
            judging.rows(_where(judging, left_out, inside=inside)) for inside in (False, True)
        )
        for name, options in candidates.items():
            if progress:
                progress(f"fold {fold + 1} of {folds}: {name}")
            cut = None if head is None else _without(head, left_out)
            detector = fit_detector(kept, head=cut, seed=seed, **options)
            found[name].append(auroc(detector.scores(low), detector.scores(high)))
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return DetectorComparison(max(means, key=lambda name: means[name]), means, folds)


def _parts(
    states: HiddenStates, validation: HiddenStates | None, seed: int
) -> tuple[HiddenStates, HiddenStates]:
    """What candidates are fitted on, and what judges them."""
    if validation is None:
        index = fold_index(np.arange(len(states)), min(HELD_OUT, len(states)), seed)
        return states.rows(np.flatnonzero(index)), states.rows(np.flatnonzero(index == 0))
    states.space.require(validation.space, "the validation states are of another space")
    if validation.label_ids is None:
        raise InputError("the validation states have no labels", expected="the labels compared")
    return states, validation


def _where(states: HiddenStates, names: set[str], *, inside: bool) -> npt.NDArray[np.intp]:
    """Rows whose label is among ``names``, or is not."""
    assert states.label_ids is not None
    among = np.array([name in names for name in states.labels], dtype=bool)[states.label_ids]
    rows = np.flatnonzero(among == inside)
    if not rows.size:
        raise InputError(
            "a fold has no text to judge on", hint="fewer folds, or more texts of each label"
        )
    return rows


def _without(head: Head, names: set[str]) -> Head:
    """The head without its outputs of these labels."""
    rows = [i for i, name in enumerate(head.labels) if name not in names]
    labels = tuple(head.labels[i] for i in rows)
    return dataclasses.replace(head, weight=head.weight[rows], bias=head.bias[rows], labels=labels)
