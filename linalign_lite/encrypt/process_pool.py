"""Records scored by several processes: SEAL's Python bindings hold the interpreter lock.

Processes are spawned, never forked, so they share no mask and no generator with their parent. Each
makes its own encryptions of zero. Nothing secret is sent to them: a provider has no secret.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from linalign_lite.core.head import Head
from linalign_lite.encrypt.keys import PublicKey
from linalign_lite.encrypt.messages import QueryInfo
from linalign_lite.encrypt.scoring import Scales, Scorer
from linalign_lite.encrypt.wire import Record
from linalign_lite.encrypt.zero_pool import Zeros
from linalign_lite.errors import LinalignError

_IN_FLIGHT = 2  # records in flight for each process: what bounds memory
_job: list[Any] = []  # of one worker: scorer, zeros, query, scales


@dataclass(frozen=True)
class ScoringJob:
    """What every worker needs to know. ``key``: whose zeros mask, None where nothing is masked."""

    head: Head
    cache_bytes: int
    key: PublicKey | None
    query: QueryInfo
    scales: Scales


def score_records(job: ScoringJob, records: Iterator[Record], workers: int) -> Iterator[bytes]:
    """What Scorer.score gives for each record, in order."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (job,))
    flying: deque[Future[bytes]] = deque()
    try:
        for index, record in enumerate(records):
            flying.append(pool.submit(_score_record, index, record))
            if len(flying) >= _IN_FLIGHT * workers:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    except BrokenProcessPool as e:
        raise LinalignError(
            "a scoring process died", hint="was there too little memory? --threads 1 needs least"
        ) from e
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(job: ScoringJob) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it, and stops this one
    zeros = None if job.key is None else Zeros(job.key)
    scorer = Scorer(job.head, job.query.parameters, job.cache_bytes)
    _job[:] = [scorer, zeros, job.query, job.scales]


def _score_record(index: int, record: Record) -> bytes:
    scorer, zeros, query, scales = _job
    reply: bytes = scorer.score(query, scales, index, record, zeros)
    return reply
