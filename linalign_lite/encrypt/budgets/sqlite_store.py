"""A query budget in a file: a SQLite database in WAL mode, checked before it is used.

docs/FORMAT.md, section 4. Version 1 counted states for each key; a first use makes it version 2,
whose accounts have limits of their own and are counted in bits, too, and which knows each query
that was answered.
"""

import atexit
import contextlib
import os
import re
import secrets
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from linalign_lite.encrypt.budgets import file_locks
from linalign_lite.encrypt.budgets.file_locks import HELD, Identity, identity
from linalign_lite.encrypt.budgets.kept_responses import KeptResponses
from linalign_lite.encrypt.budgets.store import DamagedError, Execute, Owner
from linalign_lite.errors import FormatError, InputError, LinalignError
from linalign_lite.storage.atomic import open_regular, write_new

VERSION = 2
_MAX_FILE, MAX_CHECKED = 1 << 30, 1 << 24  # up to the second, a Budget first checks every page
_LOCK_TIMEOUT = 30.0  # seconds that another process may keep the file locked
_APPLICATION = 0x4C414C42  # "LALB"
_JOURNAL, _WAL = b"\1\1", b"\2\2"  # bytes 18 and 19 of a file: older ones, and newer ones
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


@dataclass
class _Connection:
    """A connection that this process keeps: in WAL mode opening one costs more than a charge."""

    db: sqlite3.Connection
    file: Identity
    log: Identity | None = None  # the write-ahead log; None in a file with a rollback journal


_OPEN: dict[Path, _Connection] = {}

# Held within a transaction, and while the process forks: SQLite's state must not be carried into a
# child, so connections are closed before a fork, and opened again by their next use.
LOCK = threading.RLock()


class SqliteStore:
    """The file at ``path``, with the folder PATH.responses beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = str(path)

    @property
    def kept(self) -> KeptResponses:
        """The folder beside the file."""
        return KeptResponses(self._path.with_name(self._path.name + ".responses"))

    def create(self, states: int, bits: int | None) -> None:
        """Create the file, mode 0600, unless it is there or another process is faster."""
        path = self._path
        if os.path.lexists(f"{path}-wal") and not os.path.lexists(path):
            what, hint = f"a write-ahead log is left beside {path}", "a budget went: put it back"
            raise InputError(what, hint=f"{hint}, or remove {path}-wal and {path}-shm")
        if not os.path.lexists(path):
            _create(path, states, bits)

    def check(self, db: Execute) -> None:
        """Raise DamagedError unless SQLite finds every page of a smaller file in order."""
        size, [(page,)] = self._path.stat().st_size, db("PRAGMA page_size")
        check = "PRAGMA quick_check(1)" if size <= MAX_CHECKED else "SELECT 'ok'"
        if size % page or db(check) != [("ok",)]:
            raise DamagedError

    @contextlib.contextmanager
    def transaction(self, *, write: bool = False, account: bytes = b"") -> Iterator[Execute]:
        """Yield a transaction; of those that write, the file has one at a time."""
        del account
        path = self._path
        with LOCK, _named_errors(path):
            db = _connected(path, write=write).db
            db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                _require_budget(path, db)
                yield lambda sql, *values: db.execute(sql, values).fetchall()
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise

    def owner(self) -> Owner:
        """Return the byte that this process holds of the file."""
        return HELD[_OPEN[self._path].file].owner

    def is_dead(self, _: Execute, owner: int) -> bool:
        """Return True if no process holds the byte ``owner``."""
        return file_locks.is_free(HELD[_OPEN[self._path].file].handle, owner)


def close_connections() -> None:
    """Close every connection that this process keeps. The next use of a budget opens it again."""
    with LOCK:
        for path in list(_OPEN):
            _close(path)


def _create(path: Path, states: int, bits: int | None) -> None:
    # Made in memory, written to a temporary name and linked: it appears whole, and overwrites no
    # file. SQLite fsyncs the folder with the first charge; until then nothing can be lost.
    head = f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {VERSION};"
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.executescript(head + ";".join(_TABLES.values()))
        db.execute("INSERT INTO budget VALUES (1, ?, ?)", (states, bits))
        data = db.serialize()
    data = data[:18] + _WAL + data[20:]  # a database in memory cannot be set to WAL mode
    temporary = path.with_name(f".linalign-{secrets.token_hex(6)}.tmp")
    try:
        write_new(temporary, data, private=True)
    except InputError as e:
        hint = f"does the folder {path.parent} exist, and may you write to it?"
        raise InputError(f"cannot create {path}", got=e.got, hint=hint) from e
    try:
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(temporary, path)
    except (OSError, ValueError) as e:  # ValueError: a name with a NUL byte
        raise InputError(
            f"cannot create {path}", got=str(e), hint="the file system must allow hard links"
        ) from e
    finally:
        temporary.unlink()


def _beside(path: Path, suffix: str) -> str:
    return os.path.realpath(path) + suffix  # SQLite follows links, too


def _connected(path: Path, *, write: bool) -> _Connection:
    """Return this process's connection to the file that is now at ``path``."""
    kept = _OPEN.get(path)
    if kept is not None and identity(path) != kept.file:
        _check_header(path)
        if kept.log is not None and identity(_beside(path, "-wal")) == kept.log:
            what = f"{path} was replaced, but not the write-ahead log beside it"
            hint = f"stop what uses it, remove {path}-wal and {path}-shm, put the file there again"
            raise LinalignError(what, hint=hint)
        _close(path)
        kept = None
    if kept is None:
        kept = _OPEN[path] = _opened(path)
    if kept.log is None:
        if write:
            _use_log(kept.db)
        [(mode,)] = kept.db.execute("PRAGMA journal_mode").fetchall()
        if mode == "wal":
            kept.log = identity(_beside(path, "-wal"))
            file_locks.keep_log(HELD[kept.file].handle)
    return kept


