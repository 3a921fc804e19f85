"""Build an index from vectors of any location: two passes, a batch in memory at a time."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.shards.states_folder import require_name
from linalign_lite.core.space import usable_label
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.retrieval.index.card import (
    CARD,
    FRACTION,
    IDS,
    LEAST_BITS,
    MAX_ROWS,
    NORM_SLACK,
    IndexCard,
    IndexShard,
    Overlap,
    RowMetric,
    read_card,
    shard_name,
)
from linalign_lite.retrieval.index.reading import Stored
from linalign_lite.retrieval.measures import overlap
from linalign_lite.retrieval.search import BLOCK, Best, comparable, require_metric
from linalign_lite.storage.atomic import PathLike, whole_folder
from linalign_lite.storage.hashing import hash_file
from linalign_lite.vectors.source import Batch, VectorSource
from linalign_lite.version import __version__

SHARD_BYTES = 256 << 20
ROW_BITS = (LEAST_BITS, 10, 12, FRACTION)  # precisions that are measured
LEAST_OVERLAP = 0.99
SAMPLE, TOP = 64, 10
MOST_QUERIES = 1000  # on which rankings are measured
_BATCH = 16 << 20  # bytes of the vectors that are in memory together
Progress = Callable[[int], None]  # called with the number of vectors done since its last call


def build_index(
    source: VectorSource,
    out: PathLike,
    *,
    metric: str | None = None,
    queries: HiddenStates | None = None,
    row_bits: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> IndexCard:
    """Write vectors as an index, a folder, whole or not at all.

    Row i becomes round(2^(14−e)·v_i), v_i the vector or for "cosine" the vector over its length, e
    the least integer with max‖v_i‖ ≤ 2^e·(1 + 2^−6). metric: by default "dot" if the source says
    so, else "cosine". queries: of the same space, on which the loss of a ranking is measured, at
    most 1,000 of them drawn by ``seed``; by default 64 of the vectors, each without itself.
    row_bits: to which an encrypted search rounds rows; by default the fewest of 9, 10, 12 and 14
    that keep 0.99 of the first ten. The source is read twice. Raises InputError for vectors that
    are no index (none, a zero vector under "cosine", ids that are not printable or occur twice,
    distances as metric), MismatchError for queries of another space or a source that changed,
    OutputExistsError when ``out`` is there.
    """
    out, info = Path(out), source.info
    require_name(out)
    if metric is None and info.metric == "euclidean":
        raise InputError(
            "these vectors are for distances, and an index ranks by inner products",
            hint="choose --metric cosine or dot",
        )
    require_metric(metric or "cosine")
    chosen: RowMetric = "dot" if "dot" in (metric, metric or info.metric) else "cosine"
    if queries is not None:
        info.space.require(queries.space, "these queries do not belong in the vectors' space")
    if row_bits is not None and not LEAST_BITS <= row_bits <= FRACTION:
        raise InputError(
            "bits of rows are not usable", got=str(row_bits), expected=f"{LEAST_BITS} to {FRACTION}"
        )
    with whole_folder(out) as folder:
        rng = np.random.default_rng(seed)
        survey = _Survey(chosen, 0 if queries is not None else SAMPLE, rng)
        for batch in _counted(source, progress):
            survey.add(batch)
        if not survey.rows:
            raise InputError("there are no vectors to make an index of")
        writer = _Writer(folder, chosen, survey.exponent, info.space.dim, ids=info.ids != "rows")
        check = survey.check(None if queries is None else queries.states)
        for batch in _counted(source, progress):
            check.add(*writer.add(batch))
        shards, ids = writer.finish()
        if writer.rows != survey.rows:
            raise MismatchError("the vectors changed while they were read", hint="build it again")
        overlaps = check.overlaps()
        enough = [o.row_bits for o in overlaps if o.overlap >= LEAST_OVERLAP] or [FRACTION]
        card = IndexCard(
            space=info.space,
            metric=chosen,
            rows=writer.rows,
            exponent=survey.exponent,
            largest_norm=survey.largest_norm,
            row_bits=row_bits or enough[0],
            sample=len(check.queries),
            overlaps=overlaps,
            ids=ids,
            shards=shards,
            library=__version__,
        )
        (folder / CARD).write_bytes(card.to_bytes())
        return read_card(folder)


def _counted(source: VectorSource, progress: Progress | None) -> Iterator[Batch]:
    for batch in source.batches(max(1, _BATCH // (4 * source.info.dim))):
        yield batch
        if progress:
            progress(len(batch))


class _Survey:
    """The first pass: number and norms of the vectors, and a sample of them (reservoir)."""

    def __init__(self, metric: RowMetric, size: int, rng: np.random.Generator) -> None:
        self._metric, self._size, self._rng = metric, size, rng
        self.rows, self.largest_norm = 0, 1.0 if metric == "cosine" else 0.0
        self._sample: dict[int, tuple[int, npt.NDArray[np.float32]]] = {}  # by place

    def add(self, batch: Batch) -> None:
        norms = np.linalg.norm(batch.vectors.astype(np.float64), axis=1)
        if self._metric == "cosine" and not norms.all():
            raise InputError(
                "a vector of length 0 has no direction",
                got=f"id {batch.ids[int(norms.argmin())][:60]}",
                hint="remove it; often the text was empty or the request failed",
            )
        if self._metric == "dot":
            self.largest_norm = max(self.largest_norm, float(norms.max()))
        rows = np.arange(self.rows, self.rows + len(batch))
        places = np.where(rows < self._size, rows, self._rng.integers(rows + 1))
        for i in np.flatnonzero(places < self._size).tolist():
            self._sample[int(places[i])] = int(rows[i]), batch.vectors[i].copy()
        self.rows += len(batch)
        if self.rows > MAX_ROWS:
            raise InputError("these are too many vectors", expected=f"at most {MAX_ROWS}")

    @property
    def exponent(self) -> int:
        """The least e with all norms at most 2^e·(1 + NORM_SLACK)."""
        mantissa, exponent = math.frexp(self.largest_norm)
        return max(-60, exponent - (mantissa <= 0.5 * (1 + NORM_SLACK)))

    def check(self, queries: npt.NDArray[np.floating] | None) -> _RankingCheck:
        """Return the check of the second pass: of these queries, else of the sample."""
        if queries is not None:
            if len(queries) > MOST_QUERIES:
                chosen = self._rng.choice(len(queries), MOST_QUERIES, replace=False)
                queries = queries[np.sort(chosen)]
            own = np.full(len(queries), -1)
        else:
            sample = sorted(self._sample.values(), key=lambda pair: pair[0])
            own = np.array([row for row, _ in sample], np.int64)
            queries = np.array([vector for _, vector in sample])
        return _RankingCheck(comparable(queries, self._metric), own)


@dataclass
class _Writer:
    """The second pass: shards and ids."""

    folder: Path
    metric: RowMetric
    exponent: int
    dim: int
    ids: bool
    rows: int = 0
    shards: list[IndexShard] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._per_shard = max(1, SHARD_BYTES // (Stored.itemsize * self.dim))
        self._in_shard = 0
        self._digest, self._seen = hashlib.sha256(), bytearray()  # digests of ids

    def add(self, batch: Batch) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Write a batch. Returns its vectors as they are compared, and as they were rounded."""
        vectors = comparable(batch.vectors, self.metric)
        scaled = np.rint(vectors * np.float32(2.0 ** (FRACTION - self.exponent)))
        rounded = scaled.astype(Stored)
        if self.ids:
            self._write_ids(batch.ids)
        at = 0
        while at < len(rounded):
            some = rounded[at : at + self._per_shard - self._in_shard]
            with (self.folder / shard_name(len(self.shards))).open("ab") as f:
                some.tofile(f)
            at, self._in_shard = at + len(some), self._in_shard + len(some)
            if self._in_shard == self._per_shard:
                self._end_shard()
        self.rows += len(rounded)
        return vectors, scaled

    def finish(self) -> tuple[tuple[IndexShard, ...], str | None]:
        """Return the shards, and the digest of the ids."""
        if self._in_shard:
            self._end_shard()
        seen = np.frombuffer(self._seen, np.uint64).reshape(-1, 2)
        order = np.lexsort(seen.T)
        same = np.flatnonzero((seen[order[1:]] == seen[order[:-1]]).all(axis=1))
        if same.size:
            first, second = sorted(order[same[0] : same[0] + 2].tolist())
            raise InputError("two vectors have one id", got=f"numbers {first} and {second}")
        return tuple(self.shards), self._digest.hexdigest() if self.ids else None

    def _end_shard(self) -> None:
        name = shard_name(len(self.shards))
        self.shards.append(IndexShard(name, hash_file(self.folder / name), self._in_shard))
        self._in_shard = 0

    def _write_ids(self, ids: tuple[str, ...]) -> None:
        for own in ids:
            if not usable_label(own):
                raise InputError(
                    "an id is not usable", got=repr(own[:60]), expected="256 printable characters"
                )
            self._seen += hashlib.blake2b(own.encode(), digest_size=16).digest()
        lines = "".join(f"{own}\n" for own in ids).encode()
        self._digest.update(lines)
        with (self.folder / IDS).open("ab") as f:
            f.write(lines)


