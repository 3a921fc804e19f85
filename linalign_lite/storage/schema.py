"""Read JSON documents strictly: finite numbers, exactly the fields of a data class, checked values.

`read_document` parses bytes and checks format, version and seal; `parse` makes a data class of the
fields, whose annotations state the allowed values; `format_errors` turns the errors of both into
FormatErrors that name the file.
"""

import contextlib
import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeVar, cast

from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.hashing import seal_of

T = TypeVar("T")
Parser = Callable[[Any, str], Any]  # of a value, and of its place in the document
MAX_TEXT = 256  # characters of a string without a `Text` of its own
MAX_NUMBER = 1e300  # magnitude of a number without a `Range` of its own


@dataclass(frozen=True)
class Range:
    """A number from ``low`` to ``high``, both included."""

    low: float
    high: float

    @property
    def expected(self) -> str:
        return f"{self.low} to {self.high}"

    def allows(self, value: Any) -> bool:
        return bool(self.low <= value <= self.high)


@dataclass(frozen=True)
class Text:
    """A string of ``least`` to ``most`` characters, all printable, that matches ``pattern``.

    lines: it may have line ends and tabs.
    """

    most: int = MAX_TEXT
    least: int = 0
    pattern: str = ""
    lines: bool = False

    @property
    def expected(self) -> str:
        named = f" that match {self.pattern}" if self.pattern else ""
        return f"{self.least} to {self.most} printable characters{named}"

    def allows(self, value: Any) -> bool:
        shown = value.replace("\n", "").replace("\t", "") if self.lines else value
        fits = self.least <= len(value) <= self.most and (not shown or shown.isprintable())
        return fits and (not self.pattern or re.fullmatch(self.pattern, value) is not None)


@dataclass(frozen=True)
class Size:
    """A list or an object of ``least`` to ``most`` entries; checked before they are parsed."""

    most: int
    least: int = 0

    @property
    def expected(self) -> str:
        return f"{self.least} to {self.most} entries"

    def allows(self, value: Any) -> bool:
        return self.least <= len(value) <= self.most


@dataclass(frozen=True)
class Choice:
    """One of some strings. A `Literal` does the same where the field's type may be one."""

    values: tuple[str, ...]

    @property
    def expected(self) -> str:
        return ", ".join(map(repr, self.values))

    def allows(self, value: Any) -> bool:
        return value in self.values


Check = Range | Text | Size | Choice  # in an annotation `Annotated[type, check, ...]`
Sha256 = Annotated[str, Text(most=64, least=64, pattern="[0-9a-f]{64}")]
_NUMBER = Range(-MAX_NUMBER, MAX_NUMBER)
_DEFAULTS: dict[type, Check] = {str: Text(), int: _NUMBER, float: _NUMBER}
_NAMES: dict[type, str] = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false",
    list: "a list", dict: "an object", type(None): "null",
}  # fmt: skip
_ALL_REQUIRED: set[type] = set()
# metadata of a field that `plain` leaves out when it is empty: older files keep their bytes
LEFT_OUT = {"left out when empty": True}


@contextlib.contextmanager
def format_errors(path: object, what: str, *, hint: str = "") -> Iterator[None]:
    """Turn errors of the block, which reads the file ``path``, into FormatErrors that name it.

    what: the kind of file, for messages ("model card"). A FormatError passes unchanged.
    """
    try:
        yield
    except FormatError:
        raise
    except InputError as e:
        raise FormatError(f"{path}: {e}", hint=hint) from e
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as e:
        raise FormatError(f"{path} is not a usable {what}", got=type(e).__name__, hint=hint) from e


def read_document(
    raw: bytes, path: object, what: str, *, kind: str, version: int, sealed: bool = False
) -> dict[str, Any]:
    """Return the fields of a JSON document, without ``format``, ``version`` and ``seal``.

    kind: its "format"; version: the newest supported; sealed: "seal" must be the digest of all
    other fields. Raises FormatError naming ``path`` and ``what``, the expected kind of file.
    """
    with format_errors(path, what):
        fields = strict_json(raw)
        found = fields.get("format") if isinstance(fields, dict) else type(fields).__name__
        if found != kind:
            got = str(found)[:60]
            raise FormatError(f"{path} is not a {what}", got=got, expected=f"format {kind}")
        found = fields.get("version")
        if type(found) is not int or not 1 <= found <= version:
            raise FormatError(
                f"{path}: unknown version",
                got=str(found)[:20],
                expected=f"1 to {version}",
                hint="a newer linalign-lite may read it",
            )
        if sealed and fields.pop("seal", None) != seal_of(fields):
            raise FormatError(
                f"{path} does not agree with its own digest",
                hint="the file may be altered; make or copy it again",
            )
    return {name: value for name, value in fields.items() if name not in {"format", "version"}}


def strict_json(raw: bytes) -> Any:
    """Parse JSON without NaN or infinities (1e999). Raises ValueError or RecursionError."""
    return json.loads(raw.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)


def all_required(kind: type[T]) -> type[T]:
    """Mark a data class all of whose fields a document must have, those with defaults included.

    All but those with the metadata LEFT_OUT.
    """
    _ALL_REQUIRED.add(kind)
    return kind


