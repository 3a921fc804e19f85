"""Packed files, decompression bombs, Parquet, and corpora larger than memory."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite.core.hidden_states import text_digest
from linalign_lite.errors import FormatError, InputError, MissingExtraError
from linalign_lite.extraction import compressed_text, parquet, texts
from linalign_lite.extraction.corpus import corpus_of, read_corpus
from linalign_lite.extraction.texts import Texts, read_texts

ROWS = "".join(json.dumps({"text": f"text {i} é", "label": "ab"[i % 2]}) + "\n" for i in range(500))


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def write(tmp_path, name: str, data: bytes) -> str:
    (tmp_path / name).write_bytes(data)
    return str(tmp_path / name)


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".zst", zst)])
def test_packed_files_are_read_as_their_content(tmp_path, ending, pack):
    plain = read_texts(write(tmp_path, "t.jsonl", ROWS.encode()))
    assert read_texts(write(tmp_path, f"t.jsonl{ending}", pack(ROWS.encode()))) == plain
    # concatenated frames, as from `cat a.zst b.zst`
    half = ROWS.index("\n", len(ROWS) // 2) + 1
    two = pack(ROWS[:half].encode()) + pack(ROWS[half:].encode())
    assert read_texts(write(tmp_path, f"two.jsonl{ending}", two)) == plain
    lines = write(tmp_path, f"t.txt{ending}", pack(b"\xef\xbb\xbfone\n\ntwo"))
    assert read_texts(lines).texts == ("one", "two")
    assert read_texts(lines).n_blank == 1


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".zst", zst)])
@pytest.mark.parametrize("damage", ["cut short", "cut in half", "flipped", "something else"])
def test_damaged_packed_files_are_refused(tmp_path, ending, pack, damage):
    packed = bytearray(pack(bytes(np.random.default_rng(0).integers(97, 122, 50_000, np.uint8))))
    if damage == "flipped":
        packed[0] ^= 1
    data = {"cut short": packed[:-3], "cut in half": packed[: len(packed) // 2],
            "flipped": packed, "something else": b"plain text\n"}[damage]  # fmt: skip
    with pytest.raises(FormatError, match=f"t.txt{ending} does not unpack"):
        read_texts(write(tmp_path, f"t.txt{ending}", bytes(data)))


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".zst", zst)])
def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch, ending, pack):
    """One line of 96 MiB, packed to kilobytes, is refused with less than half of it in memory."""
    monkeypatch.setattr(compressed_text, "MAX_TEXT", 1 << 18)
    path = write(tmp_path, f"bomb.txt{ending}", pack(bytes(96 << 20)))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"line 1 is too long: expected at most 262144 bytes"):
            read_texts(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 << 20  # zstd unpacks a whole piece: 32 MiB at most


def test_a_window_of_gigabytes_is_refused(tmp_path):
    frame = b"\x28\xb5\x2f\xfd\x00\xa8" + b"\x01\x00\x00"  # states a window of 2 GiB
    with pytest.raises(FormatError, match="does not unpack"):
        read_texts(write(tmp_path, "t.txt.zst", frame))


def test_long_records_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed_text, "MAX_TEXT", 100)
    monkeypatch.setattr(texts, "MAX_TEXT", 100)
    with pytest.raises(InputError, match="line 2 is too long"):
        read_texts(write(tmp_path, "t.txt", b"a\n" + b"b" * 101))
    with pytest.raises(InputError, match="text from line 2 on is too long"):
        read_texts(write(tmp_path, "t.txt", b"--\n" + b"bb\n" * 50), separator="--")
    quoted = b'text\n"' + b"bb\n" * 50 + b'"\n'
    with pytest.raises(InputError, match="is not CSV: got field larger than field limit"):
        read_texts(write(tmp_path, "t.csv", quoted))


def test_the_position_of_a_wrong_byte_is_named(tmp_path):
    path = write(tmp_path, "t.txt", b"\xef\xbb\xbfone\ntwo\nth\xffree\n")
    with pytest.raises(InputError, match=r"line 3 is not UTF-8: got byte 0xff at offset 13"):
        read_texts(path)


@pytest.mark.parametrize("name", ["x.gz", "x.zst", "x.docx.gz"])
def test_an_unknown_ending_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="cannot tell the format"):
        read_texts(write(tmp_path, name, b""))


# --- a corpus -------------------------------------------------------------------------------------


@given(
    rows=st.lists(st.tuples(st.sampled_from(["a", "é ü", "c\u2028d"]), st.sampled_from("xyz")),
                  min_size=1, max_size=12),
    size=st.integers(1, 5),
    limit=st.one_of(st.none(), st.integers(1, 8)),
)  # fmt: skip
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_corpus_agrees_with_read_texts(tmp_path_factory, rows, size, limit):
    path = tmp_path_factory.mktemp("c") / "t.jsonl"
    path.write_text("\n\n".join(json.dumps({"text": t, "label": x}) for t, x in rows))
    held, corpus = read_texts(str(path), limit=limit), read_corpus(str(path), limit=limit)
    names, ids = held.label_ids()
    for found in (corpus, corpus_of(held)):
        assert (found.digest, found.n_texts, found.labels) == (held.digest, len(held.texts), names)
        chunks = list(found.chunks(size))
        assert [t for c in chunks for t in c.texts] == list(held.texts)
        assert [i for c in chunks for i in c.label_ids] == ids.tolist()
        assert [c.start for c in chunks] == list(range(0, len(held.texts), size))
    assert corpus.n_blank == held.n_blank


def test_a_corpus_without_labels_and_unusable_ones(tmp_path):
    corpus = read_corpus(write(tmp_path, "t.txt", b"one\ntwo\n"))
    assert [c.label_ids for c in corpus.chunks(1)] == [None, None]
    assert corpus.digest == text_digest(["one", "two"])
    with pytest.raises(InputError, match="single string"):
        corpus_of("one")
    with pytest.raises(InputError, match="cannot be read twice"):
        read_corpus("-")
    with pytest.raises(InputError, match="holds no text"):
        read_corpus(write(tmp_path, "e.txt", b"\n\n"))
    assert corpus_of(Texts(("a",))).n_texts == 1


def test_too_many_labels_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("linalign_lite.extraction.corpus.MAX_LABELS", 2)
    read_corpus(write(tmp_path, "t.csv", b"text,label\na,x\nb,y\nc,x\n"))
    with pytest.raises(InputError, match="too many different labels"):
        read_corpus(write(tmp_path, "t.csv", b"text,label\na,x\nb,y\nc,z\n"))


def test_memory_does_not_grow_with_the_file(tmp_path):
    peaks = []
    for n in (2_000, 20_000):
        path = write(
            tmp_path, "t.txt.gz", gzip.compress(b"a line of forty characters, more or less\n" * n)
        )
        tracemalloc.start()
        try:
            corpus = read_corpus(path)
            for chunk in corpus.chunks(100):
                del chunk
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2


def test_standard_input_can_be_read_twice_after_kept(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    with compressed_text.kept("-") as path:
        assert read_corpus(path, fmt="txt").n_texts == 2
        assert read_texts(path, fmt="txt").texts == ("one", "two")


# --- Parquet --------------------------------------------------------------------------------------


def pq_file(tmp_path, **columns) -> str:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = str(tmp_path / "t.parquet")
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return path


def test_parquet_columns(tmp_path):
    pa = pytest.importorskip("pyarrow")
    words = ["a", "b", "ç", "d"]
    path = pq_file(tmp_path, other=[1, 2, 3, 4], label=[3, 1, 3, 1], text=words)
    assert read_texts(path) == Texts(tuple(words), ("3", "1", "3", "1"))
    assert read_texts(path, limit=2).texts == ("a", "b")
    assert read_corpus(path).labels == ("1", "3")
    packed = pa.array(["x", "y", "x", "x"]).dictionary_encode()
    path = pq_file(tmp_path, text=pa.array(words, pa.large_string()), label=packed)
    assert read_texts(path).labels == ("x", "y", "x", "x")
    assert read_texts(pq_file(tmp_path, text=words)).labels == ()


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"words": ["a"]}, "one column `text`"),
        ({"text": [1]}, "column `text` has another type: got int64"),
        ({"text": ["a"], "label": [1.5]}, "column `label` has another type: got double"),
        ({"text": ["a", None]}, "line 2 has no usable text: got nothing"),
        ({"text": ["a", " "]}, "line 2 has no usable text: got blank"),
        ({"text": ["a", "b"], "label": ["x", None]}, "line 2: a label is missing"),
    ],
)
def test_wrong_parquet_is_refused(tmp_path, columns, words):
    with pytest.raises(InputError, match=words):
        read_texts(pq_file(tmp_path, **columns))


def test_damaged_parquet_is_refused(tmp_path, monkeypatch):
    path = pq_file(tmp_path, text=["a"] * 50)
    raw = (tmp_path / "t.parquet").read_bytes()
    for data in (b"", b"PAR1", raw[: len(raw) // 2], raw[:-1], b"x" * 100):
        with pytest.raises(FormatError, match="is not usable Parquet"):
            read_texts(write(tmp_path, "t.parquet", data))
    write(tmp_path, "t.parquet", raw)
    monkeypatch.setattr(parquet, "MAX_GROUP", 10)
    with pytest.raises(FormatError, match="row group 0 is too large"):
        read_texts(path)


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    for name in ["pyarrow", *(m for m in sys.modules if m.startswith("pyarrow."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"linalign-lite\[parquet\]"):
        read_texts(write(tmp_path, "t.parquet", b""))
