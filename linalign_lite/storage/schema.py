"""Read JSON documents strictly: finite numbers only, and exactly the fields of a data class."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from functools import cache
from typing import Any, NoReturn

from linalign_lite.errors import InputError

MAX_NAME = 256


def strict_json(raw: bytes) -> Any:
    """JSON without NaN or infinities (1e999). ValueError or RecursionError if it is not."""
    return json.loads(raw.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # as 1e999 is not
        raise ValueError(f"{text[:20]} is too large")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def parse(kind: Any, raw: Any, where: str = "results") -> Any:
    """``raw`` (from JSON) as ``kind``: a row class, a tuple of such, or a plain value.

    Raises InputError that names the place.
    """
    if dataclasses.is_dataclass(kind):
        return _row(kind, raw, where)
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(raw, list):
            raise InputError(f"{where} is not a list", got=type(raw).__name__)
        kinds = [inside[0]] * len(raw) if inside[-1] is Ellipsis else list(inside)
        if len(kinds) != len(raw):
            raise InputError(f"{where} has another length", got=str(len(raw)))
        return tuple(parse(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, raw)))  # noqa: B905
    if origin is types.UnionType:  # something or null
        return None if raw is None else parse(inside[0], raw, where)
    return _plain(kind, raw, where)


def _row(kind: Any, raw: Any, where: str) -> Any:
    hints = _hints(kind)
    needed = {f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING}
    if not isinstance(raw, dict) or not needed <= set(raw) <= set(hints):
        raise InputError(f"{where} does not have the fields of a {kind.__name__}")
    return kind(**{name: parse(hints[name], v, f"{where}.{name}") for name, v in raw.items()})


def _plain(kind: Any, raw: Any, where: str) -> Any:
    usable = type(raw) is kind or (kind is float and type(raw) is int)
    if usable and kind is str:
        usable = len(raw) <= MAX_NAME and (not raw or raw.isprintable())
    if usable and kind in {int, float}:
        usable = abs(raw) < 1e300 and math.isfinite(raw)
    if not usable:
        raise InputError(f"{where} is not usable", got=type(raw).__name__, expected=kind.__name__)
    return float(raw) if kind is float else raw


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)
