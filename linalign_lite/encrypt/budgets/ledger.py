"""A provider's book of one head: what each query was charged, and the response that it got.

A charge is on the disk before anything is scored, and a response is kept before its charge is
settled. So whatever happens to the process in between, a query is charged once. Sent again, it gets
the same response, free, or nothing: a query that was settled is never charged again.
"""

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

from linalign_lite.encrypt.budgets.budget import Budget
from linalign_lite.errors import BudgetError, FormatError, InputError, LinalignError, MismatchError


@dataclass(frozen=True)
class Charge:
    """The cost of scoring one query, and the account that pays it."""

    account: bytes
    fingerprint: bytes  # of the query
    states: int
    bits: int


class Ledger:
    """Charges queries to one head or index, and keeps its responses beside the budget.

    ``scored``: its digest.
    """

    def __init__(self, budget: Budget, scored: bytes) -> None:
        self._budget = budget
        self._head = scored
        self._kept = budget.kept

    def require_room(self, size: int) -> None:
        """Raise MismatchError for a response of more bytes than can be kept; before its charge."""
        if size > (most := self._kept.most_bytes):
            raise MismatchError(
                "this query's response would be too large",
                got=f"{size} bytes",
                expected=f"at most {most}",
                hint="send fewer states in one query",
            )

    def answered(self, charge: Charge, write: Callable[[IO[bytes]], None]) -> IO[bytes]:
        """Open the query's response; ``write`` scores it unless it was kept before.

        Raises BudgetError when the account's limits do not allow it, or the query was settled and
        its response to this head is not there: it went with time, or another head answered.
        """
        name = hashlib.sha256(self._head + charge.fingerprint).hexdigest()
        entry = charge.account, charge.fingerprint, charge.states
        self._budget.require_open(charge.account)
        if kept := self._kept.open(name):
            self._budget.settle_abandoned(*entry)
            return kept
        try:
            self._budget.charge(*entry, charge.bits)
        except BudgetError:
            self._budget.require_open(charge.account)
            if kept := self._kept.open(name):  # another process answered it since
                return kept
            raise
        try:
            self._kept.keep(name, write)
        except FormatError:  # the query was altered after it was checked: scored, and charged
            self._settle(entry)
            raise
        except BaseException:
            self._take_back(name, entry)
            raise
        try:
            response = self._kept.open(name)
        except LinalignError:
            self._budget.abandon(*entry)
            raise
        self._settle(entry)
        if response is None:
            raise BudgetError("this query's response was removed at once", hint="is the disk full?")
        return response

    def _settle(self, entry: tuple[bytes, bytes, int]) -> None:
        """Settle a charge whose response was kept; also one that a lost connection left to all."""
        try:
            self._budget.settle(*entry)
        except InputError:  # another process may have it now, and settles it itself
            self._budget.settle_abandoned(*entry)

    def _take_back(self, name: str, entry: tuple[bytes, bytes, int]) -> None:
        """Refund a charge without a response. Where that fails, the same query resumes it."""
        try:
            response = self._kept.open(name)  # an error, or Ctrl-C, may come after it was kept
        except LinalignError:
            self._budget.abandon(*entry)
            return
        with contextlib.suppress(LinalignError):
            (self._budget.settle if response else self._budget.refund)(*entry)
        if response:
            response.close()
