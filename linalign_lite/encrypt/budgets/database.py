"""The file of a query budget: a SQLite database, checked before it is used.

docs/FORMAT.md, section 4. Version 1 counted states for each key; a first use makes it version 2,
whose accounts have limits of their own and are counted in bits, too, and which knows each query
that was answered.
"""

import contextlib
import os
import re
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from linalign_lite.errors import FormatError, InputError, LinalignError
from linalign_lite.storage.atomic import open_regular, write_new

VERSION = 2
_MAX_FILE, MAX_CHECKED = 1 << 30, 1 << 24  # up to the second, a Budget first checks every page
_LOCK_TIMEOUT = 30.0  # seconds that another process may keep the file locked
_APPLICATION = 0x4C414C42  # "LALB"
_TABLES = {
    "accounts": "CREATE TABLE accounts (account BLOB PRIMARY KEY NOT NULL, states INTEGER,"
    " bits INTEGER, closed INTEGER NOT NULL) WITHOUT ROWID",
    "answered": "CREATE TABLE answered (account BLOB NOT NULL, fingerprint BLOB NOT NULL,"
    " PRIMARY KEY (account, fingerprint)) WITHOUT ROWID",
    "budget": "CREATE TABLE budget (id INTEGER PRIMARY KEY, states INTEGER NOT NULL, bits INTEGER)",
    "pending": "CREATE TABLE pending (id INTEGER PRIMARY KEY, account BLOB NOT NULL,"
    " fingerprint BLOB NOT NULL, states INTEGER NOT NULL, bits INTEGER NOT NULL,"
    " owner INTEGER NOT NULL)",
    "settled": "CREATE TABLE settled (account BLOB PRIMARY KEY NOT NULL, states INTEGER NOT NULL,"
    " bits INTEGER NOT NULL) WITHOUT ROWID",
}
_TABLES_1 = {
    "budget": "CREATE TABLE budget (id INTEGER PRIMARY KEY, states INTEGER NOT NULL)",
    "pending": "CREATE TABLE pending (id INTEGER PRIMARY KEY, key BLOB NOT NULL,"
    " fingerprint BLOB NOT NULL, states INTEGER NOT NULL, owner INTEGER NOT NULL)",
    "settled": "CREATE TABLE settled (key BLOB PRIMARY KEY NOT NULL, states INTEGER NOT NULL)"
    " WITHOUT ROWID",
}
_COPIES = (
    "INSERT INTO budget SELECT id, states, NULL FROM old_budget",
    "INSERT INTO pending SELECT id, key, fingerprint, states, 0, owner FROM old_pending",
    "INSERT INTO settled SELECT key, states, 0 FROM old_settled",
)

# Held while a connection is open, and while the process forks: a child must not inherit SQLite's
# state from the middle of a transaction, and no descriptor of the file may be closed within one:
# that drops all of the process's POSIX locks on it.
LOCK = threading.RLock()


def create(path: Path, states: int, bits: int | None) -> None:
    """Create the file, mode 0600, unless another process is faster."""
    # Made in memory, written to a temporary name and linked: it appears whole, and overwrites no
    # file. SQLite fsyncs the folder with the first charge; until then nothing can be lost.
    head = f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {VERSION};"
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.executescript(head + ";".join(_TABLES.values()))
        db.execute("INSERT INTO budget VALUES (1, ?, ?)", (states, bits))
        data = db.serialize()
    temporary = path.with_name(f".linalign-{secrets.token_hex(6)}.tmp")
    write_new(temporary, data, private=True)
    try:
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(temporary, path)
    except (OSError, ValueError) as e:  # ValueError: a name with a NUL byte
        raise InputError(
            f"cannot create {path}", got=str(e), hint="the file system must allow hard links"
        ) from e
    finally:
        temporary.unlink()


@contextlib.contextmanager
def transaction(path: Path, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    """Open a connection within one transaction, rolled back on an exception."""
    with LOCK, _named_errors(path):
        version = _check_header(path)
        uri = f"{path.as_uri()}?mode=rw"  # never creates
        db = sqlite3.connect(uri, uri=True, timeout=_LOCK_TIMEOUT, isolation_level=None)
        with contextlib.closing(db):
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1 << 20)
            # A rollback journal leaves one file between transactions; WAL would leave three and
            # help only readers beside a writer. EXTRA also fsyncs the folder when the journal is
            # gone: if it came back after a loss of power, the transaction would be undone.
            for setting in ("trusted_schema=OFF", "cell_size_check=ON", "synchronous=EXTRA"):
                db.execute(f"PRAGMA {setting}")
            db.execute("BEGIN IMMEDIATE" if write or version < VERSION else "BEGIN")
            try:
                [(version,)] = db.execute("PRAGMA user_version").fetchall()  # may be newer by now
                _require_tables(db, _TABLES if version == VERSION else _TABLES_1)
                if version < VERSION:
                    _migrate(db)
                yield db
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise


def _require_tables(db: sqlite3.Connection, tables: dict[str, str]) -> None:
    found = db.execute("SELECT name, sql FROM sqlite_master ORDER BY name LIMIT 9").fetchall()
    if found != sorted(tables.items()):  # no view, no trigger either
        raise sqlite3.DatabaseError


def _migrate(db: sqlite3.Connection) -> None:
    """Make version 2 of version 1, within a transaction."""
    for name in _TABLES_1:
        db.execute(f"ALTER TABLE {name} RENAME TO old_{name}")
    for statement in (*_TABLES.values(), *_COPIES):
        db.execute(statement)
    for name in _TABLES_1:
        db.execute(f"DROP TABLE old_{name}")
    db.execute(f"PRAGMA user_version = {VERSION}")
    _require_tables(db, _TABLES)


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Raise LinalignError or FormatError for errors of the system and of SQLite.

    Messages repeat nothing of the file's contents.
    """
    hint = "is another process keeping it locked, the disk full, or the file or folder read-only?"
    try:
        yield
    except OSError as e:
        raise LinalignError(f"cannot use {path}", got=e.strerror or str(e), hint=hint) from e
    except (sqlite3.Error, UnicodeDecodeError) as e:  # SQLite's messages may quote the file
        got = getattr(e, "sqlite_errorname", "contents that are not a budget's")
        if re.match("SQLITE_(BUSY|FULL|IOERR|READONLY|CANTOPEN|PERM|NOLFS)", got):
            raise LinalignError(f"cannot use {path}", got=got, hint=hint) from e
        raise _damaged(path, got) from e


def _damaged(path: Path, got: str) -> FormatError:
    hint = "restore it if it was a budget; a new one would forget what was used"
    return FormatError(f"{path} is no budget file, or is damaged", got=got, hint=hint)


def _check_header(path: Path) -> int:
    """Return the version; raise unless the first bytes are a budget's. Before SQLite opens it."""
    try:
        with open_regular(path) as f:
            header, size = f.read(100), os.fstat(f.fileno()).st_size
    except InputError as e:
        hint = "give the path of a budget, or a limit to create one"
        raise InputError(e.problem, got=e.got, hint=hint) from e
    if header[:16] != b"SQLite format 3\0" or header[68:72] != _APPLICATION.to_bytes(4, "big"):
        raise _damaged(path, "another kind of file")
    if (version := int.from_bytes(header[60:64], "big")) not in (1, VERSION):
        what, hint = f"{path} is of an unknown version", "update linalign-lite"
        raise FormatError(what, got=str(version), expected=f"1 or {VERSION}", hint=hint)
    if size > _MAX_FILE or header[18:20] != b"\1\1":  # a write-ahead log holds part of the file
        raise _damaged(path, "more than 1 GiB, or another journal mode")
    return version
