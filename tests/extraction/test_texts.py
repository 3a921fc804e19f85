"""Reading texts: every error of a file has its own message."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linalign_lite.errors import InputError
from linalign_lite.extraction.corpus import read_corpus
from linalign_lite.extraction.texts import Fields, read_texts


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_txt_skips_and_counts_blank_lines(tmp_path):
    read = read_texts(write(tmp_path, "a.txt", "one\n\n  \r\ntwo \r\nthree"))
    assert read.texts == ("one", "two ", "three")
    assert read.n_blank == 2
    assert read.labels == ()
    assert read.label_ids() == ((), None)


def test_a_line_separator_inside_a_text_is_kept(tmp_path):
    read = read_texts(write(tmp_path, "a.txt", "one\u2028still one\ntwo\x0cstill two\n"))
    assert read.texts == ("one\u2028still one", "two\x0cstill two")


def test_jsonl_with_labels(tmp_path):
    rows = '{"text": "a", "label": "yes"}\n\n{"text": "b", "label": "no"}\n'
    read = read_texts(write(tmp_path, "a.jsonl", rows))
    names, ids = read.label_ids()
    assert (read.texts, names, ids.tolist()) == (("a", "b"), ("no", "yes"), [1, 0])


def test_numbers_are_label_names(tmp_path):
    read = read_texts(write(tmp_path, "a.jsonl", '{"text": "a", "label": 3}'))
    assert read.labels == ("3",)


def test_csv_with_quotes_and_line_breaks(tmp_path):
    content = '\ufefflabel,text\nx,"a, b"\ny,"c\nd"\n'
    read = read_texts(write(tmp_path, "a.csv", content))
    assert read.texts == ("a, b", "c\nd")
    assert read.labels == ("x", "y")


def test_standard_input_is_txt(monkeypatch):
    stdin = io.TextIOWrapper(io.BytesIO(b"one\ntwo\n"))
    monkeypatch.setattr("sys.stdin", stdin)
    assert read_texts("-").texts == ("one", "two")


def test_limit(tmp_path):
    assert read_texts(write(tmp_path, "a.txt", "1\n2\n3\n"), limit=2).texts == ("1", "2")


def test_separators_enclose_texts_of_several_lines(tmp_path):
    content = "\n\none\r\n\n still one\r\n--\n \n--\n--\n\ttwo \n -- \n--x\n\n--\r\nthree"
    read = read_texts(write(tmp_path, "a.txt", content), separator="--")
    assert read.texts == ("one\r\n\n still one", "\ttwo \n -- \n--x", "three")
    assert read.n_blank == 2
    # no line after the last separator is no blank text; a blank line is one
    for end, blank in (("", 0), ("\n", 0), ("\n\n", 1)):
        read = read_texts(write(tmp_path, "a.txt", "one\n--" + end), separator="--")
        assert (read.texts, read.n_blank) == (("one",), blank)
    assert read_texts(write(tmp_path, "a.txt", "--\none"), separator="--").n_blank == 1
    path = write(tmp_path, "a.txt", "1\n--\n2\n--\n3")
    assert read_texts(path, separator="--", limit=2).texts == ("1", "2")
    assert read_texts(path, separator="==").texts == ("1\n--\n2\n--\n3",)


@given(st.lists(st.lists(st.sampled_from(["a", " b", "", "--x"]), max_size=4), max_size=5))
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_separated_texts_round_trip(tmp_path, parts):
    texts = ["\n".join(lines) for lines in parts]
    wanted = [t.strip("\n") for t in texts if t.strip()]
    path = write(tmp_path, "a.txt", "".join(f"{t}\n--\n" for t in texts) + "end")
    read = read_texts(path, separator="--")
    assert read.texts == (*wanted, "end")
    assert read.n_blank == len(texts) - len(wanted)


@pytest.mark.parametrize(
    ("name", "separator", "words"),
    [
        ("a.jsonl", "--", "a separator is for txt only: got jsonl"),
        ("a.csv", "--", "a separator is for txt only: got csv"),
        ("a.txt", "", "the separator is not usable: got nothing"),
        ("a.txt", "-\n-", "the separator is not usable: got more than one line"),
    ],
)
def test_wrong_separators_are_named(tmp_path, name, separator, words):
    with pytest.raises(InputError, match=words):
        read_texts(write(tmp_path, name, "x"), separator=separator)


def test_only_separators_are_no_text(tmp_path):
    with pytest.raises(InputError, match="holds no text"):
        read_texts(write(tmp_path, "a.txt", "--\n \n--\n"), separator="--")


def test_the_digest_depends_on_order_and_borders(tmp_path):
    digests = {
        read_texts(write(tmp_path, "a.txt", content)).digest
        for content in ("ab\nc", "a\nbc", "c\nab", "ab\nc\nd")
    }
    assert len(digests) == 4


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5))
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_round_trips_through_jsonl(tmp_path, texts):
    texts = [t for t in texts if t.isprintable()] or ["x"]
    content = "\n".join(json.dumps({"text": t}) for t in texts)
    assert read_texts(write(tmp_path, "a.jsonl", content)).texts == tuple(texts)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", "", "holds no text: expected at least one line"),
        ("a.txt", "\n \n", "holds no text"),
        ("a.txt", b"good\nb\xffd\n", r"line 2 is not UTF-8: got byte 0xff at offset 6 .*iconv"),
        ("a.txt", "x\n".encode("utf-16"), "line 1 is not UTF-8"),
        ("a.pdf", "x", r"cannot tell the format of .*: got \.pdf.*--format"),
        ("noending", "x", "got no ending"),
        ("a.jsonl", "{", "line 1 is not JSON"),
        ("a.jsonl", '{"text": "a"}\n[1]', "line 2 is not a JSON object: got list"),
        ("a.jsonl", '{"txt": "a"}', "line 1 has no usable text: got nothing"),
        ("a.jsonl", '{"text": " "}', "got blank"),
        ("a.jsonl", '{"text": 3}', "got no string"),
        ("a.jsonl", '{"text": "\\ud800"}', "half of a surrogate pair"),
        ("a.jsonl", "[" * 100000, "line 1 is not JSON"),
        ("a.jsonl", '{"text": "a", "label": "x"}\n{"text": "b"}', "line 2: a label is missing"),
        ("a.jsonl", '{"text": "b"}\n{"text": "a", "label": "x"}', "line 2: a label is missing"),
        ("a.jsonl", '{"text": "a", "label": [1]}', "label is not usable: got list"),
        ("a.csv", "a,b\n1,2\n", "no column `text`: got a, b"),
        ("a.csv", "", "no column `text`: got no header"),
        ("a.csv", "text,label\na,x\nb,\n", "line 3: a label is missing"),
        ("a.csv", 'text\n"a\n', "is not CSV"),
        ("a.csv", "text,label\n ,x\n", "line 2 has no usable text"),
    ],
)
def test_wrong_files_are_named(tmp_path, name, content, words):
    path = write(tmp_path, name, content)
    with pytest.raises(InputError, match=words) as caught:
        read_texts(path)
    assert path in str(caught.value)


def test_a_missing_file_and_an_unknown_format_are_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*gone.txt: got No such file"):
        read_texts(str(tmp_path / "gone.txt"))
    with pytest.raises(InputError, match="unknown format: got xml"):
        read_texts("x", fmt="xml")


# --- named fields, delimiters ---------------------------------------------------------------------


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_columns_by_name_and_delimiter(tmp_path, mark):
    file = tmp_path / "tickets.csv"
    file.write_text(f'id{mark}body{mark}queue\n1{mark}"a{mark} b"{mark}x\n2{mark}c{mark}y\n')
    found = read_texts(str(file), fields=Fields("body", "queue"))
    assert (found.texts, found.labels) == ((f"a{mark} b", "c"), ("x", "y"))
    assert read_texts(str(file), fields=Fields("body", None)).labels == ()
    for fields in (Fields("gone"), Fields("body", "gone")):
        with pytest.raises(InputError, match="no column `gone`"):
            read_texts(str(file), fields=fields)


def test_fields_of_other_formats(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"body": "a", "n": 3}\n{"body": "b", "n": 4}\n')
    assert read_texts(str(rows), fields=Fields("body", "n")).labels == ("3", "4")
    assert read_corpus(str(rows), fields=Fields("body", "n")).labels == ("3", "4")
    with pytest.raises(InputError, match="line 1 has no `gone`"):
        read_texts(str(rows), fields=Fields("body", "gone"))
    with pytest.raises(InputError, match="--text-field"):
        read_texts(str(rows))
    (tmp_path / "lines.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="has no fields"):
        read_texts(str(tmp_path / "lines.txt"), fields=Fields("body"))


def test_columns_of_parquet_by_name(tmp_path):
    pa = pytest.importorskip("pyarrow", reason="pyarrow is absent: pip install '.[parquet]'")
    pq = pytest.importorskip("pyarrow.parquet")
    file = str(tmp_path / "rows.parquet")
    pq.write_table(pa.table({"body": ["a", "b"], "n": [3, 4]}), file)
    found = read_texts(file, fields=Fields("body", "n"))
    assert (found.texts, found.labels) == (("a", "b"), ("3", "4"))
    assert read_texts(file, fields=Fields("body")).labels == ()
    with pytest.raises(InputError, match="--text-field"):
        read_texts(file)
    with pytest.raises(InputError, match="no column `gone`"):
        read_texts(file, fields=Fields("body", "gone"))
