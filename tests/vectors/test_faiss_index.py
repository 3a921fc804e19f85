"""Index files of FAISS, written and read by FAISS itself on the other side."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors.contract import check_back_end, made, read, write
from vectors.store_contract import read_slowly

from linalign_lite.errors import FormatError, InputError, MissingExtraError
from linalign_lite.vectors.checks import ChangedError
from linalign_lite.vectors.locations import open_vectors
from linalign_lite.vectors.source import Batch
from linalign_lite.vectors.switching import switch_vectors

faiss = pytest.importorskip("faiss")
N, D = 200, 6
X = np.random.default_rng(3).normal(size=(N, D)).astype(np.float32)
OWN = np.random.default_rng(4).permutation(10 * N)[:N].astype(np.int64)


def saved(path, factory, metric=faiss.METRIC_L2, ids=None):
    """A file with the index of X."""
    index = faiss.index_factory(D, factory, metric)
    index.train(X)
    if ids is None:
        index.add(X)
    else:
        index.add_with_ids(X, ids)
    faiss.write_index(index, str(path))
    return str(path)


def test_contract(tmp_path):
    check_back_end(f"{tmp_path}/x.faiss", keeps_ids=False, keeps_payload=False)


@pytest.mark.parametrize(("metric", "kind"), [("", 0), ("dot", 0), ("euclidean", 1), ("cosine", 0)])
@pytest.mark.parametrize("ids", ["rows", "integers"])
def test_faiss_reads_what_is_written(tmp_path, metric, kind, ids):
    names = tuple(map(str, OWN if ids == "integers" else range(N)))
    write(f"{tmp_path}/x.faiss", Batch(names, X), rows=37, metric=metric, ids=ids)
    index = faiss.read_index(f"{tmp_path}/x.faiss")
    assert (index.d, index.ntotal, index.metric_type) == (D, N, kind)
    length = np.linalg.norm(X, axis=1, keepdims=True) if metric == "cosine" else 1
    _, found = index.search(X[:5] / length[:5] if metric == "cosine" else X[:5], 1)
    if metric != "dot" and metric:
        assert [str(i) for i in found[:, 0]] == list(names[:5])
    flat = faiss.downcast_index(index.index) if ids == "integers" else index
    np.testing.assert_allclose(flat.reconstruct_n(0, N), X / length, rtol=1e-6)
    faiss.write_index(index, f"{tmp_path}/again.faiss")
    assert (tmp_path / "again.faiss").read_bytes() == (tmp_path / "x.faiss").read_bytes()


KEPT = (
    "Flat",
    "IDMap,Flat",
    "IDMap2,Flat",
    "HNSW8,Flat",
    "IDMap,HNSW8,Flat",
    "IVF4,Flat",
    "NSG8,Flat",
)


@pytest.mark.parametrize("factory", KEPT)
@pytest.mark.parametrize("metric", ["dot", "euclidean"])
def test_vectors_of_every_index_that_keeps_them(tmp_path, factory, metric):
    kind = faiss.METRIC_INNER_PRODUCT if metric == "dot" else faiss.METRIC_L2
    own = OWN if "IDMap" in factory or "IVF" in factory else None
    location = saved(tmp_path / "x.faiss", factory, kind, own)
    found, info, pieces = read(location, rows=33)
    assert (info.dim, info.count, info.metric) == (D, N, metric)
    assert info.ids == ("rows" if own is None else "integers")
    names = list(map(str, range(N) if own is None else own))
    order = [found.ids.index(i) for i in names]
    assert found.vectors[order].tobytes() == X.tobytes()
    for piece in pieces[:-1]:
        rest = read(location, rows=7, after=piece.cursor)[0]
        assert rest.ids == found.ids[found.ids.index(piece.ids[-1]) + 1 :]


INEXACT = {
    "PQ2x4": "product quant", "IVF4,PQ2x4": "product quant", "SQ8": "scalar quant",
    "LSH": "hashing", "IVF4,SQ8": "scalar quant", "PCA3,Flat": "transformed",
    "Flat,RFlat": "refine", "L2norm,Flat": "transformed", "HNSW8,SQ8": "scalar quant",
    "HNSW8,PQ2x4": "product quant",
}  # fmt: skip


@pytest.mark.parametrize("factory", INEXACT)
def test_what_does_not_keep_them_is_refused_by_name(tmp_path, factory):
    with pytest.raises(FormatError, match=f"exactly: got.*{INEXACT[factory]}"):
        open_vectors(saved(tmp_path / "x.faiss", factory))


def test_other_metrics_and_files(tmp_path):
    location = saved(tmp_path / "x.faiss", "Flat", faiss.METRIC_L1)
    assert read(location)[1].metric == ""
    assert read(location)[0].vectors.tobytes() == X.tobytes()
    with pytest.raises(InputError, match="no parts"):
        open_vectors(f"{location}#a")
    mixed = Batch(("1", "a"), X[:2])
    write(location, mixed)
    assert read(location)[0].ids == ("0", "1")
    with pytest.raises(InputError, match="some integers"):
        write(location, mixed, rows=1)
    with pytest.raises(ChangedError):
        read_slowly(location, lambda *_: (tmp_path / "x.faiss").touch())


def test_without_faiss(tmp_path, monkeypatch):
    """Flat indexes need no FAISS, the others do."""
    flat, graph = (saved(tmp_path / f"{f}.faiss", f) for f in ("Flat", "HNSW8"))
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert len(read(flat)[0]) == N
    with pytest.raises(MissingExtraError, match=r"linalign-lite\[faiss\]"):
        open_vectors(graph)


@pytest.mark.parametrize("factory", ["Flat", "IDMap,Flat"])
def test_every_length_and_every_lie_about_sizes_is_found(tmp_path, factory):
    ids = OWN if "IDMap" in factory else None
    raw = (tmp_path / saved(tmp_path / "x.faiss", factory, ids=ids)).read_bytes()
    file = tmp_path / "bad.faiss"
    header = 37 * (2 if ids is not None else 1) + 8
    for cut in (*range(header + 2), len(raw) - 9, len(raw) - 1):
        file.write_bytes(raw[:cut])
        with pytest.raises(FormatError):
            open_vectors(str(file))
    file.write_bytes(raw + b"\0")
    with pytest.raises(FormatError):
        open_vectors(str(file))
    inner = header - 45
    for at, form in ((inner + 4, "<i"), (inner + 8, "<q"), (header - 8, "<Q"), (4, "<i")):
        for value in (0, 1, 2**31 - 1):
            bad = bytearray(raw)
            struct.pack_into(form, bad, at, value)
            file.write_bytes(bad)
            with pytest.raises(FormatError):
                open_vectors(str(file))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120), st.sampled_from([b"", b"IxF2", b"IxMp", b"IxFI", b"IxPq"]))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data, kind):
    file = tmp_path_factory.mktemp("any") / "x.faiss"
    file.write_bytes(kind + data)
    try:
        read(str(file))
    except InputError:
        return


def test_switch(tmp_path):
    live, new = f"{tmp_path}/docs.faiss", f"{tmp_path}/docs_new.faiss"
    write(live, made(seed=1), metric="dot")
    write(new, made(n=11, d=3, seed=2), metric="dot")
    former = switch_vectors(live, new)
    assert (read(live)[1].dim, read(former)[1].dim) == (3, 5)
    after = switch_vectors(live, former)
    assert (read(live)[1].dim, read(after)[1].dim) == (5, 3)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(InputError):
        switch_vectors(live, f"{tmp_path}/absent.faiss")
    assert len(list(tmp_path.iterdir())) == 2