class _RankingCheck:
    """Rankings of sample queries by exact rows, and by rows of fewer bits."""

    def __init__(self, queries: npt.NDArray[np.float32], own: npt.NDArray[np.int64]) -> None:
        self.queries, self._own = queries, own
        self._best = {bits: Best(len(queries), TOP) for bits in (0, *ROW_BITS)}  # 0: exact
        self._seen = 0

    def add(self, vectors: npt.NDArray[np.float32], stored: npt.NDArray[np.float32]) -> None:
        """Add vectors as they are, and as they are stored: integers, (n, d)."""
        step = max(TOP, BLOCK // (4 * max(1, len(self.queries))))  # of few dimensions many come
        for start in range(0, len(vectors), step):
            self._add(vectors[start : start + step], stored[start : start + step])

    def _add(self, vectors: npt.NDArray[np.float32], stored: npt.NDArray[np.float32]) -> None:
        inside = (self._own >= self._seen) & (self._own < self._seen + len(vectors))
        for bits, best in self._best.items():
            rows = np.rint(stored * np.float32(2.0 ** (bits - FRACTION)))
            scores = self.queries @ (rows if bits else vectors).T
            scores[inside, self._own[inside] - self._seen] = -np.inf  # a text finds itself
            best.add(scores)
        self._seen += len(vectors)

    def overlaps(self) -> tuple[Overlap, ...]:
        if self._seen <= TOP or not len(self.queries):  # every row is among the first
            return ()
        exact = self._best[0].rows
        return tuple(
            Overlap(bits, float(overlap(exact, self._best[bits].rows, TOP).mean()))
            for bits in ROW_BITS
        )
