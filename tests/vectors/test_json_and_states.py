"""JSON lines and the answers of embedding services; members of .npz; files of states."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors.contract import check_back_end, made, read, write

from linalign_lite.commands import main
from linalign_lite.core.hidden_states import HiddenStates, text_digest
from linalign_lite.core.serialization import load_states, save_states
from linalign_lite.core.shards.states_folder import open_folder, write_shards
from linalign_lite.core.space import Space
from linalign_lite.errors import FormatError, InputError, MismatchError
from linalign_lite.vectors.files.states import in_parts
from linalign_lite.vectors.locations import open_vectors
from linalign_lite.vectors.reading import read_states
from linalign_lite.vectors.source import Batch

A, B = [0.25, -1.0, 3.0], [1e-3, 2.0, 5.5]
BASE64 = base64.b64encode(np.array(B, "<f4").tobytes()).decode()
DATA = {"object": "list", "model": "text-embedding-3-small", "usage": {"total_tokens": 9},
        "data": [{"object": "embedding", "index": 1, "embedding": B},
                 {"object": "embedding", "index": 0, "embedding": A}]}  # fmt: skip
ANSWERS = {  # what the file holds: ids, model
    "lines": ([{"id": "x", "embedding": A, "text": "hi"}, {"id": "y", "embedding": B}],
              ("x", "y"), ""),
    "numbers": ([{"index": 4, "embedding": A}, {"index": 2, "embedding": BASE64}], ("4", "2"), ""),
    "no ids": ([{"embedding": A}, {"embedding": B}], ("0", "1"), ""),
    "answer": ([DATA], ("0", "1"), "text-embedding-3-small"),
    "indented": (json.dumps(DATA, indent=2), ("0", "1"), "text-embedding-3-small"),
    "list": ([DATA["data"]], ("1", "0"), ""),
    "cohere": ([{"id": "q", "embeddings": {"float": [A, B]}, "texts": ["a", "b"]}],
               ("0", "1"), ""),
    "gemini": ([{"embeddings": [{"values": A}, {"values": B}]}], ("0", "1"), ""),
    "gemini lines": ([{"embedding": {"values": A}}, {"embedding": {"values": B}}],
                     ("0", "1"), ""),
    "batch": ([{"id": f"batch_{i}", "custom_id": f"doc-{i}", "error": None,
                "response": {"status_code": 200, "body": {**DATA, "data": [
                    {"index": 0, "embedding": v}]}}} for i, v in enumerate((A, B))],
              ("doc-0", "doc-1"), "text-embedding-3-small"),
}  # fmt: skip


def put(path, content):
    text = content if isinstance(content, str) else "\n".join(map(json.dumps, content)) + "\n\n"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("rows", [1, 5])
def test_what_services_return_is_read(tmp_path, name, rows):
    content, ids, model = ANSWERS[name]
    found, info, pieces = read(put(tmp_path / "x.jsonl", content), rows)
    want = dict(zip(ids, (B, A) if name == "list" else (A, B), strict=True))
    assert found.ids == ids
    assert info.model == model
    np.testing.assert_allclose(found.vectors, [want[i] for i in ids])
    rest, _, _ = (
        read(str(tmp_path / "x.jsonl"), 9, pieces[0].cursor) if rows == 1 else (found, 0, 0)
    )
    assert rest.ids[-1] == ids[1]


def test_json_does_what_every_back_end_does(tmp_path):
    check_back_end(str(tmp_path / "x.jsonl"))
    assert read(str(tmp_path / "x.jsonl"))[1].model == "maker/model-1"
    check_back_end(f"{tmp_path}/y.jsonl#vector")


@settings(max_examples=15, deadline=None)
@given(
    values=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1),
    payload=st.dictionaries(
        st.text().filter(lambda k: k not in {"id", "embedding", "index", "model", "data", "object",
                                             "usage", "response", "embeddings"}),
        st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()),
    ),
    id_=st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
)  # fmt: skip
def test_json_keeps_every_bit(tmp_path_factory, values, payload, id_):
    path = str(tmp_path_factory.mktemp("json") / "x.jsonl")
    write(path, Batch((id_,), np.array([values], np.float32), (payload,)))
    found, _, _ = read(path)
    assert found.ids == (id_,)
    np.testing.assert_array_equal(found.vectors, np.array([values], np.float32))
    assert found.payload == (payload,)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", "no vectors"),
        ("[1", "not JSON"),
        ('{"embedding": "AAA"}', "no vector"),
        ('{"vector": [1]}', "no vector"),
        ('{"embedding": [1, "2"]}', "no vector"),
        ('{"embedding": []}', "no vector"),
        ('{"embedding": [true]}', "no vector"),
        ('{"embedding": [1], "id": [1]}', "no vector"),
        ('{"embedding": [NaN]}', "not finite"),
        ('{"embedding": [1e999]}', "not finite"),
        ('{"embedding": [1]}\n{"embedding": [1, 2]}', "another dimension"),
        ('{"embedding": [1], "id": 1}\n{"embedding": [1]}', "some lines only"),
        ('{"embedding": [1], "id": 1}\n{"embedding": [1], "id": 1}', "an id twice"),
        ('{"embedding": [1], "model": "a"}\n{"embedding": [1], "model": "b"}', "two models"),
        ('{"embedding": [1]}\nnonsense', "not JSON at byte 19"),
        ("[" * 100_000, "not JSON"),
        ('{"data": 7}', "no vector"),
        ('{"linalign_lite": 7}\n{"embedding": [1]}', "card is not an object"),
        ("7", "no vector"),
        ('{"embedding": [1], "id": 7}\n{"embedding": [1], "id": "x"}', "ids of two kinds.*got x"),
        (
            '{"embedding": [1], "id": 7}\n{"embedding": [1], "id": "007"}',
            "ids of two kinds.*got 007",
        ),
        (f'{{"embedding": [1], "id": {1 << 64}}}', "too large for an id"),
        ('{"custom_id": "a", "response": null, "error": {"code": 429}}', "a request that failed"),
    ],
)
def test_unusable_json(tmp_path, content, text):
    with pytest.raises(InputError, match=text):
        read(put(tmp_path / "x.jsonl", content))


def test_members_of_npz(tmp_path):
    path, array = tmp_path / "x.npz", np.random.default_rng(0).normal(size=(23, 5))
    np.savez(path, a=array, b=np.arange(3))
    packed = tmp_path / "packed.npz"
    np.savez_compressed(packed, a=array.astype(np.float16))
    for file in (path, packed):
        found, info, _ = read(f"{file}#a")
        np.testing.assert_allclose(found.vectors, array, rtol=1e-2, atol=1e-3)
        assert (info.count, info.dim) == (23, 5)
        assert len(read(f"{file}#a", 4, "9")[0]) == 14
        for part in ("b", "c"):
            with pytest.raises(InputError, match=r"npz.*(does not hold vectors|no one member)"):
                read(f"{file}#{part}")
        raw = bytearray(file.read_bytes())
        raw[200] ^= 255
        file.write_bytes(raw)
        with pytest.raises(FormatError):
            read(f"{file}#a")
    check_back_end(f"{tmp_path}/new.npz#v", keeps_ids=False, keeps_payload=False)
    np.testing.assert_array_equal(np.load(tmp_path / "new.npz")["v"], made().vectors)
    with pytest.raises(FormatError):
        read(str(tmp_path / "new.npz"))  # no member named, and no states


def labelled(n=9):
    states = np.random.default_rng(1).normal(size=(n, 4)).astype(np.float32)
    space = Space(4, "ab" * 32, "tiny", "mean", normalize=True)
    return HiddenStates(states, space, labels=tuple("xyz"[i % 3] for i in range(n)))


def test_states_are_vectors(tmp_path):
    states, path = labelled(), str(tmp_path / "x.states.npz")
    save_states(path, states)
    found, info, _ = read(path, 4)
    assert info.space == states.space
    assert [row["label"] for row in found.payload] == ["x", "y", "z"] * 3
    np.testing.assert_array_equal(found.vectors, states.states)
    copy = str(tmp_path / "y.states.npz")
    rows = tuple({**row, "text": f"text {i}"} for i, row in enumerate(found.payload))
    write(copy, Batch(found.ids, found.vectors, rows))
    again = load_states(copy)
    assert again.space.name == "maker/model-1"
    assert again.labels == ("x", "y", "z")
    np.testing.assert_array_equal(again.label_ids, states.label_ids)
    assert again.text_digest == text_digest(row["text"] for row in rows)


@pytest.mark.parametrize("payload", [True, False])
def test_vectors_become_a_folder_of_states(tmp_path, payload):
    path, folder = f"{tmp_path}/x.jsonl", str(tmp_path / "shards")
    write(path, made(payload=payload))
    with open_vectors(path) as source:
        parts, digest = in_parts(source, 10)
        write_shards(folder, parts, text_digest=digest)
    found = open_folder(folder)
    assert [s.rows for s in found.shards] == [10, 10, 3]
    np.testing.assert_array_equal(found.load().states, made().vectors)
    assert found.labels == (("kind 0", "kind 1", "kind 2") if payload else ())
    again, info, _ = read(folder, 7)
    assert info.model == "maker/model-1"
    np.testing.assert_array_equal(again.vectors, made().vectors)
    assert (again.payload is not None) == payload


def test_vectors_of_two_models_by_name_do_not_agree():
    a, b = Space(4, name="a"), Space(4, name="b")
    assert not a.agrees(b)
    assert a.agrees(Space(4))
    assert a.agrees(Space(4, "ab" * 32, "b"))
    with pytest.raises(MismatchError, match="expected a"):
        a.require(b, "these vectors do not belong together")


def test_ids_of_digits_stay_text(tmp_path):
    lines = [{"id": "007", "embedding": A}, {"id": "7", "embedding": B}]
    found, info, _ = read(put(tmp_path / "x.jsonl", lines))
    assert (found.ids, info.ids) == (("007", "7"), "texts")
    write(f"{tmp_path}/y.jsonl", found)
    assert read(f"{tmp_path}/y.jsonl")[0].ids == ("007", "7")


@pytest.mark.parametrize("value", [float("nan"), {1: float("inf")}])
def test_payload_that_json_has_not(tmp_path, value):
    batch = Batch(("x",), np.array([A], np.float32), ({"price": value},))
    with pytest.raises(InputError, match="a payload cannot be written as JSON"):
        write(f"{tmp_path}/x.jsonl", batch)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("default")  # a warning is an error elsewhere in these tests
def test_a_missing_label_is_remarked(tmp_path, capfd):
    lines = [json.dumps({"embedding": [i, 1.0], "label": "x"}) for i in range(4)]
    lines.append(json.dumps({"embedding": [9.0, 1.0]}))
    path = tmp_path / "v.jsonl"
    path.write_text("\n".join(lines))
    with pytest.warns(UserWarning, match="1 of 5 rows have no label, so no row is given one"):
        assert read_states(str(path)).labels == ()
    assert main(["head", str(path), str(tmp_path / "h.head.npz")]) == 2
    said = capfd.readouterr().err
    assert said.startswith("warning: 1 of 5 rows have no label")
    assert "UserWarning" not in said
