"""The sample of a migration: vectors of the same texts by the old and by the new model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.space import Space
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.retrieval.collection import read_judgements
from linalign_lite.vectors.locations import open_vectors
from linalign_lite.vectors.reading import vectors_of
from linalign_lite.vectors.source import Vectors

LEAST = 60  # vectors of a sample: a third are canaries, and a fit needs the rest
CANARIES, MOST_CANARIES = 0.2, 1000  # share of the sample that no map is fitted on
_UNIT = 1e-3  # largest difference of lengths from 1 of unit vectors


@dataclass(frozen=True, eq=False)
class Pairs:
    """Vectors of the same texts; row i of both is ``ids[i]``."""

    ids: tuple[str, ...]
    old: Vectors  # shape: (n, d_old)
    new: Vectors  # shape: (n, d_new)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, index: npt.NDArray[np.intp]) -> Pairs:
        """Select rows by number."""
        return Pairs(tuple(self.ids[i] for i in index), self.old[index], self.new[index])


@dataclass(frozen=True, eq=False)
class Queries:
    """Canary queries: vectors by the new model, by the old one where known, and judgements.

    grades: of documents by id, for each query. judged: they are of a file of judgements, so that
    nDCG is measured by them; otherwise they are what somebody marked as relevant.
    """

    ids: tuple[str, ...]
    new: Vectors
    old: Vectors | None = None
    grades: tuple[Mapping[str, int], ...] = ()
    judged: bool = False


@dataclass(frozen=True, eq=False)
class Sample:
    """Pairs of documents, in part held out, and queries, on which a migration is measured."""

    pairs: Pairs
    old: Space
    new: Space
    metric: str
    count: int  # documents of the collection
    queries: Queries | None = None

    def split(self, seed: int) -> tuple[Pairs, Pairs]:
        """Return the pairs to fit on and the canaries; the same ids and seed give the same."""
        n = len(self.pairs)
        order = np.random.default_rng(seed).permutation(n)  # the pairs are sorted by id
        held_out = order[: min(MOST_CANARIES, max(LEAST // 3, round(n * CANARIES)))]
        kept = np.setdiff1d(np.arange(n), held_out)
        return self.pairs.rows(kept), self.pairs.rows(np.sort(held_out))


def read_sample(
    documents: str,
    sample: str,
    queries: str = "",
    queries_old: str = "",
    metric: str = "",
    *,
    judgements: str = "",
) -> Sample:
    """Read the new model's vectors of a sample, and from the collection the old ones of these ids.

    The collection is read once, a batch at a time. Payload `relevant` of a query, an id or a list
    of ids, says which documents answer it; ``judgements``, a file of them, takes its place. Raises
    MismatchError for ids that the collection lacks, and judgements of other queries; InputError for
    fewer than LEAST.
    """
    wanted, new, space, _ = _read(sample)
    if len(wanted) < LEAST:
        raise InputError(
            f"{sample} is too small a sample", got=str(len(wanted)), expected=f"{LEAST} or more"
        )
    with open_vectors(documents) as source:
        info = source.info
        old, missing, count = vectors_of(source, wanted)
    if missing:
        raise MismatchError(
            f"{sample} holds ids that {documents} does not have",
            got=f"{len(missing)} of {len(wanted)}",
            hint="a sample has the ids of the collection",
        )
    order = np.argsort(np.array(wanted))
    pairs = Pairs(tuple(wanted[i] for i in order), old[order], new[order])
    if judgements and not queries:
        raise InputError("judgements need the vectors of their queries", hint="give --queries")
    asked = _read_queries(queries, queries_old, judgements) if queries else None
    _require_dims(asked, info.space, space)
    found = metric or (info.metric if info.metric in {"cosine", "dot"} else "cosine")
    return Sample(pairs, info.space, space, found, count, asked)


def read_sample_vectors(sample: str) -> dict[str, Vectors]:
    """Return the new model's vectors by id."""
    ids, vectors, _, _ = _read(sample)
    return dict(zip(ids, vectors, strict=True))


def _read(location: str) -> tuple[tuple[str, ...], Vectors, Space, list[Mapping[str, Any]]]:
    """Return ids, vectors, space and payload, if any, of all vectors of a location."""
    with open_vectors(location) as source:
        batches = list(source.batches())
        space = source.info.space
    vectors = np.concatenate([b.vectors for b in batches])
    lengths = np.linalg.norm(vectors, axis=1)
    if np.abs(lengths - 1).max() < _UNIT:
        space = dataclasses.replace(space, normalize=True)
    payload = [row for b in batches for row in (b.payload if b.payload is not None else ())]
    return tuple(own for b in batches for own in b.ids), vectors, space, payload


def _read_queries(queries: str, queries_old: str, judgements: str) -> Queries:
    ids, new, _, payload = _read(queries)
    grades: tuple[Mapping[str, int], ...] = tuple(_relevant(row.get("relevant")) for row in payload)
    if judgements:
        known = read_judgements(judgements)
        grades = tuple(known.get(own, {}) for own in ids)
        if not any(grades):
            raise MismatchError(
                f"{judgements} judges none of the queries of {queries}", hint="compare their ids"
            )
    old = None
    if queries_old:
        others, vectors, _, _ = _read(queries_old)
        where = {own: i for i, own in enumerate(others)}
        if missing := set(ids) - where.keys():
            raise MismatchError(
                f"{queries_old} lacks queries of {queries}", got=f"{len(missing)} of {len(ids)}"
            )
        old = vectors[[where[own] for own in ids]]
    return Queries(ids, new, old, grades if any(grades) else (), judged=bool(judgements))


def _relevant(value: Any) -> dict[str, int]:
    ids = value if isinstance(value, list | tuple) else [value] if value else ()
    return dict.fromkeys(map(str, ids), 1)


def _require_dims(queries: Queries | None, old: Space, new: Space) -> None:
    if queries is None:
        return
    sides = [(queries.new, new)] + ([(queries.old, old)] if queries.old is not None else [])
    for vectors, space in sides:
        if vectors.shape[1] != space.dim:
            raise MismatchError(
                "the queries are of another model than the documents",
                got=f"{vectors.shape[1]} dimensions",
                expected=str(space.dim),
            )
