"""Parquet and Arrow files: what pyarrow writes is read, what is written pyarrow reads."""

from __future__ import annotations

import os

import numpy as np
import pytest
from vectors.contract import check_back_end, made, parts, read, write

from linalign_lite.errors import FormatError, InputError, MismatchError
from linalign_lite.vectors.files import parquet, parquet_footer
from linalign_lite.vectors.locations import create_vectors
from linalign_lite.vectors.source import Batch, VectorInfo, named_space

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def table(kind, n=50, d=4, **columns):
    values = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    return values, pa.table({"vec": pa.array(values.tolist(), kind), **columns})


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32()), pa.list_(pa.float64()), pa.list_(pa.float32(), 4),
     pa.large_list(pa.float32()), pa.list_(pa.float16())],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("rows", [1, 7, 60])
def test_parquet_of_pyarrow_is_read(tmp_path, kind, rows):
    path = str(tmp_path / "x.parquet")
    values, made_table = table(kind, id=list(range(100, 150)), title=[f"t{i}" for i in range(50)])
    pq.write_table(made_table, path, row_group_size=20)
    found, info, pieces = read(path, rows)
    np.testing.assert_allclose(found.vectors, values, rtol=1e-3 if "half" in str(kind) else 1e-7)
    assert (info.dim, info.count, info.ids, info.model) == (4, 50, "integers", "")
    assert found.ids[0] == "100"
    assert found.payload[49] == {"title": "t49"}
    for piece in pieces[:-1]:
        rest, _, _ = read(path, 9, piece.cursor)
        assert rest.ids == found.ids[found.ids.index(piece.ids[-1]) + 1 :]


def test_parquet_does_what_every_back_end_does(tmp_path):
    path = tmp_path / "x.parquet"
    check_back_end(str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]
    assert read(str(path))[1].model == "maker/model-1"
    found = pq.read_table(path)
    assert found.column_names == ["id", "embedding", "label", "year"]
    np.testing.assert_array_equal(np.stack(found["embedding"].to_numpy()), made().vectors)


def test_ids_that_are_integers_and_a_named_column_stay(tmp_path):
    path = f"{tmp_path}/x.parquet"
    batch = Batch(("7", "5"), np.ones((2, 3), np.float32))
    write(path + "#vec", batch, ids="integers")
    assert pq.read_schema(path).field("id").type == pa.int64()
    assert pq.read_schema(path).names == ["id", "vec"]
    assert read(path)[0].ids == ("7", "5")
    with pytest.raises(InputError, match="ids of two kinds"):
        write(path, Batch(("a", "b"), batch.vectors), ids="integers")


