"""Processes that score: each holds every head, encoded once, and answers one query at a time.

Spawned, never forked. They get public keys and queries, and give responses; none holds a secret. A
process that ends takes nothing along: its query is scored again by another, and what it charged is
taken over (docs/SECURITY.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from linalign_lite.errors import LinalignError
from linalign_lite.service.configuration import Configuration, HeadEntry

T = TypeVar("T")
_TRIES = 3  # of a query whose process ended
_CACHE = 1 << 28  # bytes of encoded heads, each head and process
_KEYS = 1024  # public keys in the memory of one process, each head: 46 kB each


class _Worker:
    """State of one worker process."""

    providers: ClassVar[dict[str, Any]] = {}
    budgets: ClassVar[set[str]] = set()  # their names; no client hears of them


class Workers:
    """``count`` processes for one configuration. ``started`` waits until all are ready."""

    def __init__(self, configuration: Configuration, count: int) -> None:
        self._configuration, self.count = configuration, count
        self._pool = self._new_pool()
        self._lock = threading.Lock()
        self._closed = False
        self.lost = 0  # pools that were replaced because a process ended

    async def started(self) -> None:
        """Return once every process holds its heads. Raises what one of them raised."""
        await asyncio.gather(*(self._run(_ready) for _ in range(self.count)))

    async def score(self, head: str, query: bytes, key: Path | None) -> bytes:
        """Score a query file with a head. ``key``: file of its public key."""
        return await self._run(_score, head, query, key)

    async def verify(self, key: Path, proof: bytes) -> None:
        """Verify the proof of a public key. Raises FormatError."""
        await self._run(_verify, key, proof)

    def close(self, *, wait: bool = True) -> None:
        """End the processes once they have answered what they took."""
        self._closed = True
        self._pool.shutdown(wait=wait)

    async def _run(self, function: Callable[..., T], *arguments: Any) -> T:
        for _ in range(_TRIES):
            pool = self._pool
            try:
                return await asyncio.wrap_future(pool.submit(function, *arguments))
            except (BrokenExecutor, RuntimeError):  # RuntimeError: it was shut down meanwhile
                self._replace(pool)
        raise LinalignError("the process that scored this query ended", hint="send it again")

    def _replace(self, broken: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is broken and not self._closed:
                self._pool = self._new_pool()
                self.lost += 1
        broken.shutdown(wait=False, cancel_futures=True)

    def _new_pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self.count, context, _start, (self._configuration.heads,))


def _start(heads: tuple[HeadEntry, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the service ends its processes itself
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _Worker.providers = {entry.name: _provider(entry) for entry in heads}


def _end_with_parent() -> None:
    """Killed, a service closes nothing: its processes would wait without end."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        with contextlib.suppress(OSError):
            parent.join()
        os._exit(1)


def _provider(entry: HeadEntry) -> Any:
    from linalign_lite.encrypt.parameters import by_name
    from linalign_lite.encrypt.provider import Provider

    budget = entry.open_budget()
    if budget is not None:
        _Worker.budgets.add(budget.name)
    return Provider(
        entry.load_head(),
        accept=[by_name(entry.profile)],
        max_error=entry.max_error,
        budget=budget,
        cache_bytes=_CACHE,
    )


def _ready() -> None:
    """Do nothing, in a process that has started."""


def _score(head: str, query: bytes, key: Path | None) -> bytes:
    from linalign_lite.encrypt.messages import Query
    from linalign_lite.service.key_store import load_key

    provider, asked = _Worker.providers[head], Query.load(query)
    try:
        if key is not None and not provider.has_key(asked.info.key):
            provider.add_key(load_key(key), most=_KEYS)
        return bytes(provider.score(asked).to_bytes())
    except OSError as e:
        raise LinalignError("a file of the service cannot be used", got=str(e)) from e
    except LinalignError as e:
        if any(name in str(e) for name in _Worker.budgets):  # not the query's fault
            raise LinalignError(str(e)) from e
        raise


def _verify(key: Path, proof: bytes) -> None:
    from linalign_lite.encrypt.key_proof import load_proof
    from linalign_lite.encrypt.keys import PublicKey

    load_proof(proof, PublicKey.load(key))
