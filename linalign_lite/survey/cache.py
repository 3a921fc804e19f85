"""What a survey has made so far: kept by what it was made from, so that nothing is made twice.

Each thing has a key, the digest of all that it depends on. `KEY.json` says that it is whole (it is
written last), how long it took, and holds its rows; states, maps and heads lie beside it in the
project's own formats. A survey that was killed goes on from there, and one with another model or
data set more makes only what is new.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.serialization import load_head, load_map, load_states
from linalign_lite.errors import InputError
from linalign_lite.heads.serialization import save
from linalign_lite.storage.atomic import open_regular, write_atomic
from linalign_lite.storage.schema import parse, strict_json
from linalign_lite.survey.results import TimeRow

MADE_BY = 1  # changes when the same inputs would give something else
ENDS = {"states": ".states.npz", "map": ".map.npz", "head": ".head.npz"}

Row = TypeVar("Row")
Inputs = dict[str, Any]


@dataclass(frozen=True)
class DiskCache:
    """A folder of things made. ``times`` collects what each took, in the order of asking."""

    folder: Path
    times: list[TimeRow] = field(default_factory=list)

    def rows(
        self, step: str, inputs: Inputs, kind: type[Row], make: Callable[[], Sequence[Row]]
    ) -> tuple[Row, ...]:
        """Rows of a survey's results (results.py), made now or earlier."""
        key = digest({"step": step, **inputs})
        known = self._known(key)
        if known is not None:
            with contextlib.suppress(InputError):
                found: tuple[Row, ...] = parse(tuple[kind, ...], known["rows"])  # type: ignore[valid-type]
                self._note(step, known["seconds"], cached=True)
                return found
        began = time.perf_counter()
        made = tuple(make())
        self._finish(key, step, time.perf_counter() - began, made)
        return made

    def states(self, step: str, inputs: Inputs, make: Callable[[], HiddenStates]) -> HiddenStates:
        found: HiddenStates = self._thing("states", step, inputs, make, load_states)
        return found

    def map(self, step: str, inputs: Inputs, make: Callable[[], AffineMap]) -> AffineMap:
        found: AffineMap = self._thing("map", step, inputs, make, load_map)
        return found

    def head(self, step: str, inputs: Inputs, make: Callable[[], Head]) -> Head:
        found: Head = self._thing("head", step, inputs, make, load_head)
        return found

    def has(self, step: str, inputs: Inputs) -> bool:
        """Whether it was made and is whole."""
        return self._known(digest({"step": step, **inputs})) is not None

    def _thing(
        self,
        kind: str,
        step: str,
        inputs: Inputs,
        make: Callable[[], Any],
        load: Callable[[Path], Any],
    ) -> Any:
        key = digest({"step": step, **inputs})
        path, known = self.folder / (key + ENDS[kind]), self._known(key)
        if known is not None:
            with contextlib.suppress(InputError):  # damaged or gone: made again
                thing = load(path)
                self._note(step, known["seconds"], cached=True)
                return thing
        began = time.perf_counter()
        thing = make()
        save(path, thing)
        self._finish(key, step, time.perf_counter() - began, ())
        return thing

    def _known(self, key: str) -> Inputs | None:
        path = self.folder / f"{key}.json"
        if not path.is_file():
            return None
        try:
            with open_regular(path) as f:
                raw = strict_json(f.read())
            usable = type(raw["seconds"]) is float and isinstance(raw["rows"], list)
        except (InputError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return raw if usable else None

    def _finish(self, key: str, step: str, seconds: float, rows: Sequence[Any]) -> None:
        whole = {"step": step, "seconds": seconds, "rows": [dataclasses.asdict(r) for r in rows]}
        write_atomic(self.folder / f"{key}.json", json.dumps(whole, allow_nan=False).encode())
        self._note(step, seconds, cached=False)

    def _note(self, step: str, seconds: float, *, cached: bool) -> None:
        row = TimeRow(step, round(seconds, 3), cached)
        if not any(t.step == step for t in self.times):  # things are asked for more than once
            self.times.append(row)


def digest(inputs: Inputs) -> str:
    """The name under which a thing with this description is kept."""
    text = json.dumps({"made_by": MADE_BY, **inputs}, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def open_cache(folder: Path) -> DiskCache:
    """The shelf in ``folder``, which is made when it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"cannot write {folder}", got=e.strerror or str(e)) from e
    return DiskCache(folder)
