"""A provider's query budget: limits on what is scored for each account.

An account is the key that signs a client's queries. Limits are of states, and of bits: what the
scores of a state can tell of a head. A charge is on the disk before anything is scored, so a crash
never gives a client states. Deleting the file, or restoring an older copy, gives back what was
used.
"""

import os
import secrets
import sqlite3
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from linalign_lite.encrypt.budgets.database import LOCK, MAX_CHECKED, create, transaction
from linalign_lite.encrypt.wire import DIGEST
from linalign_lite.errors import BudgetError, InputError
from linalign_lite.storage.atomic import PathLike

if sys.platform == "linux":
    import fcntl

MAX_LIMIT = 1 << 53

# Detection of dead processes: a process locks one random byte of each budget file, far beyond those
# that SQLite locks, and its pending rows name that byte. The kernel releases it however the process
# dies. SQLite needs the same kind of lock, so wherever a file can be shared, the test is right. The
# rows of a process that gets no such lock, _UNKNOWN, always count as alive and are charged again.
_HELD: dict[tuple[int, int], tuple[int, int]] = {}  # (device, inode): (descriptor, byte)
_UNKNOWN = 0
_FLOCK = struct.Struct("hhqqi0q")  # C's struct flock: type, whence, start, length, process


@dataclass(frozen=True)
class Usage:
    """States and bits charged for one account, and its limits."""

    account: str  # the public key that signs its queries, hexadecimal
    used: int  # states, settled and pending
    pending: int  # of those, charged by scoring that has not finished
    limit: int
    bits: int = 0  # settled and pending
    bits_limit: int | None = None
    closed: bool = False


@dataclass(frozen=True)
class _Limits:
    """Limits of one account: its own, or those of all."""

    states: int
    bits: int | None
    closed: bool


