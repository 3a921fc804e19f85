"""Save and load any of the `.npz` files: states, maps, heads and detectors."""

from collections.abc import Callable
from typing import Any

from linalign_lite.core import serialization as files
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import FormatError, InputError
from linalign_lite.heads.ood.detector import Detector
from linalign_lite.heads.ood.serialization import load_detector, save_detector
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.npz import DEFAULT_CAP, peek_npz

_KINDS: dict[str, tuple[type, Callable[..., Any], Callable[..., Any]]] = {
    "linalign-states": (HiddenStates, files.save_states, files.load_states),
    "linalign-map": (AffineMap, files.save_map, files.load_map),
    "linalign-head": (Head, files.save_head, files.load_head),
    "linalign-ood": (Detector, save_detector, load_detector),
}


def save(path: PathLike, thing: HiddenStates | AffineMap | Head | Detector) -> None:
    """Write ``thing`` to ``path``, whole or not at all. InputError for any other type."""
    for kind, save_kind, _ in _KINDS.values():
        if isinstance(thing, kind):
            save_kind(path, thing)
            return
    raise InputError("only states, maps, heads and detectors are saved", got=type(thing).__name__)


def load(path: PathLike, *, cap: int = DEFAULT_CAP) -> HiddenStates | AffineMap | Head | Detector:
    """Read a `.npz` file of any kind. Raises FormatError, or InputError when it is not there.

    cap: most bytes that the members may have together.
    """
    kind = peek_npz(path).get("format")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise FormatError(f"{path} is not a file of linalign-lite", got=str(kind)[:60])
    loaded: HiddenStates | AffineMap | Head | Detector = _KINDS[kind][2](path, cap=cap)
    return loaded
