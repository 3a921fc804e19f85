"""A provider's query budget: limits on what is scored for each account.

An account is the key that signs a client's queries. Limits are of states, and of bits: what the
scores of a state can tell of a head. A charge is durable before anything is scored, so a crash
never gives a client states. Deleting a budget, or restoring an older copy, gives back what was
used.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from linalign_lite.encrypt.budgets.location import open_store
from linalign_lite.encrypt.budgets.store import UNKNOWN, DamagedError, Execute, Kept, Owner, Store
from linalign_lite.encrypt.wire import DIGEST
from linalign_lite.errors import BudgetError, InputError, LinalignError
from linalign_lite.storage.atomic import PathLike

MAX_LIMIT = 1 << 53
_MORE = "ask the provider for more"
_CHANGE = (
    "INSERT INTO accounts VALUES (?, ?, ?, ?) ON CONFLICT (account) DO UPDATE"
    " SET states = excluded.states, bits = excluded.bits, closed = excluded.closed"
)
_NEW = "INSERT INTO pending (account, fingerprint, states, bits, owner) VALUES (?, ?, ?, ?, ?)"
_ADD = (
    "INSERT INTO settled VALUES (?, ?, ?) ON CONFLICT (account) DO UPDATE"
    " SET states = excluded.states, bits = excluded.bits"
)
Charge = tuple[bytes, bytes, int]  # account, fingerprint of the query, states


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
    """At most ``limit`` states, and ``bits`` of scores, for one account.

    ``location``: a SQLite file of this machine, created with ``limit``, mode 0600; or a URL
    ``postgresql://USER@HOST/DATABASE?budget=NAME`` (extra `postgresql`), which several machines may
    share. What is given replaces what an older budget says. Safe to share among threads, processes
    and forks. Raises InputError or FormatError when it is missing, damaged or no budget,
    LinalignError when it is locked, cannot be written or its server does not answer.
    """

    def __init__(
        self, location: PathLike, limit: int | None = None, *, bits: int | None = None
    ) -> None:
        _require_limits(limit, bits)
        self._store: Store = open_store(location)
        self._owner: Owner | None = None  # as of the last transaction
        self._left: list[tuple[Charge, bool]] = []  # charges that could not be ended; if used
        if limit is not None:
            self._store.create(limit, bits)
        changed = limit is not None or bits is not None
        with self._store.transaction(write=changed) as db:
            self._store.check(db)
            states, most = _defaults(db)
            if (limit or states, bits or most) != (states, most):
                db("UPDATE budget SET states = ?, bits = ?", limit or states, bits or most)

    @property
    def name(self) -> str:
        """The file, or the database and the budget in it, without a password."""
        return self._store.name

    @property
    def kept(self) -> Kept:
        """The responses that are kept beside the budget."""
        return self._store.kept

    @property
    def limit(self) -> int:
        """States that an account may have scored, as the budget has it now."""
        with self._store.transaction() as db:
            return _defaults(db)[0]

    @property
    def bits(self) -> int | None:
        """Bits of scores that an account may have; None without a limit."""
        with self._store.transaction() as db:
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
        with self._store.transaction(write=True, account=account) as db:
            row = "SELECT states, bits, closed FROM accounts WHERE account = ?"
            old = (db(row, account) or [(None, None, 0)])[0]
            given = (limit, bits, None if closed is None else int(closed))
            db(_CHANGE, account, *(o if g is None else g for o, g in zip(old, given, strict=True)))

    def charge(self, account: bytes, fingerprint: bytes, count: int, bits: int = 0) -> None:
        """Charge for the query ``fingerprint``, ``bits`` at most 2^53; durable after this.

        A charge left pending by a dead process, or by a failure of this one, is taken over, once,
        at no cost. A query whose process may be alive is charged again. Raises BudgetError when a
        limit does not allow it, the account is closed, or the query was settled before: whoever
        sends it again, it is never charged again. Then nothing is charged.
        """
        charge = _checked(account, fingerprint, count)
        if not 0 <= bits <= MAX_LIMIT:
            raise InputError("cannot charge this", expected="0 to 2^53 bits")
        self._end_left()
        with self._charging(charge) as (db, owner):
            limits, name = _limits(db, account), account.hex()[:8]
            if limits.closed:
                raise BudgetError(f"account {name} is closed", hint="ask the provider to open it")
            if _is_answered(db, account, fingerprint):
                raise BudgetError(
                    "this query was answered before, and its response is not kept any more",
                    hint="make the query again",
                )
            if abandoned := self._pending(db, charge)[1]:
                db("UPDATE pending SET owner = ? WHERE id = ?", owner.number, abandoned[0])
                return
            used, _, used_bits = _used(db, account)
            left = max(0, limits.states - used)
            if count > left:
                what = f"the query budget of account {name} is used up"
                rest = f"at most {left}, the rest of {limits.states}"
                raise BudgetError(what, got=f"{count} states", expected=rest, hint=_MORE)
            if used_bits + bits > (MAX_LIMIT if limits.bits is None else limits.bits):
                what = f"the query budget of account {name} is used up"
                raise BudgetError(what, got="more bits of scores than are left", hint=_MORE)
            db(_NEW, *charge, bits, owner.number)

    def settle(self, account: bytes, fingerprint: bytes, count: int) -> None:
        """Settle a charge after scoring. Raises InputError unless this process made it."""
        self._end(_checked(account, fingerprint, count), used=True)

    def refund(self, account: bytes, fingerprint: bytes, count: int) -> None:
        """Refund a charge when no response was written. InputError unless this process made it."""
        self._end(_checked(account, fingerprint, count), used=False)

    def abandon(self, account: bytes, fingerprint: bytes, count: int) -> None:
        """Leave a charge pending that this process scores no more: the same query takes it over."""
        charge = account, fingerprint, count
        if self._owner is not None and (active := self._owner.active)[charge]:
            active[charge] -= 1
            if not active[charge]:
                del active[charge]

    def settle_abandoned(self, account: bytes, fingerprint: bytes, count: int) -> None:
        """Settle, once, what was left pending for a query whose response was kept."""
        charge = _checked(account, fingerprint, count)
        self._end_left()
        with self._store.transaction(write=True, account=account) as db:
            for row in self._pending(db, charge)[1]:
                _settle(db, account, fingerprint, row)

    def require_open(self, account: bytes) -> None:
        """Raise BudgetError when the account is closed."""
        _require_account(account)
        with self._store.transaction() as db:
            if _limits(db, account).closed:
                raise BudgetError(f"account {account.hex()[:8]} is closed")

    def remaining(self, account: bytes) -> int:
        """States that may still be charged for ``account``."""
        with self._store.transaction() as db:
            return max(0, _limits(db, account).states - _used(db, account)[0])

    def usage(self) -> tuple[Usage, ...]:
        """Return the usage of every account with states used or limits of its own, sorted."""
        found = []
        with self._store.transaction() as db:
            names = "SELECT account FROM {0}".format
            every = " UNION ".join(map(names, ("settled", "pending", "accounts")))
            for (account,) in db(f"{every} ORDER BY account"):
                if not isinstance(account, bytes) or len(account) != DIGEST:
                    raise DamagedError
                found.append(_usage(db, account))
        return tuple(found)

    def usage_of(self, account: bytes) -> Usage:
        """Return the usage of one account."""
        _require_account(account)
        with self._store.transaction() as db:
            return _usage(db, account)

    @contextlib.contextmanager
    def _charging(self, charge: Charge) -> Iterator[tuple[Execute, Owner]]:
        """A transaction after which this process is scoring the query."""
        counted = False
        try:
            with self._store.transaction(write=True, account=charge[0]) as db:
                self._owner = owner = self._store.owner()
                yield db, owner
                owner.active[charge] += 1  # before another thread may look
                counted = True
        except BaseException:
            if counted:
                self.abandon(*charge)
            raise

    def _end(self, charge: Charge, *, used: bool) -> None:
        ended = True
        try:
            with self._store.transaction(write=True, account=charge[0]) as db:
                mine, left = self._pending(db, charge)
                if not mine:
                    ended = False
                    hint = "end it only once; after a failure another process may have it"
                    raise InputError("this process has no such charge pending", hint=hint)
                for row in dict.fromkeys([mine[0], *left] if used else mine[:1]):  # answered: all
                    _finish(db, charge, row, used=used)
        except LinalignError:
            if ended:
                self._left.append((charge, used))
            raise
        finally:  # also when that could not be written: it is scored no more
            if ended:
                self.abandon(*charge)

    def _end_left(self) -> None:
        """End what could not be ended in time, lest another process charge the query again."""
        while self._left:
            charge, used = self._left.pop()
            try:
                with self._store.transaction(write=True, account=charge[0]) as db:
                    for row in self._pending(db, charge)[1][:1]:
                        _finish(db, charge, row, used=used)
            except LinalignError:
                self._left.append((charge, used))
                raise

    def _pending(self, db: Execute, charge: Charge) -> tuple[list[int], list[int]]:
        """Return the query's pending rows: this process's own, and those that nobody scores."""
        query = "SELECT id, owner FROM pending WHERE account = ? AND fingerprint = ? AND states = ?"
        rows, me = db(query, *charge), self._store.owner()
        mine = [row for row, owner in rows if owner == me.number]
        others = [(row, owner) for row, owner in rows if owner not in (me.number, UNKNOWN)]
        left = [] if me.number == UNKNOWN else mine[me.active[charge] :]
        return mine, [*left, *(row for row, owner in others if self._store.is_dead(db, owner))]


def _checked(account: bytes, fingerprint: bytes, count: int) -> Charge:
    if len(account) != DIGEST or len(fingerprint) != DIGEST or not 1 <= count <= MAX_LIMIT:
        raise InputError("cannot charge this", expected="two digests, 1 to 2^53 states")
    return account, fingerprint, count


def _require_limits(limit: int | None, bits: int | None) -> None:
    for value in (limit, bits):
        if value is not None and not 1 <= value <= MAX_LIMIT:
            raise InputError("the limit is not usable", got=str(value), expected="1 to 2^53")


def _require_account(account: bytes) -> None:
    if len(account) != DIGEST:
        raise InputError("this names no account", expected=f"{DIGEST} bytes")


def _is_answered(db: Execute, account: bytes, fingerprint: bytes) -> bool:
    row = "SELECT 1 FROM answered WHERE account = ? AND fingerprint = ?"
    return bool(db(row, account, fingerprint))


def _finish(db: Execute, charge: Charge, row: int, *, used: bool) -> None:
    if used:
        _settle(db, charge[0], charge[1], row)
    else:
        db("DELETE FROM pending WHERE id = ?", row)


def _settle(db: Execute, account: bytes, fingerprint: bytes, row: int) -> None:
    """Settle a pending row, or drop it where the same query was settled before."""
    [(states, bits)] = db("SELECT states, bits FROM pending WHERE id = ?", row)
    db("DELETE FROM pending WHERE id = ?", row)
    if _is_answered(db, account, fingerprint):
        return
    db("INSERT INTO answered VALUES (?, ?)", account, fingerprint)
    old = _sums(db, "settled", account)
    db(_ADD, account, old[0] + states, old[1] + bits)


def _defaults(db: Execute) -> tuple[int, int | None]:
    rows = db("SELECT states, bits FROM budget LIMIT 2")
    if len(rows) != 1 or not _is_count(rows[0][0], 1) or not _is_limit(rows[0][1]):
        raise DamagedError
    states, bits = rows[0]
    return states, bits


def _limits(db: Execute, account: bytes) -> _Limits:
    states, bits = _defaults(db)
    row = "SELECT states, bits, closed FROM accounts WHERE account = ?"
    for own_states, own_bits, closed in db(row, account):
        if not (_is_limit(own_states) and _is_limit(own_bits) and closed in (0, 1)):
            raise DamagedError
        states, bits = own_states or states, own_bits or bits
        return _Limits(states, bits, bool(closed))
    return _Limits(states, bits, closed=False)


def _usage(db: Execute, account: bytes) -> Usage:
    (used, pending, bits), limits = _used(db, account), _limits(db, account)
    row = used, pending, limits.states, bits, limits.bits, limits.closed
    return Usage(account.hex(), *row)


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and least <= value <= MAX_LIMIT


def _is_limit(value: object) -> bool:
    return value is None or _is_count(value, 1)


def _sums(db: Execute, table: str, account: bytes) -> tuple[int, int]:
    """States and bits of one account in a table, each row checked."""
    rows = db(f"SELECT states, bits FROM {table} WHERE account = ?", account)  # noqa: S608 (our own names)
    if not all(_is_count(n, 1) and _is_count(bits, 0) for n, bits in rows):
        raise DamagedError
    return sum(n for n, _ in rows), sum(bits for _, bits in rows)


def _used(db: Execute, account: bytes) -> tuple[int, int, int]:
    """States settled and pending, of those pending, and bits settled and pending."""
    settled, pending = (_sums(db, table, account) for table in ("settled", "pending"))
    return settled[0] + pending[0], pending[0], settled[1] + pending[1]
