"""Tables of LanceDB in a folder: ``lancedb:PATH[?column=NAME&version=N]#TABLE``.

Rows are read of one version of the table, in its order. A table keeps its former versions, so that
another takes its place as a new version, and gives it back: `switch` copies the rows.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from linalign_lite.errors import InputError, import_extra
from linalign_lite.storage.atomic import open_regular, write_atomic
from linalign_lite.storage.schema import format_errors, strict_json
from linalign_lite.vectors.cards import MAX_CARD, write_card
from linalign_lite.vectors.checks import ChangedError
from linalign_lite.vectors.columns import find_columns, import_arrow, schema_of, to_table
from linalign_lite.vectors.files.common import row_cursor
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.source import ROWS, Batch, Metric, VectorInfo, VectorSink, VectorSource
from linalign_lite.vectors.stores.common import (
    PARTIAL,
    CollectionGoneError,
    StoreError,
    StoreFullError,
    StoreGoneError,
    collection_exists,
    no_collection,
    required_part,
    resumed_cursor,
    store_errors,
)

COLUMN = "vector"  # LanceDB's own default
_METRICS: dict[str, Metric] = {"cosine": "cosine", "dot": "dot", "l2": "euclidean"}


class Source(VectorSource):
    """Rows of one version of a table."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._table, self._version = _open(location)
        with _errors(location, "opening"):
            first = self._table.search().limit(1).to_arrow()
            count = self._table.count_rows()
        named = replace(location, part=location.option("column"))
        schema = self._table.schema
        self.columns = find_columns(named, schema, first, count, str(self._version))
        self.info = self.columns.info
        if metric := self._metric():
            self.info = replace(self.info, metric=metric)

    def batches(self, rows: int = ROWS, after: str = "") -> Iterator[Batch]:
        version, _, row = after.partition("-")
        if after and version != str(self._version):
            raise ChangedError(
                f"{self.location} was changed since that cursor",
                got=f"version {self._version}",
                expected=version[:20],
                hint="name the earlier version: ?version=N",
            )
        first = row_cursor(row, self.info.count or 0)
        with _errors(self.location, "reading"):
            for part in self._table.search().offset(first).to_batches(rows):
                table = import_arrow().Table.from_batches([part])
                if not len(table):
                    continue
                batch = self.columns.batch(table, first)
                first += len(batch)
                yield replace(batch, cursor=f"{self._version}-{first}")

    def current(self) -> VectorInfo:
        with _errors(self.location, "reading"):
            table, version = _open(self.location)
            return replace(self.info, count=table.count_rows(), version=str(version))

    def _metric(self) -> Metric:
        """Return the metric of the vectors' index, "" where there is none."""
        with _errors(self.location, "reading"):
            for index in self._table.list_indices():
                if index.columns == [self.columns.vectors]:
                    kind = getattr(self._table.index_stats(index.name), "distance_type", None)
                    return _METRICS.get(str(kind).lower(), "")
        return ""


