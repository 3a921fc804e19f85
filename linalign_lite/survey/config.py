"""What a survey is asked to do: `CONFIG.toml`. docs/FORMAT.md, section 6."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from linalign_lite.core.choices import TextPooling, values_of
from linalign_lite.errors import FormatError, InputError
from linalign_lite.extraction.texts import Texts, read_texts
from linalign_lite.storage.atomic import PathLike, open_regular
from linalign_lite.survey.validation import MOST_DATA, MOST_MODELS

TASKS = ("similarity", "classification", "ood", "generation", "tokenizers")
OBJECTIVES = ("ridge", "kl")
MAX_CONFIG = 1 << 20
MAX_FEW = 8
MAX_COUNT = 1 << 31


@dataclass(frozen=True)
class TextFile:
    """A file of texts, and how many of them are taken."""

    path: Path
    limit: int | None = None
    separator: str | None = None

    def read(self) -> Texts:
        return read_texts(str(self.path), limit=self.limit, separator=self.separator)


@dataclass(frozen=True)
class DataSet:
    """Labelled texts to train heads on and to test them, and texts that belong to neither."""

    name: str
    train: TextFile
    test: TextFile
    outside: TextFile | None = None


@dataclass(frozen=True)
class GenerationTexts:
    """Texts for generation: maps are fitted on ``train`` and judged on ``test``."""

    train: TextFile
    test: TextFile


@dataclass(frozen=True)
class SurveyConfig:
    """N models, public texts, data sets, and what is measured of them."""

    models: Mapping[str, Path]
    public: TextFile
    data: tuple[DataSet, ...] = ()
    generation: GenerationTexts | None = None
    title: str = "Linear alignment of language models"
    seed: int = 0
    pooling: str = "mean"
    few: tuple[int, ...] = (128, 512)  # in-distribution texts of a few-shot map
    tasks: tuple[str, ...] = TASKS
    objectives: tuple[str, ...] = OBJECTIVES
    permutations: int = 50  # shufflings behind each p-value of a similarity

    def wants(self, task: str) -> bool:
        return task in self.tasks

    def pairs(self) -> list[tuple[str, str]]:
        """Every ordered pair of models."""
        return [(a, b) for a in self.models for b in self.models if a != b]


def load_config(path: PathLike) -> SurveyConfig:
    """Read `CONFIG.toml`; paths in it are relative to its own folder.

    Raises InputError when it is not there, FormatError naming the first thing that is not usable.
    """
    path = Path(path)
    with open_regular(path) as f:
        raw = f.read(MAX_CONFIG + 1)
    if len(raw) > MAX_CONFIG:
        raise FormatError(f"{path} is too large", expected=f"at most {MAX_CONFIG} bytes")
    try:
        parsed = tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as e:  # UnicodeDecodeError and TOMLDecodeError among them
        raise FormatError(f"{path} is not TOML", got=str(e)[:120]) from e
    try:
        return parse_config(parsed, path.parent)
    except FormatError:
        raise
    except InputError as e:
        raise FormatError(f"{path}: {e}") from e


def parse_config(raw: Mapping[str, Any], base: Path) -> SurveyConfig:
    """A config from parsed TOML. Raises InputError naming what is not usable."""
    known = {f.name for f in fields(SurveyConfig)}
    _require_keys(raw, known, {"models", "public"}, "the survey")
    models = _models(raw["models"], base)
    data = _list(raw.get("data", []), "data", MOST_DATA)
    sets = tuple(_data_set(entry, base) for entry in data)
    if len({s.name for s in sets}) != len(sets):
        raise InputError("two data sets have the same name")
    config = SurveyConfig(
        models=models,
        public=_reading(raw["public"], base, "public"),
        data=sets,
        generation=_stories(raw["generation"], base) if "generation" in raw else None,
        few=tuple(_count(n, "few", 8) for n in _list(raw.get("few", [128, 512]), "few", MAX_FEW)),
        tasks=_choices(raw, "tasks", TASKS),
        objectives=_choices(raw, "objectives", OBJECTIVES),
        seed=_count(raw.get("seed", 0), "seed", 0),
        permutations=_count(raw.get("permutations", 50), "permutations", 1),
        title=_name(raw.get("title", SurveyConfig.title), "title"),
        pooling=_choice(raw.get("pooling", "mean"), "pooling", values_of(TextPooling)),
    )
    if "ridge" not in config.objectives:
        raise InputError("objectives: every survey has ridge maps", expected='"ridge" among them')
    return config


def _models(raw: object, base: Path) -> dict[str, Path]:
    if not isinstance(raw, dict) or not 2 <= len(raw) <= MOST_MODELS:
        raise InputError("models: a table of names and folders", expected=f"2 to {MOST_MODELS}")
    return {_name(name, "models"): _path(p, base, f"models.{name}") for name, p in raw.items()}


def _data_set(raw: object, base: Path) -> DataSet:
    if not isinstance(raw, dict):
        raise InputError("data: not a table", expected="[[data]]")
    name = _name(raw.get("name"), "data.name")
    if name in {"public", "native"}:
        raise InputError("data.name: this name means something else here", got=name)
    _require_keys(raw, {"name", "train", "test", "outside"}, {"name", "train", "test"}, name)
    outside = raw.get("outside")
    return DataSet(
        name,
        _reading(raw["train"], base, f"{name}.train"),
        _reading(raw["test"], base, f"{name}.test"),
        None if outside is None else _reading(outside, base, f"{name}.outside"),
    )


def _stories(raw: object, base: Path) -> GenerationTexts:
    if not isinstance(raw, dict):
        raise InputError("generation: not a table")
    _require_keys(raw, {"train", "test"}, {"train", "test"}, "generation")
    return GenerationTexts(
        _reading(raw["train"], base, "generation.train"),
        _reading(raw["test"], base, "generation.test"),
    )


def _reading(raw: object, base: Path, where: str) -> TextFile:
    """A path, or a table with `texts`, and perhaps `limit` and `separator`."""
    if isinstance(raw, str):
        return TextFile(_path(raw, base, where))
    if not isinstance(raw, dict):
        raise InputError(f"{where}: not usable", expected="a path, or a table with `texts`")
    _require_keys(raw, {"texts", "limit", "separator"}, {"texts"}, where)
    separator, limit = raw.get("separator"), raw.get("limit")
    if separator is not None and not isinstance(separator, str):
        raise InputError(f"{where}.separator: not a string")
    return TextFile(
        _path(raw["texts"], base, f"{where}.texts"),
        None if limit is None else _count(limit, f"{where}.limit", 1),
        separator,
    )


def _require_keys(raw: Mapping[str, Any], known: set[str], needed: set[str], where: str) -> None:
    if unknown := sorted(set(raw) - known):
        raise InputError(
            f"{where}: unknown setting", got=unknown[0][:40], expected=", ".join(sorted(known))
        )
    if missing := sorted(needed - set(raw)):
        raise InputError(f"{where}: {missing[0]} is missing")


def _path(raw: object, base: Path, where: str) -> Path:
    if not isinstance(raw, str) or not raw or "\0" in raw:
        raise InputError(f"{where}: not a path", got=type(raw).__name__)
    return base / Path(raw).expanduser()


def _name(raw: object, where: str) -> str:
    if not isinstance(raw, str) or not 1 <= len(raw) <= 80 or not raw.isprintable():
        raise InputError(f"{where}: not usable", expected="1 to 80 printable characters")
    return raw


def _count(raw: object, where: str, least: int) -> int:
    if type(raw) is not int or not least <= raw < MAX_COUNT:
        raise InputError(f"{where}: no usable number", got=str(raw)[:20], expected=f"{least} up")
    return raw


def _list(raw: object, where: str, most: int) -> list[Any]:
    if not isinstance(raw, list) or len(raw) > most:
        raise InputError(f"{where}: not a list", expected=f"at most {most} entries")
    return raw


def _choices(raw: Mapping[str, Any], where: str, among: tuple[str, ...]) -> tuple[str, ...]:
    wanted = _list(raw.get(where, list(among)), where, len(among))
    found = tuple(_choice(w, where, among) for w in wanted)
    return tuple(a for a in among if a in found)


def _choice(raw: object, where: str, among: tuple[str, ...]) -> str:
    if raw not in among:
        raise InputError(f"{where}: unknown", got=str(raw)[:40], expected=", ".join(among))
    return str(raw)
