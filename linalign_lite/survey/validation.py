"""Consistency of a survey's results, on which reports rely."""

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any, get_args, get_type_hints

from linalign_lite.errors import InputError
from linalign_lite.storage.schema import Range
from linalign_lite.survey.results import LARGEST, Results

MOST_MODELS = 32
MOST_DATA = 32
MOST_ROWS = 100_000  # of one table
MOST_KINDS = 40  # measures, detectors, texts that a map was fitted on
MOST_POINTS = 10_000  # of one curve or projection
KEYS = {
    "native": ("model", "data"),
    "similarity": ("source", "target", "texts", "measure"),
    "classification": ("source", "target", "data", "texts", "objective", "n_few"),
    "ood": ("source", "target", "data", "texts", "objective", "detector"),
    "curves": ("source", "target", "data", "kind", "x"),
    "tokenizers": ("source", "target"),
    "generation": ("source", "target", "objective"),
    "retrieval": ("source", "target", "collection", "texts", "objective", "mapped"),
    "projections": ("source", "target", "data", "objective"),
}  # fields that identify a row of a table
_NAMED = {"measure", "texts", "objective", "detector", "kind", "collection", "mapped"}


def check_results(results: Results) -> None:
    """Raise InputError unless results are consistent.

    Every row names listed models and data sets, numbers are in the ranges of their annotations, no
    two rows have the same key, and no table is too large.
    """
    models = _listed("models", results.models, MOST_MODELS)
    data = _listed("data", results.data, MOST_DATA)
    _numbers("results", results)
    for part in ("models", "data", "times", *KEYS):
        found = getattr(results, part)
        if len(found) > MOST_ROWS:
            raise InputError(f"too many {part}", got=str(len(found)), expected=f"{MOST_ROWS}")
        for i, row in enumerate(found):
            _numbers(f"{part}[{i}]", row)
            _references(f"{part}[{i}]", row, models, data)
        fields = KEYS.get(part, ())
        if fields and len({tuple(getattr(r, f) for f in fields) for r in found}) != len(found):
            raise InputError(
                f"two rows of {part} have the same key", expected="distinct " + ", ".join(fields)
            )
        for name in _NAMED:
            kinds = len({getattr(r, name) for r in found if hasattr(r, name)})
            if kinds > MOST_KINDS:
                problem = f"{part}: {name} takes too many values"
                raise InputError(problem, got=str(kinds), expected=f"at most {MOST_KINDS}")
    for i, p in enumerate(results.projections):
        if not len(p.native) == len(p.mapped) == len(p.labels) or len(p.native) < 2:
            raise InputError(
                f"projections[{i}] does not have the same texts on both sides",
                got=f"{len(p.native)}, {len(p.mapped)}, {len(p.labels)}",
            )
        _points(f"projections[{i}]", [*p.native, *p.mapped], -LARGEST, LARGEST)
    for i, row in enumerate(results.ood):
        _points(f"ood[{i}].roc", row.roc, 0, 1)


def _listed(part: str, found: Collection[Any], most: int) -> set[str]:
    names = [row.name for row in found]
    if len(names) > most or len(set(names)) != len(names) or not all(names):
        raise InputError(f"{part} are too many, or have one name twice or none",
                         got=str(len(names)), expected=f"at most {most}")  # fmt: skip
    return set(names)


def _references(where: str, row: Any, models: set[str], data: set[str]) -> None:
    for name in ("source", "target", "model"):
        if getattr(row, name, None) not in {None, *models}:
            raise InputError(f"{where}.{name} is not a model of this survey")
    named = getattr(row, "data", None)
    if named not in {None, *data} and not (named == "" and hasattr(row, "kind")):
        raise InputError(f"{where}.data is not a data set of this survey")


def _numbers(where: str, row: Any) -> None:
    for name, check in _checks(row.__class__).items():
        value = getattr(row, name)
        if value is not None and not check.allows(value):
            raise InputError(f"{where}.{name} is out of range", expected=check.expected)


@cache
def _checks(kind: type) -> dict[str, Range]:
    """Ranges in the annotations of a row's fields."""
    hints = get_type_hints(kind, include_extras=True)
    nested = {name: (hint, *get_args(hint)) for name, hint in hints.items()}  # of `X | None` too
    return {
        name: check
        for name, kinds in nested.items()
        for k in kinds
        for check in getattr(k, "__metadata__", ())
        if isinstance(check, Range)
    }


def _points(where: str, points: Sequence[tuple[float, float]], least: float, most: float) -> None:
    if len(points) > 2 * MOST_POINTS or any(not least <= v <= most for p in points for v in p):
        raise InputError(f"{where} has too many points, or points out of range")
