"""Fit a detector on in-distribution states. Nothing here ever sees an outlying one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import InputError
from linalign_lite.heads.evaluation import true_outputs
from linalign_lite.heads.ood.covariance import class_means, spread_about, whitening
from linalign_lite.heads.ood.detector import TPR, Detector
from linalign_lite.heads.ood.detectors import (
    Cosine,
    Mahalanobis,
    Neighbours,
    Rule,
    ScoreRule,
    VirtualLogit,
)
from linalign_lite.heads.ood.nearest_neighbours import unit
from linalign_lite.heads.ood.scores import SCORE_METHODS, calibrated_temperature, usable_temperature

K = 2  # docs/DESIGN.md, "Detecting what is out of distribution", has how the defaults were chosen
BANK = 20_000
PRINCIPAL = 8  # ViM keeps one in so many of the directions that vary
RANK = 1e-12  # ViM: a direction with less than this share of the largest second moment is left out
NEEDS_HEAD = (*SCORE_METHODS, "vim")
Ids = npt.NDArray[np.intp]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Data:
    """What the fits share: states, the class of each row (None: not known), head, settings."""

    states: Array  # shape: (n, d)
    ids: Ids | None  # shape: (n,)
    classes: int
    head: Head | None
    temperature: float
    k: int
    components: int | None
    bank: int
    shrinkage: float | None
    seed: int


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
    without labels, what ``head`` says; without either, all states are one class, which knn,
    whitened-knn and mahalanobis alone can work with.

    validation: in-distribution states, not those fitted on, that set the threshold which keeps a
    share ``tpr`` of them (detector.threshold_for). Without it the detector has no threshold.
    temperature (energy, msp): T, or "auto": 1 for msp; for energy the one that calibrates the head
    on the labels of ``validation``, else of ``states``, and 1 where the head knows none of them.
    k: the neighbour that counts. bank: at most so many states are kept, drawn with ``seed``.
    components: ViM's principal directions; by default an eighth of those that vary.
    shrinkage: 0 to 1, or "auto": Ledoit-Wolf's.

    Raises InputError for a method that is not known or lacks its head or labels, MismatchError when
    head, states and validation are not of the same space.
    """
    if method not in METHODS:
        raise InputError("unknown method", got=method, expected=", ".join(METHODS))
    if method in NEEDS_HEAD and head is None:
        raise InputError(f"{method} reads a head's scores", expected="a head")
    if head is not None:
        head.space.require(states.space, "this head does not read these states")
    if validation is not None:
        states.space.require(validation.space, "the validation states are of another space")
    ids, classes, source = _classes(states, head)
    data = _Data(
        states.states,
        ids,
        classes,
        head,
        _temperature(temperature, method, head, (validation, states)),
        _whole("the number of neighbours", k),
        None if components is None else _whole("the number of components", components),
        _whole("the size of the bank", bank),
        _shrinkage(shrinkage),
        seed,
    )
    rule, found = METHODS[method](data, method)
    card = {"n": len(states), "d": states.space.dim, "text_digest": states.text_digest, **found}
    if method not in NEEDS_HEAD:
        card |= {"classes": classes, "classes_from": source}
    labels = head.labels if isinstance(rule, ScoreRule) and head is not None else ()
    detector = Detector(rule, states.space, labels=labels, card=card)
    if validation is None:
        return detector
    return detector.with_threshold(detector.scores(validation), tpr)


def _score_rule(data: _Data, method: str) -> tuple[Rule, dict[str, Any]]:
    assert data.head is not None
    temperature = 1.0 if method == "max-logit" else data.temperature
    return ScoreRule(method, data.head.n_outputs, temperature, data.head), {}


def _mahalanobis(data: _Data, method: str) -> tuple[Rule, dict[str, Any]]:
    relative = method == "relative-mahalanobis"
    if relative:
        _require_classes(data, method)
    mean, centres, white, used = _whitened(data)
    if not relative:
        return Mahalanobis(mean, white, centres @ white.T), {"shrinkage": used}
    zeros = np.zeros(len(data.states), dtype=np.intp)
    back, share = whitening(spread_about(data.states, mean[None], zeros), data.shrinkage)
    found = {"shrinkage": used, "background_shrinkage": share}
    return Mahalanobis(mean, white, centres @ white.T, back), found


def _cosine(data: _Data, method: str) -> tuple[Rule, dict[str, Any]]:
    _require_classes(data, method)
    mean, centres, white, used = _whitened(data)
    directions = unit(centres @ white.T)
    directions = directions[directions.any(axis=1)]  # a class in the very middle has none
    return Cosine(mean, white, directions), {"shrinkage": used}


def _knn(data: _Data, method: str) -> tuple[Rule, dict[str, Any]]:
    some = _drawn(data)
    if method == "knn":
        rows = unit(some)
        return Neighbours(_bank(rows), data.k), {}
    mean, _, white, used = _whitened(data)
    rows = unit((some.astype(np.float64) - mean) @ white.T)
    return Neighbours(_bank(rows), data.k, mean, white), {"shrinkage": used}


