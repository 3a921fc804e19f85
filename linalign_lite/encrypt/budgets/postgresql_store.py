"""A query budget in PostgreSQL, which services of several machines share: one schema a budget.

docs/FORMAT.md, section 4. A process has one connection to each budget. It holds an advisory lock on
the process's number as long as it lives, which the server releases however it ends; other processes
ask for that lock to learn whether the process that left a charge is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import re
import secrets
import threading
from collections.abc import Iterator
from typing import Any

from linalign_lite.encrypt.budgets import postgresql_schema as schema
from linalign_lite.encrypt.budgets.postgresql_responses import PostgresqlResponses
from linalign_lite.encrypt.budgets.store import FIRST_OWNER, OWNERS, DamagedError, Execute, Owner
from linalign_lite.errors import FormatError, InputError, LinalignError, import_extra

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
_TIMEOUT = 30.0  # seconds for a lock, half of those for a statement; ?timeout= of the URL
# A machine or a network that went must be noticed on both sides: else its charges stay its own.
_LIMITS = {
    "connect_timeout": 10, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}  # fmt: skip
_SETTINGS = """
SET search_path TO "{schema}", pg_temp; -- temporary tables last, or they would be first
SET application_name = 'linalign-lite {process}'; -- for whoever looks for it
SET lock_timeout = {timeout}; SET statement_timeout = {longer};
SET idle_in_transaction_session_timeout = {timeout};
SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3;
SELECT set_config('synchronous_commit', 'on', false) -- a charge must be on the server's disk
    WHERE current_setting('synchronous_commit') = 'off'"""
_CAUSES = {  # classes and codes of SQLSTATE
    "08": ("the connection was lost", "it is made again by the next request"),
    "25006": ("it is read-only", "name the primary server, not a standby"),
    "28": ("it refused the user or the password", "give it in the URL, in PGPASSWORD or .pgpass"),
    "3D000": ("there is no such database", "make it first"),
    "40": ("another transaction was in the way", "try again"),
    "42501": ("a permission is missing", "the user needs the schema of the budget"),
    "53100": ("its disk is full", "make room on the server"),
    "53": ("it has no connections or memory left", "raise its limits, or use fewer workers"),
    "55P03": ("it is locked for too long", "does another session keep it locked?"),
    "57014": ("it took too long", "does another session keep it locked?"),
    "57": ("it is shutting down or starting", "try again"),
}

LOCK = threading.RLock()  # held within a transaction, and while the process forks


class _Session:
    """One connection, and the number of this process that lives as long as it."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.owner = Owner(FIRST_OWNER + secrets.randbelow(OWNERS))

    @property
    def is_lost(self) -> bool:
        """Return whether the server, or the network, ended the connection."""
        if self.connection.closed or self.connection.invalidated:
            return True
        return bool(self.connection.connection.dbapi_connection.closed)

    def execute(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        result = self.connection.exec_driver_sql(sql.replace("?", "%s"), values)
        return [tuple(row) for row in result] if result.returns_rows else []

    def close(self) -> None:
        """Close the connection, also one that was lost."""
        with contextlib.suppress(Exception):
            self.connection.invalidate()
        with contextlib.suppress(Exception):
            self.connection.close()


_SESSIONS: dict[tuple[str, str], _Session] = {}
_LEFT: list[_Session] = []  # a parent's, in its child: never used, never closed


class PostgresqlStore:
    """The budget NAME of ``postgresql://USER@HOST/DATABASE?budget=NAME``."""

    def __init__(self, url: str) -> None:
        self._sqlalchemy: Any = import_extra(
            "sqlalchemy", extra="postgresql", purpose="a budget in PostgreSQL"
        )
        import_extra("psycopg", extra="postgresql", purpose="a budget in PostgreSQL")
        self._url, name, self._timeout = _parsed(self._sqlalchemy, url)
        self._schema = f"linalign_{name}"
        self._key = self._url.render_as_string(hide_password=False), name
        port = f":{self._url.port}" if self._url.port else ""
        hosts = self._url.host or self._url.query.get("host") or "localhost"
        host = hosts if isinstance(hosts, str) else ",".join(hosts)
        self.name = f"budget {name} of postgresql://{host}{port}/{self._url.database or ''}"
        limits = {name: value for name, value in _LIMITS.items() if name not in self._url.query}
        try:
            self._engine = self._sqlalchemy.create_engine(
                self._url,
                poolclass=self._sqlalchemy.pool.NullPool,
                isolation_level="READ COMMITTED",
                hide_parameters=True,
                connect_args=limits,
            )
        except self._sqlalchemy.exc.ArgumentError:
            what, form = "the URL of a budget is not usable", "host=A,B&port=1,2 for several hosts"
            raise InputError(what, expected=form) from None
        self.kept = PostgresqlResponses(self)

    def create(self, states: int, bits: int | None) -> None:
        """Make the schema and its tables, unless they are there; one process at a time does."""
        with self.transaction(write=True, account=b"create") as db:
            if not schema.exists(db, self._schema):
                schema.create(db, self._schema, states, bits)

    def check(self, db: Execute) -> None:
        """Raise InputError when there is no such budget, FormatError for tables that are none."""
        schema.require(db, self._schema, self.name)

    @contextlib.contextmanager
    def transaction(self, *, write: bool = False, account: bytes = b"") -> Iterator[Execute]:
        """Yield a transaction; of those that write one account's rows, there is one at a time."""
        with LOCK, self._named_errors():
            session, transaction = self._begun(write, account)
            with transaction:
                yield session.execute

    def owner(self) -> Owner:
        """Return this process's number; another connection has another."""
        return _SESSIONS[self._key].owner

    def is_dead(self, db: Execute, owner: int) -> bool:
        """Return True if no session holds the number. A shared lock: several may ask at once."""
        return db("SELECT pg_try_advisory_xact_lock_shared(?)", owner) == [(True,)]

    def _begun(self, write: bool, account: bytes) -> tuple[_Session, Any]:
        """Begin a transaction. A connection that was lost before it is made anew, once."""
        while True:
            before = _SESSIONS.get(self._key)
            session = self._connected()
            transaction = session.connection.begin()
            try:
                if not write:
                    session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                elif account:
                    session.execute("SELECT pg_advisory_xact_lock(?)", self._number(account))
                else:
                    session.execute("SELECT 1")
            except BaseException:
                with contextlib.suppress(self._sqlalchemy.exc.SQLAlchemyError):
                    transaction.rollback()
                if session is before and session.is_lost:  # as before anything was sent
                    continue
                raise
            return session, transaction

    def _connected(self) -> _Session:
        """Return this process's session, a new one if that was lost."""
        session = _SESSIONS.get(self._key)
        if session is not None and not session.is_lost:
            return session
        _drop(self._key)
        session = _Session(self._engine.connect())
        try:
            with session.connection.begin():
                timeout = int(self._timeout * 1000)
                names = {"schema": self._schema, "process": os.getpid()}
                session.execute(_SETTINGS.format(timeout=timeout, longer=2 * timeout, **names))
                session.execute("SELECT pg_advisory_lock(?)", session.owner.number)
        except BaseException:
            session.close()
            raise
        _SESSIONS[self._key] = session
        return session

    def _number(self, account: bytes) -> int:
        """The number of the lock of one account of this budget."""
        sha = hashlib.sha256(self._schema.encode() + b"\0" + account)
        return int.from_bytes(sha.digest()[:8], "big", signed=True)

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Raise LinalignError or FormatError for errors of the server and of the connection.

        Messages repeat nothing of the tables' contents, and no password.
        """
        try:
            yield
        except DamagedError as e:
            raise self._damaged("contents that are not a budget's") from e
        except self._sqlalchemy.exc.SQLAlchemyError as e:
            session = _SESSIONS.get(self._key)
            lost = session is None or session.is_lost
            if lost:
                _drop(self._key)
            state = getattr(getattr(e, "orig", None), "sqlstate", None) or ""
            known = [c for c in _CAUSES if state and state.startswith(c)]
            if known:
                got, hint = _CAUSES[max(known, key=len)]
            elif lost:
                got, hint = self._cause(e), "is the server running, and the URL right?"
            else:
                raise self._damaged(f"the error {state or type(e).__name__}") from None
            raise LinalignError(f"cannot use {self.name}", got=got, hint=hint) from None

    def _damaged(self, got: str) -> FormatError:
        hint = "restore it if it was a budget; a new one would forget what was used"
        return FormatError(f"{self.name} is no budget, or is damaged", got=got, hint=hint)

    def _cause(self, error: Any) -> str:
        """The first line of a failure to connect, in the words of PostgreSQL's library."""
        lines = str(getattr(error, "orig", None) or "").strip().splitlines()
        text = re.sub("^connection failed: ", "", lines[0] if lines else "the connection was lost")
        for password in (self._url.password, self._url.query.get("password")):
            text = text.replace(str(password), "…") if password else text
        return text[:300]


def _parsed(sqlalchemy: Any, text: str) -> tuple[Any, str, float]:
    """Return the URL without options of this library, the budget's name and the timeout.

    Raises InputError, also for an @ that may be of a password: it would be part of the host.
    """
    where, _, query = text.partition("@")[2].partition("?")  # after the user and the password
    names = [option.partition("=")[0] for option in query.split("&")]
    try:
        url = sqlalchemy.make_url(re.sub("^[a-z+]*", "postgresql+psycopg", text))
        options = dict(url.query)
        name, timeout = options.pop("budget", "default"), options.pop("timeout", str(_TIMEOUT))
        seconds = float(timeout)
        if not (_NAME.fullmatch(name) and 0.1 <= seconds <= 3600):
            raise ValueError
        if any("@" in (part or "") for part in (where, *names, url.host, url.database)):
            what, hint = "the URL of a budget has an @ too many", "write that of a password as %40"
            raise InputError(what, hint=f"{hint}, / as %2F, : as %3A")
    except (sqlalchemy.exc.ArgumentError, ValueError, TypeError):
        form = "postgresql://USER@HOST/DATABASE?budget=NAME&timeout=SECONDS"
        raise InputError("the URL of a budget is not usable", expected=form) from None
    return url.set(query=options), name, seconds


def _drop(key: tuple[str, str]) -> None:
    """Forget a session that was lost, and with it the number of this process."""
    if (session := _SESSIONS.pop(key, None)) is not None:
        session.close()


def close_connections() -> None:
    """Close every connection that this process keeps; its charges are anybody's then."""
    with LOCK:
        for key in list(_SESSIONS):
            _drop(key)


def _leave_to_parent() -> None:
    """Leave in a child its parent's connections, of which it may say nothing to the server.

    Nor may it keep them open when its parent dies: their descriptors become those of /dev/null.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    for session in _SESSIONS.values():
        with contextlib.suppress(Exception):
            os.dup2(nowhere, session.connection.connection.dbapi_connection.fileno())
    os.close(nowhere)
    _LEFT.extend(_SESSIONS.values())
    _SESSIONS.clear()
    LOCK.release()


atexit.register(close_connections)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=_leave_to_parent
    )
