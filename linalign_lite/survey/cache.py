"""Results of earlier work of a survey, kept on disk under a digest of their inputs.

`KEY.json` is written last and marks a complete entry: it holds the seconds that the work took and
its rows. States, maps and heads are files of the project's own formats beside it. A stopped survey
resumes from there; one with another model or data set computes only what is new.
"""

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from linalign_lite.core.serialization import load_head, load_map, load_states
from linalign_lite.errors import InputError
from linalign_lite.heads.serialization import save
from linalign_lite.storage.atomic import open_regular, write_atomic
from linalign_lite.storage.schema import parse, strict_json
from linalign_lite.survey.results import TimeRow

MADE_BY = 1  # changes when the same inputs would give another result
LOADERS: dict[str, Any] = {"states": load_states, "map": load_map, "head": load_head}

T = TypeVar("T")
Inputs = dict[str, Any]
Notify = Callable[[str], None]


@dataclass(frozen=True)
class Entry:
    """Content of `KEY.json`."""

    step: Any
    seconds: float
    rows: tuple[Any, ...]


@dataclass(frozen=True)
class DiskCache:
    """A folder of earlier results. ``times``: seconds of each step, in the order of first use.

    ``tell`` is called with the name of each step that is computed.
    """

    folder: Path
    tell: Notify = lambda _: None
    times: list[TimeRow] = field(default_factory=list)

    def rows(
        self, step: str, inputs: Inputs, kind: type[T], compute: Callable[[], Sequence[T]]
    ) -> tuple[T, ...]:
        """Load or compute rows (results.py) of the class ``kind``."""

        def load(_: str, entry: Entry) -> tuple[T, ...]:
            rows: tuple[T, ...] = parse(tuple[kind, ...], list(entry.rows))  # type: ignore[valid-type]
            return rows

        return self._get(step, inputs, lambda: tuple(compute()), load, lambda _, rows: rows, step)

    def artefact(
        self, kind: str, step: str, inputs: Inputs, compute: Callable[[], T], told: str = ""
    ) -> T:
        """Load or compute "states", a "map" or a "head", which has a file of its own.

        ``told``: text for ``tell`` before it is computed, if any.
        """

        def load(key: str, _: Entry) -> T:
            found: T = LOADERS[kind](self.folder / f"{key}.{kind}.npz")
            return found

        def write(key: str, value: T) -> tuple[()]:
            save(self.folder / f"{key}.{kind}.npz", value)  # type: ignore[arg-type]
            return ()

        return self._get(step, inputs, compute, load, write, told)

    def has(self, step: str, inputs: Inputs) -> bool:
        """Return True if there is a complete entry."""
        return self._entry(digest({"step": step, **inputs})) is not None

    def _get(
        self,
        step: str,
        inputs: Inputs,
        compute: Callable[[], T],
        load: Callable[[str, Entry], T],
        write: Callable[[str, T], Sequence[Any]],
        told: str,
    ) -> T:
        """Load a value by its key, or compute and write it; ``write`` returns the entry's rows."""
        key = digest({"step": step, **inputs})
        entry = self._entry(key)
        if entry is not None:
            with contextlib.suppress(InputError):  # a damaged or missing file is made again
                value = load(key, entry)
                self._note(step, entry.seconds, cached=True)
                return value
        if told:
            self.tell(told)
        began = time.perf_counter()
        value = compute()
        rows = [dataclasses.asdict(row) for row in write(key, value)]
        seconds = time.perf_counter() - began
        text = json.dumps({"step": step, "seconds": seconds, "rows": rows}, allow_nan=False)
        write_atomic(self.folder / f"{key}.json", text.encode())
        self._note(step, seconds, cached=False)
        return value

    def _entry(self, key: str) -> Entry | None:
        path = self.folder / f"{key}.json"
        if not path.is_file():
            return None
        with contextlib.suppress(InputError, ValueError, RecursionError), open_regular(path) as f:
            entry: Entry = parse(Entry, strict_json(f.read()))
            return entry
        return None

    def _note(self, step: str, seconds: float, *, cached: bool) -> None:
        if not any(t.step == step for t in self.times):  # a value may be used more than once
            self.times.append(TimeRow(step, round(seconds, 3), cached))


def digest(inputs: Inputs) -> str:
    """Compute the key of an entry from its inputs."""
    text = json.dumps({"made_by": MADE_BY, **inputs}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def open_cache(folder: Path, tell: Notify = lambda _: None) -> DiskCache:
    """Open the cache in ``folder``, which is made if it is missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"cannot write {folder}", got=e.strerror or str(e)) from e
    return DiskCache(folder, tell)
