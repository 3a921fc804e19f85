"""Compare detectors without outlying texts: some labels are held out in their place."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.moments import fold_index
from linalign_lite.core.affine_map import Array
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates, as_states
from linalign_lite.core.metrics import auroc
from linalign_lite.errors import InputError
from linalign_lite.heads.ood.detector_training import fit_detector
from linalign_lite.heads.ood.detectors import METHODS, NEEDS_HEAD

Candidates = Mapping[str, Mapping[str, Any]]
# default candidates: methods without a head, which was trained on the labels to hold out
USUAL: Candidates = {m: {"method": m} for m in METHODS if m not in NEEDS_HEAD}
FOLDS = 5
HELD_OUT = 5  # one in so many texts is held out, without validation states


@dataclass(frozen=True)
class DetectorComparison:
    """Mean AUROC of each candidate over the folds, and the name of the best."""

    best: str
    auroc: Mapping[str, float]
    folds: int


def compare_detectors(
    states: HiddenStates | Array,
    candidates: Candidates = USUAL,
    *,
    labels: npt.ArrayLike | None = None,
    validation: HiddenStates | Array | None = None,
    head: Head | None = None,
    folds: int = FOLDS,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> DetectorComparison:
    """Cross-validate detectors over labels, by how well they tell held-out labels from the others.

    labels: (n,), the label of each row; default: those of the states. The labels are split into
    folds. For each fold, every candidate (options of fit_detector, by name) is fitted on states of
    the other labels; AUROC is measured on ``validation``, or on a fifth of the states that is held
    out, with the fold's labels as the outlying class. A head loses its outputs for these labels but
    was trained on them: AUROC of candidates with a head is too high to compare with that of others.

    Raises InputError when there are fewer than three labels, or a fold has no text to evaluate on.
    """
    states = as_states(states, labels)
    if states.label_ids is None or len(np.unique(states.label_ids)) < 3:
        raise InputError("comparing detectors needs three labels or more", hint="name a method")
    train, test = _split(states, None if validation is None else as_states(validation), seed)
    names = np.array(states.labels)[np.unique(states.label_ids)]
    folds = min(folds, len(names) // 2 + len(names) % 2)  # at least two labels stay
    fold_of = dict(zip(names.tolist(), fold_index(np.arange(len(names)), folds, seed), strict=True))
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for fold in range(folds):
        left_out = {name for name, k in fold_of.items() if k == fold}
        kept = _of_labels(train, left_out, inside=False)
        low, high = (_of_labels(test, left_out, inside=inside) for inside in (False, True))
        reduced = None if head is None else _without_labels(head, left_out)
        for name, options in candidates.items():
            if progress:
                progress(f"fold {fold + 1} of {folds}: {name}")
            detector = fit_detector(kept, head=reduced, seed=seed, **options)
            found[name].append(auroc(detector.scores(low), detector.scores(high)))
    means = {name: float(np.mean(values)) for name, values in found.items()}
    return DetectorComparison(max(means, key=lambda name: means[name]), means, folds)


def _split(
    states: HiddenStates, validation: HiddenStates | None, seed: int
) -> tuple[HiddenStates, HiddenStates]:
    """States to fit candidates on, and states to evaluate them on."""
    if validation is None:
        index = fold_index(np.arange(len(states)), min(HELD_OUT, len(states)), seed)
        return states.rows(np.flatnonzero(index)), states.rows(np.flatnonzero(index == 0))
    states.space.require(validation.space, "the validation states are of another space")
    if validation.label_ids is None:
        raise InputError(
            "the validation states have no labels", expected="the labels compared",
            hint="HiddenStates(rows, labels=…) has both",
        )  # fmt: skip
    return states, validation


def _of_labels(states: HiddenStates, names: set[str], *, inside: bool) -> HiddenStates:
    """The rows whose label is among ``names``, or is not."""
    assert states.label_ids is not None
    among = np.array([name in names for name in states.labels], dtype=bool)[states.label_ids]
    rows = np.flatnonzero(among == inside)
    if not rows.size:
        raise InputError("a fold has no text to evaluate on", hint="fewer folds or more texts")
    return states.rows(rows)


def _without_labels(head: Head, names: set[str]) -> Head:
    rows = [i for i, name in enumerate(head.labels) if name not in names]
    labels = tuple(head.labels[i] for i in rows)
    return dataclasses.replace(head, weight=head.weight[rows], bias=head.bias[rows], labels=labels)
