"""Fit a detector on in-distribution states; outlying states are never used."""

from __future__ import annotations

from typing import Annotated

import numpy.typing as npt

from linalign_lite.alignment.ridge import number_or_auto
from linalign_lite.core.affine_map import Array
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates, as_states
from linalign_lite.errors import InputError
from linalign_lite.heads.ood.detector import TPR, Detector
from linalign_lite.heads.ood.detectors import METHODS, RULES
from linalign_lite.heads.ood.detectors.base import FitData
from linalign_lite.heads.ood.detectors.logits import TEMPERATURE, LogitRule
from linalign_lite.storage.schema import Range, parse

K = 2  # docs/DESIGN.md, "Out-of-distribution detection", says how the defaults were chosen
BANK = 20_000


def fit_detector(
    states: HiddenStates | Array,
    labels: npt.ArrayLike | None = None,
    *,
    method: str = "mahalanobis",
    head: Head | None = None,
    validation: HiddenStates | Array | None = None,
    tpr: float = TPR,
    temperature: float | str = "auto",
    k: int = K,
    components: int | None = None,
    bank: int = BANK,
    shrinkage: float | str = "auto",
    seed: int = 0,
) -> Detector:
    """Fit a detector on in-distribution states (n, d).

    labels: (n,), the label of each row; default: those of the states.
    method: energy, msp, max-logit and vim read ``head``'s scores and need no labels; mahalanobis,
    relative-mahalanobis, cosine, knn and whitened-knn read states. Classes are the states' labels;
    without labels, the head's predictions. Without either, all states are one class, which only
    knn, whitened-knn and mahalanobis support.

    validation: in-distribution states, not those fitted on, that set the threshold which keeps a
    share ``tpr`` of them (detector.threshold_for). Without it the detector has no threshold.
    temperature (energy, msp): T, or "auto": 1 for msp; for energy the one that calibrates the head
    on the labels of ``validation``, else of ``states``, and 1 where the head has none of them.
    k: distance to the k-th nearest neighbour. bank: number of states kept at most, drawn with
    ``seed``. components: ViM's principal directions; by default an eighth of those that vary.
    shrinkage: 0 to 1, or "auto": Ledoit-Wolf's.

    Raises InputError for a method that is unknown or lacks its head or labels, MismatchError when
    head, states and validation are not of the same space.
    """
    states = as_states(states, labels)
    validation = None if validation is None else as_states(validation)
    rule = RULES.get(method)
    if rule is None:
        hint = "compare_detectors finds the best" if method == "auto" else ""
        raise InputError("unknown method", got=method, expected=", ".join(METHODS), hint=hint)
    if rule.needs_head and head is None:
        raise InputError(f"{method} reads a head's scores", expected="a head")
    if head is not None:
        head.space.require(states.space, "this head does not read these states")
    if validation is not None:
        states.space.require(validation.space, "the validation states are of another space")
    data = FitData(
        training=states,
        validation=validation,
        head=head,
        temperature=_auto_or(temperature, "the temperature", TEMPERATURE),
        k=_positive(k, "the number of neighbours"),
        components=None
        if components is None
        else _positive(components, "the number of components"),
        bank=_positive(bank, "the size of the bank"),
        shrinkage=_auto_or(shrinkage, "the shrinkage", Range(0, 1)),
        seed=seed,
    )
    if rule.needs_classes:
        data.require_classes(method)
    fitted, facts = rule.fit(data)
    card = {"n": len(states), "d": states.space.dim, "text_digest": states.text_digest, **facts}
    if not rule.needs_head:
        _, classes, source = data.classes
        card |= {"classes": classes, "classes_from": source}
    labels = head.labels if isinstance(fitted, LogitRule) and head is not None else ()
    detector = Detector(fitted, states.space, labels=labels, card=card)
    if validation is None:
        return detector
    return detector.with_threshold(detector.scores(validation), tpr)


def _positive(value: int, what: str) -> int:
    return int(parse(Annotated[int, Range(1, 1 << 53)], int(value), what))


def _auto_or(value: float | str, what: str, allowed: Range) -> float | None:
    return number_or_auto(value, what, allowed.allows, f"auto, or {allowed.expected}")
