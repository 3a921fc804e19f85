"""A running service: its heads, keys, processes and books, and what may happen to them."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import logging
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from linalign_lite.core.executor import cores
from linalign_lite.core.head import Head
from linalign_lite.core.space import Space
from linalign_lite.encrypt.budgets.budget import Budget
from linalign_lite.encrypt.messages import QueryInfo
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.planner import predict_cost
from linalign_lite.encrypt.scored_rows import rows_of
from linalign_lite.encrypt.wire import Kind, open_framed
from linalign_lite.retrieval.index.card import OwnIds, card_digest
from linalign_lite.retrieval.index.reading import Index
from linalign_lite.service.admission import Admission
from linalign_lite.service.configuration import Configuration, FitEntry, HeadEntry
from linalign_lite.service.key_store import KeyStore
from linalign_lite.service.metrics import Metrics
from linalign_lite.service.workers import Workers
from linalign_lite.storage.schema import plain

if TYPE_CHECKING:
    from pathlib import Path

LOG = logging.getLogger("linalign_lite.service")
_MAX_FORMS = 256  # of queries, whose costs are remembered
_AHEAD = 4  # queries in the hands of each process: it must not wait for a busy loop


@dataclass(frozen=True)
class Expected:
    """The profile of a query, and predicted milliseconds of scoring and bytes of the response.

    outputs: scores of each state, of a query of clusters those of their rows.
    """

    parameters: Parameters
    outputs: int
    ms: float
    response_bytes: int


@dataclass(frozen=True)
class ServedHead:
    """One head as clients see it. ``expected``: of queries, by ``wire.stated_form``."""

    entry: HeadEntry
    head: Head | Index
    accounts: frozenset[bytes] | None  # None: any
    budget: Budget | None
    expected: dict[bytes, Expected] = field(default_factory=dict)

    @property
    def n_outputs(self) -> int:
        """Outputs of the head, or rows of the index."""
        return len(self.head) if isinstance(self.head, Index) else self.head.n_outputs

    def expect(self, form: bytes, query: bytes) -> Expected:
        """Read the header of a query, and remember what it costs.

        Raises FormatError, or MismatchError for clusters of another index.
        """
        with open_framed(query, Kind.QUERY) as reader:
            info = QueryInfo.from_header(reader.header, reader.name)
        outputs = self.n_outputs
        if info.clusters:
            outputs = rows_of(self.head, info.clusters, info.index).n_outputs
        cost = predict_cost(info.parameters, info.layout, info.n, outputs)
        if len(self.expected) >= _MAX_FORMS:
            self.expected.clear()
        found = Expected(info.parameters, outputs, cost.score_ms, cost.response_bytes)
        self.expected[form] = found
        return found

    @functools.cached_property
    def published(self) -> dict[str, bytes]:
        """Files of an index that anybody may read, by the last word of their path."""
        if not isinstance(self.head, Index):
            return {}
        ids = {"ids": self.head.ids.content} if isinstance(self.head.ids, OwnIds) else {}
        card = self.head.card
        centroids = {} if card.clusters is None else {"centroids": self.head.centroids.content()}
        return {"index": card.to_bytes(), **ids, **centroids}

    def card(self) -> dict[str, Any]:
        """Return the description that anybody may read."""
        return {
            "name": self.entry.name,
            "space": plain(self.head.space),
            "dim": self.head.space.dim,
            "n_outputs": self.n_outputs,
            "labels": [] if isinstance(self.head, Index) else list(self.head.labels),
            "index": isinstance(self.head, Index),
            "profile": self.entry.profile,
            "max_error": self.entry.max_error,
            "needs_account": self.budget is not None or self.accounts is not None,
            "has_budget": self.budget is not None,
            "limit": self.entry.limit,
            "bits_limit": self.entry.bits,
        }


@dataclass(frozen=True)
class ServedFit:
    """States for private fits as clients see them. ``n``: texts."""

    entry: FitEntry
    space: Space
    n: int
    text_digest: str
    accounts: frozenset[bytes] | None
    budget: Budget | None

    def card(self) -> dict[str, Any]:
        """Return the description that anybody may read."""
        return {
            "name": self.entry.name,
            "space": plain(self.space),
            "dim": self.space.dim,
            "texts": self.n,
            "text_digest": self.text_digest,
            "limit": self.entry.limit,
            "bits_limit": self.entry.bits,
        }


class Service:
    """State of one service process."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.metrics = Metrics()
        self.keys = KeyStore(configuration.keys, configuration.most_keys)
        self.heads, self.fits = _served(configuration), _served_fits(configuration)
        count = configuration.workers or cores()
        self.workers = _workers(configuration, count, self.heads)
        self.admission = Admission(count, configuration.waiting, ahead=_AHEAD)
        # bytes of small requests and of large ones that arrived and are not answered yet
        self.uploading = {True: 0, False: 0}
        self._started = False
        self._reloading = asyncio.Lock()

    @property
    def is_ready(self) -> bool:
        """Return whether queries can be scored now."""
        return self._started and self.workers.is_ready

    async def start(self) -> None:
        """Return once queries can be scored."""
        await self.workers.start()
        gc.freeze()  # collections need not look at what stays, while requests wait
        self._started = True

    async def reload(self, configuration: Configuration) -> None:
        """Serve other heads. Queries that were taken are answered by the processes that have them.

        Raises what loading the new heads raises; then the old ones stay.
        """
        async with self._reloading:
            heads = await asyncio.to_thread(_served, configuration)
            fits = await asyncio.to_thread(_served_fits, configuration)
            workers = _workers(configuration, self.workers.count, heads)
            await workers.start()
            old, self.workers, self.heads, self.fits = self.workers, workers, heads, fits
            self.configuration = configuration
            await old.close()

    async def close(self) -> None:
        """End the processes, after what they have taken."""
        self._started = False
        await self.workers.close()

    def page(self) -> bytes:
        """Metrics for Prometheus."""
        gauges = self.metrics.gauges
        gauges["waiting"].set(self.admission.waiting)
        gauges["running"].set(self.admission.running)
        gauges["processes_lost"].set(self.workers.lost)
        gauges["keys"].set(self.keys.count)
        return self.metrics.page()

    def audit(self, **fields: Any) -> None:
        """Write who asked how much of which head to the audit log, if there is one.

        The query was charged and scored before: it is answered even if this fails, and the log
        says so.
        """
        path: Path | None = self.configuration.audit_log
        if path is None:
            return
        line = (json.dumps({"time": round(time.time(), 3), **fields}) + "\n").encode()
        try:
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                if os.write(handle, line) < len(line):
                    raise OSError("only part of a line was written")
            finally:
                os.close(handle)
        except OSError as e:
            said = {"error": e.strerror or str(e), "states": fields.get("states")}
            LOG.error("audit log not written", extra={"fields": said})


def _workers(configuration: Configuration, count: int, heads: dict[str, ServedHead]) -> Workers:
    """Processes for all that is served; with the digests of the cards of indexes."""
    cards = {n: card_digest(h.head.card) for n, h in heads.items() if isinstance(h.head, Index)}
    return Workers(configuration.heads, count, cards, configuration.fits)


def _served(configuration: Configuration) -> dict[str, ServedHead]:
    found = {}
    for entry in configuration.heads:
        head, accounts = entry.load_head(mapped=True), entry.known_accounts()
        found[entry.name] = ServedHead(entry, head, accounts, entry.open_budget())
    return found


def _served_fits(configuration: Configuration) -> dict[str, ServedFit]:
    found = {}
    for entry in configuration.fits:
        x, accounts = entry.load_states(), entry.known_accounts()
        about = entry, x.space, x.n, x.text_digest, accounts
        found[entry.name] = ServedFit(*about, entry.open_budget())
    return found
