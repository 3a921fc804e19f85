"""Build an index from vectors of any location: two passes, a batch in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.shards.states_folder import require_name
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.retrieval.index.card import (
    CARD,
    FRACTION,
    LEAST_BITS,
    MAX_CLUSTERS,
    MAX_ROWS,
    NORM_SLACK,
    IndexCard,
    RowMetric,
    read_card,
)
from linalign_lite.retrieval.index.grouping import Grouping, training_rows, usual_clusters
from linalign_lite.retrieval.index.rankings import RankingCheck
from linalign_lite.retrieval.index.writing import RowWriter
from linalign_lite.retrieval.search import comparable, require_metric
from linalign_lite.storage.atomic import PathLike, whole_folder
from linalign_lite.vectors.source import Batch, VectorSource
from linalign_lite.version import __version__

LEAST_OVERLAP = 0.99
SAMPLE = 64
MOST_QUERIES = 1000  # on which rankings are measured
_BATCH = 16 << 20  # bytes of the vectors that are in memory together
_UNORDERED = "unordered"  # where rows and ids are before they are in order of cluster
Progress = Callable[[int], None]  # called with the number of vectors done since its last call


def build_index(
    source: VectorSource,
    out: PathLike,
    *,
    metric: str | None = None,
    queries: HiddenStates | None = None,
    row_bits: int | None = None,
    clusters: int | Literal["auto"] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> IndexCard:
    """Write vectors as an index, a folder, whole or not at all.

    Row i becomes round(2^(14−e)·v_i), v_i the vector or for "cosine" the vector over its length, e
    the least integer with max‖v_i‖ ≤ 2^e·(1 + 2^−6). metric: by default "dot" if the source says
    so, else "cosine". queries: of the same space, on which the loss of a ranking is measured, at
    most 1,000 of them drawn by ``seed``; by default 64 of the vectors, each without itself.
    row_bits: to which an encrypted search rounds rows; by default the fewest of 9, 10, 12 and 14
    that keep 0.99 of the first ten. clusters: k-means of as many, "auto" for about √n, by which
    rows are ordered, the order of the source within each; then numbers stand in for ids that the
    source has not. The source is read twice. Raises InputError for vectors that are no index
    (none, a zero vector under "cosine", ids that are not printable or occur twice, distances as
    metric, fewer than clusters), MismatchError for queries of another space or a source that
    changed, OutputExistsError when ``out`` is there.
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
        what = "these queries do not belong in the vectors' space"
        info.space.require(queries.space, what, any_prompt=True)
    if row_bits is not None and not LEAST_BITS <= row_bits <= FRACTION:
        raise InputError(
            "bits of rows are not usable", got=str(row_bits), expected=f"{LEAST_BITS} to {FRACTION}"
        )
    usual = usual_clusters(info.count or MAX_ROWS, info.space.dim)
    most = usual if clusters == "auto" else clusters or 0
    if clusters is not None and not 1 <= most <= MAX_CLUSTERS:
        raise InputError(
            "clusters are not usable", got=str(clusters), expected=f"1 to {MAX_CLUSTERS}, or auto"
        )
    with whole_folder(out) as folder:
        rng, own = np.random.default_rng(seed), np.random.default_rng([seed, 1])
        asked = _Reservoir(0 if queries is not None else SAMPLE, rng)
        training = _Reservoir(training_rows(most, info.space.dim) if most else 0, own)
        survey = _Survey(chosen, info.space.dim, (asked, training))
        for batch in _counted(source, progress):
            survey.add(batch)
        if not survey.rows:
            raise InputError("there are no vectors to make an index of")
        grouping = _grouping(survey, training, clusters, chosen, own)
        place = folder / _UNORDERED if grouping else folder
        place.mkdir(exist_ok=True)
        shape = chosen, survey.exponent, info.space.dim
        writer = RowWriter(place, *shape, ids=info.ids != "rows", sharded=not grouping)
        check = _check(asked, None if queries is None else queries.states, chosen, rng)
        for batch in _counted(source, progress):
            vectors, stored = writer.add(batch)
            check.add(vectors, stored)
            if grouping:
                grouping.add(stored)
        shards, ids = writer.finish()
        if writer.rows != survey.rows:
            raise MismatchError("the vectors changed while they were read", hint="build it again")
        found = None
        if grouping:
            found, order = grouping.finish(folder, check)
            shards, ids = writer.in_order(order, folder)
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
            clusters=found,
        )
        (folder / CARD).write_bytes(card.to_bytes())
        return read_card(folder)


