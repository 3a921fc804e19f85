"""The catalogue of PostgreSQL: tables with vectors, their columns and metrics, and its errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from linalign_lite.errors import FormatError, InputError, import_extra
from linalign_lite.vectors.checks import DuplicateIdError
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.source import Ids, Metric
from linalign_lite.vectors.stores.common import (
    HINTS,
    CollectionGoneError,
    StoreError,
    StoreFullError,
    StoreGoneError,
    StoreLockedError,
    collection_exists,
    no_collection,
    required_part,
)

OWN_OPTIONS = ("column", "id")  # of a location; all others are PostgreSQL's
_METRICS: dict[str, Metric] = {"cosine": "cosine", "ip": "dot", "l2": "euclidean"}

_COLUMNS = """
SELECT a.attname, t.typname, format_type(a.atttypid, a.atttypmod), a.atttypmod, i.indisprimary
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
LEFT JOIN pg_index i
  ON i.indrelid = a.attrelid AND i.indisprimary AND i.indkey::text = a.attnum::text
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""

_OPERATORS = """
SELECT o.opcname FROM pg_index i, unnest(i.indclass::oid[], i.indkey::int2[]) AS c(class, number)
JOIN pg_opclass o ON o.oid = c.class
WHERE i.indrelid = %s AND c.number = (
  SELECT attnum FROM pg_attribute WHERE attrelid = %s AND attname = %s)"""


@dataclass(frozen=True)
class Table:
    """A table and the columns that count."""

    name: tuple[str, ...]  # or schema and name
    oid: int
    key: str
    key_type: str
    vector: str
    dim: int
    others: tuple[str, ...]  # columns of the payload
    whole: bool  # the one other column is an object, the payload itself

    @property
    def ids(self) -> Ids:
        return "integers" if self.key_type in ("smallint", "integer", "bigint") else "texts"


@contextlib.contextmanager
def postgresql_errors(psycopg: Any, location: Location, what: str) -> Iterator[None]:
    """Turn psycopg's errors into named ones. They quote its first sentence, without details:

    these hold values of rows.
    """
    errors = psycopg.errors
    try:
        yield
    except errors.UniqueViolation as e:
        raise DuplicateIdError(f"{location} has an id twice", expected="distinct ids") from e
    except errors.DuplicateTable as e:
        raise collection_exists(location) from e
    except psycopg.Error as e:
        kinds: dict[Any, type[StoreError]] = {  # a kind stands before those that it is one of
            errors.DiskFull: StoreFullError,
            errors.LockNotAvailable: StoreLockedError,
            errors.UndefinedTable: CollectionGoneError,
            psycopg.OperationalError: StoreGoneError,
        }
        kind = next((k for found, k in kinds.items() if isinstance(e, found)), StoreError)
        text = e.diag.message_primary or str(e).strip().partition("\n")[0]
        raise kind(f"{what} {location} failed", got=text[:200], hint=HINTS.get(kind, "")) from e


def table_name(location: Location) -> tuple[str, ...]:
    """Return the name, or schema and name, that a location states."""
    parts = tuple(required_part(location, "table").split("."))
    if len(parts) > 2 or not all(parts):
        raise InputError(f"{location} names no table", expected="#TABLE or #SCHEMA.TABLE")
    return parts


def table_number(db: Any, sql: Any, name: tuple[str, ...]) -> int | None:
    """Return the number of a table, None when it is not there."""
    quoted = sql.Identifier(*name).as_string(db)
    found = db.execute("SELECT to_regclass(%s)::oid::bigint", (quoted,)).fetchone()[0]
    return None if found is None else int(found)


def find_table(db: Any, location: Location) -> Table:
    """Find a table, its key and its vectors. Raises InputError for what is not there or unclear."""
    name = table_name(location)
    psycopg = import_extra("psycopg", extra="pgvector", purpose="PostgreSQL")
    oid = table_number(db, psycopg.sql, name)
    if oid is None:
        raise no_collection(location, [])
    (kind,) = db.execute("SELECT relkind FROM pg_class WHERE oid = %s", (oid,)).fetchone()
    if kind not in "rpm":
        raise InputError(
            f"{location} is no table", hint="take its tables, or make it a materialised view"
        )
    columns = {c[0]: c for c in db.execute(_COLUMNS, (oid,))}
    vectors = [c for c, (_, kind, *_) in columns.items() if kind in ("vector", "halfvec")]
    vector = _choose(location, "column", vectors, "one column `vector` or `halfvec`")
    keys = list(columns) if location.option("id") else [c for c in columns if columns[c][4]]
    key = _choose(location, "id", keys, "one column as primary key")
    others = tuple(c for c in columns if c not in (key, vector))
    table = Table(
        name, oid, key, columns[key][2], vector, columns[vector][3], others,
        [(c, columns[c][1]) for c in others] == [("payload", "jsonb")],
    )  # fmt: skip
    if table.dim > 0:
        return table
    return replace(table, dim=_first_dim(db, psycopg.sql, table, location))


def _choose(location: Location, option: str, found: list[str], what: str) -> str:
    """Return the column that the location's option names, or the only one."""
    wanted = location.option(option)
    if wanted in found or (not wanted and len(found) == 1):
        return wanted or found[0]
    raise InputError(
        f"{location} has not {what}",
        got=", ".join(found)[:80] or "none",
        hint=f"name it: ?{option}=NAME",
    )


def _first_dim(db: Any, sql: Any, table: Table, location: Location) -> int:
    """Return the dimension of the first vector, for a column that states none."""
    query = sql.SQL("SELECT vector_dims({}) FROM {} LIMIT 1")
    found = db.execute(
        query.format(sql.Identifier(table.vector), sql.Identifier(*table.name))
    ).fetchone()
    if not found or not found[0]:
        raise FormatError(f"{location}: the dimension is not known", got="no vectors")
    return int(found[0])


def payload_expression(table: Table, sql: Any) -> Any:
    """Return the expression of a row's payload as one JSON object."""
    if not table.others:
        return sql.SQL("NULL::jsonb")
    columns = sql.SQL(", ").join(sql.Identifier("t", c) for c in table.others)
    if table.whole:
        return columns
    return sql.SQL("to_jsonb((SELECT x FROM (SELECT {}) x))").format(columns)


def metric_of_index(db: Any, table: Table) -> Metric:
    """Return the metric of the vectors' index, "" where there is none."""
    found: Metric = ""
    for (name,) in db.execute(_OPERATORS, (table.oid, table.oid, table.vector)):
        found = _METRICS.get(name.split("_")[1], found)
    return found