def _vim(data: _Data, _: str) -> tuple[Rule, dict[str, Any]]:
    """Residual: the eigenvectors of Σ (z − m)(z − m)ᵀ/n but the largest ``components``.

    α = Σ maxₖ sₖ / Σ ‖R(z − m)‖ over the states. Wang et al. 2022, section 4.
    """
    head = data.head
    assert head is not None
    weight, bias = head.weight.astype(np.float64), head.bias.astype(np.float64)
    # singular values that are the rounding of float32 (a ridge head's scores add up to a constant)
    smallest = max(weight.shape) * float(np.finfo(np.float32).eps)
    mean = np.asarray(-np.linalg.lstsq(weight, bias, rcond=smallest)[0], dtype=np.float64)
    zeros = np.zeros(len(data.states), dtype=np.intp)
    values, vectors = np.linalg.eigh(spread_about(data.states, mean[None], zeros).covariance)
    real = vectors[:, values > RANK * values[-1]]  # rising
    count = max(1, real.shape[1] // PRINCIPAL) if data.components is None else data.components
    if not 1 <= count < real.shape[1]:
        raise InputError(
            "the number of components leaves no residual",
            got=str(count),
            expected=f"1 to {real.shape[1] - 1}",
        )
    residual = np.ascontiguousarray(real[:, : real.shape[1] - count].T)
    highest, left = 0.0, 0.0
    for start in range(0, len(data.states), 1024):
        rows = data.states[start : start + 1024].astype(np.float64)
        highest += float(head(rows).max(axis=1).sum())
        left += float(np.linalg.norm((rows - mean) @ residual.T, axis=1).sum())
    if not (left > 0 and highest > 0):
        raise InputError(
            "vim does not fit this head: its highest scores are not above 0 on the whole",
            hint="another method, or a head whose scores are",
        )
    return VirtualLogit(head, mean, residual, highest / left), {"components": count}


Fit = Callable[[_Data, str], tuple[Rule, dict[str, Any]]]
METHODS: dict[str, Fit] = {
    "energy": _score_rule,
    "msp": _score_rule,
    "max-logit": _score_rule,
    "mahalanobis": _mahalanobis,
    "relative-mahalanobis": _mahalanobis,
    "cosine": _cosine,
    "knn": _knn,
    "whitened-knn": _knn,
    "vim": _vim,
}


def _whitened(data: _Data) -> tuple[Float64, Float64, Float64, float]:
    """Mean of all, centres less that mean, whitening within classes, and its shrinkage."""
    ids = np.zeros(len(data.states), dtype=np.intp) if data.ids is None else data.ids
    centres = class_means(data.states, ids, data.classes)
    mean: Float64 = np.bincount(ids, minlength=data.classes) @ centres / len(ids)
    white, used = whitening(spread_about(data.states, centres, ids), data.shrinkage)
    return mean, centres - mean, white, used


def _classes(states: HiddenStates, head: Head | None) -> tuple[Ids | None, int, str]:
    """The class of each row, numbered without gaps; how many; where they come from."""
    if states.label_ids is not None:
        raw, source = states.label_ids.astype(np.intp), "labels"
    elif head is not None:
        raw, source = head.top(states.states, 1)[0][:, 0], "head"
    else:
        return None, 1, "none"
    present, ids = np.unique(raw, return_inverse=True)
    return ids, len(present), source


def _require_classes(data: _Data, method: str) -> None:
    if data.classes < 2:
        raise InputError(
            f"{method} needs states of two labels or more",
            got="one label" if data.ids is not None else "no labels",
            hint="label the states, give a head, or use mahalanobis or knn",
        )


def _drawn(data: _Data) -> Array:
    """At most ``bank`` of the states, in their order."""
    if len(data.states) <= data.bank:
        return data.states
    chosen = np.random.default_rng(data.seed).permutation(len(data.states))[: data.bank]
    return data.states[np.sort(chosen)]


def _bank(rows: Array) -> Array:
    kept = rows[rows.any(axis=1)].astype(np.float32)  # a state of length 0 has no direction
    if not len(kept):
        raise InputError("every state has length 0")
    return kept


def _temperature(
    value: float | str, method: str, head: Head | None, labelled: tuple[HiddenStates | None, ...]
) -> float:
    if value != "auto":
        return usable_temperature(_number("the temperature", value))
    if method != "energy" or head is None or not head.labels:
        return 1.0
    for states in labelled:
        if states is None or states.label_ids is None:
            continue
        truth = true_outputs(head, states)
        known = np.flatnonzero(truth >= 0)
        if known.size:
            return calibrated_temperature(head(states.states[known]), truth[known])
    return 1.0


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


def _whole(what: str, value: int) -> int:
    if value < 1:
        raise InputError(f"{what} is not usable", got=str(value), expected="1 or more")
    return int(value)
