"""Tables of PostgreSQL with pgvector: ``postgresql://USER@HOST/DB[?column=…&id=…]#[SCHEMA.]TABLE``.

Any table with one primary key and one column `vector` or `halfvec` can be read; its other columns
are the payload. What is written is a table (id, embedding, payload jsonb). Vectors travel in
pgvector's binary form, so that float32 keeps its bits.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from typing import Any

import numpy as np

from linalign_lite.errors import InputError, import_extra
from linalign_lite.vectors.cards import read_card, stated_space, write_card
from linalign_lite.vectors.checks import dimension_error
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.source import (
    ROWS,
    Batch,
    Payload,
    VectorInfo,
    Vectors,
    VectorSink,
    VectorSource,
)
from linalign_lite.vectors.stores.common import (
    PARTIAL,
    StoreError,
    StoreLockedError,
    collection_exists,
    no_collection,
    part_location,
    resumed_cursor,
)
from linalign_lite.vectors.stores.pgvector_tables import (
    OWN_OPTIONS,
    find_table,
    metric_of_index,
    payload_expression,
    postgresql_errors,
    table_name,
    table_number,
)

_MAX_NAME = 63  # bytes of a name; PostgreSQL cuts longer ones

_ROWS = """
SELECT t.{key}::text, vector_send(t.{vector}::vector), {payload}
FROM {table} AS t WHERE ORDER BY t.{key}"""
_AFTER = "WHERE t.{key} > {after}"


class Source(VectorSource):
    """Rows of a table in the order of its primary key; each pass reads one snapshot."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self._psycopg, self._db = _connect(location)
        self._open = contextlib.ExitStack()
        self._open.callback(self._db.close)
        try:
            with self._errors("opening"):
                self._db.isolation_level = self._psycopg.IsolationLevel.REPEATABLE_READ
                self._db.read_only = True
                with self._db.transaction():
                    self.table = find_table(self._db, location)
                    self.info = self._info()
        except BaseException:
            self.close()
            raise

    def batches(self, rows: int = ROWS, after: str = "") -> Iterator[Batch]:
        t, sql = self.table, self._psycopg.sql
        key = sql.Identifier(t.key)
        query = sql.SQL(_ROWS.replace("WHERE", _AFTER if after else "")).format(
            key=key,
            vector=sql.Identifier(t.vector),
            payload=payload_expression(t, sql),
            table=sql.Identifier(*t.name),
            after=sql.SQL("{}::text::{}").format(after, sql.SQL(t.key_type)),
        )
        with (
            self._errors("reading"),
            self._db.transaction(),
            self._db.cursor(f"linalign_{secrets.token_hex(4)}", binary=True) as cursor,
        ):
            cursor.execute(query)
            while found := cursor.fetchmany(rows):
                ids, raw, payload = zip(*found, strict=True)
                yield Batch(ids, _vectors(raw, t.dim, self.location), _payload(payload), ids[-1])

    def current(self) -> VectorInfo:
        with self._errors("reading"), self._db.transaction():
            return self._info()

    def close(self) -> None:
        self._open.close()

    def _info(self) -> VectorInfo:
        """Count the rows, and add a hash of the transaction that wrote each: a version."""
        t, sql = self.table, self._psycopg.sql
        query = sql.SQL(
            "SELECT count(*), count({}), coalesce(sum(hashint8(xmin::text::bigint)), 0), "
            "obj_description(%s, 'pg_class') FROM {}"
        ).format(sql.Identifier(t.vector), sql.Identifier(*t.name))
        count, filled, version, comment = self._db.execute(query, (t.oid,)).fetchone()
        if filled < count:
            raise InputError(
                f"{self.location} has rows without a vector",
                got=f"{count - filled} of {count}",
                hint="fill or remove them, so that none is lost",
            )
        card = read_card(comment, self.location)
        metric = metric_of_index(self._db, t) or (card.metric if card else "")
        space = stated_space(card, t.dim, self.location)
        return VectorInfo(space, count, metric, t.ids, str(version))

    def _errors(self, what: str) -> contextlib.AbstractContextManager[None]:
        return postgresql_errors(self._psycopg, self.location, what)


