"""A provider's query budget: a limit on the number of states scored for each public key.

A SQLite file holds the counts. A charge is on the disk before anything is scored, so a crash never
gives a client states. Deleting the file, or restoring an older copy, gives back what was used.
"""

import contextlib
import os
import re
import secrets
import sqlite3
import struct
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from linalign_lite.encrypt.wire import DIGEST
from linalign_lite.errors import BudgetError, FormatError, InputError, LinalignError
from linalign_lite.storage.atomic import PathLike, open_regular, write_new

if sys.platform == "linux":
    import fcntl

MAX_LIMIT = 1 << 53
_MAX_FILE, _MAX_CHECKED = 1 << 30, 1 << 24  # up to the second, a Budget first checks every page
_LOCK_TIMEOUT = 30.0  # seconds that another process may keep the file locked
_VERSION, _APPLICATION = 1, 0x4C414C42  # "LALB"
_TABLES = {
    "budget": "CREATE TABLE budget (id INTEGER PRIMARY KEY, states INTEGER NOT NULL)",
    "settled": "CREATE TABLE settled (key BLOB PRIMARY KEY NOT NULL, states INTEGER NOT NULL)"
    " WITHOUT ROWID",
    "pending": "CREATE TABLE pending (id INTEGER PRIMARY KEY, key BLOB NOT NULL,"
    " fingerprint BLOB NOT NULL, states INTEGER NOT NULL, owner INTEGER NOT NULL)",
}

# Held while a connection is open, and while the process forks: a child must not inherit SQLite's
# state from the middle of a transaction, and no descriptor of the file may be closed within one:
# that drops all of the process's POSIX locks on it.
_LOCK = threading.RLock()

# Detection of dead processes: a process locks one random byte of each budget file, far beyond those
# that SQLite locks, and its pending rows name that byte. The kernel releases it however the process
# dies. SQLite needs the same kind of lock, so wherever a file can be shared, the test is right. The
# rows of a process that gets no such lock, _UNKNOWN, always count as alive and are charged again.
_HELD: dict[tuple[int, int], tuple[int, int]] = {}  # (device, inode): (descriptor, byte)
_UNKNOWN = 0
_FLOCK = struct.Struct("hhqqi0q")  # C's struct flock: type, whence, start, length, process


@dataclass(frozen=True)
class Usage:
    """States charged for one key."""

    key: str  # the digest of the public key, hexadecimal
    used: int  # settled and pending
    pending: int  # of those, charged by scoring that has not finished
    limit: int


