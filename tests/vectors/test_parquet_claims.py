"""Parquet files that lie about themselves, and files of other writers, which do not."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import refused
from vectors.contract import read

from linalign_lite.errors import FormatError, InputError, LinalignError, MismatchError
from linalign_lite.vectors.files import parquet_footer as footer

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
PLAIN = {"compression": "NONE", "use_dictionary": False}
FEW, MANY = 1000, 1 << 40


def lists(rows, *, fixed=False, nullable=True, kind=None):
    element = pa.field("element", kind or pa.float32(), nullable=nullable)
    size = rows.shape[1] if fixed else -1
    return pa.array(rows.tolist(), pa.list_(element, size))


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize(("fixed", "nullable"), list(itertools.product([False, True], repeat=2)))
@pytest.mark.parametrize(("n", "d", "page", "group"), [
    (50, 4, 1 << 20, 20), (700, 8, 1000, 300), (301, 96, 5000, 1000), (40, 3, 64, 7), (3, 1, 8, 2),
])  # fmt: skip
def test_pages_of_all_sizes_are_read(tmp_path, version, fixed, nullable, n, d, page, group):
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
    [{"compression": "SNAPPY", "use_dictionary": False}, {"compression": "ZSTD"},
     {"compression": "NONE", "use_dictionary": False, "column_encoding": "BYTE_STREAM_SPLIT"}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()], ids=str)
def test_packings_of_all_kinds_are_read(tmp_path, kw, kind):
    path, rows = tmp_path / "x.parquet", np.random.default_rng(0).normal(size=(90, 6))
    table = pa.table({"v": lists(rows.astype(np.float32), kind=kind)})
    pq.write_table(table, path, row_group_size=40, **kw)
    np.testing.assert_allclose(read(str(path), 16)[0].vectors, rows, rtol=1e-6)


def test_vectors_that_shrink_are_read(tmp_path):
    """Zeros and a few ones: as much as honest vectors can shrink, and no lie."""
    rows = np.random.default_rng(0).random((100_000, 64)) < 0.02
    flat = pa.array(rows.astype(np.float32).reshape(-1))
    table = pa.table({"v": pa.FixedSizeListArray.from_arrays(flat, 64), "t": ["same"] * len(rows)})
    pq.write_table(table, tmp_path / "x.parquet", compression="ZSTD")
    found, _, _ = read(f"{tmp_path}/x.parquet", 50_000)
    np.testing.assert_array_equal(found.vectors, rows)


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


def test_a_kilobyte_of_a_long_list_is_not_read(tmp_path):
    zeros = pa.array([np.zeros((1 << 20) + 1, np.float32)], pa.list_(pa.float32()))
    pq.write_table(pa.table({"embedding": zeros}), tmp_path / "x.parquet")
    assert (tmp_path / "x.parquet").stat().st_size < 1000
    with pytest.raises(FormatError, match="numbers in lists that it does not have"):
        read(f"{tmp_path}/x.parquet")


def test_altered_files_are_read_as_pyarrow_reads_them_or_refused(tmp_path):
    """No byte makes the reader hang, crash, or return rows of another shape."""
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
            assert found.vectors.shape == (64, 8)
        assert outcomes == {"refused", "read"}


def group_of(struct, group=0):
    return struct[4][1][1][group]


def chunk_of(struct, column=0):
    """The footer on a column of the first row group: 5 values, 6 and 7 bytes, 9 place."""
    return group_of(struct)[1][1][1][column][3][1]


def put(struct, field, value):
    struct[field] = (struct[field][0] if field in struct else 6, value)


def honest(path, **options):
    """A file of 1,000 vectors, one column chunk of one page and nothing else."""
    rows = np.random.default_rng(0).normal(size=(FEW, 4)).astype(np.float32)
    pq.write_table(pa.table({"v": lists(rows)}), path, **{**PLAIN, **options})
    return path


def forge(path, footer_says=lambda _: None, page_says=lambda _: None, body=None):
    """Change what the footer and the first page say; body: what is in the page instead."""
    whole = path.read_bytes()
    struct, _ = footer.read_struct(bytes(footer.split(whole)[1]), 0)
    page, begin = footer.read_struct(whole, 4)
    data = whole[begin : begin + page[3][1]] if body is None else body
    put(page, 3, len(data))
    page_says(page)
    made = footer.write_struct(page) + data
    put(chunk_of(struct), 7, len(made))
    footer_says(struct)
    end = footer.write_struct(struct)
    path.write_bytes(footer.MAGIC + made + end + len(end).to_bytes(4, "little") + footer.MAGIC)


def says(place, field, value):
    """A change of one field of what place(struct) is."""
    return lambda struct: put(place(struct), field, value)


def same(struct):
    return struct


def rows_of_one_list(struct, n=1 << 30):
    """Claim the numbers that a million rows could have, in one list."""
    put(chunk_of(struct), 5, n)
    for where in (struct, group_of(struct)):
        put(where, 3, n >> 10)


def numbers(page, n=1 << 30):
    put(page[5][1], 1, n)


def repeated(n=1 << 30):
    """Levels of n numbers of one list, and no number: 20 bytes."""
    run, count = b"", n << 1
    while count > 127:
        run, count = run + bytes([count & 127 | 128]), count >> 7
    run += bytes([count])
    return b"".join(len(r).to_bytes(4, "little") + r for r in (run + b"\1", run + b"\3"))


LIES = {
    "rows in all": {"footer_says": says(same, 3, MANY)},
    "rows below none": {"footer_says": says(same, 3, -1)},
    "rows of a group": {"footer_says": says(group_of, 3, MANY)},
    "no rows of a group": {"footer_says": says(group_of, 3, -FEW)},
    "numbers": {"footer_says": says(chunk_of, 5, MANY)},
    "numbers below none": {"footer_says": says(chunk_of, 5, -4)},
    "fewer numbers": {"footer_says": says(chunk_of, 5, 3)},
    "more numbers": {"footer_says": says(chunk_of, 5, 4001)},
    "place": {"footer_says": says(chunk_of, 9, MANY)},
    "place below none": {"footer_says": says(chunk_of, 9, -4)},
    "place in a page": {"footer_says": says(chunk_of, 9, 400)},
    "size": {"footer_says": says(chunk_of, 7, MANY)},
    "size below none": {"footer_says": says(chunk_of, 7, -1)},
    "page unpacked": {"page_says": says(same, 2, (1 << 31) - 1)},
    "page unpacked below none": {"page_says": says(same, 2, -1)},
    "page stored": {"page_says": says(same, 3, (1 << 31) - 1)},
    "page stored below none": {"page_says": says(same, 3, -(1 << 31))},
    "numbers of a page": {"page_says": lambda page: numbers(page, (1 << 31) - 1)},
    "no numbers of a page": {"page_says": lambda page: numbers(page, 0)},
    "one long list": {
        "footer_says": rows_of_one_list, "page_says": numbers, "body": repeated(),
    },
}  # fmt: skip


@pytest.mark.parametrize("compression", ["NONE", "ZSTD"])
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused(tmp_path, lie, compression):
    path = honest(tmp_path / "x.parquet", compression=compression)
    forge(path)
    assert len(read(str(path), 100)[0]) == FEW  # what is forged without a lie
    forge(path, **LIES[lie])
    with pytest.raises(FormatError, match=r"x\.parquet"):
        read(str(path))


def test_a_dictionary_that_lies(tmp_path):
    path = honest(tmp_path / "x.parquet", use_dictionary=True)
    forge(path, page_says=lambda page: put(page[7][1], 1, (1 << 31) - 1))
    with pytest.raises(FormatError, match="it claims values that it does not have"):
        read(str(path))


def test_a_number_without_end(tmp_path):
    """Reading it would take hours: every byte adds seven bits."""
    path = honest(tmp_path / "x.parquet")
    whole = path.read_bytes()
    body, end = footer.split(whole)
    struct, _ = footer.read_struct(bytes(end), 0)
    put(chunk_of(struct), 9, 4 + len(body))
    ending = footer.write_struct(struct)
    long = b"\x15" + b"\xff" * (3 << 19) + b"\1"
    size = len(ending).to_bytes(4, "little")
    path.write_bytes(footer.MAGIC + body + long + ending + size + footer.MAGIC)
    with pytest.raises(FormatError, match="a page that it does not have"):
        read(str(path))


def test_a_histogram_at_which_pyarrow_ends_the_process(tmp_path):
    """It does where Python asks for the column's metadata, which nothing here does."""
    path = honest(tmp_path / "x.parquet")
    whole = path.read_bytes()
    struct, _ = footer.read_struct(bytes(footer.split(whole)[1]), 0)
    assert chunk_of(struct)[16][1][3][1][1]  # levels of what is defined, counted
    forge(path, footer_says=lambda found: chunk_of(found)[16][1][3][1][1].append(0))
    with pytest.raises(FormatError, match="histogram"):
        read(str(path))


