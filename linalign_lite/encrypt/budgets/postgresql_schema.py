"""The tables of a budget in PostgreSQL: a schema, checked before it is used."""

from __future__ import annotations

from linalign_lite.encrypt.budgets.store import Execute
from linalign_lite.errors import FormatError, InputError

VERSION = 1
_NUMBERED = "bigint NOT NULL GENERATED ALWAYS AS IDENTITY"
_COUNTS = {"states": "bigint NOT NULL", "bits": "bigint NOT NULL"}
_LIMITS = {"states": "bigint", "bits": "bigint"}
_QUERY = {"account": "bytea NOT NULL", "fingerprint": "bytea NOT NULL"}
_TABLES = {  # columns of each table, and its primary key
    "accounts": ({"account": "bytea NOT NULL", **_LIMITS, "closed": "integer NOT NULL"}, "account"),
    "answered": (_QUERY, "account, fingerprint"),
    "budget": ({"id": "bigint NOT NULL", **_COUNTS, "bits": "bigint"}, "id"),
    "pending": ({"id": _NUMBERED, **_QUERY, **_COUNTS, "owner": "bigint NOT NULL"}, "id"),
    "responses": (
        {
            "name": "text NOT NULL",
            "size": "bigint NOT NULL",
            "made": "timestamp with time zone NOT NULL",
            "data": "bytea NOT NULL",
        },
        "name",
    ),
    "settled": ({"account": "bytea NOT NULL", **_COUNTS}, "account"),
    "version": ({"version": "integer NOT NULL"}, "version"),
}
_COLUMNS = """
SELECT c.relname::text, c.relkind::text, a.attname::text, format_type(a.atttypid, a.atttypmod),
    a.attnotnull, a.attidentity::text
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = ?::text::regnamespace AND c.relkind NOT IN ('i', 'S')
    AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY 1, a.attnum"""
_KEYS = """
SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint
WHERE connamespace = ?::text::regnamespace AND contype <> 'n'"""  # 'n': NOT NULL, from version 18
_ACTIVE = """
SELECT 1 FROM pg_class c WHERE c.relnamespace = ?::text::regnamespace AND (c.relrowsecurity
    OR c.relhasrules OR EXISTS (SELECT 1 FROM pg_trigger t WHERE t.tgrelid = c.oid))"""


def exists(db: Execute, schema: str) -> bool:
    """Return whether the schema has a table of this or another program."""
    query = "SELECT 1 FROM pg_tables WHERE schemaname = ? LIMIT 1"
    return bool(db(query, schema))


def create(db: Execute, schema: str, states: int, bits: int | None) -> None:
    """Make the schema, unless an administrator did, and its tables, for these limits."""
    if not db("SELECT 1 FROM pg_namespace WHERE nspname = ?", schema):
        db(f'CREATE SCHEMA "{schema}"')
    for name, (columns, key) in _TABLES.items():
        defined = ", ".join(f"{column} {kind}" for column, kind in columns.items())
        db(f'CREATE TABLE "{schema}".{name} ({defined}, PRIMARY KEY ({key}))')
    db(f'CREATE INDEX pending_account ON "{schema}".pending (account)')
    db(f'ALTER TABLE "{schema}".responses ALTER data SET STORAGE EXTERNAL')  # nothing to compress
    db("INSERT INTO version VALUES (?)", VERSION)
    db("INSERT INTO budget VALUES (1, ?, ?)", states, bits)


def require(db: Execute, schema: str, budget: str) -> None:
    """Raise InputError unless the budget is there, FormatError unless it is just its tables."""
    if not exists(db, schema):
        raise InputError(f"there is no {budget}"[:200], hint="give a limit to create one")
    quoted = f'"{schema}"'
    found = db(_COLUMNS, quoted)
    if ("version", "r", "version", "integer", True, "") in found:
        versions = [row[0] for row in db("SELECT version FROM version LIMIT 2")]
        if versions != [VERSION]:
            got = ", ".join(map(str, versions)) or "none"
            what, hint = f"{budget} is of an unknown version", "update linalign-lite"
            raise FormatError(what, got=got, expected=str(VERSION), hint=hint)
    columns = [
        (name, "r", column, kind.partition(" NOT NULL")[0], "NOT NULL" in kind,
         "a" if kind == _NUMBERED else "")
        for name, (kinds, _) in sorted(_TABLES.items())
        for column, kind in kinds.items()
    ]  # fmt: skip
    keys = sorted((name, f"PRIMARY KEY ({key})") for name, (_, key) in _TABLES.items())
    if found != columns or sorted(db(_KEYS, quoted)) != keys or db(_ACTIVE, quoted):
        got, hint = "other tables, keys, triggers or policies", "restore it if it was a budget"
        raise FormatError(f"{budget} is no budget, or is damaged", got=got, hint=hint)
