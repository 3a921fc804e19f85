"""A provider's book of one head: what each query was charged, and the response that it got.

A charge is on the disk before anything is scored, and a response is kept before its charge is
settled. So whatever happens to the process in between, the query is charged once, and sent again it
gets the same response, free.
"""

import contextlib
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from linalign_lite.core.head import Head
from linalign_lite.encrypt.kept_responses import KeptResponses
from linalign_lite.encrypt.query_budget import Budget
from linalign_lite.errors import FormatError, LinalignError


@dataclass(frozen=True)
class Charge:
    """The cost of scoring one query, and the account that pays it."""

    account: bytes
    fingerprint: bytes  # of the query
    states: int
    bits: int


class Ledger:
    """Charges queries to one head, and keeps its responses in the folder BUDGET.responses."""

    def __init__(self, budget: Budget, head: Head) -> None:
        self._budget = budget
        self._head = _digest(head)
        self._kept = KeptResponses(budget.path.with_name(budget.path.name + ".responses"))

    def answered(self, charge: Charge, write: Callable[[IO[bytes]], None]) -> Path:
        """Return the response's file; ``write`` scores it unless it was kept before.

        Raises BudgetError when the account's limits do not allow it.
        """
        # another head is another question
        asked = hashlib.sha256(self._head + charge.fingerprint).digest()
        entry = charge.account, asked, charge.states
        self._budget.require_open(charge.account)
        if path := self._kept.find(asked):
            self._budget.settle_abandoned(*entry)
            return path
        self._budget.charge(*entry, charge.bits)
        try:
            path, mine = self._kept.keep(asked, write)
        except FormatError:  # the query was altered after it was checked: scored, and charged
            self._budget.settle(*entry)
            raise
        except Exception:  # not Ctrl-C, which may come when the response is already kept: then
            # the charge stays pending, and the same query takes it over
            with contextlib.suppress(LinalignError):
                self._budget.refund(*entry)
            raise
        (self._budget.settle if mine else self._budget.refund)(*entry)
        return path


def _digest(head: Head) -> bytes:
    sha = hashlib.sha256()
    for array in (head.weight, head.bias):
        sha.update(repr((array.dtype.str, array.shape)).encode())
        sha.update(array.tobytes())
    sha.update(repr((head.labels, head.softcap, head.space)).encode())
    return sha.digest()