class Sink(VectorSink):
    """A new table. Rows are kept batch by batch under another name, which `finish` replaces."""

    def __init__(self, location: Location, info: VectorInfo, *, resume: bool = False) -> None:
        self.location, self.info = location, info
        self.name = table_name(location)
        if len(self.name[-1].encode()) + len(PARTIAL) > _MAX_NAME:
            raise InputError(
                f"the name of {location} is too long", expected=f"{_MAX_NAME - 8} bytes"
            )
        self.partial = (*self.name[:-1], self.name[-1] + PARTIAL)
        self._psycopg, self._db = _connect(location)
        self._done = False
        try:
            with self._errors("creating"):
                self._begin(resume)
        except BaseException:
            self._db.close()
            raise

    def write(self, batch: Batch) -> None:
        sql, db = self._psycopg.sql, self._db
        data = np.empty(
            len(batch), [("dim", ">u2"), ("unused", ">u2"), ("x", ">f4", self.info.dim)]
        )
        data["dim"], data["unused"], data["x"] = self.info.dim, 0, batch.vectors
        step = data.dtype.itemsize
        raw, payload = data.tobytes(), batch.payload or (None,) * len(batch)
        as_json = self._psycopg.types.json.Jsonb
        ids = map(int, batch.ids) if self._integers else batch.ids
        copy = sql.SQL("COPY {} FROM STDIN WITH (FORMAT BINARY)").format(
            sql.Identifier(*self.partial)
        )
        with self._errors("writing"), db.transaction(), db.cursor() as cursor:
            with cursor.copy(copy) as out:
                # the bytes of a vector are what the server reads as its binary form
                out.set_types(["int8" if self._integers else "text", "bytea", "jsonb"])
                for i, (key, row) in enumerate(zip(ids, payload, strict=True)):
                    vector = raw[i * step : (i + 1) * step]
                    out.write_row((key, vector, None if row is None else as_json(dict(row))))
            self._comment(self.partial, batch.cursor)
        self.cursor = batch.cursor

    def finish(self) -> None:
        sql, db = self._psycopg.sql, self._db
        table, name = sql.Identifier(*self.name), sql.Identifier(self.name[-1])
        with self._errors("completing"), db.transaction():
            if not db.execute(self._sql("SELECT EXISTS (SELECT FROM {})")).fetchone()[0]:
                raise InputError(f"there are no vectors to write to {self.location}")
            db.execute(self._sql("ALTER TABLE {} RENAME TO ") + name)
            db.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY (id)").format(table))
            self._comment(self.name)
        self.suspend()

    def abort(self) -> None:
        if not self._done:
            # a server that is gone keeps the partial table; the next run removes or resumes it
            with contextlib.suppress(self._psycopg.Error):
                self._db.rollback()
                self._db.execute(self._sql("DROP TABLE IF EXISTS {}"))
                self._db.commit()
        self.suspend()

    def suspend(self) -> None:
        self._done = True
        self._db.close()

    def _begin(self, resume: bool) -> None:
        sql, db = self._psycopg.sql, self._db
        self._integers = self.info.ids != "texts"
        with db.transaction():
            # held as long as the connection; the server notices a moment later that one has gone
            db.execute("SET LOCAL lock_timeout = '3s'")
            try:
                db.execute("SELECT pg_advisory_lock(hashtextextended(%s, 17))", (str(self.name),))
            except self._psycopg.errors.LockNotAvailable as e:
                raise StoreLockedError(f"another run writes to {self.location}") from e
            if table_number(db, sql, self.name):
                raise collection_exists(self.location)
            if db.execute("SELECT to_regtype('vector')").fetchone()[0] is None:
                raise StoreError(
                    f"{self.location}: the database has no type `vector`",
                    hint="CREATE EXTENSION vector",
                )
            if (left := table_number(db, sql, self.partial)) and resume:
                text = db.execute("SELECT obj_description(%s, 'pg_class')", (left,)).fetchone()[0]
                self.cursor = resumed_cursor(text, self.info, self.location)
                if self.cursor:
                    return
            db.execute(self._sql("DROP TABLE IF EXISTS {}"))
            key = "bigint" if self._integers else 'text COLLATE "C"'
            db.execute(
                self._sql("CREATE TABLE {} (")
                + sql.SQL(
                    f"id {key} NOT NULL, embedding vector({self.info.dim}) NOT NULL, payload jsonb)"
                )
            )
            self._comment(self.partial)

    def _comment(self, name: tuple[str, ...], cursor: str = "") -> None:
        sql = self._psycopg.sql
        text = write_card(self.info, cursor)
        self._db.execute(
            sql.SQL("COMMENT ON TABLE {} IS {}").format(sql.Identifier(*name), sql.Literal(text))
        )

    def _sql(self, text: str) -> Any:
        sql = self._psycopg.sql
        return sql.SQL(text).format(sql.Identifier(*self.partial))

    def _errors(self, what: str) -> contextlib.AbstractContextManager[None]:
        return postgresql_errors(self._psycopg, self.location, what)