def test_a_field_that_stands_twice_is_refused(tmp_path):
    """One reader takes the first and another the last."""
    path = honest(tmp_path / "x.parquet")
    body, end = footer.split(path.read_bytes())
    twice = bytes(end[:-1]) + b"\x06\x06\x02" + b"\0"  # field 3 again: one row
    size = len(twice).to_bytes(4, "little")
    path.write_bytes(footer.MAGIC + body + twice + size + footer.MAGIC)
    with pytest.raises(FormatError, match="a field twice"):
        read(str(path))


MEASURED = """
import resource, sys
import pyarrow as pa, pyarrow.parquet
from linalign_lite.errors import FormatError
from linalign_lite.vectors.locations import open_vectors

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        with open_vectors(path) as source:
            for batch in source.batches():
                pass
    except FormatError:
        continue
    sys.exit(f"{path} was read")
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(pa.default_memory_pool().max_memory(), after - before)
"""


def test_nothing_is_allocated_by_a_lie(tmp_path):
    paths = []
    for lie, compression in itertools.product(LIES, ("NONE", "ZSTD")):
        path = honest(tmp_path / f"{lie} {compression}.parquet", compression=compression)
        forge(path, **LIES[lie])
        paths.append(str(path))
    done = subprocess.run([sys.executable, "-c", MEASURED, *paths], capture_output=True, check=True)
    by_arrow, by_process = map(int, done.stdout.split())
    assert by_arrow < 1 << 22
    assert by_process < 100 << 10  # kB; imports are a part of it


def test_a_lie_leaves_nothing_behind(tmp_path, capsys, monkeypatch):
    """Found at the opening, or after a batch was written."""
    monkeypatch.chdir(tmp_path)
    for lie in ("numbers of a page", "more numbers", "page stored"):
        path = honest(tmp_path / "x.parquet")
        forge(path, **LIES[lie])
        for out in ("y.parquet", "y.jsonl", "y.npy"):
            assert "x.parquet" in refused(capsys, "vectors", "export", "x.parquet", out)
            assert [p.name for p in Path().iterdir()] == ["x.parquet"]
