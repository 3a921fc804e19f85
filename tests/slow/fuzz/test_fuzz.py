"""Every loader of outside data, with damaged inputs: a result or a named error, nothing else.

README.md says how to run it for long.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import archives, documents, frames
from fuzz.contract import Broken, Finding, Hang, outcome, working_folder
from fuzz.frames import CANONICAL, Frame
from fuzz.targets import _FOLDER, TARGETS, Target
from linalign_lite.errors import FormatError

EXAMPLES = 150
_SLOW = {"public-key", "secret-key", "score", "decrypt", "inspect", "budget", "results", "bundle",
         "offer", "answer"}  # fmt: skip


@pytest.fixture(scope="module")
def folder():
    with working_folder() as where:
        yield where


@pytest.fixture(params=list(TARGETS))
def target(request):
    return TARGETS[request.param]


def test_inputs_that_are_right_are_let_in(target, folder):
    assert [outcome(target, seed, folder) for seed in target.corpus] == ["accepted"] * len(
        target.corpus
    )


@pytest.mark.parametrize("name", TARGETS)
def test_damage(name, folder):
    target = TARGETS[name]

    @settings(
        max_examples=EXAMPLES // 2 if name in _SLOW else EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, (1 << 32) - 1))
    def holds(seed):
        outcome(target, target.draw(Random(seed)), folder)

    holds()


@pytest.mark.parametrize("name", TARGETS)
def test_bytes_that_are_nothing(name, folder):
    @settings(max_examples=25, derandomize=True, deadline=None, database=None)
    @given(st.binary(max_size=300))
    def holds(data):
        outcome(TARGETS[name], data, folder)

    holds()


# --- single inputs: formerly failing, or especially nasty -----------------------------------------


def _npz(seed: bytes, change) -> bytes:
    members = archives.unzip(seed)
    assert members
    return archives.rezip(members, **(change({m.name: m for m in members}) or {}))


def _map(change) -> bytes:
    return _npz(TARGETS["map"].corpus[0], change)


def _card(**changes) -> bytes:
    def change(m):
        text = m[b"card.npy"].data[10:]
        card = json.loads(text[text.index(b"\n") :])
        m[b"card.npy"].data = archives.card_member({**card, **changes}).data

    return _map(change)


def _raw_card(text: bytes) -> bytes:
    def change(m):
        m[b"card.npy"].data = archives.npy(archives.header_of("|u1", f"({len(text)},)"), text)

    return _map(change)


def _weight(descr: str, shape: str, body: bytes) -> bytes:
    def change(m):
        m[b"weight.npy"].data = archives.npy(archives.header_of(descr, shape), body)

    return _map(change)


def _stated(**fields) -> bytes:
    def change(m):
        m[b"weight.npy"].central |= fields

    return _map(change)


def _bomb() -> bytes:
    def change(m):
        m[b"weight.npy"].data, m[b"weight.npy"].packed = archives.zeros(), archives.deflated()

    return _map(change)


def _overlapping() -> bytes:
    members = archives.unzip(TARGETS["map"].corpus[0])
    assert members
    copies = [archives.Member(b"o%d.npy" % i, members[0].data, at=0) for i in range(5000)]
    return archives.rezip([*members, *copies], end={"here": 3, "all": 3})


def _frame(name: str, i: int = 0) -> Frame:
    frame = frames.parse(TARGETS[name].corpus[i])
    assert frame
    return frame


def _described(name: str, **changes) -> bytes:
    frame = _frame(name)
    frame.meta = documents.text_of({**json.loads(frame.meta), **changes}, **CANONICAL)
    return frame.encode()


def _raw_description(text: bytes) -> bytes:
    frame = _frame("query")
    frame.meta = text
    return frame.encode()


def _filled(name: str, content: bytes) -> bytes:
    frame = _frame(name)
    size = len(frame.records[0])
    frame.records[0] = (content + bytes(size))[:size]
    return frame.encode()


def _info(name: str, **changes) -> bytes:
    raw = json.loads(TARGETS[name].corpus[0])
    raw["meta"] |= changes
    return json.dumps(raw).encode()


def _sealed(**changes) -> bytes:
    return documents.sealed({**json.loads(TARGETS["model-card"].corpus[0]), **changes})


def _settings(file: str, text: str) -> bytes:
    return bytes([list(_FOLDER).index(file)]) + text.encode()


def _budget(statement: str) -> bytes:
    import contextlib
    import sqlite3

    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        seed = TARGETS["budget"].corpus[1]
        db.deserialize(seed[:18] + b"\1\1" + seed[20:])  # a database in memory has no log
        db.execute("PRAGMA writable_schema = ON")
        db.execute(statement)
        data = db.serialize()
        return data[:18] + seed[18:20] + data[20:]


def _raw_infinity() -> bytes:
    text = archives.unzip(TARGETS["map"].corpus[0])
    assert text
    card = next(m.data for m in text if m.name == b"card.npy")[10:]
    card = card[card.index(b"\n") + 1 :].replace(b'"penalty": 0.5', b'"penalty": 1e999')
    for spaces in range(12):  # one in six is printed too
        data = _raw_card(card + b" " * spaces)
        if zlib.crc32(data) % 6 == 0:
            return data
    raise AssertionError


def _labels(labels: list[str]) -> bytes:
    def change(m):
        text = m[b"card.npy"].data[10:]
        card = json.loads(text[text.index(b"\n") :])
        m[b"card.npy"].data = archives.card_member({**card, "labels": labels}).data

    return _npz(TARGETS["states"].corpus[0], change)


HUGE = 10**4000  # as many digits as json reads without complaint
NASTY = {
    # found by fuzzing
    "float of one byte": ("map", lambda: _weight("<f1", "(2, 3)", bytes(6))),
    "card of floats of one byte": ("any-npz", lambda: _weight("|f1", "(2, 3)", bytes(6))),
    "infinity in a card": ("inspect", _raw_infinity),
    "infinity in a card that is saved again": ("map", _raw_infinity),
    "huge batch in a query": ("query-info", lambda: _info("query-info", batch=HUGE)),
    "huge chunks in a query": ("query", lambda: _described("query", chunks=HUGE)),
    "huge batch in a response": ("response", lambda: _described("response", batch=HUGE)),
    "escapes in a label": ("response", lambda: _described("response", labels=["\x1b[2J", "b",
        "c"])),
    "escapes in a label of states": ("states", lambda: _labels(["no", "\x1b[2J", "z"])),
    "secret of zeros": ("secret-key", lambda: _filled("secret-key", b"")),
    "budget whose names are not UTF-8": (
        "budget",
        lambda: _budget("UPDATE sqlite_master SET name = CAST(x'e7ff' AS TEXT), sql = 'x'"),
    ),
    "list of settings": ("model-folder", lambda: _settings("1_Pooling/config.json", "[]")),
    "number of settings": ("model-folder", lambda: _settings("tokenizer_config.json", "7")),
    "list of special tokens": ("model-folder", lambda: _settings("special_tokens_map.json", "[1]")),
    "architectures by name": ("model-folder", lambda: _settings("config.json",
        '{"architectures":{"a":1}}')),
    "number of architectures": ("model-folder", lambda: _settings("config.json",
        '{"architectures":3}')),
    "padding in words": (
        "model-folder",
        lambda: _settings(
            "config.json",
            '{"model_type":"roberta","max_position_embeddings":5,"pad_token_id":"mean"}',
        ),
    ),
    "padding of infinity": (
        "model-folder",
        lambda: _settings(
            "config.json",
            '{"model_type":"roberta","max_position_embeddings":5,"pad_token_id":1e999}',
        ),
    ),
    "padding of a list": (
        "model-folder",
        lambda: _settings(
            "config.json",
            '{"model_type":"roberta","max_position_embeddings":5,"pad_token_id":[1]}',
        ),
    ),
    "settings that are deep": ("model-folder", lambda: _settings("config.json", "[" * 100_000)),
    # .npz
    "deflated bomb": ("map", _bomb),
    "bomb called stored": ("map", lambda: _stated(method=0, size=1 << 31, packed=1 << 31)),
    "size of 4 GiB": ("map", lambda: _stated(size=(1 << 32) - 2)),
    "overlapping members, uncounted": ("map", _overlapping),
    "member at itself": ("map", lambda: _stated(at=0)),
    "encrypted member": ("map", lambda: _stated(flags=1)),
    "shape of 10^28": ("map", lambda: _weight("<f4", f"({10**14}, {10**14})", b"")),
    "no rows, 10^15 columns": ("map", lambda: _weight("<f4", f"(0, {10**15 - 1})", b"")),
    "shape that wraps around": ("map", lambda: _weight("<f4", f"({1 << 32}, {1 << 32})", b"")),
    "object array": ("map", lambda: _weight("|O", "(2, 3)", b"cos\nsystem\n(S'true'\ntR.")),
    "header that is code": ("map", lambda: _weight("<f4", "(__import__('os'),)", b"")),
    "header of 60 kB": ("map", lambda: _weight("<f4", "(" + "1, " * 20_000 + ")", b"")),
    "ZIP64 that asks for all": ("map", lambda: _map(lambda m: {"big": {"size": 1 << 63,
        "at": 1 << 62}})),
    "deep card": ("any-npz", lambda: _raw_card(b"[" * 100_000)),
    "deep format": ("any-npz", lambda: _raw_card(b'{"format":' + b"[" * 960 + b"]" * 960 + b"}")),
    "card of half a surrogate": ("any-npz", lambda: _raw_card(b'{"format":"\\ud800","version":1}')),
    "card of huge digits": ("any-npz",
        lambda: _raw_card(b'{"format":"linalign-map","version":' + b"9" * 4299 + b"}")),
    "card that says it twice": ("any-npz",
        lambda: _raw_card(b'{"format":"x","format":"linalign-map"}')),
    "card that is not UTF-8": ("any-npz", lambda: _raw_card(b'{"format":"\xff"}')),
    "space that is a list": ("map", lambda: _card(source=[1])),
    # framed files
    "4 GiB of records": ("query", lambda: _frame("query").encode(n=1 << 32)),
    "records of 2^64": ("query", lambda: _frame("query").encode(size=(1 << 64) - 1)),
    "description of 4 GiB": ("query", lambda: _frame("query").encode(length=(1 << 32) - 1)),
    "no record": ("query", lambda: _frame("query").encode(n=0)),
    "deep description": ("query", lambda: _raw_description(b'{"a":' * 1500 + b"1" + b"}" * 1500)),
    "description said twice": ("query", lambda: _raw_description(b'{"n":1,"n":1}')),
    "NaN in a description": ("query", lambda: _raw_description(b'{"n":NaN}')),
    "infinity in a description": ("query", lambda: _raw_description(b'{"n":1e999}')),
    "2^24 outputs": ("response", lambda: _described("response", n_outputs=1 << 24, labels=[])),
    "soft cap next to nothing": ("decrypt", lambda: _described("response", softcap=5e-324)),
    "half a surrogate in a label": ("response", lambda: _described("response", labels=["\ud800",
        "b", "c"])),
    "Zstandard bomb as a query": ("score", lambda: _filled("query", frames.zstd_bomb())),
    "SEAL's compressed object as a query": ("score", lambda: _filled("query",
        frames.saved_by_seal())),
    "SEAL's compressed object as a public key": ("public-key", lambda: _filled("public-key",
        frames.saved_by_seal())),
    "SEAL's compressed object as a response": ("decrypt", lambda: _filled("response",
        frames.saved_by_seal())),
    "query of zeros": ("score", lambda: _filled("query", b"")),
    "query of ones": ("score", lambda: _filled("query", b"\xff" * (1 << 20))),
    # the rest
    "deep model card": ("model-card", lambda: b'{"format":' + b"[" * 100_000),
    "past of a number": ("model-card", lambda: _sealed(past=[1])),
    "files of a list": ("model-card", lambda: _sealed(files=["model.onnx", "tokenizer.json"])),
    "texts that are deep": ("texts-jsonl", lambda: b"[" * 100_000),
    "label of 4,299 digits": ("texts-jsonl", lambda: b'{"text":"a","label":' + b"9" * 4299 + b"}"),
    "field of 1 MB": ("texts-csv", lambda: b'text\n"' + b"x" * (1 << 20)),
    "budget with a trigger": (
        "budget",
        lambda: _budget(
            "CREATE TRIGGER t AFTER INSERT ON pending BEGIN UPDATE budget SET states = 9; END"
        ),
    ),
    "budget that counts down": ("budget", lambda: _budget("UPDATE pending SET states = -9")),
}  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
def test_nasty_input_is_refused_or_harmless(name, folder):
    target, build = NASTY[name]
    outcome(TARGETS[target], build(), folder)


# --- the net has no holes -------------------------------------------------------------------------


def _failing(error: BaseException | None, took: float = 0.0) -> Target:
    def run(data: bytes, folder: Path) -> None:
        if error:
            raise error
        held = bytearray(1 << 30)
        held[::4096] = b"\1" * len(held[::4096])

    return Target("failing", lambda: [b""], documents.mutate_json, run)


@pytest.mark.parametrize(
    "error",
    [TypeError("x"), Broken("x"), Hang(), MemoryError(), FormatError("x" * 2000), RecursionError(),
        None],
    ids=lambda e: type(e).__name__,
)  # fmt: skip
def test_what_breaks_the_contract_is_found(error, folder):
    with pytest.raises(Finding):
        outcome(_failing(error), b"", folder)


@pytest.mark.parametrize("name", ["query", "response", "public-key", "secret-key"])
def test_frames_are_rebuilt_as_they_were(name):
    for seed in TARGETS[name].corpus:
        frame = frames.parse(seed)
        assert frame
        assert frame.encode() == seed


@pytest.mark.parametrize("name", ["states", "map", "head"])
def test_archives_are_rebuilt_so_that_they_load(name, folder):
    for seed in TARGETS[name].corpus:
        members = archives.unzip(seed)
        assert members
        assert outcome(TARGETS[name], archives.rezip(members), folder) == "accepted"


@pytest.mark.parametrize("name", TARGETS)
def test_damage_repeats_with_its_seed(name):
    target = TARGETS[name]
    assert [target.draw(Random(i)) for i in range(5)] == [target.draw(Random(i)) for i in range(5)]
