"""Save and load detectors (`*.ood.npz`). docs/FORMAT.md, section 1."""

from dataclasses import dataclass, make_dataclass
from typing import Any

import numpy as np

from linalign_lite.core.head import Head
from linalign_lite.core.space import Label, Space
from linalign_lite.errors import FormatError
from linalign_lite.heads.ood.detector import Detector
from linalign_lite.heads.ood.detectors import RULES
from linalign_lite.heads.ood.detectors.logits import LogitRule
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.npz import DEFAULT_CAP, load_npz, save_npz
from linalign_lite.storage.schema import format_errors, parse, parse_known, plain
from linalign_lite.version import __version__

KIND, VERSION = "linalign-ood", 1
_FLOATS = ("<f4", "<f8")
_HEAD_ARRAYS = {"weight": 2, "bias": 1}
_SCHEMA = {
    name: (_FLOATS, dimensions)
    for rule in RULES.values()
    for name, dimensions in {**_HEAD_ARRAYS, **rule.arrays}.items()
}
_SETTINGS = {name: make_dataclass("Settings", r.settings.items()) for name, r in RULES.items()}


@dataclass(frozen=True)
class _Card:
    """The card's fields, but for the method."""

    space: Space
    labels: tuple[Label, ...]
    settings: dict[str, Any]
    info: dict[str, Any]
    softcap: float | None = None
    threshold: float | None = None
    tpr: float | None = None


def save_detector(path: PathLike, detector: Detector) -> None:
    """Write a detector, whole or not at all."""
    rule = detector.rule
    head: Head | None = getattr(rule, "head", None)
    arrays = {} if head is None else {name: getattr(head, name) for name in _HEAD_ARRAYS}
    arrays |= {name: getattr(rule, name) for name in rule.arrays}
    card = {
        "method": detector.method,
        "space": plain(detector.space),
        "labels": list(detector.labels),
        "softcap": None if head is None else head.softcap,
        "threshold": detector.threshold,
        "tpr": detector.tpr,
        "settings": {name: getattr(rule, name) for name in rule.settings},
        "info": {**detector.card, "library": __version__},
    }
    stored = {  # as float32 or float64, little-endian
        name: np.asarray(a, dtype=np.result_type(a.dtype, np.float32).newbyteorder("<"))
        for name, a in arrays.items()
    }
    save_npz(path, KIND, VERSION, stored, card)


def load_detector(path: PathLike, *, cap: int = DEFAULT_CAP) -> Detector:
    """Read a `.ood.npz`. Raises FormatError, or InputError when it is not there."""
    arrays, raw = load_npz(path, KIND, VERSION, _SCHEMA, cap=cap)
    method = raw.get("method")
    rule = RULES.get(method) if isinstance(method, str) else None
    if rule is None:
        raise FormatError(
            f"{path} is a detector of an unknown method",
            got=str(method)[:40],
            expected=", ".join(RULES),
        )
    without_head = issubclass(rule, LogitRule) and not arrays
    members = [*(_HEAD_ARRAYS if rule.needs_head else ()), *rule.arrays]
    if not without_head and set(arrays) != set(members):
        raise FormatError(
            f"{path} does not hold the arrays of a detector of this method",
            got=", ".join(sorted(arrays)) or "nothing",
            expected=", ".join(members),
        )
    with format_errors(path, "detector"):
        card = parse_known(_Card, raw, "card")
        settings = vars(parse(_SETTINGS[rule.method], card.settings, "card.settings"))
        head = None
        if "weight" in arrays:
            weight, bias = arrays.pop("weight"), arrays.pop("bias")
            head = Head(weight, bias, card.labels, card.space, card.softcap)
        built = rule.rebuild(arrays, settings, head)
        return Detector(built, card.space, card.threshold, card.tpr, card.labels, card.info)