class Budget:
    """At most ``limit`` states, and ``bits`` of scores, for one account, in the file at ``path``.

    Without a file one is created, mode 0600; what is given replaces what an older file says. Safe
    to share among threads, processes and forks. Raises InputError or FormatError when the file is
    missing, damaged or no budget, LinalignError when it is locked or cannot be written.
    """

    def __init__(
        self, path: PathLike, limit: int | None = None, *, bits: int | None = None
    ) -> None:
        _require_limits(limit, bits)
        self._path = Path(path).absolute()
        if limit is not None and not os.path.lexists(self._path):
            create(self._path, limit, bits)
        changed = limit is not None or bits is not None
        with transaction(self._path, write=changed) as db:
            size, [(page,)] = self._path.stat().st_size, db.execute("PRAGMA page_size").fetchall()
            check = "PRAGMA quick_check(1)" if size <= MAX_CHECKED else "SELECT 'ok'"
            if size % page or db.execute(check).fetchall() != [("ok",)]:
                raise sqlite3.DatabaseError
            states, most = _defaults(db)
            if (limit or states, bits or most) != (states, most):
                change = "UPDATE budget SET states = ?, bits = ?"
                db.execute(change, (limit or states, bits or most))

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def limit(self) -> int:
        """States that an account may have scored, as the file has it now."""
        with transaction(self._path) as db:
            return _defaults(db)[0]

    @property
    def bits(self) -> int | None:
        """Bits of scores that an account may have; None without a limit."""
        with transaction(self._path) as db:
            return _defaults(db)[1]

    def change(
        self,
        account: bytes,
        *,
        limit: int | None = None,
        bits: int | None = None,
        closed: bool | None = None,
    ) -> None:
        """Give one account limits of its own, or close it: nothing more is scored for it."""
        _require_limits(limit, bits)
        _require_account(account)
        with transaction(self._path, write=True) as db:
            row = "SELECT states, bits, closed FROM accounts WHERE account = ?"
            old = (db.execute(row, (account,)).fetchall() or [(None, None, 0)])[0]
            given = (limit, bits, None if closed is None else int(closed))
            new = [o if g is None else g for o, g in zip(old, given, strict=True)]
            db.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?, ?)", (account, *new))

    def charge(self, account: bytes, fingerprint: bytes, count: int, bits: int = 0) -> None:
        """Charge for the query ``fingerprint``, ``bits`` at most 2^53; on the disk after this.

        A charge left pending by a dead process is taken over, once, at no cost. A query whose
        process may be alive is charged again. Raises BudgetError when a limit does not allow it,
        the account is closed, or the query was settled before: whoever sends it again, it is never
        charged again. Then nothing is charged.
        """
        if not 0 <= bits <= MAX_LIMIT:
            raise InputError("cannot charge this", expected="0 to 2^53 bits")
        with transaction(self._path, write=True) as db:
            me, _, dead = _pending(db, self._path, (account, fingerprint, count))
            limits, name = _limits(db, account), account.hex()[:8]
            if limits.closed:
                raise BudgetError(f"account {name} is closed", hint="ask the provider to open it")
            if _is_answered(db, account, fingerprint):
                raise BudgetError(
                    "this query was answered before, and its response is not kept any more",
                    hint="make the query again",
                )
            if dead:
                db.execute("UPDATE pending SET owner = ? WHERE id = ?", (me, dead[0]))
                return
            used, _, used_bits = _used(db, account)
            left = max(0, limits.states - used)
            if count > left:
                what = f"the query budget of account {name} is used up"
                rest, hint = f"at most {left}, the rest of {limits.states}", "ask for more"
                raise BudgetError(what, got=f"{count} states", expected=rest, hint=hint)
            if used_bits + bits > (MAX_LIMIT if limits.bits is None else limits.bits):
                what = f"the query budget of account {name} is used up"
                raise BudgetError(
                    what, got="more bits of scores than are left", hint="ask for more"
                )
            new = (
                "INSERT INTO pending (account, fingerprint, states, bits, owner)"
                " VALUES (?, ?, ?, ?, ?)"
            )
            db.execute(new, (account, fingerprint, count, bits, me))

    def settle(self, account: bytes, fingerprint: bytes, count: int) -> None:
        """Settle a charge after scoring. Raises InputError unless this process made it."""
        self._end(account, fingerprint, count, used=True)

    def refund(self, account: bytes, fingerprint: bytes, count: int) -> None:
        """Refund a charge when no response was written. InputError unless this process made it."""
        self._end(account, fingerprint, count, used=False)

    def settle_abandoned(self, account: bytes, fingerprint: bytes, count: int) -> None:
        """Settle, once, what dead processes left pending for a query whose response was kept."""
        with transaction(self._path, write=True) as db:
            for row in _pending(db, self._path, (account, fingerprint, count))[2]:
                _settle(db, account, fingerprint, row)

    def require_open(self, account: bytes) -> None:
        """Raise BudgetError when the account is closed."""
        _require_account(account)
        with transaction(self._path) as db:
            if _limits(db, account).closed:
                raise BudgetError(f"account {account.hex()[:8]} is closed")

    def remaining(self, account: bytes) -> int:
        """States that may still be charged for ``account``."""
        with transaction(self._path) as db:
            return max(0, _limits(db, account).states - _used(db, account)[0])

    def usage(self) -> tuple[Usage, ...]:
        """Return the usage of every account with states used or limits of its own, sorted."""
        found = []
        with transaction(self._path) as db:
            names = "SELECT account FROM {0}".format
            every = " UNION ".join(map(names, ("settled", "pending", "accounts")))
            for (account,) in db.execute(f"{every} ORDER BY account").fetchall():
                if not isinstance(account, bytes) or len(account) != DIGEST:
                    raise sqlite3.DatabaseError
                found.append(_usage(db, account))
        return tuple(found)

    def usage_of(self, account: bytes) -> Usage:
        """Return the usage of one account."""
        _require_account(account)
        with transaction(self._path) as db:
            return _usage(db, account)

    def _end(self, account: bytes, fingerprint: bytes, count: int, *, used: bool) -> None:
        with transaction(self._path, write=True) as db:
            _, mine, _ = _pending(db, self._path, (account, fingerprint, count))
            if not mine:
                raise InputError("this process has no such charge pending", hint="end it only once")
            if used:
                _settle(db, account, fingerprint, mine[0])
            else:
                db.execute("DELETE FROM pending WHERE id = ?", (mine[0],))