class Budget:
    """At most ``limit`` states are scored for one public key, counted in the file at ``path``.

    Without a file one is created, mode 0600; ``limit`` replaces that of an older file. Safe to
    share among threads, processes and forks. Raises InputError or FormatError when the file is
    missing, damaged or no budget, LinalignError when it is locked or cannot be written.
    """

    def __init__(self, path: PathLike, limit: int | None = None) -> None:
        if limit is not None and not 1 <= limit <= MAX_LIMIT:
            raise InputError("the limit is not usable", got=str(limit), expected="1 to 2^53")
        self._path = Path(path).absolute()
        if limit is not None and not os.path.lexists(self._path):
            _create(self._path, limit)
        with _transaction(self._path, write=limit is not None) as db:
            size, [(page,)] = self._path.stat().st_size, db.execute("PRAGMA page_size").fetchall()
            check = "PRAGMA quick_check(1)" if size <= _MAX_CHECKED else "SELECT 'ok'"
            if size % page or db.execute(check).fetchall() != [("ok",)]:
                raise sqlite3.DatabaseError
            if limit not in (None, _limit(db)):
                db.execute("UPDATE budget SET states = ?", (limit,))

    @property
    def limit(self) -> int:
        """States that each key may have scored, as the file has it now."""
        with _transaction(self._path) as db:
            return _limit(db)

    def charge(self, key: bytes, fingerprint: bytes, count: int) -> None:
        """Charge ``count`` states for the query ``fingerprint``; on the disk when this returns.

        A charge left pending by a dead process is taken over, once, at no cost. A query that was
        settled, or whose process may be alive, is charged again. Raises BudgetError when the limit
        does not allow it; then nothing is charged.
        """
        with _transaction(self._path, write=True) as db:
            me, _, dead = _pending(db, self._path, (key, fingerprint, count))
            if dead:
                db.execute("UPDATE pending SET owner = ? WHERE id = ?", (me, dead[0]))
                return
            limit = _limit(db)
            left = max(0, limit - sum(_used(db, key)))
            if count > left:
                what = f"the query budget of key {key.hex()[:8]} is used up"
                rest, hint = f"at most {left}, the rest of {limit}", "ask the provider for more"
                raise BudgetError(what, got=f"{count} states", expected=rest, hint=hint)
            new = "INSERT INTO pending (key, fingerprint, states, owner) VALUES (?, ?, ?, ?)"
            db.execute(new, (key, fingerprint, count, me))

    def settle(self, key: bytes, fingerprint: bytes, count: int) -> None:
        """Settle a charge after scoring. Raises InputError unless this process made it."""
        self._end(key, fingerprint, count, used=True)

    def refund(self, key: bytes, fingerprint: bytes, count: int) -> None:
        """Refund a charge when no response was written. InputError unless this process made it."""
        self._end(key, fingerprint, count, used=False)

    def remaining(self, key: bytes) -> int:
        """States that may still be charged for ``key``."""
        with _transaction(self._path) as db:
            return max(0, _limit(db) - sum(_used(db, key)))

    def usage(self) -> tuple[Usage, ...]:
        """Return the usage of every key with states used, sorted by key."""
        found = []
        with _transaction(self._path) as db:
            keys = db.execute("SELECT key FROM settled UNION SELECT key FROM pending ORDER BY key")
            for (key,) in keys.fetchall():
                if not isinstance(key, bytes) or len(key) != DIGEST:
                    raise sqlite3.DatabaseError
                settled, pending = _used(db, key)
                found.append(Usage(key.hex(), settled + pending, pending, _limit(db)))
        return tuple(found)

    def _end(self, key: bytes, fingerprint: bytes, count: int, *, used: bool) -> None:
        with _transaction(self._path, write=True) as db:
            _, mine, _ = _pending(db, self._path, (key, fingerprint, count))
            if not mine:
                raise InputError("this process has no such charge pending", hint="end it only once")
            db.execute("DELETE FROM pending WHERE id = ?", (mine[0],))
            if used:
                total = _used(db, key)[0] + count
                db.execute("INSERT OR REPLACE INTO settled VALUES (?, ?)", (key, total))


def _create(path: Path, limit: int) -> None:
    # Made in memory, written to a temporary name and linked: it appears whole, and overwrites no
    # file. SQLite fsyncs the folder with the first charge; until then nothing can be lost.
    head = f"PRAGMA application_id = {_APPLICATION}; PRAGMA user_version = {_VERSION};"
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.executescript(head + ";".join(_TABLES.values()))
        db.execute("INSERT INTO budget VALUES (1, ?)", (limit,))
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
def _transaction(path: Path, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    """Open a connection within one transaction, rolled back on an exception."""
    with _LOCK, _named_errors(path):
        _check_header(path)
        uri = f"{path.as_uri()}?mode=rw"  # never creates
        db = sqlite3.connect(uri, uri=True, timeout=_LOCK_TIMEOUT, isolation_level=None)
        with contextlib.closing(db):
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1 << 20)
            # A rollback journal leaves one file between transactions; WAL would leave three and
            # help only readers beside a writer. EXTRA also fsyncs the folder when the journal is
            # gone: if it came back after a loss of power, the transaction would be undone.
            for setting in ("trusted_schema=OFF", "cell_size_check=ON", "synchronous=EXTRA"):
                db.execute(f"PRAGMA {setting}")
            db.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                tables = db.execute("SELECT name, sql FROM sqlite_master ORDER BY name LIMIT 9")
                if tables.fetchall() != sorted(_TABLES.items()):  # no view, no trigger either
                    raise sqlite3.DatabaseError
                yield db
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
                raise


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