def plain(value: Any) -> Any:
    """Convert data classes, also inside others, to dicts; see LEFT_OUT."""
    if dataclasses.is_dataclass(value):
        found = {f.name: (getattr(value, f.name), f.metadata) for f in dataclasses.fields(value)}
        return {name: plain(v) for name, (v, meta) in found.items() if v or meta != LEFT_OUT}
    if isinstance(value, Mapping):
        return {name: plain(v) for name, v in value.items()}
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value


def parse_known(kind: type[T], raw: Mapping[str, Any], where: str = "it") -> T:
    """Parse the fields of a data class as `parse` does; other fields are ignored."""
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return cast(T, parse(kind, {name: v for name, v in raw.items() if name in known}, where))


def parse(kind: Any, raw: Any, where: str = "it") -> Any:
    """Parse ``raw`` (from JSON or TOML) as ``kind``. Raises InputError naming the place in it.

    kind: a data class (all its fields, no others; those with a default may be missing, see
    `all_required`), bool, int, float, str, Path, Any, `tuple[X, ...]`, `tuple[X, Y]`,
    `Mapping[str, X]`, `X | None`, `Literal[...]`, or `Annotated[X, check, ...]` of these. Numbers
    and strings without a check are limited by MAX_NUMBER and MAX_TEXT.
    """
    return _parser(kind, ())(raw, where)


def _parser(kind: Any, checks: tuple[Check, ...]) -> Parser:
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _parser(inside[0], inside[1:])
    if origin in {types.UnionType, typing.Union}:  # X | None
        given = _parser(inside[0], checks)
        return lambda raw, where: None if raw is None else given(raw, where)
    if dataclasses.is_dataclass(kind):
        return _fields_parser(cast(type, kind))
    collection = _COLLECTIONS.get(origin or kind)
    if collection is not None:
        return partial(collection, inside, checks)
    default = _DEFAULTS.get(kind)
    return partial(_plain, kind, checks or ((default,) if default else ()))


@cache
def _fields_parser(kind: Any) -> Parser:
    hints, needed = typing.get_type_hints(kind, include_extras=True), set()
    for f in dataclasses.fields(kind):
        has_default = (f.default, f.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
        required = kind in _ALL_REQUIRED and f.metadata != LEFT_OUT
        if required or not has_default:
            needed.add(f.name)
    parsers = {name: _parser(hint, ()) for name, hint in hints.items()}

    def read(raw: Any, where: str) -> Any:
        if not isinstance(raw, dict):
            raise InputError(f"{where} is not an object", got=_name(type(raw)))
        if unknown := sorted(str(name) for name in raw.keys() - parsers.keys()):
            got, expected = ", ".join(unknown)[:80], ", ".join(parsers)[:200]
            raise InputError(f"{where} has unknown fields", got=got, expected=expected)
        if missing := sorted(needed - raw.keys()):
            raise InputError(f"{where} lacks fields", expected=", ".join(missing))
        return kind(**{name: parsers[name](v, f"{where}.{name}") for name, v in raw.items()})

    return read


def _literal(values: Any, _: tuple[Check, ...], raw: Any, where: str) -> Any:
    if not any(raw == value and type(raw) is type(value) for value in values):
        raise InputError(
            f"{where} is unknown", got=str(raw)[:40], expected=", ".join(map(str, values))
        )
    return raw


def _tuple(inside: Any, checks: tuple[Check, ...], raw: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(raw, list):
        raise InputError(f"{where} is not a list", got=_name(type(raw)))
    _require(raw, where, checks)
    if inside[-1] is Ellipsis:
        parsers = [_parser(inside[0], ())] * len(raw)
    else:
        parsers = [_parser(kind, ()) for kind in inside]
    if len(parsers) != len(raw):
        problem = f"{where} has another length"
        raise InputError(problem, got=str(len(raw)), expected=str(len(parsers)))
    return tuple(parsers[i](value, f"{where}[{i}]") for i, value in enumerate(raw))


def _mapping(inside: Any, checks: tuple[Check, ...], raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise InputError(f"{where} is not an object", got=_name(type(raw)))
    _require(raw, where, checks)
    if not inside:
        return raw
    name_of, value_of = (_parser(kind, ()) for kind in inside)
    return {
        name_of(name, f"a name in {where}"): value_of(value, f"{where}.{name}")
        for name, value in raw.items()
    }


def _plain(kind: Any, checks: tuple[Check, ...], raw: Any, where: str) -> Any:
    if kind is Any:
        return raw
    if kind is Path:
        return Path(_parser(str, checks)(raw, where))
    whole_as_float = kind is float and type(raw) is int
    finite = type(raw) is not float or math.isfinite(raw)
    if not finite or (type(raw) is not kind and not whole_as_float):
        # a float as it is, such as 3.0 for a whole number, or inf
        got = str(raw) if type(raw) is float else _name(type(raw))
        raise InputError(f"{where} is not usable", got=got, expected=_name(kind))
    _require(raw, where, checks)
    return float(raw) if whole_as_float else raw


def _name(kind: type) -> str:
    return _NAMES.get(kind, kind.__name__)


def _require(value: Any, where: str, checks: tuple[Check, ...]) -> None:
    for check in checks:
        if not check.allows(value):
            short = type(value) in {int, float} or isinstance(check, Choice)
            got = str(value) if short else f"{len(value)} long"
            raise InputError(f"{where} is not usable", got=got[:40], expected=check.expected)


_COLLECTIONS = {Literal: _literal, tuple: _tuple, dict: _mapping, Mapping: _mapping}


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # as 1e999 is not
        raise ValueError(f"{text[:20]} is too large")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
