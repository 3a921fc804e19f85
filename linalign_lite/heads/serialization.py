"""Save and load any of the `.npz` files: states, maps, heads and detectors."""

from __future__ import annotations

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.serialization import (
    load_head,
    load_map,
    load_states,
    save_head,
    save_map,
    save_states,
)
from linalign_lite.errors import FormatError, InputError
from linalign_lite.heads.ood.detector import Detector
from linalign_lite.heads.ood.serialization import load_detector, save_detector
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.npz import DEFAULT_CAP, peek_npz


def save(path: PathLike, thing: HiddenStates | AffineMap | Head | Detector) -> None:
    """Write ``thing`` to ``path``, whole or not at all. InputError for any other type."""
    if isinstance(thing, HiddenStates):
        save_states(path, thing)
    elif isinstance(thing, AffineMap):
        save_map(path, thing)
    elif isinstance(thing, Head):
        save_head(path, thing)
    elif isinstance(thing, Detector):
        save_detector(path, thing)
    else:
        raise InputError(
            "only states, maps, heads and detectors are saved", got=type(thing).__name__
        )


def load(path: PathLike, *, cap: int = DEFAULT_CAP) -> HiddenStates | AffineMap | Head | Detector:
    """Read a `.npz` file of any kind. Raises FormatError, or InputError when it is not there.

    cap: bytes that the members may have together.
    """
    kind = peek_npz(path).get("format")
    if kind == "linalign-states":
        return load_states(path, cap=cap)
    if kind == "linalign-map":
        return load_map(path, cap=cap)
    if kind == "linalign-head":
        return load_head(path, cap=cap)
    if kind == "linalign-ood":
        return load_detector(path, cap=cap)
    raise FormatError(f"{path} is not one of our files", got=str(kind)[:60])
