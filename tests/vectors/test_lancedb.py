"""Tables of LanceDB in a folder."""

from __future__ import annotations

import shutil
import sys
from itertools import count

import numpy as np
import pytest
from vectors.contract import check_back_end, made, parts, read, write
from vectors.store_contract import (
    check_full_disk,
    check_kill,
    check_round_trips,
    check_switch,
    check_untouched,
    read_slowly,
    write_slowly,
)

from linalign_lite.errors import FormatError, InputError, MissingExtraError
from linalign_lite.vectors.checks import ChangedError
from linalign_lite.vectors.locations import create_vectors, open_vectors
from linalign_lite.vectors.source import VectorInfo, named_space
from linalign_lite.vectors.stores.common import CollectionGoneError, StoreError, StoreGoneError

lancedb = pytest.importorskip("lancedb")
INFO = VectorInfo(named_space(5, "maker/model-1"), 23)


@pytest.fixture
def location(tmp_path):
    return f"lancedb:{tmp_path}/store#docs"


def names(tmp_path):
    folder = tmp_path / "store"
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_contract(tmp_path, location):
    check_back_end(location, absent=lambda: names(tmp_path) == [])
    assert names(tmp_path) == ["docs.lance"]


def test_kill_and_resume(tmp_path, location):
    check_kill(location, lambda: "docs.lance" not in names(tmp_path))
    assert names(tmp_path) == ["docs.lance"]


def test_switch(location):
    check_switch(location, f"{location}_new")
    check_untouched(f"{location}_u")


def test_what_goes_in_comes_out(tmp_path):
    numbers = count()
    check_round_trips(lambda: f"lancedb:{tmp_path}/s#t{next(numbers)}", columnar=True, examples=10)


def test_payload_that_no_table_can_hold(tmp_path, location):
    """The first batch decides the columns."""
    batch = made(n=4)
    batch.payload[2]["year"] = "unknown"
    with pytest.raises(InputError, match="do not fit the columns"):
        write(location, batch, rows=2)
    batch = made(n=4)
    for row in batch.payload:
        row["vector"] = 1
    with pytest.raises(InputError, match="the name of another column"):
        write(location, batch)
    assert names(tmp_path) == []


def test_a_table_that_changes(location):
    write(location, made())
    table = lancedb.connect(location[8:-5]).open_table("docs")
    with pytest.raises(ChangedError, match="while it was read"):
        read_slowly(location, lambda i, _: table.delete("id = 'doc-3'") if i == 1 else None)
    _, _, pieces = read(location)
    table.delete("id = 'doc-4'")
    with pytest.raises(ChangedError, match="since that cursor"):
        read(location, after=pieces[0].cursor)
    at = pieces[0].cursor.split("-")[0]
    found, _, _ = read(location.replace("#", f"?version={at}#"), after=pieces[0].cursor)
    assert found.ids[:2] == ("doc-7", "doc-8")  # the version without doc-3 has doc-4
    assert read(location)[0].ids[:5] == ("doc-0", "doc-1", "doc-2", "doc-5", "doc-6")
    for version in ("99", "x", "-1", "9" * 30):
        with pytest.raises((InputError, StoreError), match="version"):
            open_vectors(location.replace("#", f"?version={version}#"))


def test_tables_of_others(tmp_path):
    pa = pytest.importorskip("pyarrow")
    db = lancedb.connect(tmp_path)
    x = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    half = pa.FixedSizeListArray.from_arrays(pa.array(x.astype(np.float16).reshape(-1)), 4)
    both = {"vector": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 4), "half": half}
    db.create_table("docs", pa.table({"number": pa.array(range(300)), **both}))
    location = f"lancedb:{tmp_path}#docs"
    with pytest.raises(InputError, match=r"hint: name the column: \?column=NAME"):
        open_vectors(location)
    for column, expected in (("vector", x), ("half", x.astype(np.float16).astype(np.float32))):
        found, info, _ = read(location.replace("#", f"?column={column}#"), rows=64)
        assert (info.dim, info.count, info.ids, info.metric) == (4, 300, "rows", "")
        assert found.vectors.tobytes() == expected.tobytes()
    assert found.payload[7]["number"] == 7
    db.create_table("empty", schema=pa.schema({"vector": half.type}))
    db.create_table("texts", pa.table({"id": ["a"]}))
    empty = pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))
    db.create_table("nulls", pa.table({"vector": empty}), on_bad_vectors="null")
    missing = {"empty": "holds no vectors", "texts": "lists of floating", "nothing": "is not there",
               "": "names no table", "../docs": "names no table"}  # fmt: skip
    for name, text in missing.items():
        with pytest.raises(InputError, match=text):
            open_vectors(f"lancedb:{tmp_path}#{name}")
    with pytest.raises(InputError, match="without a vector"):
        read(f"lancedb:{tmp_path}#nulls")
    with pytest.raises(InputError, match="no local folder"):
        open_vectors("lancedb:s3://bucket/x#docs")
    db.open_table("docs").create_index("vector", config=lancedb.index.IvfFlat(
        distance_type="cosine", num_partitions=2))  # fmt: skip
    with open_vectors(location.replace("#", "?column=vector#")) as source:
        assert source.info.metric == "cosine"


def test_a_folder_that_goes_away(tmp_path, location):
    write(location, made())
    with pytest.raises(InputError, match="is not there"):
        read_slowly(location, lambda *_: shutil.rmtree(tmp_path / "store", ignore_errors=True))
    with pytest.raises(InputError, match="is not there"):
        open_vectors(location)
    with pytest.raises(StoreGoneError, match=r"writing|completing"):
        write_slowly(location, lambda *_: shutil.rmtree(tmp_path / "store", ignore_errors=True))
    assert names(tmp_path) == []
    write(location, made())
    shutil.rmtree(tmp_path / "store/docs.lance/data")
    with pytest.raises(StoreGoneError) as found:
        read(location)
    assert ".rs:" not in str(found.value)  # where in LanceDB's source


def test_a_table_that_is_replaced_while_it_is_written(tmp_path, location):
    pa = pytest.importorskip("pyarrow")
    row = {"id": ["a"], "vector": pa.array([[1.0] * 9], pa.list_(pa.float32(), 9))}

    def replace(i, sink):
        if i == 2:
            sink._db.create_table(sink.name, pa.table(row), mode="overwrite")

    with pytest.raises(CollectionGoneError, match="nobody else writes"):
        write_slowly(location, replace)
    assert names(tmp_path) == []


def test_a_full_disk(tmp_path, location):
    check_full_disk(location, tmp_path)


def test_a_state_that_lies(tmp_path, location):
    sink = create_vectors(location, INFO)
    sink.write(next(parts(made(), 5)))
    sink.suspend()
    state = tmp_path / "store/.docs.partial/state.json"
    whole = state.read_text()
    for text in ("linalign_lite", whole[:-9], whole.replace('"version": ', '"version": "a')):
        state.write_text(text)
        with pytest.raises(FormatError):
            create_vectors(location, INFO, resume=True)
    state.write_text(whole.replace('"version": ', '"version": 9'))
    with pytest.raises(StoreError, match="creating"):
        create_vectors(location, INFO, resume=True)
    state.write_text("{}")  # nothing to resume
    with create_vectors(location, INFO, resume=True) as sink:
        assert sink.cursor == ""
    assert names(tmp_path) == []


def test_without_lancedb(tmp_path, location, monkeypatch):
    write(location, made())
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(MissingExtraError, match=r"linalign-lite\[lancedb\]"):
        open_vectors(location)