def _counted(source: VectorSource, progress: Progress | None) -> Iterator[Batch]:
    for batch in source.batches(max(1, _BATCH // (4 * source.info.dim))):
        yield batch
        if progress:
            progress(len(batch))


class _Reservoir:
    """A sample of at most ``size`` vectors, all sets of them equally likely."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        self._size, self._rng = size, rng
        self._found: dict[int, tuple[int, npt.NDArray[np.float32]]] = {}  # by place

    def add(self, first: int, vectors: npt.NDArray[np.float32]) -> None:
        """Add vectors whose numbers begin with ``first``."""
        if not self._size:
            return
        rows = np.arange(first, first + len(vectors))
        places = np.where(rows < self._size, rows, self._rng.integers(rows + 1))
        for i in np.flatnonzero(places < self._size).tolist():
            self._found[int(places[i])] = int(rows[i]), vectors[i].copy()

    def sample(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """Numbers of the vectors, ascending, and the vectors."""
        found = sorted(self._found.values(), key=lambda pair: pair[0])
        return np.array([row for row, _ in found], np.int64), np.array([v for _, v in found])


class _Survey:
    """The first pass: number and norms of the vectors, and samples of them."""

    def __init__(self, metric: RowMetric, dim: int, samples: tuple[_Reservoir, ...]) -> None:
        self._metric, self.dim, self._samples = metric, dim, samples
        self.rows, self.largest_norm = 0, 1.0 if metric == "cosine" else 0.0

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
        for sample in self._samples:
            sample.add(self.rows, batch.vectors)
        self.rows += len(batch)
        if self.rows > MAX_ROWS:
            raise InputError("these are too many vectors", expected=f"at most {MAX_ROWS}")

    @property
    def exponent(self) -> int:
        """The least e with all norms at most 2^e·(1 + NORM_SLACK)."""
        mantissa, exponent = math.frexp(self.largest_norm)
        return max(-60, exponent - (mantissa <= 0.5 * (1 + NORM_SLACK)))


def _grouping(
    survey: _Survey,
    training: _Reservoir,
    clusters: int | Literal["auto"] | None,
    metric: RowMetric,
    rng: np.random.Generator,
) -> Grouping | None:
    """The clusters of the second pass, their centroids trained."""
    if clusters is None:
        return None
    n = survey.rows
    count = usual_clusters(n, survey.dim) if clusters == "auto" else clusters
    if count > n:
        raise InputError("there are fewer vectors than clusters", got=f"{n}, {count} clusters")
    sample = training.sample()[1]
    most = training_rows(count, survey.dim)
    if len(sample) > most:
        sample = sample[rng.choice(len(sample), most, replace=False)]
    return Grouping(sample, count, n, metric=metric, exponent=survey.exponent, rng=rng)


def _check(
    asked: _Reservoir,
    queries: npt.NDArray[np.floating] | None,
    metric: RowMetric,
    rng: np.random.Generator,
) -> RankingCheck:
    """Return the check of the second pass: of these queries, else of the sample."""
    if queries is None:
        own, queries = asked.sample()
    else:
        if len(queries) > MOST_QUERIES:
            queries = queries[np.sort(rng.choice(len(queries), MOST_QUERIES, replace=False))]
        own = np.full(len(queries), -1)
    return RankingCheck(comparable(queries, metric), own)
