"""JSON files: one vector a line under `embedding`, or what embedding services return.

Services: a document, or one a line, with `data` (a list of `index` and `embedding`; a vector may be
base64 of float32), `embeddings` or an `embedding` with `values`; also the lines of a batch
(`custom_id`, `response.body`).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from linalign_lite.core.space import MAX_DIM
from linalign_lite.errors import FormatError, InputError, MismatchError
from linalign_lite.storage.atomic import open_regular
from linalign_lite.vectors.cards import KEY, Card, read_card, stated_space, write_card
from linalign_lite.vectors.checks import dimension_error
from linalign_lite.vectors.files.common import FileSink, FileSource, file_version
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.source import ROWS, Batch, Ids, VectorInfo, Vectors, named_space

VECTOR_KEY = "embedding"
MAX_LINE = 64 << 20  # bytes: 2,048 vectors of 3,072 numbers fit
MAX_DOCUMENT = 1 << 30  # bytes of a file that is one document
_SERVICE = {"object", "usage", "index", "model", "data"}  # of a service's answer, not payload


@dataclass(frozen=True, eq=False)
class Row:
    """One vector as a line states it; id "" where it states none."""

    vector: Vectors
    id: str = ""
    payload: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    number: bool = False  # the id is a number, not a text of digits


class Source(FileSource):
    """Vectors of a JSON file in the order of its lines; of one answer, in the order of `index`."""

    def __init__(self, location: Location) -> None:
        self.location, self.path = location, Path(location.path)
        self.key = location.part or VECTOR_KEY
        with open_regular(self.path) as f:
            version = file_version(self.path)
            self._card, self._start = self._head(f)
            first = next(self._rows(f, self._start), None)
        if first is None:
            raise InputError(f"{location} holds no vectors")
        _, _, row = first
        kind: Ids = "rows" if not row.id else "integers" if row.number else "texts"
        dim = len(row.vector)
        space = stated_space(self._card, dim, location)
        if self._card is None:
            space = named_space(dim, row.model)
        metric = self._card.metric if self._card else ""
        self.info = VectorInfo(space, None, metric, kind, version)

    def batches(self, rows: int = ROWS, after: str = "") -> Iterator[Batch]:
        offset, inside, n = self._position(after)
        waiting: list[Row] = []
        with open_regular(self.path) as f:
            for at, number, row in self._rows(f, offset):
                if at == offset and number < inside:
                    continue
                waiting.append(row)
                if len(waiting) == rows:
                    n += rows
                    yield self._batch(waiting, n, f"{at}:{number + 1}:{n}")
                    waiting = []
        if waiting:
            n += len(waiting)
            yield self._batch(waiting, n, f"{at}:{number + 1}:{n}")

    def _position(self, after: str) -> tuple[int, int, int]:
        """Return where a cursor points: the line's beginning, rows of it and rows in all before."""
        if not after:
            return self._start, 0, 0
        numbers = [int(part) for part in after.split(":") if part.isdecimal()]
        if len(numbers) != 3 or numbers[0] > self.path.stat().st_size:
            raise InputError("the cursor is not of this file", got=after[:40])
        return numbers[0], numbers[1], numbers[2]

    def _batch(self, rows: list[Row], end: int, cursor: str) -> Batch:
        dim, first = self.info.dim, end - len(rows)
        for row in rows:
            if len(row.vector) != dim:
                raise dimension_error(self.location, len(row.vector), dim)
            if row.model and self.info.model and row.model != self.info.model:
                raise MismatchError(
                    f"{self.location} holds vectors of two models",
                    got=row.model[:60],
                    expected=self.info.model,
                )
            if bool(row.id) == (self.info.ids == "rows"):
                raise FormatError(f"{self.location} has ids on some lines only")
        ids = tuple(row.id or str(first + i) for i, row in enumerate(rows))
        payload = tuple(row.payload for row in rows)
        return Batch(ids, np.stack([row.vector for row in rows]), payload, cursor)

    def _head(self, f: IO[bytes]) -> tuple[Card | None, int]:
        """Return the card, if the first line is one, and where the vectors begin."""
        line = f.readline(1 << 16)
        if not line.startswith(f'{{"{KEY}"'.encode()):
            return None, 0
        return read_card(line.decode("utf-8", "replace"), self.location), len(line)

    def _rows(self, f: IO[bytes], offset: int) -> Iterator[tuple[int, int, Row]]:
        """Yield (where its line begins, its number in the line, the vector)."""
        f.seek(offset)
        while line := f.readline(MAX_LINE + 1):
            at, offset = offset, offset + len(line)
            if not line.strip():
                continue
            document = self._parsed(line)
            if document is None and at == 0:  # one document of many lines
                f.seek(0)
                line = f.read(MAX_DOCUMENT + 1)
                document = self._parsed(line) if len(line) <= MAX_DOCUMENT else None
            if document is None:
                raise FormatError(f"{self.location}: not JSON at byte {at}, or too long a line")
            for number, row in enumerate(self._found(document, at)):
                yield at, number, row

    @staticmethod
    def _parsed(line: bytes) -> Any:
        """Return the document; NaN and infinities stay numbers, to be refused by name."""
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            return None

    def _found(self, document: Any, at: int) -> list[Row]:
        try:
            return list(_rows_of(document, self.key))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as e:
            without = isinstance(e, KeyError)
            raise FormatError(
                f"{self.location}: no vector at byte {at}",
                got=f"a line without `{self.key}`" if without else str(e)[:80],
                expected=f"`{self.key}`: a list of numbers, or the answer of a service",
                hint="`linalign-lite extract` makes states of texts" if without else "",
            ) from e


