"""Fit a detector on in-distribution states; outlying states are never used."""

from __future__ import annotations

from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import InputError
from linalign_lite.heads.ood.detector import TPR, Detector
from linalign_lite.heads.ood.detectors import METHODS, RULES
from linalign_lite.heads.ood.detectors.base import FitData
from linalign_lite.heads.ood.detectors.logits import LogitRule, usable_temperature

K = 2  # docs/DESIGN.md, "Out-of-distribution detection", says how the defaults were chosen
BANK = 20_000


def fit_detector(
    states: HiddenStates,
    *,
    method: str = "mahalanobis",
    head: Head | None = None,
    validation: HiddenStates | None = None,
    tpr: float = TPR,
    temperature: float | str = "auto",
    k: int = K,
    components: int | None = None,
    bank: int = BANK,
    shrinkage: float | str = "auto",
    seed: int = 0,
) -> Detector:
    """Fit a detector on in-distribution states (n, d).

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
    if method not in RULES:
        raise InputError("unknown method", got=method, expected=", ".join(METHODS))
    data = FitData(
        states,
        validation,
        head,
        _temperature(temperature),
        _positive("the number of neighbours", k),
        None if components is None else _positive("the number of components", components),
        _positive("the size of the bank", bank),
        _shrinkage(shrinkage),
        seed,
    )
    if head is not None:
        head.space.require(states.space, "this head does not read these states")
    if validation is not None:
        states.space.require(validation.space, "the validation states are of another space")
    rule, facts = RULES[method].fit(data)
    card = {"n": len(states), "d": states.space.dim, "text_digest": states.text_digest, **facts}
    if not rule.needs_head:
        card |= {"classes": data.classes.n, "classes_from": data.classes.source}
    labels = head.labels if isinstance(rule, LogitRule) and head is not None else ()
    detector = Detector(rule, states.space, labels=labels, card=card)
    if validation is None:
        return detector
    return detector.with_threshold(detector.scores(validation), tpr)


def _temperature(value: float | str) -> float | None:
    return None if value == "auto" else usable_temperature(_number("the temperature", value))


def _shrinkage(value: float | str) -> float | None:
    if value == "auto":
        return None
    share = _number("the shrinkage", value)
    if not 0 <= share <= 1:
        raise InputError("the shrinkage is not usable", got=str(value)[:40], expected="0 to 1")
    return share


def _number(what: str, value: float | str) -> float:
    try:
        return float(value)
    except ValueError as e:
        raise InputError(
            f"{what} is not usable", got=str(value)[:40], expected="auto, or a number"
        ) from e


def _positive(what: str, value: int) -> int:
    if value < 1:
        raise InputError(f"{what} is not usable", got=str(value), expected="1 or more")
    return int(value)
