"""The processes that score, as the service sees them: who gets a request, and what if one ends.

Spawned, never forked. A process that ends takes nothing along: its requests are answered by
another, and what it charged is taken over (docs/SECURITY.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import shutil
import socket
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from linalign_lite.errors import LinalignError
from linalign_lite.service.configuration import FitEntry, HeadEntry
from linalign_lite.service.connections import Limit
from linalign_lite.service.scoring_process import (
    ANSWER,
    PROOF,
    REQUEST,
    Loaded,
    raise_failure,
    serve,
)

_TRIES = 3  # of a request whose process ended
_MOMENT = 0.002  # seconds between two looks at a process that ends
_PAUSE = 1.0  # seconds before a process that could not start is started again
_PROOF_MS = 500.0
_PATIENCE = 120.0  # seconds, and ten times what was predicted: a budget may be locked for 30


class Answer(NamedTuple):
    """Number of states that were scored, and the response."""

    states: int
    body: bytes


@dataclass(eq=False)
class _Job:
    """One request, what it was predicted to take, and its answer."""

    parts: tuple[bytes, ...]
    ms: float
    answer: asyncio.Future[Answer]
    ended: int = 0  # processes that ended while they worked on it

    def fail(self, problem: str) -> None:
        """Answer with an error."""
        if not self.answer.done():
            self.answer.set_exception(LinalignError(problem, hint="send it again"))


class Workers:
    """``count`` processes for some heads and fits. ``start`` waits until all are ready.

    ``indexes``: digests of the cards of heads that are indexes, by name: no process serves another.
    ``spool``: a folder for offers and answers, which goes with the processes.
    """

    def __init__(
        self,
        heads: tuple[HeadEntry, ...],
        count: int,
        indexes: Mapping[str, str] | None = None,
        fits: tuple[FitEntry, ...] = (),
    ) -> None:
        self.count = count
        self.lost = 0  # processes that ended before they were told to
        self._numbers = {entry.name: i for i, entry in enumerate(heads)}
        self._fits = {entry.name: i for i, entry in enumerate(fits, len(heads))}
        self._processes: list[_Process] = []
        self._held: list[_Job] = []  # while there is no process
        self._answers: set[asyncio.Future[Answer]] = set()  # that are waited for
        self._closing = False
        self._tasks: set[asyncio.Task[None]] = set()  # that replace processes
        fast = Path("/dev/shm")  # noqa: S108 (a folder of our own in it)
        parent = fast if os.access(fast, os.W_OK) else None
        shared = Path(tempfile.mkdtemp(prefix=f"linalign-heads-{os.getpid()}-", dir=parent))
        self.spool = Path(tempfile.mkdtemp(prefix=f"linalign-fits-{os.getpid()}-"))
        self._loaded = Loaded(heads, fits, dict(indexes or {}), shared, self.spool)

    async def start(self) -> None:
        """Return once every process holds its heads. Raises what one of them raised."""
        try:
            await asyncio.gather(*(self._add() for _ in range(self.count)))
        except BaseException:
            self.kill()
            raise

    async def score(self, head: str, query: bytes, key: Path | None, ms: float) -> Answer:
        """Score a query file with a head. ``key``: file of its public key; ms: predicted."""
        return await self._ask(self._numbers[head], key, query, ms)

    async def fit(self, name: str, offer: Path, out: Path, key: Path, ms: float) -> int:
        """Answer an offer of a private fit as the file ``out``. Returns the states charged."""
        names = json.dumps([str(offer), str(out)]).encode()
        return (await self._ask(self._fits[name], key, names, ms)).states

    async def verify(self, key: Path, proof: bytes) -> None:
        """Verify the proof of a public key. Raises FormatError."""
        await self._ask(PROOF, key, proof, _PROOF_MS)

    @property
    def is_ready(self) -> bool:
        """Return whether a process can score."""
        return not self._closing and any(process.is_ready for process in self._processes)

    async def close(self, seconds: float = 30.0) -> None:
        """End the processes once they have answered what they took, or after ``seconds``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._answers:
                    await asyncio.wait(self._answers)
                self._closing = True
                for process in self._processes:
                    process.close()
                while any(process.is_alive for process in self._processes):
                    await asyncio.sleep(0.01)
        self.kill()

    def kill(self) -> None:
        """End the processes at once."""
        self._closing = True
        for process in self._processes:
            process.kill()
        for answer in self._answers:
            with contextlib.suppress(asyncio.InvalidStateError, RuntimeError):  # the loop ended
                answer.set_exception(LinalignError("the processes that score were ended"))
        for folder in (self._loaded.shared, self.spool):
            shutil.rmtree(folder, ignore_errors=True)

    async def _ask(self, number: int, path: Path | None, body: bytes, ms: float) -> Answer:
        name = b"" if path is None else str(path).encode()
        start = REQUEST.pack(number, len(name), len(body)) + name
        job = _Job((start, body), ms, asyncio.get_running_loop().create_future())
        self._answers.add(job.answer)
        job.answer.add_done_callback(self._answers.discard)
        if self._closing:  # as the heads were reloaded
            job.fail("the processes that score ended")
        else:
            self._give(job)
        return await job.answer

    def _give(self, job: _Job) -> None:
        """Hand a job to the process that has the least to do."""
        if self._processes:
            min(self._processes, key=lambda process: (not process.is_ready, process.ms)).take(job)
        else:
            self._held.append(job)

    async def _add(self) -> None:
        process = _Process(self._ended)
        self._processes.append(process)
        held, self._held = self._held, []
        for job in held:
            process.take(job)
        await process.start(self._loaded)

    def _ended(self, process: _Process) -> None:
        self._processes.remove(process)
        task = asyncio.ensure_future(self._replace(process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replace(self, ended: _Process) -> None:
        """Have the jobs of a process that ended done by others, and start another one."""
        while ended.is_alive:  # it still holds its charges: they would be charged again
            await asyncio.sleep(_MOMENT)
        if ended.is_ready:
            if ended.jobs:
                ended.jobs[0].ended += 1  # it may be the cause
            for job in ended.jobs:
                if job.ended < _TRIES:
                    self._give(job)
                else:
                    job.fail("the process that scored this query ended")
        else:
            for job in ended.jobs:
                job.fail("no process can be started")
            await asyncio.sleep(_PAUSE)
        if not self._closing:
            self.lost += 1
            with contextlib.suppress(LinalignError):  # it ends, and is replaced
                await self._add()


class _Process(asyncio.Protocol):
    """One process, and the jobs that it was given and has not answered, in order."""

    def __init__(self, ended: Any) -> None:
        self.jobs: deque[_Job] = deque()
        self.ms = 0.0  # predicted, of its jobs
        self._ended, self._buffer = ended, bytearray()
        self._transport: Any = None
        self._ready: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._process: Any = None
        self._hangs = Limit(asyncio.get_running_loop(), self._kill)

    async def start(self, loaded: Loaded) -> None:
        """Return once it holds its heads. Raises what it raised."""
        context, loop = multiprocessing.get_context("spawn"), asyncio.get_running_loop()
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                process = context.Process(target=serve, args=(theirs, loaded), daemon=True)
                process.start()
            self._process = process
            await loop.create_unix_connection(lambda: self, sock=ours)
        except OSError as e:
            self._kill()
            self.connection_lost(e)
        await self._ready

    @property
    def is_ready(self) -> bool:
        """Return whether it ever was ready."""
        return self._ready.done() and self._ready.exception() is None

    @property
    def is_alive(self) -> bool:
        """Return whether the system still has it."""
        return bool(self._process and self._process.is_alive())

    def take(self, job: _Job) -> None:
        """Have a job done after those that it has."""
        self.jobs.append(job)
        self.ms += job.ms
        if len(self.jobs) == 1:
            self._expect()
        if self._transport:
            self._transport.writelines(job.parts)

    def close(self) -> None:
        """Let it end."""
        self._ended = lambda _: None
        if self._transport:
            self._transport.close()

    def kill(self) -> None:
        """End it now."""
        self._ended = lambda _: None
        self._kill()

    def _kill(self) -> None:
        if self._process:
            self._process.kill()

    def _expect(self) -> None:
        """Wait for the answer to its first job, not longer than any may take: then it hangs."""
        self._hangs.stop()
        if self.jobs:
            self._hangs.start(_PATIENCE + 10 * self.jobs[0].ms / 1e3)

    def connection_made(self, transport: Any) -> None:
        """Send what it was given meanwhile."""
        self._transport = transport
        for job in self.jobs:
            transport.writelines(job.parts)

    def data_received(self, data: bytes) -> None:
        """Give answers to those who wait for them."""
        self._buffer += data
        while len(self._buffer) >= ANSWER.size:
            good, states, size = ANSWER.unpack_from(self._buffer)
            end = ANSWER.size + size
            if len(self._buffer) < end:
                return
            body = bytes(memoryview(self._buffer)[ANSWER.size : end])
            del self._buffer[:end]
            self._answered(good, Answer(states, body))

    def _answered(self, good: bool, found: Answer) -> None:
        answer = self._ready
        if answer.done():
            job = self.jobs.popleft()
            self.ms -= job.ms
            answer = job.answer
            self._expect()
        if answer.done():  # nobody waits any more
            return
        try:
            answer.set_result(found) if good else raise_failure(found.body)
        except Exception as e:  # noqa: BLE001 (whoever waits gets it)
            answer.set_exception(e)

    def connection_lost(self, _: Exception | None) -> None:
        """Hand over what it did not answer."""
        self._hangs.stop()
        if not self._ready.done():
            self._ready.set_exception(LinalignError("a process that scores cannot start"))
        self._ended(self)