class Sink(VectorSink):
    """A new table, made in a folder beside its place and moved there by `finish`."""

    def __init__(self, location: Location, info: VectorInfo, *, resume: bool = False) -> None:
        self.location, self.info = location, info
        self.name, self.path = required_part(location, "table"), _folder(location)
        self.folder = self.path / f".{self.name}{PARTIAL}"
        self._state = self.folder / "state.json"
        self._table: Any = None
        self._done = False
        if (self.path / f"{self.name}.lance").exists():
            raise collection_exists(location)
        with _errors(location, "creating"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._db = _lancedb().connect(self.folder)
            if not (resume and self._resume()):
                for item in self.folder.iterdir():
                    shutil.rmtree(item) if item.is_dir() else item.unlink()

    def write(self, batch: Batch) -> None:
        with _errors(self.location, "writing"):
            if self._table is None:
                column = self.location.option("column", COLUMN)
                schema = schema_of(batch, self.info, column)
                self._table = self._db.create_table(self.name, schema=schema)
            self._table.add(to_table(batch, self._table.schema, self.location))
            card = strict_json(write_card(self.info, batch.cursor).encode())
            write_atomic(self._state, json.dumps(card | {"version": self._table.version}).encode())
        self.cursor = batch.cursor

    def finish(self) -> None:
        if self._table is None:
            raise InputError(f"there are no vectors to write to {self.location}")
        made, target = self.folder / f"{self.name}.lance", self.path / f"{self.name}.lance"
        with _errors(self.location, "completing"):
            for file in made.rglob("*"):
                if file.is_file():
                    with file.open("r+b") as f:
                        os.fsync(f.fileno())
            # files that somebody removed meanwhile are missed only when they are read
            whole = self._db.open_table(self.name)
            ids = sum(part.num_rows for part in whole.search().select(["id"]).to_batches(ROWS))
            if ids != whole.count_rows():
                raise StoreError(f"{self.location} lost rows while it was written")
            if target.exists():
                raise collection_exists(self.location)
            made.rename(target)
        self.abort()

    def abort(self) -> None:
        if self._done:
            return
        self._done = True
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.path.rmdir()  # if there is nothing else

    def suspend(self) -> None:
        self._done = True

    def _resume(self) -> bool:
        """Open the table as it was when its last cursor was written; False when there is none."""
        if not self._state.exists():
            return False
        with open_regular(self._state) as f:
            text = f.read(MAX_CARD + 1).decode("utf-8", "replace")
        self.cursor = resumed_cursor(text, self.info, self.location)
        if not self.cursor:
            return False
        with format_errors(self._state, "state of an unfinished table"):
            version = int(strict_json(text.encode())["version"])
        self._table = self._db.open_table(self.name)
        self._table.checkout(version)
        self._table.restore()
        return True


def switch(live: Location, new: Location) -> str:
    """Make the rows of ``new`` the newest version of the table ``live``.

    Return the location of the version before. When ``new`` is an earlier version of the same table,
    it is restored without a copy.
    """
    name = required_part(live, "table")
    table, before = _open(replace(live, options={}))
    with _errors(live, "switching"):
        if name == new.part:
            table.checkout(_version(new))
            table.restore()
        else:
            other, _ = _open(new)
            rows = other.search().to_batches(ROWS)
            reader = import_arrow().RecordBatchReader.from_batches(other.schema, iter(rows))
            _lancedb().connect(live.path).create_table(name, data=reader, mode="overwrite")
    column = f"column={live.option('column')}&" if live.option("column") else ""
    return f"{live.scheme}:{live.path}?{column}version={before}#{name}"


def _errors(location: Location, what: str) -> contextlib.AbstractContextManager[None]:
    """Name LanceDB's errors; most are RuntimeErrors that only their text tells apart."""

    def kind_of(error: Exception) -> type[StoreError]:
        text = str(error)
        if "No space left on device" in text or "(os error 122)" in text:
            return StoreFullError
        if "Incompatible transaction" in text or "conflict" in text:
            return CollectionGoneError
        gone = isinstance(error, FileNotFoundError) or "ot found" in text
        return StoreGoneError if gone else StoreError

    return store_errors(location, what, kind_of)


def _lancedb() -> Any:
    return import_extra("lancedb", extra="lancedb", purpose="LanceDB")


def _folder(location: Location) -> Path:
    if "://" in location.path or not location.path:
        raise InputError(f"{location} is no local folder", expected=location.backend.form)
    return Path(location.path)


def _version(location: Location) -> int:
    text = location.option("version")
    if not text.isdecimal() or len(text) > 18:
        raise InputError(f"{location} names no version", got=text[:20], expected="?version=NUMBER")
    return int(text)


def _open(location: Location) -> tuple[Any, int]:
    """Return a table and its version: the newest, or that which the location names."""
    name, path, lancedb = required_part(location, "table"), _folder(location), _lancedb()
    if not (path / f"{name}.lance").is_dir():
        raise no_collection(location, [p.stem for p in path.glob("*.lance")])
    with _errors(location, "opening"):
        table = lancedb.connect(path).open_table(name)
        version = _version(location) if location.option("version") else int(table.version)
        table.checkout(version)
    return table, version
