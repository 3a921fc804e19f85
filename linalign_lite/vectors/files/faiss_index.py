"""FAISS index files: ``x.faiss``, as `faiss.write_index` writes them.

An index keeps vectors exactly, or a code of each from which they cannot be had back. Flat indexes,
with ids of their own (IDMap) or without, are read and written here, in blocks and without FAISS,
after all sizes have been compared with the file. HNSW, NSG and IVF indexes of exact vectors are
read with FAISS (extra `faiss`), into memory. Others are refused by name.

Ids are integers; other ids, and the payload, are left out: the format has no place for them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.space import MAX_DIM, Space
from linalign_lite.errors import FormatError, InputError, import_extra, quote_errors
from linalign_lite.storage.atomic import open_regular
from linalign_lite.vectors.checks import is_integer
from linalign_lite.vectors.files.common import FileSink, FileSource, file_version, row_cursor
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.source import ROWS, Batch, Ids, Metric, VectorInfo, Vectors, row_ids

_HEADER = struct.Struct("<4siqqq?i")  # kind, d, n, two unused, trained, metric
_COUNT, _ARGUMENT = struct.Struct("<Q"), struct.Struct("<f")
_UNUSED = 1 << 20  # as FAISS writes it
_UNIT = 1e-6  # by which the length of a unit vector may differ from 1
_FLAT, _WITH_IDS = (b"IxF2", b"IxFI", b"IxFl"), (b"IxMp", b"IxM2")
_READ_BY_FAISS = (b"IHNf", b"INSf", b"IwFl")  # HNSW, NSG, inverted lists
_METRICS: tuple[Metric, ...] = ("dot", "euclidean")  # by FAISS's number; others are ""
_PRODUCT, _SCALAR = "product quantisation", "scalar quantisation"
_INEXACT = {
    b"IxPq": _PRODUCT, b"IxPo": _PRODUCT, b"IwPQ": _PRODUCT, b"IwQR": _PRODUCT, b"IwPf": _PRODUCT,
    b"IHNp": _PRODUCT, b"IxSQ": _SCALAR, b"IwSq": _SCALAR, b"IwSQ": _SCALAR, b"IHNs": _SCALAR,
    b"IxHe": "hashing (LSH)", b"IxPT": "vectors transformed before they are indexed",
    b"IxRF": "two indexes, one to refine", b"LTra": "a map, and no vectors",
}  # fmt: skip

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Flat:
    """Places in the file of a flat index; ids: None without ids of their own."""

    dim: int
    count: int
    metric: Metric
    vectors: int
    ids: int | None


class Source(FileSource):
    """Vectors in the order in which the index keeps them."""

    def __init__(self, location: Location) -> None:
        self.location, self.path = location, Path(location.path)
        if location.part:
            raise InputError(f"{location}: an index has no parts", got=f"#{location.part}")
        with open_regular(self.path) as f:
            size = os.fstat(f.fileno()).st_size
            try:
                found = _read_flat(f, size)
            except (struct.error, ValueError) as e:
                raise FormatError(
                    f"{self.path} is not a usable index of FAISS",
                    got=f"{size} bytes, {e}",
                    hint="the file may be truncated or altered; copy it again",
                ) from e
        self._parts: list[tuple[Numbers | None, Vectors]] = []
        if isinstance(found, _Flat):
            self._flat: _Flat | None = found
            dim, self.count, metric, own = (
                found.dim,
                found.count,
                found.metric,
                found.ids is not None,
            )
        else:
            self._flat = None
            self._index, self._parts, dim, metric = _read_with_faiss(self.path, size)
            self.count = sum(len(vectors) for _, vectors in self._parts)
            own = any(ids is not None for ids, _ in self._parts)
        ids: Ids = "integers" if own else "rows"
        version = file_version(self.path)
        self.info = VectorInfo(Space(dim), self.count, metric, ids, version)

    def batches(self, rows: int = ROWS, after: str = "") -> Iterator[Batch]:
        first = row_cursor(after, self.count)
        while first < self.count:
            ids, vectors = (
                self._from_file(first, rows) if self._flat else self._from_memory(first, rows)
            )
            n = len(vectors)
            names = row_ids(first, n) if ids is None else tuple(map(str, ids.tolist()))
            yield Batch(names, vectors, None, str(first + n))
            first += n

    def _from_file(self, first: int, rows: int) -> tuple[Numbers | None, Vectors]:
        flat, ids = self._flat, None
        assert flat is not None
        n = min(rows, flat.count - first)
        with open_regular(self.path) as f:
            f.seek(flat.vectors + 4 * first * flat.dim)
            block = np.fromfile(f, "<f4", n * flat.dim)
            if flat.ids is not None:
                f.seek(flat.ids + 8 * first)
                ids = np.fromfile(f, "<i8", n)
        if len(block) < n * flat.dim or (ids is not None and len(ids) < n):
            raise FormatError(f"{self.path} ends early", hint="it was changed meanwhile")
        return ids, block.reshape(n, flat.dim)

    def _from_memory(self, first: int, rows: int) -> tuple[Numbers | None, Vectors]:
        """Return rows of the one part that the first of them is in."""
        for ids, vectors in self._parts:
            if first < len(vectors):
                piece = slice(first, first + rows)
                return None if ids is None else ids[piece], vectors[piece]
            first -= len(vectors)
        raise AssertionError


class Sink(FileSink):
    """A flat index: with ids (IDMap) when they are integers, else the number of the row is the id.

    FAISS has no cosine: with this metric rows are divided by their length, and searched by inner
    product.
    """

    def __init__(self, location: Location, info: VectorInfo, *, resume: bool = False) -> None:  # noqa: ARG002 (starts again)
        super().__init__(location, info)
        self._ids: list[Numbers] | None = None if info.ids == "rows" else []

    def write(self, batch: Batch) -> None:
        if not self.rows:
            if self._ids is not None and not all(map(_is_number, batch.ids)):
                self._ids = None
            self.file.write(bytes(_HEADER.size * (1 if self._ids is None else 2) + _COUNT.size))
        vectors = batch.vectors
        if self.info.metric == "cosine":
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            other = (np.abs(lengths - 1) > _UNIT) & (lengths > 0)  # unit vectors keep their bits
            vectors = np.divide(vectors, lengths, where=other, out=vectors.copy())
        if self._ids is not None:
            if not all(map(_is_number, batch.ids)):
                raise InputError(
                    f"{self.location}: an index has ids that are integers, or none",
                    got="some integers, some other ids",
                )
            self._ids.append(np.array(list(map(int, batch.ids)), np.int64))
        np.ascontiguousarray(vectors, "<f4").tofile(self.file)
        self.rows += len(batch)

    def complete(self) -> None:
        metric = 1 if self.info.metric == "euclidean" else 0
        common = (self.info.dim, self.rows, _UNUSED, _UNUSED, True, metric)
        head = _HEADER.pack(b"IxF2" if metric else b"IxFI", *common)
        if self._ids is not None:
            head = _HEADER.pack(b"IxMp", *common) + head
            self.file.write(_COUNT.pack(self.rows))
            for ids in self._ids:
                self.file.write(ids.astype("<i8").tobytes())
        self.file.seek(0)
        self.file.write(head + _COUNT.pack(self.rows * self.info.dim))


def _is_number(text: str) -> bool:
    """Return True for the decimal form of an id of FAISS: 63 bits."""
    return is_integer(text) and 0 <= int(text) < 1 << 63


def _read_flat(f: IO[bytes], size: int) -> _Flat | bytes:
    """Return the places of a flat index, or the kind of one that FAISS is to read.

    Raises FormatError for other kinds, struct.error or ValueError for sizes that do not agree.
    """
    kind, dim, count, metric = _read_header(f, size)
    outer = (dim, count) if kind in _WITH_IDS else None
    if outer:
        kind, dim, count, metric = _read_header(f, size)
        if outer != (dim, count):
            raise ValueError("ids of another index")
    if kind in _READ_BY_FAISS:
        return kind
    if kind not in _FLAT:
        raise FormatError(
            f"{f.name} does not keep its vectors exactly",
            got=_INEXACT.get(kind, repr(kind)),
            expected="a flat, IDMap, HNSW, NSG or IVF index of whole vectors",
            hint="take the vectors from where the index was made",
        )
    (numbers,) = _COUNT.unpack(f.read(_COUNT.size))
    vectors = f.tell()
    end = vectors + 4 * dim * count
    if numbers != dim * count or end > size:
        raise ValueError(f"{numbers} numbers")
    ids = None
    if outer:
        f.seek(end)
        (found,) = _COUNT.unpack(f.read(_COUNT.size))
        ids, end = f.tell(), f.tell() + 8 * count
        if found != count:
            raise ValueError(f"{found} ids")
    if end != size:
        raise ValueError(f"{end} bytes expected")
    return _Flat(dim, count, metric, vectors, ids)


def _read_header(f: IO[bytes], size: int) -> tuple[bytes, int, int, Metric]:
    """Return kind, dimension, number of vectors and metric; the kind alone is checked elsewhere."""
    raw = f.read(_HEADER.size)
    if len(raw) < _HEADER.size or raw[:4] in _INEXACT:
        return raw[:4], 0, 0, ""
    kind, dim, count, _, _, _, metric = _HEADER.unpack(raw)
    if kind in (*_FLAT, *_WITH_IDS, *_READ_BY_FAISS):
        if not 0 < dim <= MAX_DIM or not 0 < count <= size // 4 // dim:
            raise ValueError(f"{count} vectors of {dim} dimensions")
        if metric > 1:
            _ARGUMENT.unpack(f.read(_ARGUMENT.size))
    return kind, dim, count, _METRICS[metric] if 0 <= metric < len(_METRICS) else ""


def _read_with_faiss(
    path: Path, size: int
) -> tuple[Any, list[tuple[Numbers | None, Vectors]], int, Metric]:
    """Return an index, which owns them, and its ids and vectors in parts; dimension and metric."""
    faiss = import_extra("faiss", extra="faiss", purpose="this kind of index")
    hint = "the file may be truncated or altered; copy it again"
    with quote_errors(f"{path} is not a usable index of FAISS", FormatError, hint=hint):
        index = inner = faiss.read_index(str(path))
        own: Numbers | None = None
        if isinstance(index, faiss.IndexIDMap | faiss.IndexIDMap2):
            own, inner = faiss.vector_to_array(index.id_map), faiss.downcast_index(index.index)
        dim, count = int(index.d), int(inner.ntotal)
        if not 0 < dim <= MAX_DIM or 4 * dim * count > size or inner.d != dim:
            raise ValueError(f"{count} vectors of {dim} dimensions")
        if isinstance(inner, faiss.IndexIVFFlat) and own is None:
            parts = _inverted_lists(faiss, inner, dim)
        elif isinstance(inner, faiss.IndexHNSWFlat | faiss.IndexNSGFlat):
            storage = faiss.downcast_index(inner.storage)
            if not isinstance(storage, faiss.IndexFlat) or storage.ntotal != count:
                raise ValueError("vectors are not kept exactly")
            flat = faiss.rev_swig_ptr(storage.get_xb(), count * dim).reshape(count, dim)
            parts = [(own, flat)]
        else:
            raise ValueError(f"{type(inner).__name__} is not supported here")
        if sum(len(vectors) for _, vectors in parts) != count or (
            own is not None and len(own) != count
        ):
            raise ValueError("ids of another index")
    metric: Metric = _METRICS[index.metric_type] if index.metric_type in (0, 1) else ""
    return index, [part for part in parts if len(part[1])], dim, metric


def _inverted_lists(faiss: Any, index: Any, dim: int) -> list[tuple[Numbers | None, Vectors]]:
    """Return ids and vectors of each list."""
    lists, parts = index.invlists, []
    for i in range(lists.nlist):
        if n := lists.list_size(i):
            codes = faiss.rev_swig_ptr(lists.get_codes(i), 4 * n * dim)
            ids = faiss.rev_swig_ptr(lists.get_ids(i), n)
            parts.append((ids, codes.view(np.float32).reshape(n, dim)))
    return parts
