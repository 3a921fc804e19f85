"""Parquet read and written without pyarrow's levels: the same as with them, or left to pyarrow."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors.contract import made, parts, read, write_all

from linalign_lite.errors import InputError, LinalignError, MismatchError
from linalign_lite.vectors import columns
from linalign_lite.vectors.files import parquet
from linalign_lite.vectors.files.parquet_pages import OtherLayout, levels
from linalign_lite.vectors.source import Batch, VectorInfo, named_space

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
PLAIN = {"compression": "NONE", "use_dictionary": False}


def lists(rows, *, fixed=False, nullable=True, kind=None):
    element = pa.field("element", kind or pa.float32(), nullable=nullable)
    size = rows.shape[1] if fixed else -1
    return pa.array(rows.tolist(), pa.list_(element, size))


@pytest.fixture
def without_matrix(monkeypatch):
    """Reading through pyarrow's lists fails."""

    def fail(*_):
        raise AssertionError("pyarrow's lists were used")

    monkeypatch.setattr(columns, "matrix", fail)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize(("fixed", "nullable"), list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize(("n", "d", "page", "group"), [
    (50, 4, 1 << 20, 20), (700, 8, 1000, 300), (301, 96, 5000, 1000), (40, 3, 64, 7), (3, 1, 8, 2),
])  # fmt: skip
def test_plain_pages_are_read_as_they_stand(
    tmp_path, without_matrix, version, fixed, nullable, n, d, page, group
):
    path, rows = tmp_path / "x.parquet", np.random.default_rng(n).normal(size=(n, d))
    rows = rows.astype(np.float32)
    table = pa.table({"id": list(range(n)), "v": lists(rows, fixed=fixed, nullable=nullable),
                      "t": [f"text {i}" for i in range(n)]})  # fmt: skip
    pq.write_table(table, path, row_group_size=group, data_page_size=page, write_batch_size=17,
                   data_page_version=version, **PLAIN)  # fmt: skip
    for step in (1 if n < 60 else 64, 37, 1000):
        found, _, pieces = read(str(path), step)
        np.testing.assert_array_equal(found.vectors, rows)
        assert found.ids == tuple(map(str, range(n)))
        assert found.payload[n - 1] == {"t": f"text {n - 1}"}
        for piece in pieces[:-1][:: max(1, len(pieces) // 5)]:
            rest, _, _ = read(str(path), step, piece.cursor)
            np.testing.assert_array_equal(rest.vectors, rows[int(piece.cursor) :])
            assert rest.ids[0] == piece.cursor
    pq.write_table(table.select(["v"]), path, row_group_size=group, data_page_size=page, **PLAIN)
    found, info, _ = read(str(path), 37)
    np.testing.assert_array_equal(found.vectors, rows)
    assert info.ids == "rows"


@pytest.mark.parametrize(
    "kw",
    [{"compression": "SNAPPY", "use_dictionary": False}, {"compression": "NONE"},
     {"compression": "NONE", "use_dictionary": False, "column_encoding": "BYTE_STREAM_SPLIT"}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()], ids=str)
def test_what_is_packed_is_left_to_pyarrow(tmp_path, kw, kind):
    path, rows = tmp_path / "x.parquet", np.random.default_rng(0).normal(size=(90, 6))
    table = pa.table({"v": lists(rows.astype(np.float32), kind=kind)})
    pq.write_table(table, path, row_group_size=40, **kw)
    np.testing.assert_allclose(read(str(path), 16)[0].vectors, rows, rtol=1e-6)


@pytest.mark.parametrize(
    ("cells", "error"),
    [
        ([[1.0, 2.0], [1.0, 2.0, 3.0], [1.0]], MismatchError),  # as many numbers as lists of two
        ([[1.0, 2.0], None, [1.0, 2.0, 3.0, 4.0]], InputError),
        ([[1.0, 2.0], [1.0, None], [1.0, 2.0]], InputError),
        ([[1.0, 2.0], [], [1.0, 2.0, 3.0, 4.0]], MismatchError),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "2.0"])
def test_lists_of_other_lengths_are_found(tmp_path, cells, error, version):
    path = tmp_path / "x.parquet"
    table = pa.table({"v": pa.array(cells * 9, pa.list_(pa.float32()))})
    pq.write_table(table, path, data_page_version=version, **PLAIN)
    with pytest.raises(error):
        read(str(path))


def test_altered_files_are_read_as_pyarrow_reads_them_or_refused(tmp_path, monkeypatch):
    """No byte makes the reader hang, crash, or return numbers that do not stand in the file."""
    path, rng = tmp_path / "x.parquet", np.random.default_rng(0)
    rows = rng.normal(size=(64, 8)).astype(np.float32)
    table = pa.table({"id": [f"{i}" for i in range(64)], "v": lists(rows)})
    for version in ("1.0", "2.0"):
        pq.write_table(table, path, data_page_size=600, data_page_version=version, **PLAIN)
        whole, outcomes = path.read_bytes(), set()
        for _ in range(400):
            raw = bytearray(whole)
            for at in rng.integers(0, len(raw), int(rng.integers(1, 4))):
                raw[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(raw)
            try:
                found = read(str(path), 10)[0]
            except LinalignError:
                outcomes.add("refused")
                continue
            outcomes.add("read")
            assert found.vectors.shape[1] == 8
        assert outcomes == {"refused", "read"}


@settings(max_examples=60, deadline=None)
@given(most=st.integers(1, 7), runs=st.lists(st.tuples(st.integers(0, 7), st.integers(1, 40))))
def test_levels_are_those_that_were_encoded(most, runs):
    width, raw, want = most.bit_length(), bytearray(), []
    for level, count in runs:
        value = min(level, most)
        if count % 8:  # a run of one level
            raw += (
                bytes([count << 1 & 127 | 128, count << 1 >> 7])
                if count > 63
                else bytes([count << 1])
            )
            raw.append(value)
            want += [value] * count
        else:  # packed
            mixed = [(value + i) % (most + 1) for i in range(count)]
            bits = "".join(format(v, f"0{width}b")[::-1] for v in mixed)
            raw.append(count // 8 << 1 | 1)
            raw += bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
            want += mixed
    assert levels(bytes(raw), most, len(want)).tolist() == want
    with pytest.raises(OtherLayout):
        levels(bytes(raw), most, len(want) + 1)


@pytest.mark.parametrize("d", [1, 5, 64])
@pytest.mark.parametrize("payload", [True, False])
def test_row_groups_from_a_template_are_those_of_pyarrow(tmp_path, monkeypatch, d, payload):
    monkeypatch.setattr(parquet, "SEGMENT", 1)
    used, real = [], parquet.from_template

    def noted(*args):
        used.append(1)
        return real(*args)

    monkeypatch.setattr(parquet, "from_template", noted)
    path, batch = tmp_path / "x.parquet", made(100, d, payload=payload)
    write_all(str(path), VectorInfo(named_space(d), 100), parts(batch, 9))
    assert len(used) == 10  # all but the first and the last
    found = pq.read_table(path)
    np.testing.assert_array_equal(np.stack(found["embedding"].to_numpy()), batch.vectors)
    assert found["id"].to_pylist() == list(batch.ids)
    if payload:
        assert found["year"].to_pylist() == [row["year"] for row in batch.payload]
    metadata = pq.ParquetFile(path).metadata
    assert metadata.num_row_groups == 12
    places = []
    for i in range(12):
        group = metadata.row_group(i)
        chunks = [group.column(j) for j in range(group.num_columns)]
        assert group.total_byte_size == sum(c.total_uncompressed_size for c in chunks)
        for c in chunks:
            start = c.dictionary_page_offset or c.data_page_offset
            places.append((start, start + c.total_compressed_size))
    places.sort()
    assert places[0][0] == 4
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(places))
    raw = io.BytesIO(path.read_bytes())
    again = pq.ParquetFile(raw, pre_buffer=True).read()
    assert again.equals(found)
    single = Batch(batch.ids[:1], batch.vectors[:1])
    write_all(str(path), VectorInfo(named_space(d), 1), [single])
    np.testing.assert_array_equal(read(str(path))[0].vectors, single.vectors)
