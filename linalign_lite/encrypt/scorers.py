"""The scorers of one provider: one for each profile, and for each set of clusters that is asked."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from linalign_lite.core.head import Head
from linalign_lite.encrypt.encoded_heads import EncodedHeads
from linalign_lite.encrypt.messages import QueryInfo
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.scored_rows import HeadRows, IndexRows, rows_of
from linalign_lite.encrypt.scoring import Scorer
from linalign_lite.errors import InputError
from linalign_lite.retrieval.index.reading import Index
from linalign_lite.storage.own_folder import make_own_folder

_MAX_SETS = 16  # sets of clusters whose scorers are kept


class Scorers:
    """Scorers of one head or index. Safe to share among threads.

    ``cache_bytes``, ``shared``: of encoded rows, as of a `Provider`; those of clusters are encoded
    when they are used.
    """

    def __init__(
        self, scored: Head | Index, max_error: float, cache_bytes: int, shared: Path | None
    ) -> None:
        self.scored, self.rows = scored, rows_of(scored)
        self._max_error, self._cache_bytes, self._shared = max_error, cache_bytes, shared
        self._whole: dict[int, Scorer] = {}
        self._some: OrderedDict[tuple[int, str, tuple[int, ...]], Scorer] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, query: QueryInfo) -> Scorer:
        """The scorer of what a query asks. Raises MismatchError for clusters of another index."""
        if not query.clusters:
            return self.whole(query.parameters)
        key = query.parameters.id, query.index, query.clusters
        with self._lock:
            if key not in self._some:
                rows = rows_of(self.scored, query.clusters, query.index)
                self._some[key] = self._made(rows, query.parameters, EncodedHeads(0))
            self._some.move_to_end(key)
            while len(self._some) > _MAX_SETS:
                self._some.popitem(last=False)
            return self._some[key]

    def whole(self, parameters: Parameters) -> Scorer:
        """The scorer of all rows."""
        with self._lock:
            if parameters.id not in self._whole:
                folder = None if self._shared is None else _own(self._shared, parameters.name)
                encoded = EncodedHeads(self._cache_bytes, folder)
                self._whole[parameters.id] = self._made(self.rows, parameters, encoded)
            return self._whole[parameters.id]

    def _made(
        self, rows: HeadRows | IndexRows, parameters: Parameters, encoded: EncodedHeads
    ) -> Scorer:
        return Scorer(rows, parameters, encoded, self._max_error)


def _own(shared: Path, name: str) -> Path | None:
    """Make ``shared`` and a folder in it, and nothing above; None where they cannot be our own."""
    try:
        for folder in (shared, shared / name):
            make_own_folder(folder)
    except (OSError, InputError):  # what is above it went: others may have its name now
        return None
    return shared / name
