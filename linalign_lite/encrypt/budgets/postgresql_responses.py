"""Responses kept in the database of a budget: any machine can send again what another scored."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from typing import IO, TYPE_CHECKING

from linalign_lite.encrypt.budgets.kept_responses import MAX_BYTES, Room
from linalign_lite.errors import FormatError, LinalignError, MismatchError

if TYPE_CHECKING:
    from linalign_lite.encrypt.budgets.store import Store

MAX_ONE = 1 << 28  # bytes of one response: the server, and this process, hold it whole
_KEEP = "INSERT INTO responses VALUES (?, ?, clock_timestamp(), ?) ON CONFLICT (name) DO NOTHING"
_FORGET = """
DELETE FROM responses WHERE name <> ? AND name IN (SELECT name FROM (
    SELECT name, sum(size) OVER (ORDER BY made DESC, name) AS total FROM responses) AS newest
    WHERE total > ?)"""


class PostgresqlResponses:
    """Responses in the table of that name, at most ``max_bytes`` in all; the oldest go first.

    The newest stays, whatever its size. Of more than eight instances that keep at once, each may
    add 1/64 of ``max_bytes`` before the oldest go.
    """

    def __init__(self, store: Store, max_bytes: int = MAX_BYTES) -> None:
        self._store, self._room = store, Room(max_bytes)

    @property
    def most_bytes(self) -> int:
        """Bytes of one response, at most."""
        return MAX_ONE

    def open(self, name: str) -> IO[bytes] | None:
        """Read a response, or return None if it is not there, or not any more."""
        with self._store.transaction() as db:
            rows = db("SELECT data FROM responses WHERE name = ?", name)
        return io.BytesIO(rows[0][0]) if rows else None

    def keep(self, name: str, write: Callable[[IO[bytes]], None]) -> None:
        """Keep what ``write`` writes, unless a response of this name was kept meanwhile.

        Raises what ``write`` raises, MismatchError when that is too large, LinalignError when it
        cannot be kept.
        """
        with _Limited() as made:
            write(made)
            data = made.getvalue()
        try:
            with self._store.transaction(write=True) as db:
                db(_KEEP, name, len(data), data)
        except FormatError as e:  # of the database; one of `write` says that the query is damaged
            raise LinalignError(str(e)) from e
        if self._room.is_scarce(len(data)):  # kept; nothing that fails later is raised
            with contextlib.suppress(LinalignError), self._store.transaction(write=True) as db:
                db(_FORGET, name, self._room.most)


class _Limited(io.BytesIO):
    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        if self.tell() + memoryview(data).nbytes > MAX_ONE:
            got, hint = f"more than {MAX_ONE >> 20} MiB", "ask for fewer states in one query"
            raise MismatchError("this response is too large to be kept", got=got, hint=hint)
        return super().write(data)
