"""Score records in several processes: SEAL's Python bindings hold the interpreter lock.

Processes are spawned, never forked, so they share no mask and no generator with their parent; each
makes its own encryptions of zero. No secret is sent to them: a provider has none.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

from linalign_lite.core.executor import map_in_order
from linalign_lite.core.head import Head
from linalign_lite.encrypt.keys import PublicKey
from linalign_lite.encrypt.messages import QueryInfo
from linalign_lite.encrypt.precision import Scales
from linalign_lite.encrypt.scoring import Scorer
from linalign_lite.encrypt.wire import Record
from linalign_lite.encrypt.zero_pool import Zeros

_IN_FLIGHT = 2  # records in flight per process: bounds memory


@dataclass(frozen=True)
class ScoringJob:
    """Input of every worker. ``key``: the public key of the masks; None where nothing is masked."""

    head: Head
    cache_bytes: int
    key: PublicKey | None
    query: QueryInfo
    scales: Scales


class _Worker:
    """State of one worker process, made once when the process starts."""

    current: ClassVar[_Worker]

    def __init__(self, job: ScoringJob) -> None:
        self._job = job
        self._zeros = None if job.key is None else Zeros(job.key)
        self._scorer = Scorer(job.head, job.query.parameters, job.cache_bytes)

    def score(self, index: int, record: Record) -> bytes:
        return self._scorer.score(self._job.query, self._job.scales, index, record, self._zeros)


def score_records(job: ScoringJob, records: Iterable[Record], workers: int) -> Iterator[bytes]:
    """Yield Scorer.score of each record, in order. Raises LinalignError when a process ends."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _start_worker, (job,))
    hint = "was there too little memory? --threads 1 needs least"
    try:
        yield from map_in_order(
            pool, _score_record, enumerate(records), in_flight=_IN_FLIGHT * workers, hint=hint
        )
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(job: ScoringJob) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and stops this process
    _Worker.current = _Worker(job)


def _score_record(task: tuple[int, Record]) -> bytes:
    return _Worker.current.score(*task)
