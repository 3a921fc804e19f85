"""Admission: how many queries are scored at once, who is next, and who is sent away.

Accounts take turns, so that one that asks much does not keep others waiting; within one, the first
is first. A query is sent away when too many wait, or too many of its own account.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from dataclasses import dataclass

from linalign_lite.errors import LinalignError

_AHEAD_MS = 40.0  # milliseconds of short queries in the hands of a process


class BusyError(LinalignError):
    """Too many queries wait. ``seconds``: when to ask again."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        super().__init__("this service is busy", hint=f"ask again in {seconds} s")


@dataclass(eq=False)
class _Waiting:
    turn: asyncio.Future[None]
    ms: float  # predicted time of scoring


class Admission:
    """Queries for some processes, and at most ``most`` that wait, of one account half of these.

    ``ahead``: short queries in the hands of a process. It need not wait for the next one then, but
    none is held up long by those before it.
    """

    def __init__(self, processes: int, most: int, *, ahead: int = 1) -> None:
        self._processes, self._most, self._ahead = processes, most, ahead
        self.running = 0
        self.waiting = 0
        self._ahead_ms = 0.0  # of those that run, each as at most the share of one process
        self._backlog = 0.0  # milliseconds
        self._queues: OrderedDict[bytes, deque[_Waiting]] = OrderedDict()

    def require_room(self) -> None:
        """Raise BusyError when as many wait as may."""
        if self.waiting >= self._most:
            raise self._busy()

    def _busy(self) -> BusyError:
        return BusyError(max(1, math.ceil(self._backlog / self._processes / 1e3)))

    @contextlib.asynccontextmanager
    async def turn(self, account: bytes, ms: float) -> AsyncIterator[None]:
        """Wait for a turn, and hold it. Raises BusyError at once when too many wait."""
        if self._fits(ms) and not self.waiting:
            self._start(ms)
        else:
            await self._wait(account, ms)
        self._backlog += ms
        try:
            yield
        finally:
            self._backlog -= ms
            self._end(ms)

    def _fits(self, ms: float) -> bool:
        if self.running < self._processes:
            return True
        room = _AHEAD_MS * self._processes - self._ahead_ms
        return self.running < self._ahead * self._processes and min(ms, _AHEAD_MS) <= room

    def _start(self, ms: float) -> None:
        self.running += 1
        self._ahead_ms += min(ms, _AHEAD_MS)

    def _end(self, ms: float) -> None:
        self.running -= 1
        self._ahead_ms -= min(ms, _AHEAD_MS)
        self._next()

    async def _wait(self, account: bytes, ms: float) -> None:
        self.require_room()
        queue = self._queues.setdefault(account, deque())
        if len(queue) >= max(1, self._most // 2):
            raise self._busy()
        mine = _Waiting(asyncio.get_running_loop().create_future(), ms)
        queue.append(mine)
        self.waiting += 1
        self._backlog += ms
        try:
            await mine.turn
        except asyncio.CancelledError:
            if mine.turn.done() and not mine.turn.cancelled():  # its turn had come
                self._end(ms)
            else:
                queue.remove(mine)
                self.waiting -= 1
            raise
        finally:
            self._backlog -= ms

    def _next(self) -> None:
        """Give free slots to those that wait, one account after another."""
        while self.waiting:
            account, queue = next(iter(self._queues.items()))
            if queue:
                if not self._fits(queue[0].ms):
                    return
                self.waiting -= 1
                self._start(queue[0].ms)
                queue.popleft().turn.set_result(None)
            self._queues.move_to_end(account)
            if not queue:
                del self._queues[account]
