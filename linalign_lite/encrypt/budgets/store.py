"""Stores of query budgets: a file of this machine, or a PostgreSQL database that machines share.

`budget.Budget` has the rules, in SQL that both databases run; a store has transactions, the owners
of charges, and the responses kept.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

UNKNOWN = 0  # owner of charges of a process that nobody can ask for: it counts as alive
FIRST_OWNER, OWNERS = 1 << 40, 1 << 61  # an owner is a random number from the first, of so many


class DamagedError(Exception):
    """Contents that no budget has. A store raises FormatError for it, which names the store."""


@dataclass
class Owner:
    """This process, as pending charges name it."""

    number: int
    # Charges that this process is scoring: (account, fingerprint, states). More pending rows of
    # its own than that are left from failures, and are resumed like those of a dead process.
    active: Counter[tuple[bytes, bytes, int]] = field(default_factory=Counter)


class Execute(Protocol):
    """Runs a statement, with ? for each of ``values``, and returns its rows."""

    def __call__(self, sql: str, *values: object) -> list[tuple[Any, ...]]: ...


class Kept(Protocol):
    """Responses kept under a name. The first that is kept stays."""

    @property
    def most_bytes(self) -> int:
        """Bytes of one response, at most."""

    def open(self, name: str) -> IO[bytes] | None:
        """Open a response, or return None if it is not there, or not any more."""

    def keep(self, name: str, write: Callable[[IO[bytes]], None]) -> None:
        """Keep what ``write`` writes, and raise what it raises."""


class Store(Protocol):
    """The place of one budget. Safe to share among threads, processes and forks."""

    @property
    def name(self) -> str:
        """The place, for messages; never a password."""

    @property
    def kept(self) -> Kept:
        """The responses."""

    def create(self, states: int, bits: int | None) -> None:
        """Make the budget, with these limits, unless it is there."""

    def check(self, db: Execute) -> None:
        """Raise DamagedError if the database finds damage. Called when a Budget is made."""

    def transaction(
        self, *, write: bool = False, account: bytes = b""
    ) -> contextlib.AbstractContextManager[Execute]:
        """Yield one transaction, rolled back on an exception and durable after the block.

        With ``write`` no other transaction writes what is of ``account`` meanwhile. Raises
        FormatError for contents that are not a budget's, LinalignError when the store is not to be
        had.
        """

    def owner(self) -> Owner:
        """This process; within a transaction."""

    def is_dead(self, db: Execute, owner: int) -> bool:
        """Return True if the process that is called so is certain to be gone."""