def _require_limits(limit: int | None, bits: int | None) -> None:
    for value in (limit, bits):
        if value is not None and not 1 <= value <= MAX_LIMIT:
            raise InputError("the limit is not usable", got=str(value), expected="1 to 2^53")


def _require_account(account: bytes) -> None:
    if len(account) != DIGEST:
        raise InputError("this names no account", expected=f"{DIGEST} bytes")


def _is_answered(db: sqlite3.Connection, account: bytes, fingerprint: bytes) -> bool:
    row = "SELECT 1 FROM answered WHERE account = ? AND fingerprint = ?"
    return bool(db.execute(row, (account, fingerprint)).fetchall())


def _settle(db: sqlite3.Connection, account: bytes, fingerprint: bytes, row: int) -> None:
    """Settle a pending row, or drop it where the same query was settled before."""
    [(states, bits)] = db.execute(
        "SELECT states, bits FROM pending WHERE id = ?", (row,)
    ).fetchall()
    db.execute("DELETE FROM pending WHERE id = ?", (row,))
    if _is_answered(db, account, fingerprint):
        return
    db.execute("INSERT INTO answered VALUES (?, ?)", (account, fingerprint))
    old = _sums(db, "settled", account)
    new = account, old[0] + states, old[1] + bits
    db.execute("INSERT OR REPLACE INTO settled VALUES (?, ?, ?)", new)


def _defaults(db: sqlite3.Connection) -> tuple[int, int | None]:
    rows = db.execute("SELECT states, bits FROM budget LIMIT 2").fetchall()
    if len(rows) != 1 or not _is_count(rows[0][0], 1) or not _is_limit(rows[0][1]):
        raise sqlite3.DatabaseError
    states, bits = rows[0]
    return states, bits


def _limits(db: sqlite3.Connection, account: bytes) -> _Limits:
    states, bits = _defaults(db)
    row = "SELECT states, bits, closed FROM accounts WHERE account = ?"
    for own_states, own_bits, closed in db.execute(row, (account,)).fetchall():
        if not (_is_limit(own_states) and _is_limit(own_bits) and closed in (0, 1)):
            raise sqlite3.DatabaseError
        states, bits = own_states or states, own_bits or bits
        return _Limits(states, bits, bool(closed))
    return _Limits(states, bits, closed=False)


def _usage(db: sqlite3.Connection, account: bytes) -> Usage:
    (used, pending, bits), limits = _used(db, account), _limits(db, account)
    row = used, pending, limits.states, bits, limits.bits, limits.closed
    return Usage(account.hex(), *row)


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and least <= value <= MAX_LIMIT


def _is_limit(value: object) -> bool:
    return value is None or _is_count(value, 1)


def _sums(db: sqlite3.Connection, table: str, account: bytes) -> tuple[int, int]:
    """States and bits of one account in a table, each row checked."""
    rows = db.execute(f"SELECT states, bits FROM {table} WHERE account = ?", (account,)).fetchall()  # noqa: S608 (our own names)
    if not all(_is_count(n, 1) and _is_count(bits, 0) for n, bits in rows):
        raise sqlite3.DatabaseError
    return sum(n for n, _ in rows), sum(bits for _, bits in rows)


def _used(db: sqlite3.Connection, account: bytes) -> tuple[int, int, int]:
    """States settled and pending, of those pending, and bits settled and pending."""
    settled, pending = (_sums(db, table, account) for table in ("settled", "pending"))
    return settled[0] + pending[0], pending[0], settled[1] + pending[1]


def _pending(
    db: sqlite3.Connection, path: Path, charge: tuple[bytes, bytes, int]
) -> tuple[int, list[int], list[int]]:
    """Return this process's byte, and the query's rows: its own, and those of dead processes."""
    account, fingerprint, count = charge
    if len(account) != DIGEST or len(fingerprint) != DIGEST or not 1 <= count <= MAX_LIMIT:
        raise InputError("cannot charge this", expected="two digests, 1 to 2^53 states")
    query = "SELECT id, owner FROM pending WHERE account = ? AND fingerprint = ? AND states = ?"
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
    LOCK.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=_reset_after_fork
    )