class Sink(FileSink):
    """A line for each vector: `id`, `embedding` (or #KEY) and the payload, after a card."""

    def __init__(self, location: Location, info: VectorInfo, *, resume: bool = False) -> None:  # noqa: ARG002 (starts again)
        super().__init__(location, info)
        self.key = location.part or VECTOR_KEY
        self.file.write(write_card(info).encode() + b"\n")

    def write(self, batch: Batch) -> None:
        rows = batch.payload or ({},) * len(batch)
        for id_, vector, row in zip(batch.ids, batch.vectors, rows, strict=True):
            if row.keys() & {"id", self.key}:
                raise InputError(
                    "a payload has the name of another column", got=f"id or {self.key}"
                )
            numbers = ",".join(map("%.9g".__mod__, vector.tolist()))  # 9 digits give the same bits
            try:
                rest = json.dumps(dict(row), default=str, allow_nan=False)[1:-1]
            except (ValueError, TypeError, RecursionError) as e:
                raise InputError(
                    f"{self.location}: a payload cannot be written as JSON",
                    got=str(e)[:80],
                    hint="leave the column out, or write Parquet",
                ) from e
            number = self.info.ids == "integers"
            head = f'"id": {id_ if number else json.dumps(id_)}, "{self.key}": [{numbers}]'
            self.file.write(f"{{{head}{', ' if rest else ''}{rest}}}\n".encode())
        self.rows += len(batch)


def _rows_of(document: Any, key: str) -> Iterator[Row]:
    """Yield the vectors of a line or of a service's answer. Raises KeyError, ValueError, …"""
    if isinstance(document, list):
        for part in document:
            yield from _rows_of(part, key)
    elif isinstance(body := (document.get("response") or {}), dict) and "body" in body:
        found = list(_rows_of(body["body"], key))
        name = str(document.get("custom_id", ""))
        for i, row in enumerate(found):
            own = name if len(found) == 1 else f"{name}:{i}"
            yield Row(row.vector, own if name else "", row.payload, row.model)
    elif isinstance(document.get("data"), list):
        parts = document["data"]
        if all(type(part.get("index")) is int for part in parts):
            parts = sorted(parts, key=lambda part: part["index"])
        for part in parts:
            yield Row(_vector(part[key]), model=_model(document))
    elif "embeddings" in document and key not in document:
        found = document["embeddings"]
        for part in found["float"] if isinstance(found, dict) else found:
            yield Row(_vector(part), model=_model(document))
    else:
        payload = {k: v for k, v in document.items() if k not in {key, "id", *_SERVICE}}
        own = document.get("id", document.get("index", ""))
        if type(own) not in {str, int}:
            raise TypeError("an id that is no text")
        if key not in document and document.get("error"):
            raise ValueError("a request that failed: leave its line out")
        number = type(own) is int
        yield Row(_vector(document[key]), str(own), payload, _model(document), number)


def _model(document: Mapping[str, Any]) -> str:
    name = document.get("model") or ""
    if not isinstance(name, str) or len(name) > 256 or not (not name or name.isprintable()):
        raise ValueError("a model without a usable name")
    return name


def _vector(value: Any) -> Vectors:
    """Return a vector from a list of numbers, base64 of float32, or an object with `values`."""
    if isinstance(value, dict):
        value = value["values"]
    if isinstance(value, str):
        try:
            return np.frombuffer(base64.b64decode(value, validate=True), "<f4").astype(np.float32)
        except binascii.Error as e:
            raise ValueError("a vector that is not base64") from e
    if not isinstance(value, list) or not 0 < len(value) <= MAX_DIM:
        raise ValueError("no list of numbers")
    if not {type(v) for v in value} <= {int, float}:
        raise TypeError("a list of something else than numbers")
    with np.errstate(over="ignore"):
        return np.array(value, np.float64).astype(np.float32)