def _check_header(path: Path) -> None:
    """Raise unless the first bytes are a budget's, before SQLite opens the file."""
    try:
        with open_regular(path) as f:
            header, size = f.read(100), os.fstat(f.fileno()).st_size
    except InputError as e:
        hint = "give the path of a budget, or a limit to create one"
        raise InputError(e.problem, got=e.got, hint=hint) from e
    if header[:16] != b"SQLite format 3\0" or header[68:72] != _APPLICATION.to_bytes(4, "big"):
        raise _damaged(path, "another kind of file")
    if (version := int.from_bytes(header[60:64], "big")) != _VERSION:
        what, hint = f"{path} is of an unknown version", "update linalign-lite"
        raise FormatError(what, got=str(version), expected=str(_VERSION), hint=hint)
    if size > _MAX_FILE or header[18:20] != b"\1\1":  # a write-ahead log holds part of the file
        raise _damaged(path, "more than 1 GiB, or another journal mode")


def _counts(db: sqlite3.Connection, query: str, *values: bytes) -> list[int]:
    rows = db.execute(query, values).fetchall()
    if not all(isinstance(n, int) and 1 <= n <= MAX_LIMIT for (n,) in rows):
        raise sqlite3.DatabaseError
    return [n for (n,) in rows]


def _limit(db: sqlite3.Connection) -> int:
    if len(limits := _counts(db, "SELECT states FROM budget LIMIT 2")) != 1:
        raise sqlite3.DatabaseError
    return limits[0]


def _used(db: sqlite3.Connection, key: bytes) -> tuple[int, int]:
    """States settled and states pending."""
    settled = _counts(db, "SELECT states FROM settled WHERE key = ?", key)
    return sum(settled), sum(_counts(db, "SELECT states FROM pending WHERE key = ?", key))


def _pending(
    db: sqlite3.Connection, path: Path, charge: tuple[bytes, bytes, int]
) -> tuple[int, list[int], list[int]]:
    """Return this process's byte, and the query's rows: its own, and those of dead processes."""
    key, fingerprint, count = charge
    if len(key) != DIGEST or len(fingerprint) != DIGEST or not 1 <= count <= MAX_LIMIT:
        raise InputError("cannot charge this", expected="two digests, 1 to 2^53 states")
    query = "SELECT id, owner FROM pending WHERE key = ? AND fingerprint = ? AND states = ?"
    rows = db.execute(query, charge).fetchall()
    handle, me = _own_byte(path)
    mine = [row for row, owner in rows if owner == me]
    others = [(row, owner) for row, owner in rows if owner not in (me, _UNKNOWN)]
    return me, mine, [row for row, owner in others if _lock(handle, owner, ask=True)]


def _own_byte(path: Path) -> tuple[int, int]:
    """Return a descriptor of the file, never closed, and the byte that this process holds."""
    status = path.stat()
    if (status.st_dev, status.st_ino) not in _HELD:
        handle = os.open(path, os.O_RDWR)
        status = os.fstat(handle)  # of the opened file, in case the path was replaced
        byte = (1 << 40) + secrets.randbelow(1 << 61)
        _HELD[status.st_dev, status.st_ino] = handle, byte if _lock(handle, byte) else _UNKNOWN
    return _HELD[status.st_dev, status.st_ino]


def _lock(handle: int, byte: int, *, ask: bool = False) -> bool:
    """Lock ``byte``, or with ``ask`` test that it is free. False also where locks do not work."""
    if sys.platform != "linux":
        return False
    try:
        request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        answer = fcntl.fcntl(handle, fcntl.F_OFD_GETLK if ask else fcntl.F_OFD_SETLK, request)
    except (OSError, struct.error):  # struct.error: a damaged file named no byte
        return False
    return not ask or _FLOCK.unpack(answer)[0] == fcntl.F_UNLCK


def _reset_after_fork() -> None:
    """Release in a child what it inherited: the lock and the descriptors of its parent's bytes."""
    for handle, _ in _HELD.values():
        os.close(handle)
    _HELD.clear()
    _LOCK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_reset_after_fork
    )
