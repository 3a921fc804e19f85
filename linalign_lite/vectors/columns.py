"""Columns of Arrow tables as batches of vectors, and back. Needs the extra `parquet`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from linalign_lite.core.space import MAX_DIM
from linalign_lite.errors import FormatError, InputError, LinalignError, import_extra, is_disk_full
from linalign_lite.vectors.cards import KEY, read_card, stated_space, write_card
from linalign_lite.vectors.checks import dimension_error
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.source import Batch, Ids, VectorInfo, Vectors, row_ids

ID_COLUMNS = ("id", "_id")
VECTOR_COLUMN = "embedding"  # default of what is written


def import_arrow(module: str = "pyarrow") -> Any:
    """Import pyarrow or a module of it. Raises MissingExtraError."""
    return import_extra(module, extra="parquet", purpose="reading or writing Parquet and Arrow")


@contextlib.contextmanager
def arrow_errors(location: Location, what: str) -> Iterator[None]:
    """Turn pyarrow's errors in the block into FormatErrors; what: the format."""
    pa = import_arrow()
    try:
        yield
    except LinalignError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as e:
        if is_disk_full(e):
            raise
        text = " ".join(str(e).split())[:160]
        raise FormatError(f"{location} is not usable {what}", got=text) from e


class Rows(Sequence[Mapping[str, Any]]):
    """Payload that stays in Arrow columns until a row is asked for; ``table`` holds them."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, at: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, at: slice) -> Rows: ...
    def __getitem__(self, at: int | slice) -> Mapping[str, Any] | Rows:
        if isinstance(at, slice):
            start, stop, step = at.indices(len(self))
            if step != 1:
                raise InputError("rows are taken one after the other", got=f"step {step}")
            return Rows(self.table.slice(start, max(0, stop - start)))
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        row: Mapping[str, Any] = self.table.slice(at % len(self), 1).to_pylist()[0]
        return row

    def __iter__(self) -> Any:
        return iter(self.table.to_pylist())


@dataclass(frozen=True)
class Columns:
    """The columns of a table that hold vectors, ids and payload."""

    location: Location
    vectors: str
    ids: str | None
    payload: tuple[str, ...]
    info: VectorInfo

    def batch(self, table: Any, first: int) -> Batch:
        """Return rows of the table; first: number of the rows before them."""
        vectors = matrix(table.column(self.vectors), self.info.dim, self.location)
        return self.of_vectors(vectors, table, first)

    def of_vectors(self, vectors: Vectors, table: Any, first: int) -> Batch:
        """Return vectors with ids and payload of a table of the same rows."""
        n = len(vectors)
        ids = row_ids(first, n) if self.ids is None else self._ids(table.column(self.ids))
        payload = Rows(table.select(list(self.payload))) if self.payload else None
        return Batch(ids, vectors, payload, str(first + n))

    def _ids(self, column: Any) -> tuple[str, ...]:
        if column.null_count:
            raise InputError(f"{self.location} has rows without an id")
        return tuple(column.cast("string").to_numpy(zero_copy_only=False).tolist())


def find_columns(
    location: Location, schema: Any, first: Any, count: int | None, version: str
) -> Columns:
    """Find the columns of vectors and ids in a schema.

    Vectors stand in the column that the location names (#NAME), or in the only one of lists of
    floating-point numbers. Ids stand in `id` or `_id`, strings or integers. first: the first row,
    a table. Raises InputError when no column, or more than one, is there.
    """
    types = import_arrow().types
    lists = [f.name for f in schema if _is_vector(types, f.type)]
    if location.part:
        lists = [name for name in lists if name == location.part]
    if len(lists) != 1:
        named = f"a column {location.part!r}" if location.part else "one column"
        raise InputError(
            f"{location} does not have {named} of lists of floating-point numbers",
            got=", ".join(f"{f.name[:40]} {str(f.type)[:40]}" for f in list(schema)[:8]),
            hint=f"name the column: {'?column=NAME' if location.scheme else 'FILE#COLUMN'}",
        )
    ids = next((n for n in ID_COLUMNS if _is_id(types, schema, n)), None)
    taken, names = {lists[0], ids}, list(schema.names)
    if len(set(names)) < len(names):
        raise FormatError(f"{location} has two columns of one name")
    if not first.num_rows:
        raise InputError(f"{location} holds no vectors")
    lengths = import_arrow("pyarrow.compute").list_value_length(first.column(lists[0]))
    dim = lengths[0].as_py()
    if dim is None or not 0 < dim <= MAX_DIM:
        raise FormatError(f"{location}: the first vector is not usable", got=f"{dim} numbers")
    kind: Ids = "rows" if ids is None else "texts"
    if ids is not None and types.is_integer(schema.field(ids).type):
        kind = "integers"
    text = (schema.metadata or {}).get(KEY.encode(), b"").decode("utf-8", "replace")
    card = read_card(text, location)
    space, metric = stated_space(card, dim, location), card.metric if card else ""
    info = VectorInfo(space, count, metric, kind, version)
    return Columns(location, lists[0], ids, tuple(n for n in names if n not in taken), info)


def matrix(column: Any, dim: int, location: Location) -> Vectors:
    """Return a column of lists as (n, dim) float32. Raises for empty cells and other lengths."""
    pa = import_arrow()
    if isinstance(column, pa.ChunkedArray):
        parts = [matrix(chunk, dim, location) for chunk in column.chunks if len(chunk)]
        return np.concatenate(parts) if len(parts) != 1 else parts[0]
    if column.null_count:
        raise InputError(f"{location} has rows without a vector", got=str(column.null_count))
    if not pa.types.is_fixed_size_list(column.type):
        lengths = np.diff(column.offsets.to_numpy())
        if (lengths != dim).any():
            raise dimension_error(location, int(lengths[lengths != dim][0]), dim)
    flat = column.flatten()
    with np.errstate(over="ignore"):  # beyond float32: infinite, and refused
        numbers = flat.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return numbers.reshape(-1, dim)  # type: ignore[no-any-return]


def schema_of(batch: Batch, info: VectorInfo, column: str) -> Any:
    """Return the Arrow schema in which batches like the first one are written.

    Raises InputError for payload whose values are of several types.
    """
    pa = import_arrow()
    number = pa.field("element", pa.float32(), nullable=False)
    kind = pa.int64() if info.ids == "integers" else pa.string()
    fields = [pa.field("id", kind, nullable=False)]
    fields += [pa.field(column, pa.list_(number, info.dim), nullable=False)]
    with _fitting("one table"):
        payload = payload_table(batch).schema if batch.payload is not None else ()
    for f in payload:
        if f.name in {"id", column}:
            raise InputError("a payload has the name of another column", got=f.name[:40])
        fields.append(f.with_type(pa.string()) if pa.types.is_null(f.type) else f)
    return pa.schema(fields, metadata={KEY: write_card(info)})


def to_table(batch: Batch, schema: Any, location: Location) -> Any:
    """Return a batch as a table of that schema. Raises InputError for payload that does not fit."""
    pa = import_arrow()
    ids, vectors = schema[0], schema[1]
    flat = pa.array(np.ascontiguousarray(batch.vectors).reshape(-1))
    with _fitting(location):
        texts = pa.array(batch.ids, pa.string())
        columns = [texts.cast(ids.type), pa.FixedSizeListArray.from_arrays(flat, type=vectors.type)]
        if len(schema) > 2:
            rest = pa.schema(list(schema)[2:])
            columns += payload_table(batch, rest).cast(rest).columns
        return pa.table(columns, schema=schema)


@contextlib.contextmanager
def _fitting(location: object) -> Iterator[None]:
    """Turn errors of values that fit no column, or not the first batch's, into an InputError."""
    try:
        yield
    except LinalignError:
        raise
    except (import_arrow().ArrowException, ValueError, TypeError, OverflowError) as e:
        raise InputError(
            f"ids or payload of a batch do not fit the columns of {location}",
            got=" ".join(str(e).split())[:120],
            hint="the first batch decides the types of the columns; JSON lines take any payload",
        ) from e


def payload_table(batch: Batch, schema: Any = None) -> Any:
    """Return the payload as a table; without payload, empty cells."""
    pa = import_arrow()
    if isinstance(batch.payload, Rows):
        table = batch.payload.table
        return table if schema is None else pa.table(table.select(schema.names))
    rows = [dict(row) for row in batch.payload or ({},) * len(batch)]
    if schema is not None:
        return pa.Table.from_pylist(rows, schema=schema)
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def _is_vector(types: Any, kind: Any) -> bool:
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return any(test(kind) for test in lists) and bool(types.is_floating(kind.value_type))


def _is_id(types: Any, schema: Any, name: str) -> bool:
    if name not in schema.names:
        return False
    kind = schema.field(name).type
    return any(f(kind) for f in (types.is_string, types.is_large_string, types.is_integer))
