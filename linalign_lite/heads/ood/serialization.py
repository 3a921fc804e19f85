"""Detectors on disk: `*.ood.npz`. docs/FORMAT.md, section 1."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from linalign_lite.core.head import Head
from linalign_lite.core.space import Space
from linalign_lite.errors import FormatError, InputError
from linalign_lite.heads.ood.detector import Detector
from linalign_lite.heads.ood.detectors import (
    Cosine,
    Mahalanobis,
    Neighbours,
    Rule,
    ScoreRule,
    VirtualLogit,
)
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.npz import DEFAULT_CAP, AnyArray, load_npz, save_npz
from linalign_lite.version import __version__

KIND, VERSION = "linalign-ood", 1
_FLOATS = ("<f4", "<f8")
_MATRICES = ("weight", "whitening", "centres", "background", "bank", "residual")
_SCHEMA = {
    **dict.fromkeys(_MATRICES, (_FLOATS, 2)),
    **dict.fromkeys(("bias", "mean"), (_FLOATS, 1)),
}
Arrays = Mapping[str, AnyArray]
Settings = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class _Form:
    """What a method's file holds, and how its rule is made of that."""

    members: tuple[str, ...]
    settings: tuple[str, ...]
    build: Callable[[Arrays, Settings, Head | None], Rule]


def _scores_of(method: str) -> _Form:
    return _Form(
        ("weight", "bias"),
        ("n_outputs", "temperature"),
        lambda _, s, head: ScoreRule(method, int(s["n_outputs"]), s["temperature"], head),
    )


_WHITE = ("mean", "whitening", "centres")
_FORMS = {
    "energy": _scores_of("energy"),
    "msp": _scores_of("msp"),
    "max-logit": _scores_of("max-logit"),
    "mahalanobis": _Form(_WHITE, (), lambda a, _s, _h: Mahalanobis(*(a[n] for n in _WHITE))),
    "relative-mahalanobis": _Form(
        (*_WHITE, "background"),
        (),
        lambda a, _s, _h: Mahalanobis(*(a[n] for n in (*_WHITE, "background"))),
    ),
    "cosine": _Form(_WHITE, (), lambda a, _s, _h: Cosine(*(a[n] for n in _WHITE))),
    "knn": _Form(("bank",), ("k",), lambda a, s, _h: Neighbours(a["bank"], int(s["k"]))),
    "whitened-knn": _Form(
        ("mean", "whitening", "bank"),
        ("k",),
        lambda a, s, _h: Neighbours(a["bank"], int(s["k"]), a["mean"], a["whitening"]),
    ),
    "vim": _Form(
        ("weight", "bias", "mean", "residual"),
        ("alpha", "n_outputs"),
        lambda a, s, head: VirtualLogit(_given(head), a["mean"], a["residual"], s["alpha"]),
    ),
}
_WHOLE = ("k", "n_outputs")
_HEADLESS = ("energy", "msp", "max-logit")  # whose weight and bias may be missing, both together


def save_detector(path: PathLike, detector: Detector) -> None:
    """Write a detector, whole or not at all."""
    rule, form = detector.rule, _FORMS[detector.method]
    head = getattr(rule, "head", None)
    arrays: dict[str, AnyArray] = {}
    for name in form.members:
        owner = head if name in {"weight", "bias"} else rule
        if owner is not None:
            arrays[name] = _stored(getattr(owner, name))
    settings = {name: getattr(rule, name, getattr(head, name, None)) for name in form.settings}
    card = {
        "method": detector.method,
        "space": dataclasses.asdict(detector.space),
        "labels": list(detector.labels),
        "softcap": None if head is None else head.softcap,
        "threshold": detector.threshold,
        "tpr": detector.tpr,
        "settings": settings,
        "info": {**detector.card, "library": __version__},
    }
    save_npz(path, KIND, VERSION, arrays, card)


def load_detector(path: PathLike, *, cap: int = DEFAULT_CAP) -> Detector:
    """Read a `.ood.npz`. Raises FormatError, or InputError when it is not there."""
    arrays, card = load_npz(path, KIND, VERSION, _SCHEMA, cap=cap)
    method = card.get("method")
    if not isinstance(method, str) or method not in _FORMS:
        raise FormatError(
            f"{path} is a detector of an unknown method",
            got=str(method)[:40],
            expected=", ".join(_FORMS),
        )
    form = _FORMS[method]
    bare = method in _HEADLESS and not arrays
    if not bare and set(arrays) != set(form.members):
        raise FormatError(
            f"{path} does not hold what a detector of this method does",
            got=", ".join(sorted(arrays)) or "nothing",
            expected=", ".join(form.members),
        )
    try:
        space = Space.parse(card.get("space"))
        labels = _labels(card.get("labels"))
        softcap = _number(card.get("softcap"), "softcap")
        head = None
        if "weight" in arrays:
            head = Head(arrays["weight"], arrays["bias"], labels, space, softcap)
        settings = _settings(card.get("settings"), form.settings)
        if head is not None and settings["n_outputs"] != head.n_outputs:
            raise InputError("n_outputs is not what the weight has")
        rule = form.build(arrays, settings, head)
        info = card.get("info")
        if not isinstance(info, dict):
            raise InputError("the card's 'info' is not usable")
        threshold, tpr = (_number(card.get(name), name) for name in ("threshold", "tpr"))
        return Detector(rule, space, threshold, tpr, labels, info)
    except InputError as e:
        raise FormatError(f"{path}: {e}") from e


def _stored(array: AnyArray) -> AnyArray:
    """As float32 or float64, little-endian."""
    wide = np.result_type(array.dtype, np.float32)
    return np.asarray(array, dtype=wide.newbyteorder("<"))


def _given(head: Head | None) -> Head:
    if head is None:
        raise InputError("a detector of this method needs a head")
    return head


def _labels(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise InputError("the card's 'labels' is not a list of strings")
    return tuple(value)


def _settings(value: Any, names: tuple[str, ...]) -> dict[str, float]:
    if not isinstance(value, dict) or set(value) != set(names):
        raise InputError("the card's 'settings' are not this method's", expected=", ".join(names))
    found = {}
    for name in names:
        number = _number(value[name], name)
        if number is None or (name in _WHOLE and type(value[name]) is not int):
            raise InputError(f"the setting {name!r} is not usable")
        found[name] = number
    return found


def _number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if type(value) not in {int, float} or not abs(value) < 1e300:
        raise InputError(f"the card's {name!r} is not a number that can be used")
    return float(value)
