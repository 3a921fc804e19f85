"""Save and load hidden states, affine maps and heads. docs/FORMAT.md, section 1."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import ROWS, HiddenStates
from linalign_lite.core.space import Label, Space
from linalign_lite.errors import InputError
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.npz import DEFAULT_CAP, AnyArray, load_npz, save_npz
from linalign_lite.storage.schema import Range, format_errors, parse_known, plain
from linalign_lite.version import __version__

VERSION = 1
MAP = "linalign-map"
MAPPED = 512 << 20  # bytes of a head's file above which its weight stays there

_FLOATS = ("<f2", "<f4", "<f8")
_PAIR = {"weight": (_FLOATS, 2), "bias": (_FLOATS, 1)}
_STATES = {"states": (("<f2", "<f4"), 2), **dict.fromkeys(ROWS, (("<i4",), 1))}

Count = Annotated[int, Range(0, 1 << 63)]


@dataclass(frozen=True)
class _StatesCard:
    space: Space
    text_digest: str
    n_texts: Count
    n_cut: Count
    max_length: Count
    labels: tuple[Label, ...]


@dataclass(frozen=True)
class _MapCard:
    source: Space
    target: Space
    info: dict[str, Any]


@dataclass(frozen=True)
class _HeadCard:
    space: Space
    labels: tuple[Label, ...]
    softcap: Annotated[float, Range(-1e30, 1e30)] | None
    info: dict[str, Any]


def load_states(path: PathLike, *, cap: int = DEFAULT_CAP) -> HiddenStates:
    """Read a `.states.npz`. Raises FormatError, or InputError when it is not there."""
    required = ("states",)  # HiddenStates looks for NaN and infinities in it
    arrays, card = load_npz(
        path, "linalign-states", VERSION, _STATES, cap=cap, required=required, checked=required
    )
    with format_errors(path, "file of states"):
        found: dict[str, Any] = arrays | vars(parse_known(_StatesCard, card, "card"))
        if found["labels"] and "label_ids" not in arrays:  # they would be read as one a row
            raise InputError("it has labels without label_ids")
        return HiddenStates(**found)


def load_map(path: PathLike, *, cap: int = DEFAULT_CAP) -> AffineMap:
    """Read a `.map.npz`. Raises FormatError, or InputError when it is not there."""
    arrays, card = load_npz(path, MAP, VERSION, _PAIR, cap=cap, required=_PAIR)
    with format_errors(path, "map"):
        return map_of(**arrays, card=card)


def map_of(weight: AnyArray, bias: AnyArray, card: Mapping[str, Any]) -> AffineMap:
    """Make a map of its weights and its file's card. Raises InputError for a card not usable."""
    found = parse_known(_MapCard, card, "card")
    return AffineMap(weight, bias, found.source, found.target, found.info)


def load_head(path: PathLike, *, cap: int = DEFAULT_CAP, mapped: bool | None = None) -> Head:
    """Read a `.head.npz`. Raises FormatError, or InputError when it is not there.

    mapped: leave the weight in the file, mapped into memory; None: when the file is large.
    """
    if mapped is None:
        mapped = Path(path).is_file() and Path(path).stat().st_size > MAPPED
    members = ("weight",) if mapped else ()
    arrays, card = load_npz(
        path, "linalign-head", VERSION, _PAIR, cap=cap, required=_PAIR, mapped=members
    )
    with format_errors(path, "head"):
        found = parse_known(_HeadCard, card, "card")
        return Head(
            **arrays, labels=found.labels, space=found.space, softcap=found.softcap, card=found.info
        )


def save_states(path: PathLike, states: HiddenStates) -> None:
    """Write a `.states.npz`, whole or not at all."""
    columns = {name: rows for name in ROWS if (rows := getattr(states, name)) is not None}
    arrays = {"states": states.states}
    arrays |= {name: np.asarray(rows, dtype="<i4") for name, rows in columns.items()}
    names = ("text_digest", "labels", "n_texts", "n_cut", "max_length")
    card = {name: getattr(states, name) for name in names}
    card |= {"space": plain(states.space), "library": __version__}
    save_npz(path, "linalign-states", VERSION, arrays, card)


def save_map(path: PathLike, affine: AffineMap) -> None:
    """Write a `.map.npz`, whole or not at all."""
    save_npz(path, MAP, VERSION, _pair(affine), map_card(affine))


def map_card(affine: AffineMap) -> dict[str, Any]:
    """The card of a map's file."""
    return {
        "source": plain(affine.source),
        "target": plain(affine.target),
        "info": {**affine.card, "library": __version__},
    }


def save_head(path: PathLike, head: Head) -> None:
    """Write a `.head.npz`, whole or not at all."""
    card = {
        "space": plain(head.space),
        "labels": list(head.labels),
        "softcap": head.softcap,
        "info": {**head.card, "library": __version__},
    }
    save_npz(path, "linalign-head", VERSION, _pair(head), card)


def _pair(thing: AffineMap | Head) -> dict[str, AnyArray]:
    dtype = np.result_type(thing.weight.dtype, thing.bias.dtype).newbyteorder("<")
    pair = {"weight": thing.weight, "bias": thing.bias}
    return {name: array.astype(dtype, copy=False) for name, array in pair.items()}
