"""Score records in several processes: SEAL's Python bindings hold the interpreter lock.

Processes are spawned, never forked. No secret is sent to them: a provider has none.
"""

import functools
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

from linalign_lite.core.executor import map_in_order
from linalign_lite.core.head import Head
from linalign_lite.encrypt.encoded_heads import EncodedHeads
from linalign_lite.encrypt.keys import PublicKey
from linalign_lite.encrypt.masks import Masks
from linalign_lite.encrypt.messages import QueryInfo
from linalign_lite.encrypt.precision import Scales
from linalign_lite.encrypt.scored_rows import rows_of
from linalign_lite.encrypt.scoring import Scorer
from linalign_lite.encrypt.wire import Record
from linalign_lite.retrieval.index.reading import Index

_IN_FLIGHT = 2  # records in flight per process: bounds memory


@dataclass(frozen=True)
class ScoringJob:
    """Input of every worker. ``key``: the public key of the masks; None where nothing is masked."""

    scored: Head | Index
    cache_bytes: int
    max_error: float
    key: PublicKey | None
    query: QueryInfo
    scales: Scales


class _Worker:
    """State of one worker process: Scorer.score for the job's query."""

    score: ClassVar[Callable[[int, Record], bytes]]


def score_records(job: ScoringJob, records: Iterable[Record], workers: int) -> Iterator[bytes]:
    """Yield Scorer.score of each record, in order. Raises LinalignError when a process ends."""
    context, ahead = multiprocessing.get_context("spawn"), _IN_FLIGHT * workers
    pool = ProcessPoolExecutor(workers, context, _start_worker, (job,))
    hint = "was there too little memory? --threads 1 needs least"
    try:
        yield from map_in_order(pool, _score_record, enumerate(records), in_flight=ahead, hint=hint)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(job: ScoringJob) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and stops this process
    masks = None if job.key is None else Masks(job.key)
    rows = rows_of(job.scored, job.query.clusters, job.query.index)
    encoded = EncodedHeads(job.cache_bytes)
    scorer = Scorer(rows, job.query.parameters, encoded, job.max_error)
    _Worker.score = functools.partial(scorer.score, job.query, job.scales, masks=masks)


def _score_record(task: tuple[int, Record]) -> bytes:
    return _Worker.score(*task)
