"""The interface of vectors, its checks, and `.npy` files."""

from __future__ import annotations

import dataclasses
import io
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors.contract import check_back_end, made, parts, read, write

from linalign_lite.errors import FormatError, InputError
from linalign_lite.vectors.checks import ChangedError, CheckedSource, DistinctIds, DuplicateIdError
from linalign_lite.vectors.locations import BACKENDS, find_location, locate, open_vectors
from linalign_lite.vectors.source import Batch, VectorInfo, VectorSource, named_space


class InMemory(VectorSource):
    """A back end of its own: batches as they were given, without any check."""

    def __init__(self, batches, info, *, now=None):
        self.given, self.info, self.now = list(batches), info, now or info

    def batches(self, rows=0, after=""):
        yield from self.given

    def current(self):
        return self.now


INFO = VectorInfo(named_space(5), 23, version="a")


def drained(batches, **kw):
    return list(CheckedSource(InMemory(batches, INFO, **kw), "mine").batches())


def test_what_is_right_passes():
    assert sum(map(len, drained(parts(made(), 7)))) == 23
    assert INFO.model == ""
    assert VectorInfo(named_space(5, "text-embedding-3-small")).model == "text-embedding-3-small"


def altered(**parts_of):
    return [dataclasses.replace(made(), **parts_of)]


@pytest.mark.parametrize(
    ("batches", "error", "text"),
    [
        (altered(ids=("a",)), FormatError, "1 ids"),
        (altered(vectors=made().vectors.astype(np.float64)), FormatError, "float64"),
        (altered(payload=({},)), FormatError, "1 payloads"),
        (altered(vectors=made(d=6).vectors), InputError, "another dimension: got 6, expected 5"),
        (altered(vectors=made().vectors * np.inf), InputError, "not finite"),
        (altered(ids=("", *made().ids[1:])), InputError, "empty id"),
        (altered(ids=("a", "a", *made().ids[2:])), DuplicateIdError, "an id twice"),
        ([*parts(made(), 7), *parts(made(), 7)], DuplicateIdError, "an id twice"),
        (parts(made(20), 7), ChangedError, "got 20 vectors at the end, expected 23"),
        (altered(ids=(), vectors=made().vectors[:0], payload=None), FormatError, "0 ids"),
    ],
)
def test_what_is_wrong_has_a_name(batches, error, text):
    with pytest.raises(error, match=text) as caught:
        drained(batches)
    assert "mine" in str(caught.value)


@pytest.mark.parametrize("now", [{"count": 24}, {"version": "b"}])
def test_a_collection_that_changes_is_noticed(now):
    with pytest.raises(ChangedError, match="was changed while it was read"):
        drained(parts(made(), 7), now=dataclasses.replace(INFO, **now))


def test_distinct_ids_across_batches():
    seen = DistinctIds("mine")
    for start in range(0, 100, 10):
        seen.add(tuple(map(str, range(start, start + 10))))
    seen.check()
    seen.add(("5",))
    with pytest.raises(DuplicateIdError):
        seen.check()


def test_npy_does_what_every_back_end_does(tmp_path):
    path = tmp_path / "x.npy"
    check_back_end(str(path), keeps_ids=False, keeps_payload=False)
    np.testing.assert_array_equal(np.load(path), made().vectors)
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(1, 40),
    d=st.integers(1, 9),
    rows=st.integers(1, 50),
    dtype=st.sampled_from(["<f2", "<f4", "<f8"]),
)
def test_npy_of_numpy_is_read_in_any_blocks(tmp_path_factory, n, d, rows, dtype):
    path = tmp_path_factory.mktemp("npy") / "x.npy"
    array = np.random.default_rng(n).normal(size=(n, d)).astype(dtype)
    np.save(path, array)
    found, info, _ = read(str(path), rows)
    np.testing.assert_array_equal(found.vectors, array.astype(np.float32))
    assert (info.dim, info.count, info.ids) == (d, n, "rows")
    write(str(path), Batch(tuple(map(str, range(n))), found.vectors), rows)
    np.testing.assert_array_equal(np.load(path), found.vectors)


def npy(array, **kw):
    file = io.BytesIO()
    np.save(file, array, **kw)
    return file.getvalue()


GOOD = npy(np.ones((3, 2), "<f4"))
HOSTILE = {
    "empty": b"",
    "text": b"1,2,3\n",
    "cut": GOOD[:-1],
    "longer": GOOD + b"\0",
    "of integers": npy(np.ones((3, 2), int)),
    "of objects": npy(np.array([[{}]]), allow_pickle=True),
    "big-endian": npy(np.ones((3, 2), ">f4")),
    "by columns": npy(np.asfortranarray(np.ones((3, 2)))),
    "one dimension": npy(np.ones(3)),
    "three": npy(np.ones((1, 2, 3))),
    "no rows": npy(np.ones((0, 2))),
    "no columns": npy(np.ones((2, 0))),
    "a claim of much": GOOD.replace(b"(3, 2)", b"(999999999999, 2)"),
    "an expression": GOOD.replace(b"(3, 2)", b"(3,2*9"),
    "version 9": GOOD[:6] + b"\x09" + GOOD[7:],
    "NaN": npy(np.full((3, 2), np.nan)),
    "beyond float32": npy(np.full((3, 2), 1e300)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_npy(tmp_path, name):
    path = tmp_path / "x.npy"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(InputError, match=r"x\.npy"):
        read(str(path))


def test_a_npy_that_changes_or_goes_away(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.ones((9, 2), np.float32))
    with open_vectors(path) as source:
        batches = source.batches(9)
        next(batches)
        os.utime(path, ns=(1, 1))
        with pytest.raises(ChangedError):
            next(batches)
    with open_vectors(path) as source:
        batches = source.batches(9)
        next(batches)
        path.unlink()
        with pytest.raises(InputError, match="cannot read"):
            next(batches)


def test_locations():
    found = locate("folder.d/x.npy#column")
    assert (found.path, found.part, found.scheme) == ("folder.d/x.npy", "column", "")
    assert find_location("x.states.npz#") is None or find_location("x.npz").path == "x.npz"
    with pytest.raises(InputError, match="no file or store of vectors") as caught:
        locate("odd://user:secret@host/x?token=abc")
    assert "secret" not in str(caught.value)
    assert "abc" not in str(caught.value)
    with pytest.raises(InputError, match="cannot read"):
        open_vectors("absent.npy")
    with pytest.raises(InputError, match="no parts"):
        open_vectors("absent.npy#part")


def test_every_back_end_can_be_imported_without_its_extra():
    from importlib import import_module

    for backend in BACKENDS:
        module = import_module(f"linalign_lite.vectors.{backend.module}")
        assert issubclass(module.Source, VectorSource)
        assert backend.form
        assert backend.suffixes or backend.schemes
