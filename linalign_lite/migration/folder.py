"""The folder of a migration: its plan, maps, and what was verified and applied.

docs/FORMAT.md, section 11. Documents are sealed: an altered one is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.serialization import load_map, save_map
from linalign_lite.errors import InputError, LinalignError
from linalign_lite.migration.options import Maps
from linalign_lite.migration.plan import Count, Place, Plan
from linalign_lite.storage.atomic import open_regular, write_atomic
from linalign_lite.storage.hashing import hash_file, seal_of
from linalign_lite.storage.schema import Range, Sha256, format_errors, parse, plain, read_document

MAX_BYTES = 1 << 20
VERSION = 1
T = TypeVar("T")
Share = Annotated[float, Range(-1, 1)]
Retention = Annotated[float, Range(-1, 1 << 20)]  # above 1: more nDCG than natively


class GateError(LinalignError):
    """A migration does not keep as much of the search as its gate asks for. Exit code 1."""


@dataclass(frozen=True)
class Verified:
    """Verdict of `verify`: measured on the canaries with the maps of the folder."""

    choice: Literal["queries", "documents", "both"]
    maps: dict[str, Any]  # name of a map's file: its SHA-256
    retention: Retention
    low: Retention
    high: Retention
    gate: Share
    passed: bool


@dataclass(frozen=True)
class Applied:
    """Progress of `apply`.

    state: "written", the new collection is complete; "switching"; "switched"; "rolled back".
    first: digest of the first vectors at ``live`` before the switch. former: where the old
    collection is, "" when it was not noted.
    """

    state: Literal["written", "switching", "switched", "rolled back"]
    live: Place
    new: Place
    former: Place
    first: Sha256
    count: Count


@dataclass(frozen=True)
class MigrationFolder:
    """Paths and documents of a migration."""

    path: Path

    @property
    def documents_map(self) -> Path:
        """The map of documents, from the old space."""
        return self.path / "documents.map.npz"

    @property
    def queries_map(self) -> Path:
        """The map of queries, from the new space."""
        return self.path / "queries.map.npz"

    def plan(self) -> Plan:
        """Read the plan. Raises InputError when there is none."""
        found = self._read(Plan, "plan", "make one with `linalign-lite migrate plan`")
        assert found is not None
        return found

    def verified(self) -> Verified | None:
        """Read what was verified, None when nothing was or the maps are others."""
        found = self._read(Verified, "verified")
        return found if found is not None and found.maps == self.digests() else None

    def applied(self) -> Applied | None:
        """Read how far the documents are."""
        return self._read(Applied, "applied")

    def write(self, name: str, value: Plan | Verified | Applied) -> None:
        """Write plan, verified or applied."""
        fields = {**plain(value), "format": f"linalign-migration-{name}", "version": VERSION}
        text = json.dumps({**fields, "seal": seal_of(json.loads(json.dumps(fields)))}, indent=1)
        write_atomic(self.path / f"{name}.json", text.encode() + b"\n")

    def save_maps(self, maps: Maps) -> None:
        """Write the maps, and remove those of an earlier fit."""
        for path, affine in (
            (self.documents_map, maps.documents),
            (self.queries_map, maps.queries),
        ):
            if affine is None:
                path.unlink(missing_ok=True)
            else:
                save_map(path, affine)

    def load_maps(self) -> Maps:
        """Read the maps. Raises InputError when there is none."""
        found: list[AffineMap | None] = [
            load_map(p) if p.exists() else None for p in (self.documents_map, self.queries_map)
        ]
        if found == [None, None]:
            raise InputError(
                f"{self.path} has no map", hint="run `linalign-lite migrate fit` first"
            )
        return Maps(*found)

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of each map."""
        paths = (self.documents_map, self.queries_map)
        return {path.name: hash_file(path) for path in paths if path.exists()}

    def _read(self, kind: type[T], name: str, hint: str = "") -> T | None:
        path = self.path / f"{name}.json"
        if not path.exists():
            if hint:
                raise InputError(f"{self.path} holds no {name}.json", hint=hint)
            return None
        with open_regular(path) as f:
            raw = f.read(MAX_BYTES)
        kind_name = f"linalign-migration-{name}"
        fields = read_document(raw, path, name, kind=kind_name, version=VERSION, sealed=True)
        with format_errors(path, name):
            found: T = parse(kind, fields, name)
        return found
