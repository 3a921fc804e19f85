"""Save and load hidden states, affine maps and heads. docs/FORMAT.md, section 1."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import ROWS, HiddenStates
from linalign_lite.core.space import Space
from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.npz import DEFAULT_CAP, AnyArray, load_npz, save_npz
from linalign_lite.version import __version__

VERSION = 1
MAPPED = 512 << 20  # bytes of a head's file above which its weight stays there

_FLOATS = ("<f2", "<f4", "<f8")
_PAIR = {"weight": (_FLOATS, 2), "bias": (_FLOATS, 1)}
_STATES = {
    "states": (("<f2", "<f4"), 2),
    "label_ids": (("<i4",), 1),
    "text_index": (("<i4",), 1),
    "char_end": (("<i4",), 1),
    "next_token": (("<i4",), 1),
}
_INT_FIELDS = ("n_texts", "n_cut", "max_length")


def load_states(path: PathLike, *, cap: int = DEFAULT_CAP) -> HiddenStates:
    """Read a `.states.npz`. Raises FormatError, or InputError when it is not there."""
    arrays, card = load_npz(path, "linalign-states", VERSION, _STATES, cap=cap, checked=("states",))
    _require(path, arrays, ("states",))
    with _named(path):
        return HiddenStates(
            states=arrays["states"],
            space=Space.parse(card.get("space")),
            text_digest=_typed(path, card, "text_digest", str),
            labels=tuple(_strings(path, card, "labels")),
            **{name: _typed(path, card, name, int) for name in _INT_FIELDS},
            **{name: arrays.get(name) for name in ROWS},  # type: ignore[arg-type]
        )


def load_map(path: PathLike, *, cap: int = DEFAULT_CAP) -> AffineMap:
    """Read a `.map.npz`. Raises FormatError, or InputError when it is not there."""
    arrays, card = load_npz(path, "linalign-map", VERSION, _PAIR, cap=cap)
    _require(path, arrays, ("weight", "bias"))
    with _named(path):
        return AffineMap(
            arrays["weight"],
            arrays["bias"],
            Space.parse(card.get("source")),
            Space.parse(card.get("target")),
            _typed(path, card, "info", dict),
        )


def load_head(path: PathLike, *, cap: int = DEFAULT_CAP, mapped: bool | None = None) -> Head:
    """Read a `.head.npz`. Raises FormatError, or InputError when it is not there.

    mapped: leave the weight in the file, mapped into memory; None: when the file is large.
    """
    if mapped is None:
        mapped = Path(path).is_file() and Path(path).stat().st_size > MAPPED
    members = ("weight",) if mapped else ()
    arrays, card = load_npz(path, "linalign-head", VERSION, _PAIR, cap=cap, mapped=members)
    _require(path, arrays, ("weight", "bias"))
    softcap = card.get("softcap")
    if softcap is not None and (type(softcap) not in {int, float} or not abs(softcap) < 1e30):
        raise FormatError(f"{path}: softcap is not a number that can be used")
    with _named(path):
        return Head(
            arrays["weight"],
            arrays["bias"],
            tuple(_strings(path, card, "labels")),
            Space.parse(card.get("space")),
            None if softcap is None else float(softcap),
            _typed(path, card, "info", dict),
        )


def save_states(path: PathLike, states: HiddenStates) -> None:
    """Write a `.states.npz`, whole or not at all."""
    arrays: dict[str, AnyArray] = {"states": states.states}
    for name in ROWS:
        rows = getattr(states, name)
        if rows is not None:
            arrays[name] = np.asarray(rows, dtype="<i4")
    card = {
        "space": dataclasses.asdict(states.space),
        "text_digest": states.text_digest,
        "labels": list(states.labels),
        "library": __version__,
        **{name: getattr(states, name) for name in _INT_FIELDS},
    }
    save_npz(path, "linalign-states", VERSION, arrays, card)


def save_map(path: PathLike, affine: AffineMap) -> None:
    """Write a `.map.npz`, whole or not at all."""
    card = {
        "source": dataclasses.asdict(affine.source),
        "target": dataclasses.asdict(affine.target),
        "info": {**affine.card, "library": __version__},
    }
    save_npz(path, "linalign-map", VERSION, _pair(affine), card)


def save_head(path: PathLike, head: Head) -> None:
    """Write a `.head.npz`, whole or not at all."""
    card = {
        "space": dataclasses.asdict(head.space),
        "labels": list(head.labels),
        "softcap": head.softcap,
        "info": {**head.card, "library": __version__},
    }
    save_npz(path, "linalign-head", VERSION, _pair(head), card)


def _pair(thing: AffineMap | Head) -> dict[str, AnyArray]:
    dtype = np.result_type(thing.weight.dtype, thing.bias.dtype).newbyteorder("<")
    return {"weight": thing.weight.astype(dtype), "bias": thing.bias.astype(dtype)}


@contextlib.contextmanager
def _named(path: PathLike) -> Iterator[None]:
    """What the data classes find wrong becomes a FormatError that names the file."""
    try:
        yield
    except InputError as e:
        raise FormatError(f"{path}: {e}") from e


def _require(path: PathLike, arrays: Mapping[str, AnyArray], names: tuple[str, ...]) -> None:
    for name in names:
        if name not in arrays:
            raise FormatError(f"{path} has no member {name!r}")


def _typed(path: PathLike, card: Mapping[str, Any], name: str, kind: type) -> Any:
    value: Any = card.get(name)
    usable = type(value) is kind
    if not usable or (kind is int and value < 0):
        raise FormatError(
            f"{path}: the card's {name!r} is not usable",
            got=type(value).__name__,
            expected=kind.__name__,
        )
    return value


def _strings(path: PathLike, card: Mapping[str, Any], name: str) -> list[str]:
    values = card.get(name)
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise FormatError(f"{path}: the card's {name!r} is not a list of strings")
    return values
