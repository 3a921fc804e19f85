"""Collections: BEIR's layout, files with a prefix, bad files."""

from __future__ import annotations

import gzip
import json

import pytest
from support import SHARED

from linalign_lite.errors import InputError
from linalign_lite.retrieval.collection import read_collection

CORPUS = [
    {"_id": "a", "title": "Wings", "text": "Wings lift a plane. The air below pushes it up a lot."},
    {"_id": "b", "title": "Boats", "text": "They float on water."},
    {"_id": "c", "text": "No title here."},
]
QUERIES = [{"_id": "1", "text": "why do planes fly"}, {"_id": 2, "text": "why do boats float"}]
QRELS = "query-id\tcorpus-id\tscore\n1\ta\t2\n1\tb\t0\n2\tb\t1\n2\tgone\t1\n"


def lines(rows):
    return "".join(json.dumps(r) + "\n" for r in rows)


@pytest.fixture
def beir(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(lines(CORPUS))
    (tmp_path / "queries.jsonl").write_text(lines(QUERIES))
    (tmp_path / "qrels" / "test.tsv").write_text(QRELS)
    return tmp_path


def test_beirs_layout(beir):
    found = read_collection(beir)
    assert found.document_ids == ("a", "b", "c")
    assert found.documents[0] == CORPUS[0]["text"]  # begins with its title
    assert found.documents[1] == "Boats They float on water."
    assert found.titles == ("Wings", "Boats", "")
    assert (found.query_ids, found.queries[1]) == (("1", "2"), "why do boats float")
    assert found.judgements == [{0: 2, 1: 0}, {1: 1}]
    assert found.unknown == 1


def test_packed_files_and_files_with_a_prefix_are_the_same(beir, tmp_path):
    expected = read_collection(beir)
    with gzip.open(tmp_path / "x_corpus.jsonl.gz", "wt") as f:
        f.write(lines(CORPUS))
    (tmp_path / "x_queries.jsonl").write_text(
        lines({"id": q["_id"], "text": q["text"]} for q in QUERIES)
    )
    judged = [line.split("\t") for line in QRELS.splitlines()[1:]]
    rows = ({"query": q, "doc": d, "relevance": int(g)} for q, d, g in judged)
    (tmp_path / "x_qrels.jsonl").write_text(lines(rows))
    assert read_collection(tmp_path / "x") == expected


def test_pseudo_queries_are_titles_and_other_sentences(beir):
    found = read_collection(beir)
    assert found.pseudo_queries(2) == (
        "Wings", "The air below pushes it up a lot.",
        "Boats", "Boats They float on water.",
        "No title here.", "No title here.",
    )  # fmt: skip
    assert len(found.pseudo_queries(3)) == 9
    assert found.pseudo_queries(3, seed=1) == found.pseudo_queries(3, seed=1)


@pytest.mark.parametrize(
    ("file", "text", "word"),
    [
        ("corpus.jsonl", "", "is empty"),
        ("corpus.jsonl", "{", "line 1 is not JSON"),
        ("corpus.jsonl", "[1]", "is no object"),
        ("corpus.jsonl", '{"_id": "a"}', "no usable text"),
        ("corpus.jsonl", '{"_id": "a", "text": " "}', "no usable text"),
        ("corpus.jsonl", '{"_id": "a", "text": "x", "title": 3}', "title is no string"),
        ("corpus.jsonl", '{"_id": 1.5, "text": "x"}', "no usable id"),
        ("corpus.jsonl", '{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}', "occurs twice"),
        ("queries.jsonl", '{"text": "x"}', "no usable id"),
        ("queries.jsonl", b"\xff\n", "not UTF-8"),
        ("qrels/test.tsv", "h\n1\ta\n", "2 columns"),
        ("qrels/test.tsv", "h\n1\ta\tx\n", "line 2: the grade is not usable"),
        ("qrels/test.tsv", "h\n1\ta\t99999999999\n", "the grade is not usable"),
        ("qrels/test.tsv", "h\n1\ta\t1\n1\ta\t2\n", "a second grade"),
    ],
)
def test_bad_files_are_named(beir, file, text, word):
    (beir / file).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=word) as error:
        read_collection(beir)
    assert file in str(error.value)


def test_a_missing_file_is_named(beir):
    (beir / "qrels" / "test.tsv").unlink()
    with pytest.raises(InputError, match=r"test\.tsv is not there"):
        read_collection(beir)
    with pytest.raises(InputError, match="nowhere_corpus"):
        read_collection(beir / "nowhere")


@pytest.mark.skipif(not SHARED.is_dir(), reason="LINALIGN_SHARED: no real data")
def test_cranfield():
    found = read_collection(SHARED / "data" / "cranfield")
    assert (len(found.documents), len(found.queries), found.unknown) == (1398, 225, 1)
    assert sum(map(len, found.judgements)) == 1836
