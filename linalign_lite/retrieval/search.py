"""Exact nearest-neighbour search: all queries against all documents, a block at a time."""

from __future__ import annotations

import importlib.util
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array
from linalign_lite.core.choices import Metric, SearchLibrary, values_of
from linalign_lite.errors import InputError, import_extra
from linalign_lite.storage.arrays import count_nonfinite, unit_rows

Rows = npt.NDArray[np.int64]
FloatT = TypeVar("FloatT", bound=np.floating[Any])
BLOCK = 32 << 20  # bytes of scores at a time
FEW = 1 << 22  # scores: below, FAISS is not worth loading


def search(
    queries: Array,
    documents: Array,
    k: int = 10,
    *,
    metric: str = Metric.cosine,
    library: str = SearchLibrary.auto,
) -> tuple[Rows, npt.NDArray[np.float32]]:
    """Find the k documents with the highest scores for each query; exact.

    queries (q, d), documents (n, d). metric: "cosine", both scaled to length 1 (a zero vector
    scores 0), or "dot". library: "numpy", "faiss" (IndexFlatIP; extra `faiss`), or "auto": FAISS
    where it is installed and there are many documents. Returns rows of documents (q, min(k, n)),
    highest score first and of equal scores the lower row first, and the scores, float32. At most
    about 100 MiB are needed beside queries and documents. Raises InputError for shapes that do not
    fit, values that are not finite, k below 1 and unknown names.
    """
    queries, documents = _checked("queries", queries), _checked("documents", documents)
    if queries.shape[1] != documents.shape[1]:
        raise InputError(
            "queries and documents do not have the same dimensions",
            got=str(queries.shape[1]),
            expected=str(documents.shape[1]),
        )
    if k < 1:
        raise InputError("k is not usable", got=str(k), expected="1 or more")
    require_metric(metric)
    if library not in ("auto", *values_of(SearchLibrary)):
        names = ", ".join(values_of(SearchLibrary))
        raise InputError("unknown search library", got=str(library)[:40], expected=names)
    k = min(k, len(documents))
    many = len(queries) * len(documents) > FEW
    if library == "faiss" or (library == "auto" and many and importlib.util.find_spec("faiss")):
        found = _by_faiss(queries, documents, k, metric)
    else:
        found = _by_blocks(queries, documents, k, metric)
    return _ordered(*found)


def require_metric(metric: str) -> None:
    """Raise InputError for an unknown metric."""
    if metric not in values_of(Metric):
        expected = ", ".join(values_of(Metric))
        raise InputError("unknown metric", got=str(metric)[:40], expected=expected)


def comparable(vectors: Array, metric: str) -> npt.NDArray[np.float32]:
    """Vectors whose dot products are the scores of a metric."""
    vectors = np.asarray(vectors, dtype=np.float32)
    if metric != Metric.cosine or not vectors.size:
        return vectors
    # by powers of two, exactly: squares of very long or short vectors leave float32's range
    _, exponents = np.frexp(np.abs(vectors).max(axis=1, keepdims=True))
    unit: npt.NDArray[np.float32] = unit_rows(np.ldexp(vectors, -exponents))
    return unit


def _checked(name: str, vectors: Array) -> Array:
    vectors = np.asarray(vectors)
    if vectors.ndim != 2 or 0 in vectors.shape or vectors.dtype.kind != "f":
        raise InputError(
            f"the {name} are not usable",
            got=f"{vectors.dtype}, shape {vectors.shape}",
            expected="floating-point numbers, (n, d), at least one",
        )
    if bad := count_nonfinite(vectors):
        raise InputError(f"the {name} hold values that are not finite", got=f"{bad} of them")
    return vectors


def _by_blocks(
    queries: Array, documents: Array, k: int, metric: str
) -> tuple[Rows, npt.NDArray[np.float32]]:
    """Keep the k best of each block of documents, and of those the k best."""
    q, n = len(queries), len(documents)
    step = max(k, BLOCK // (4 * max(1, min(q, 1024))))
    rows, scores = np.empty((q, k), np.int64), np.empty((q, k), np.float32)
    for top in range(0, q, 1024):
        some = comparable(queries[top : top + 1024], metric)
        best = Best(len(some), k)
        for start in range(0, n, step):
            best.add(some @ comparable(documents[start : start + step], metric).T)
        rows[top : top + len(some)], scores[top : top + len(some)] = best.rows, best.scores
    return rows, scores


class Best:
    """The k highest scores of each of q queries among the documents seen so far."""

    def __init__(self, q: int, k: int) -> None:
        self.k, self._seen = k, 0
        self.rows = np.empty((q, 0), np.int64)
        self.scores = np.empty((q, 0), np.float32)

    def add(self, block: npt.NDArray[np.float32]) -> None:
        """Add the scores of the next n documents, (q, n)."""
        kept = _highest(block, self.k)
        rows = np.concatenate([self.rows, kept + self._seen], axis=1)
        scores = np.concatenate([self.scores, np.take_along_axis(block, kept, axis=1)], axis=1)
        chosen = _highest(scores, self.k)
        self.rows = np.take_along_axis(rows, chosen, axis=1)
        self.scores = np.take_along_axis(scores, chosen, axis=1)
        self._seen += block.shape[1]

    def ordered(self) -> tuple[Rows, npt.NDArray[np.float32]]:
        """Rows and scores, highest first, of equal scores the lower row first."""
        return _ordered(self.rows, self.scores)


def highest(scores: npt.NDArray[np.floating[Any]], k: int) -> Rows:
    """Columns of the k highest of each row, the highest first, of equal ones the lower: (n, k)."""
    kept = _highest(scores, k)
    return _ordered(kept, np.take_along_axis(scores, kept, axis=1))[0]


def _highest(scores: npt.NDArray[np.floating[Any]], k: int) -> Rows:
    """Columns of the k highest of each row, in any order."""
    if scores.shape[1] <= k:
        return np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.argpartition(scores, -k, axis=1)[:, -k:]


def _by_faiss(queries: Array, documents: Array, k: int, metric: str) -> tuple[Rows, Any]:
    faiss = import_extra("faiss", extra="faiss", purpose="search with FAISS")
    index = faiss.IndexFlatIP(documents.shape[1])
    for start in range(0, len(documents), 1 << 16):
        block = comparable(documents[start : start + (1 << 16)], metric)
        index.add(np.ascontiguousarray(block))
    scores, rows = index.search(np.ascontiguousarray(comparable(queries, metric)), k)
    return rows.astype(np.int64), scores


def _ordered(rows: Rows, scores: npt.NDArray[FloatT]) -> tuple[Rows, npt.NDArray[FloatT]]:
    """Sort by score, highest first, then by row."""
    order = np.lexsort((rows, -scores), axis=1)
    return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores, order, axis=1)