def switch(live: Location, new: Location) -> str:
    """Rename the table ``live`` and give its name to ``new``, in one transaction.

    Return the location of the former table. Raises StoreError when others hold it for 10 s.
    """
    name, other = table_name(live), table_name(new)
    if name[:-1] != other[:-1]:
        raise InputError("the two tables are of different schemas", got=f"{live} and {new}")
    former = f"{name[-1].encode()[: _MAX_NAME - 9].decode(errors='ignore')}_{secrets.token_hex(4)}"
    psycopg, db = _connect(live)
    sql = psycopg.sql
    rename = sql.SQL("ALTER TABLE {} RENAME TO {}")
    with contextlib.closing(db), postgresql_errors(psycopg, live, "switching"), db.transaction():
        db.execute("SET LOCAL lock_timeout = '10s'")
        for location, table in ((live, name), (new, other)):
            if not table_number(db, sql, table):
                raise no_collection(location, [])
        db.execute(rename.format(sql.Identifier(*name), sql.Identifier(former)))
        db.execute(rename.format(sql.Identifier(*other), sql.Identifier(name[-1])))
    return part_location(live, ".".join((*name[:-1], former)))


def _connect(location: Location) -> tuple[Any, Any]:
    """Return the package psycopg and a connection."""
    psycopg = import_extra("psycopg", extra="pgvector", purpose="PostgreSQL")
    import_extra("psycopg.types.json", extra="pgvector", purpose="PostgreSQL")
    table_name(location)
    given = {k: v for k, v in location.options.items() if k not in OWN_OPTIONS}
    query = "&".join(f"{k}={v}" for k, v in ({"connect_timeout": "10"} | given).items())
    with postgresql_errors(psycopg, location, "connecting to"):
        return psycopg, psycopg.connect(f"postgresql:{location.path}?{query}")


def _payload(found: tuple[Any, ...]) -> Payload | None:
    if all(row is None for row in found):
        return None
    return tuple(row if isinstance(row, dict) else {"payload": row} if row else {} for row in found)


def _vectors(raw: tuple[bytes, ...], dim: int, location: Location) -> Vectors:
    """Return vectors of pgvector's binary form: dimension and zero, two bytes each, then floats."""
    size = 4 + 4 * dim
    if wrong := next((r for r in raw if len(r) != size), None):
        raise dimension_error(location, (len(wrong) - 4) // 4, dim)
    rows = np.frombuffer(b"".join(raw), ">f4").reshape(len(raw), dim + 1)
    return rows[:, 1:].astype(np.float32)