LISTS = pa.list_(pa.float32())
WRONG = {
    "no vectors": pa.table({"id": ["a"], "n": [1]}),
    "two columns": pa.table({"a": pa.array([[1.0]], LISTS), "b": pa.array([[1.0]], LISTS)}),
    "lengths": pa.table({"a": pa.array([[1.0, 2.0], [1.0]], LISTS)}),
    "no vector": pa.table({"a": pa.array([[1.0, 2.0], None], LISTS)}),
    "no first": pa.table({"a": pa.array([None, [1.0]], LISTS)}),
    "no number": pa.table({"a": pa.array([[1.0, None]], LISTS)}),
    "empty": pa.table({"a": pa.array([], LISTS)}),
    "no numbers": pa.table({"a": pa.array([[]], LISTS)}),
    "no id": pa.table({"id": ["a", None], "a": pa.array([[1.0], [2.0]], LISTS)}),
    "twice": pa.table({"id": ["a", "a"], "a": pa.array([[1.0], [2.0]], LISTS)}),
    "infinite": pa.table({"a": pa.array([[np.inf]], LISTS)}),
    "bad card": pa.table({"a": pa.array([[1.0]], LISTS)}).replace_schema_metadata(
        {"linalign_lite": '{"linalign_lite": {"space": 7}}'}
    ),
    "another dim": pa.table({"a": pa.array([[1.0]], LISTS)}).replace_schema_metadata(
        {"linalign_lite": '{"linalign_lite": {"space": {"dim": 9, "model": "", "name": "", '
         '"pooling": "", "normalize": false}}}'}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_unusable_parquet(tmp_path, name):
    path = tmp_path / "x.parquet"
    pq.write_table(WRONG[name], path)
    with pytest.raises(InputError, match=r"x\.parquet"):
        read(str(path))


@pytest.mark.parametrize("cut", [0, 4, 20, 400, -1])
def test_broken_parquet(tmp_path, cut):
    path = tmp_path / "x.parquet"
    pq.write_table(table(LISTS)[1], path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(FormatError, match="not usable Parquet"):
        read(str(path))


def test_payload_that_does_not_fit_the_first_batch(tmp_path):
    path, first = f"{tmp_path}/x.parquet", made(3)
    other = Batch(("x",), first.vectors[:1], ({"label": [1], "year": 2},))
    info = VectorInfo(named_space(5))
    with create_vectors(path, info) as sink:
        sink.write(first)
        with pytest.raises(InputError, match="first batch decides"):
            sink.write(other)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("many", [False, True])
def test_footers_are_moved(tmp_path, many):
    """Row groups of three files in one: pyarrow reads them, and moving by 0 changes no byte."""
    path, whole, n = tmp_path / "x.parquet", bytearray(parquet_footer.MAGIC), 40 if many else 3
    footers = []
    for k in range(n):
        out = pa.BufferOutputStream()
        columns = {"i": [k, k + 1], "s": ["a", None], "b": [True, False], "l": [[1.5], []]}
        pq.write_table(pa.table(columns), out, row_group_size=1, write_page_index=many)
        body, ending = parquet_footer.split(out.getvalue().to_pybytes())
        assert parquet_footer.moved(ending, 0) == ending
        footers.append(parquet_footer.moved(ending, len(whole) - 4))
        whole += body
    first, *rest = (pq.read_metadata(pa.BufferReader(parquet_footer.as_file(f))) for f in footers)
    for other in rest:
        first.append_row_groups(other)
    out = pa.BufferOutputStream()
    first.write_metadata_file(out)
    path.write_bytes(bytes(whole) + out.getvalue().to_pybytes()[4:])
    assert pq.read_table(path)["i"].to_pylist() == [i for k in range(n) for i in (k, k + 1)]
    with pytest.raises(FormatError):
        parquet_footer.split(path.read_bytes()[:-1])


def interrupted(path, batch, info, parts_written, monkeypatch):
    """Write some parts, each a segment, and stop as a killed process does."""
    monkeypatch.setattr(parquet, "SEGMENT", 1)
    sink = create_vectors(path, info, resume=True)
    after = int(sink.cursor or 0)
    for part in list(parts(batch, 7))[after // 7 : parts_written]:
        sink.write(part)
    sink.suspend()
    return sink.cursor


def test_a_killed_run_resumes(tmp_path, monkeypatch):
    path, batch = f"{tmp_path}/x.parquet", made()
    info = VectorInfo(named_space(5), 23, version="job 1")
    assert interrupted(path, batch, info, 1, monkeypatch) == "7"
    journal = tmp_path / "x.parquet.unfinished" / "journal.jsonl"
    data = tmp_path / "x.parquet.unfinished" / "data"
    with journal.open("ab") as f, data.open("ab") as g:  # killed while it wrote
        f.write(b'{"end": 99')
        g.write(b"half a segment")
    assert interrupted(path, batch, info, 2, monkeypatch) == "14"
    assert not os.path.lexists(path)
    other = VectorInfo(named_space(5), 23, version="job 2")
    with pytest.raises(MismatchError, match="another command"):
        create_vectors(path, other, resume=True)
    with create_vectors(path, info, resume=True) as sink:
        assert sink.cursor == "14"
        with pytest.raises(InputError, match="another process"):
            create_vectors(path, info, resume=True)
        for part in list(parts(batch, 7))[2:]:
            sink.write(part)
        sink.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]
    found, _, _ = read(path)
    assert found.ids == batch.ids
    np.testing.assert_array_equal(found.vectors, batch.vectors)
    assert found.payload == batch.payload
    assert pq.ParquetFile(path).metadata.num_row_groups == 4


def test_a_damaged_journal_is_refused(tmp_path, monkeypatch):
    path, batch = f"{tmp_path}/x.parquet", made()
    info = VectorInfo(named_space(5), 23)
    interrupted(path, batch, info, 2, monkeypatch)
    folder = tmp_path / "x.parquet.unfinished"
    whole = (folder / "journal.jsonl").read_bytes()
    for wrong in (b"{}\n", whole.replace(b'"end"', b'"at"'), whole + b"[]\n"):
        (folder / "journal.jsonl").write_bytes(wrong)
        with pytest.raises(FormatError, match="journal"):
            create_vectors(path, info, resume=True)
    (folder / "journal.jsonl").write_bytes(whole)
    (folder / "data").write_bytes(b"PAR1")
    with pytest.raises(FormatError, match="ends early"):
        create_vectors(path, info, resume=True)
    write(path, batch)  # not resumed: it starts again
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]


def test_killed_between_the_name_and_the_end(tmp_path, monkeypatch):
    path, batch = f"{tmp_path}/x.parquet", made()
    info = VectorInfo(named_space(5), 23)
    interrupted(path, batch, info, 4, monkeypatch)
    sink = create_vectors(path, info, resume=True)
    monkeypatch.setattr(sink.sink._journal, "finish", sink.sink._journal._log.close)
    sink.finish()
    again = create_vectors(path, info, resume=True)
    assert again.cursor == "28"  # of the last batch
    again.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]
    assert read(path)[0].ids == batch.ids


@pytest.mark.parametrize("values", [[1, "x"], [10**30], ["\udfff"], [{"a": 1}, [2]]])
@pytest.mark.parametrize("name", ["x.parquet", "x.arrow"])
def test_payload_of_no_one_type(tmp_path, name, values):
    n = len(values)
    batch = Batch(tuple("ab"[:n]), np.ones((n, 2), np.float32), tuple({"v": v} for v in values))
    with pytest.raises(InputError, match="do not fit the columns"):
        write(str(tmp_path / name), batch)
    assert list(tmp_path.iterdir()) == []


def test_an_id_that_is_no_text_of_unicode(tmp_path):
    with pytest.raises(InputError, match="do not fit the columns"):
        write(f"{tmp_path}/x.parquet", Batch(("\ud800",), np.ones((1, 2), np.float32)))


def test_a_journal_is_not_written_through_a_link(tmp_path):
    own = tmp_path / "own"
    own.write_text("dear to somebody")
    (tmp_path / "x.parquet.unfinished").mkdir()
    (tmp_path / "x.parquet.unfinished" / "journal.jsonl").symlink_to(own)
    with pytest.raises(FormatError, match="is a link"):
        write(f"{tmp_path}/x.parquet", Batch(("a",), np.ones((1, 2), np.float32)))
    assert own.read_text() == "dear to somebody"