def _opened(path: Path) -> _Connection:
    version = _check_header(path)
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            status = os.lstat(_beside(path, suffix))
            if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_FILE:
                raise _damaged(path, f"something else as {path.name}{suffix}")
    file = file_locks.hold(path)
    uri = f"{path.as_uri()}?mode=rw"  # never creates
    db = sqlite3.connect(
        uri, uri=True, timeout=_LOCK_TIMEOUT, isolation_level=None, check_same_thread=False
    )
    try:
        db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1 << 20)
        # EXTRA: each transaction is fsynced, and the folder after a rollback journal went; if that
        # came back after a loss of power, the transaction would be undone.
        for setting in ("trusted_schema=OFF", "cell_size_check=ON", "synchronous=EXTRA"):
            db.execute(f"PRAGMA {setting}")
        if version < VERSION:
            _migrate(path, db)
        _require_budget(path, db)  # reads: from here on the log is in use
    except BaseException:
        db.close()
        raise
    return _Connection(db, file)


def _close(path: Path) -> None:
    kept = _OPEN.pop(path)
    file_locks.keep_log(HELD[kept.file].handle, keep=False)
    kept.db.close()


def _use_log(db: sqlite3.Connection) -> None:
    """Set a file with a rollback journal to WAL mode, which stays. Others may use it meanwhile."""
    limit = time.monotonic() + _LOCK_TIMEOUT
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL").fetchall()
        except sqlite3.OperationalError:
            if time.monotonic() > limit:
                raise
            time.sleep(0.01)
        else:
            return


def _require_budget(path: Path, db: sqlite3.Connection, versions: tuple[int, ...] = ()) -> int:
    """Return the version. Raises unless exactly the tables of that version are there."""
    [(version,)] = db.execute("PRAGMA user_version").fetchall()
    if version not in (versions or (VERSION,)):
        raise _unknown_version(path, version)
    tables = _TABLES if version == VERSION else _TABLES_1
    found = db.execute("SELECT name, sql FROM sqlite_master ORDER BY name LIMIT 9").fetchall()
    if found != sorted(tables.items()):  # no view, no trigger either
        raise DamagedError
    return int(version)


def _migrate(path: Path, db: sqlite3.Connection) -> None:
    """Make version 2 of version 1, unless another process was faster."""
    db.execute("BEGIN IMMEDIATE")
    try:
        if _require_budget(path, db, (1, VERSION)) < VERSION:
            for name in _TABLES_1:
                db.execute(f"ALTER TABLE {name} RENAME TO old_{name}")
            for statement in (*_TABLES.values(), *_COPIES):
                db.execute(statement)
            for name in _TABLES_1:
                db.execute(f"DROP TABLE old_{name}")
            db.execute(f"PRAGMA user_version = {VERSION}")
            _require_budget(path, db)
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Raise LinalignError or FormatError for errors of the system and of SQLite.

    Messages repeat nothing of the file's contents. After an error other than a lock, the next
    transaction opens the file anew.
    """
    hint = "is another process keeping it locked, the disk full, or the file or folder read-only?"
    try:
        yield
    except OSError as e:
        raise LinalignError(f"cannot use {path}", got=e.strerror or str(e), hint=hint) from e
    except (sqlite3.Error, UnicodeDecodeError, DamagedError) as e:  # SQLite may quote the file
        got = getattr(e, "sqlite_errorname", "contents that are not a budget's")
        if not got.startswith("SQLITE_BUSY") and path in _OPEN:
            _close(path)
        if re.match("SQLITE_(BUSY|FULL|IOERR|READONLY|CANTOPEN|PERM|NOLFS|PROTOCOL)", got):
            raise LinalignError(f"cannot use {path}", got=got, hint=hint) from e
        raise _damaged(path, got) from e


def _damaged(path: Path, got: str) -> FormatError:
    hint = "restore it if it was a budget; a new one would forget what was used"
    return FormatError(f"{path} is no budget file, or is damaged", got=got, hint=hint)


def _unknown_version(path: Path, version: int) -> FormatError:
    what, hint = f"{path} is of an unknown version", "update linalign-lite"
    return FormatError(what, got=str(version), expected=f"1 or {VERSION}", hint=hint)


def _check_header(path: Path) -> int:
    """Return the version; raise unless the first bytes are a budget's. Before SQLite opens it."""
    try:
        with open_regular(path) as f:
            header, size = f.read(100), os.fstat(f.fileno()).st_size
    except InputError as e:
        hint = "give the path of a budget; with a limit a new one is made"
        raise InputError(e.problem, got=e.got, hint=hint) from e
    if header[:16] != b"SQLite format 3\0" or header[68:72] != _APPLICATION.to_bytes(4, "big"):
        raise _damaged(path, "another kind of file")
    if (version := int.from_bytes(header[60:64], "big")) not in (1, VERSION):
        raise _unknown_version(path, version)
    if size > _MAX_FILE or header[18:20] not in (_WAL, _JOURNAL):
        raise _damaged(path, "more than 1 GiB, or another journal mode")
    return version


def _before_fork() -> None:
    LOCK.acquire()
    close_connections()


def _after_fork_in_child() -> None:
    file_locks.forget_all()
    LOCK.release()


atexit.register(close_connections)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=LOCK.release, after_in_child=_after_fork_in_child
    )
