"""Configuration of a survey: `CONFIG.toml`. docs/FORMAT.md, section 6."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from linalign_lite.core.choices import TextPooling, values_of
from linalign_lite.core.space import Prompt
from linalign_lite.errors import InputError
from linalign_lite.extraction.texts import Texts, read_texts
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.schema import Choice, Range, Size, Text, format_errors, parse
from linalign_lite.storage.toml_file import read_toml
from linalign_lite.survey.validation import MOST_DATA, MOST_MODELS

USUAL_TASKS = ("similarity", "classification", "ood", "generation", "tokenizers", "retrieval")
TASKS = (*USUAL_TASKS, "few-pairs")  # a minute each pair of models and number of pairs: if asked
OBJECTIVES = ("ridge", "kl")
OWN = "model"  # pooling: of each model its own
MAX_CONFIG = 1 << 20
MAX_FEW = 8
MAX_COUNT = (1 << 31) - 1


@dataclass(frozen=True)
class RawText:
    """A string of ``least`` or more characters, control characters included but NUL."""

    least: int = 0
    expected = "text without NUL"

    def allows(self, value: Any) -> bool:
        return len(value) >= self.least and "\0" not in value


Name = Annotated[str, Text(80, 1)]
FilePath = Annotated[Path, RawText(1)]
Count = Annotated[int, Range(1, MAX_COUNT)]


@dataclass(frozen=True)
class TextFile:
    """A file of texts. ``limit``: use its first texts only; ``separator``: line between texts."""

    texts: FilePath
    limit: Count | None = None
    separator: Annotated[str, RawText()] | None = None

    def read(self) -> Texts:
        return read_texts(str(self.texts), limit=self.limit, separator=self.separator)


@dataclass(frozen=True)
class DataSet:
    """Labelled texts to train heads on and to test them, and texts that belong to neither."""

    name: Name
    train: TextFile
    test: TextFile
    outside: TextFile | None = None


@dataclass(frozen=True)
class GenerationTexts:
    """Texts for generation: maps are fitted on ``train`` and evaluated on ``test``."""

    train: TextFile
    test: TextFile


@dataclass(frozen=True)
class SearchFiles:
    """A test collection: documents, queries, and judgements of which documents answer them."""

    name: Name
    corpus: FilePath
    queries: FilePath
    judgements: FilePath


@dataclass(frozen=True)
class SurveyConfig:
    """Models, texts, and what to measure."""

    models: Annotated[Mapping[Name, FilePath], Size(MOST_MODELS, 2)]
    public: TextFile
    data: Annotated[tuple[DataSet, ...], Size(MOST_DATA)] = ()
    generation: GenerationTexts | None = None
    retrieval: Annotated[tuple[SearchFiles, ...], Size(MOST_DATA)] = ()
    title: Name = "Linear alignment of language models"
    seed: Annotated[int, Range(0, MAX_COUNT)] = 0
    pooling: Annotated[str, Choice((*values_of(TextPooling), OWN))] = "mean"
    prompts: Annotated[Mapping[Name, Prompt], Size(MOST_MODELS)] = field(default_factory=dict)
    few: Annotated[tuple[Annotated[int, Range(8, MAX_COUNT)], ...], Size(MAX_FEW)] = (128, 512)
    tasks: Annotated[tuple[Annotated[str, Choice(TASKS)], ...], Size(len(TASKS))] = USUAL_TASKS
    objectives: Annotated[tuple[Annotated[str, Choice(OBJECTIVES)], ...], Size(len(OBJECTIVES))] = (
        OBJECTIVES
    )
    permutations: Count = 50  # of each p-value of a similarity

    def pairs(self) -> list[tuple[str, str]]:
        """Every ordered pair of models."""
        return [(a, b) for a in self.models for b in self.models if a != b]


def load_config(path: PathLike) -> SurveyConfig:
    """Read `CONFIG.toml`; paths in it are relative to its own folder.

    Raises InputError for a missing file, FormatError that names the first unusable setting.
    """
    path = Path(path)
    settings = read_toml(path, "survey configuration", MAX_CONFIG)
    with format_errors(path, "survey configuration"):
        return parse_config(settings, path.parent)


def parse_config(raw: Mapping[str, Any], base: Path) -> SurveyConfig:
    """Parse settings; relative paths are taken from ``base``.

    Raises InputError that names the setting, what was got and what is expected.
    """
    settings = _tables(raw, "public")
    for name in {"data", "generation"}.intersection(settings):
        settings[name] = _tables(settings[name], "train", "test", "outside")
    config: SurveyConfig = parse(SurveyConfig, settings, "config")
    names = [d.name for d in config.data]
    for part, own in (("data", names), ("retrieval", [c.name for c in config.retrieval])):
        if len(set(own)) != len(own):
            raise InputError(f"config.{part}: two data sets have the same name")
    for name in {"public", "native"}.intersection(names):
        raise InputError("config.data: this name has another meaning in results", got=name)
    if unknown := set(config.prompts).difference(config.models):
        raise InputError("config.prompts names no model of the survey", got=min(unknown))
    if "ridge" not in config.objectives:
        raise InputError("config.objectives must contain ridge")
    tasks = tuple(t for t in TASKS if t in config.tasks)
    objectives = tuple(o for o in OBJECTIVES if o in config.objectives)
    config = dataclasses.replace(config, tasks=tasks, objectives=objectives)
    absolute: SurveyConfig = _absolute(config, base)
    return absolute


def _tables(raw: Any, *names: str) -> Any:
    """Copy a table, or a list of tables, with each path in ``names`` as a table of texts."""
    if isinstance(raw, list):
        return [_tables(entry, *names) for entry in raw]
    if not isinstance(raw, dict):
        return raw
    files = {k: {"texts": v} for k, v in raw.items() if k in names and isinstance(v, str)}
    return {**raw, **files}


def _absolute(value: Any, base: Path) -> Any:
    """Copy a value with the paths in it taken from ``base``."""
    if isinstance(value, Path):
        try:
            return base / value.expanduser()
        except RuntimeError as e:  # ~NAME of a user that does not exist
            raise InputError(
                "a path begins with an unknown user's home", got=str(value)[:80]
            ) from e
    if isinstance(value, dict):
        return {k: _absolute(v, base) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(_absolute(v, base) for v in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value)(**{k: _absolute(v, base) for k, v in vars(value).items()})
    return value
