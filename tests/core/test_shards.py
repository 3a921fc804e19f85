"""Folders of shards: the same states as in one file, bounded memory, and refused folders."""

from __future__ import annotations

import json
import os
import shutil
import tracemalloc
import weakref
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import TEXTS, Fake

from linalign_lite import demo, load_model
from linalign_lite.commands import main
from linalign_lite.commands.describe_file import describe
from linalign_lite.core.hidden_states import HiddenStates, text_digest
from linalign_lite.core.serialization import load_states
from linalign_lite.core.shards import manifest, states_folder
from linalign_lite.core.shards.states_folder import (
    StatesFolder,
    open_folder,
    open_states,
    states_of,
    write_shards,
)
from linalign_lite.core.space import Space
from linalign_lite.errors import FormatError, InputError, MismatchError, OutputExistsError
from linalign_lite.extraction import inference, pipeline
from linalign_lite.extraction.pipeline import extract, extract_shards, extract_to, narrow
from linalign_lite.extraction.texts import Texts
from linalign_lite.heads.serialization import save
from linalign_lite.storage import atomic, npz
from linalign_lite.storage.hashing import hash_file

ASH = str(demo.model_folder("ash"))


@pytest.fixture(scope="module", params=["ash", "birch"])
def model(request):
    return load_model(demo.model_folder(request.param), threads=1)


def same(a: HiddenStates, b: HiddenStates) -> None:
    for field in fields(HiddenStates):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype, field.name
            np.testing.assert_array_equal(x, y, err_msg=field.name)
        else:
            assert x == y, field.name


def states(n: int, *, model: str = "ab" * 32, pooling: str = "tokens", first: int = 0,
           each: int = 2, dtype: type = np.float32) -> HiddenStates:  # fmt: skip
    """Make states of n texts of ``each`` tokens (or one row), the first of them text ``first``."""
    index = np.repeat(np.arange(first, first + n, dtype=np.int32), each)
    if pooling != "tokens":
        index = np.arange(first, first + n, dtype=np.int32)
    tokens = pooling == "tokens"
    return HiddenStates(
        np.arange(3 * len(index)).reshape(-1, 3).astype(dtype) + first,
        Space(3, model, "made", pooling),
        text_digest([str(i) for i in range(first, first + n)]),
        n_texts=n,
        n_cut=n // 2,
        max_length=8,
        labels=("no", "yes"),
        label_ids=index % 2,
        text_index=index if tokens else None,
        char_end=index * 3 if tokens else None,
        next_token=index + 5 if tokens else None,
    )


def made(folder: Path, *parts: HiddenStates) -> StatesFolder:
    digest = text_digest(map(str, range(sum(p.n_texts for p in parts))))
    return write_shards(folder, parts, text_digest=digest)


# --- the same states ------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "tokens"])
@pytest.mark.parametrize("size", [1, 4, 9, 100])
def test_shards_put_together_are_extract_bit_for_bit(model, monkeypatch, tmp_path, pooling, size):
    options = {"pooling": pooling, "max_length": 9, "normalize": True}
    parts = list(extract_shards(model, TEXTS, shard_texts=size, **options))
    assert [p.n_texts for p in parts] == [min(size, 9 - i) for i in range(0, 9, size)]
    # each equals extract of its texts alone
    for i, part in enumerate(parts):
        rows = slice(i * size, (i + 1) * size)
        alone = extract(model, Texts(TEXTS.texts[rows]), **options)
        np.testing.assert_array_equal(part.states, alone.states)
        assert (part.text_digest, part.n_cut) == (alone.text_digest, alone.n_cut)
        if pooling == "tokens":
            np.testing.assert_array_equal(part.text_index, alone.text_index + i * size)
            np.testing.assert_array_equal(part.char_end, alone.char_end)
    folder = extract_to(tmp_path / "s", model, TEXTS, shard_texts=size, **options)
    loaded = folder.load()
    whole = extract(model, TEXTS, **options)
    np.testing.assert_allclose(loaded.states, whole.states, atol=2e-5)
    # all of them equal extract of all texts when the batches are the same
    monkeypatch.setattr(pipeline, "WINDOW", size)
    same(loaded, extract(model, TEXTS, **options))
    assert whole.n_cut > 0


@pytest.mark.parametrize("labelled", [True, False])
def test_a_folder_says_of_all_texts_what_extract_says(tmp_path, labelled):
    texts = TEXTS if labelled else Texts(TEXTS.texts)
    model = Fake()
    written = extract_to(tmp_path / "s", model, texts, shard_texts=2, max_length=6)
    opened = open_folder(tmp_path / "s")
    assert opened == written
    whole = extract(model, texts, max_length=6)
    same(opened.load(), whole)
    same(states_of(tmp_path / "s"), whole)
    assert isinstance(open_states(tmp_path / "s"), StatesFolder)
    assert opened.rows == len(whole)
    assert [s.first_text for s in opened.shards] == [0, 2, 4, 6, 8]
    assert [s.rows for s in opened.shards] == [len(p) for p in opened]
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == [
        *(f"0000{i}.states.npz" for i in range(5)),
        "manifest.json",
    ]
    # a shard is an ordinary file of states
    alone = load_states(tmp_path / "s" / "00003.states.npz")
    assert set(alone.text_index) == {6, 7}
    assert alone.text_digest == text_digest(texts.texts[6:8])
    assert alone.labels == (("a", "b", "c") if labelled else ())


def test_a_file_is_opened_like_a_folder(tmp_path):
    save(tmp_path / "x.npz", states(4))
    same(states_of(tmp_path / "x.npz"), states(4))
    same(open_states(tmp_path / "x.npz"), states(4))


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    each=st.integers(1, 3),
    pooling=st.sampled_from(["mean", "tokens"]),
    dtype=st.sampled_from([np.float16, np.float32]),
)
@settings(max_examples=15, deadline=None, derandomize=True)
def test_any_cut_gives_the_same_whole(tmp_path_factory, sizes, each, pooling, dtype):
    parts, first = [], 0
    for n in sizes:
        parts.append(states(n, first=first, each=each, pooling=pooling, dtype=dtype))
        first += n
    folder = made(tmp_path_factory.mktemp("any") / "s", *parts)
    assert (folder.n_texts, folder.n_cut) == (first, sum(n // 2 for n in sizes))
    for part, read in zip(parts, open_folder(folder.folder), strict=True):
        same(part, read)
    np.testing.assert_array_equal(folder.load().states, np.concatenate([p.states for p in parts]))


# --- memory ---------------------------------------------------------------------------------------


def watch(monkeypatch, room, name, array):
    """Count, at each call of a function, the arrays of its earlier calls that are still alive."""
    refs: list[weakref.ref] = []
    counts: list[int] = []
    real = getattr(room, name)

    def watched(*args, **kwargs):
        counts.append(sum(ref() is not None for ref in refs))
        value = real(*args, **kwargs)
        refs.append(weakref.ref(array(value)))
        return value

    monkeypatch.setattr(room, name, watched)
    return counts


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_a_shard_is_freed_before_the_next_is_made_or_read(monkeypatch, tmp_path, dtype):
    made = watch(monkeypatch, inference, "states_of", lambda part: part.states)
    kept = watch(monkeypatch, pipeline, "narrow", lambda states: states)
    folder = extract_to(tmp_path / "s", Fake(), TEXTS, shard_texts=2, dtype=dtype)
    assert made == kept == [0] * 5
    read = watch(monkeypatch, states_folder, "load_states", lambda part: part.states)
    folder.load()
    describe(folder.folder)
    assert read == [0] * 10


def test_memory_grows_with_a_shard_not_with_the_texts(tmp_path):
    """128 texts in shards of 8 allocate no more than 16 texts do (NumPy reports to tracemalloc)."""
    model, shard = Fake(512), 8 * 64 * 512 * 4  # bytes of 8 texts
    peaks = []
    for n in (16, 128):
        tracemalloc.start()
        try:
            extract_to(tmp_path / str(n), model, ["x" * 64] * n, shard_texts=8, batch_tokens=65)
            for part in open_folder(tmp_path / str(n)):
                del part
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[1] < 4 * shard  # with the blocks in which a file is written and read
    assert peaks[1] - peaks[0] < shard / 2


def test_shards_are_computed_on_demand():
    seen: list[int] = []
    parts = extract_shards(Fake(), TEXTS, shard_texts=4, progress=seen.append)
    assert sum(seen) == 0
    next(parts)
    assert sum(seen) == 4
    for part in parts:
        del part
    assert sum(seen) == 9


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shard_texts": 0}, "texts per shard is not usable: got 0, expected 1 or more"),
        ({"dtype": "fp64"}, "unknown dtype: got fp64"),
        ({"pooling": "median"}, "unknown pooling"),
        ({"batch_tokens": 0}, "token budget"),
    ],
)
def test_wrong_options_are_named_at_once(tmp_path, options, words):
    with pytest.raises(InputError, match=words):
        extract_shards(Fake(), TEXTS, **options)  # before the first shard is requested
    with pytest.raises(InputError, match=words):
        extract_to(tmp_path / "s", Fake(), TEXTS, **options)
    assert not list(tmp_path.iterdir())


def test_too_many_shards_are_refused_at_once(monkeypatch):
    monkeypatch.setattr(pipeline, "MAX_SHARDS", 4)
    with pytest.raises(InputError, match="expected 3 or more"):
        extract_shards(Fake(), TEXTS, shard_texts=2)
    assert len(list(extract_shards(Fake(), TEXTS, shard_texts=3))) == 3


def test_a_shard_without_a_row_is_refused_and_nothing_left(tmp_path):
    with pytest.raises(InputError, match="texts 3 to 4 have no token that is not special"):
        extract_to(tmp_path / "s", Fake(), ["a", "b", "_", "__", "c"], shard_texts=2)
    assert not list(tmp_path.iterdir())
    # beside a text that has tokens, such a text is an ordinary one
    got = extract_to(tmp_path / "s", Fake(), ["a", "b", "_", "__", "c"], shard_texts=3).load()
    assert got.text_index.tolist() == [0, 1, 4]
    assert got.n_texts == 5


def test_half_precision_halves_the_disk_and_refuses_what_it_cannot_hold(tmp_path):
    texts = ["words " * 200] * 4
    sizes = {}
    for dtype in ("fp32", "fp16"):
        folder = extract_to(tmp_path / dtype, Fake(16), texts, shard_texts=2, dtype=dtype)
        sizes[dtype] = (folder.folder / "00001.states.npz").stat().st_size
        assert folder.dtype == folder.load().states.dtype == pipeline.DTYPES[dtype]
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    with pytest.raises(InputError, match=r"beyond float16.*store them as fp32"):
        extract_to(tmp_path / "x", Fake(scale=1e4), texts, shard_texts=2, dtype="fp16")
    assert not (tmp_path / "x").exists()
    largest = np.array([[65504, -65504]], dtype=np.float32)
    np.testing.assert_array_equal(narrow(largest, "fp16"), largest)


# --- writing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (states(2, first=2, model="cd" * 32), "another space"),
        (states(2, first=2, pooling="mean"), "another space"),
        (states(2, first=2, dtype=np.float16), "another dtype"),
        (replace(states(2, first=2), labels=("no", "yes", "zero")), "another labels"),
        (replace(states(2, first=2), max_length=9), "another max length"),
        (states(2, first=0), "text indices outside"),
        (states(2, first=3), "text indices outside"),
        (
            replace(states(2, first=2), text_index=np.array([3, 2, 2, 3], dtype=np.int32)),
            "not in order",
        ),
        (replace(states(2, first=2), text_index=None), "token positions"),
        (replace(states(2, first=2), labels=(), label_ids=None), "labels"),
    ],
)
def test_a_part_that_does_not_continue_the_others_is_refused(tmp_path, second, words):
    with pytest.raises(MismatchError, match=words):
        made(tmp_path / "s", states(2), second)
    assert not list(tmp_path.iterdir())


def test_what_a_pooled_part_may_not_have(tmp_path):
    with pytest.raises(MismatchError, match="must have one row per text"):
        made(tmp_path / "s", replace(states(2, pooling="mean"), n_texts=3))
    with pytest.raises(InputError, match="no states to write"):
        made(tmp_path / "s")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [".", "..", "/"])
def test_a_folder_that_is_always_there_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is a folder already"):
        made(Path(name), states(2))


def test_any_failure_leaves_nothing_and_what_was_there_stays(tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("keep")
    with pytest.raises(OutputExistsError):
        made(tmp_path / "full", states(2))

    def cut_off():
        yield states(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(tmp_path / "s", cut_off(), text_digest="ab" * 32)
    monkeypatch.setattr(manifest, "MAX_MANIFEST", 500)
    with pytest.raises(InputError, match="too many for one folder"):
        made(tmp_path / "s", states(2), states(2, first=2))
    assert [p.name for p in tmp_path.rglob("*")] == ["full", "mine"]


# --- hostile folders ------------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path) -> Path:
    return made(tmp_path / "s", states(2), states(3, first=2), states(1, first=5)).folder


def sealed(folder: Path, change) -> None:
    """Edit the manifest with ``change``, and update its seal."""
    raw = json.loads((folder / "manifest.json").read_text())
    raw.pop("seal")
    change(raw)
    raw["seal"] = manifest.seal_of(raw)
    (folder / "manifest.json").write_text(json.dumps(raw))


def put(folder: Path, i: int, part: HiddenStates) -> None:
    """Replace shard i by another one, and update its digest in the manifest."""
    path = folder / f"0000{i}.states.npz"
    save(path, part)

    def vouch(raw):
        raw["shards"][i]["sha256"] = hash_file(path)

    sealed(folder, vouch)


def link(folder: Path, name: str) -> None:
    path = folder / name
    path.rename(folder.parent / "elsewhere")
    path.symlink_to("../elsewhere")


def grown(path: Path, size: int) -> None:
    with path.open("r+b") as f:
        f.truncate(size)  # a sparse file takes no space on the disk


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def field(name, value):
    return lambda f: sealed(f, lambda raw: raw.__setitem__(name, value))


def entry(i, name, value):
    return lambda f: sealed(f, lambda raw: raw["shards"][i].__setitem__(name, value))


def swapped(raw):
    raw["shards"][0], raw["shards"][1] = raw["shards"][1], raw["shards"][0]


def again(raw):
    raw["shards"].append(raw["shards"][2] | {"first_text": 6})
    raw |= {"n_texts": 7, "rows": 14}


SHARD, OTHER = "00001.states.npz", "00002.states.npz"
SECOND = states(3, first=2)
# Found in the manifest and the names of the files alone, before a shard is read.
BEFORE_READING = {
    "a name that leads out": (entry(1, "file", "../00001.states.npz"), "not have the name of its"),
    "an absolute name": (entry(1, "file", "/etc/passwd"), "not have the name of its"),
    "a name in a folder": (entry(1, "file", "sub/00001.states.npz"), "not have the name of its"),
    "a name with a backslash": (entry(1, "file", "..\\x"), "not have the name of its"),
    "no name": (entry(1, "file", None), r"shards\[1\].file is not usable: got null"),
    "a repeated name": (entry(1, "file", "00000.states.npz"), "not have the name of its"),
    "a repeated shard": (lambda f: sealed(f, again), "not have the name of its"),
    "swapped entries": (lambda f: sealed(f, swapped), "not have the name of its"),
    "a shard that is a link": (lambda f: link(f, SHARD), f"{SHARD} is a link"),
    "a manifest that is a link": (lambda f: link(f, "manifest.json"), "manifest.json is a link"),
    "a shard that is a pipe": (lambda f: pipe(f / SHARD), f"{SHARD} is a link, a folder or a dev"),
    "a manifest that is a pipe": (lambda f: pipe(f / "manifest.json"), "is a link, a folder"),
    "a missing shard": (lambda f: (f / SHARD).unlink(), f"{SHARD} is missing"),
    "a missing last shard": (lambda f: (f / OTHER).unlink(), f"{OTHER} is missing"),
    "another file": (lambda f: (f / "00003.states.npz").touch(), "does not belong"),
    "a hidden file": (lambda f: (f / ".x").touch(), r"\.x does not belong"),
    "another folder": (lambda f: (f / "sub").mkdir(), "sub does not belong"),
    "a shard cut short": (lambda f: grown(f / SHARD, 40), "size that its rows need"),
    "a shard of a terabyte": (lambda f: grown(f / SHARD, 1 << 40), "size that its rows need"),
    "a manifest of a gigabyte": (lambda f: grown(f / "manifest.json", 1 << 30), "too large"),
    "a manifest of nothing": (lambda f: grown(f / "manifest.json", 0), "not a usable manifest"),
    "more rows than there are": (field("rows", 13), "do not add up"),
    "more texts than there are": (field("n_texts", 7), "do not add up"),
    "more cut than there are": (field("n_cut", 3), "do not add up"),
    "a gap between texts": (entry(1, "first_text", 3), "do not follow"),
    "texts that overlap": (entry(1, "first_text", 1), "do not follow"),
    "a shard of no text": (entry(1, "n_texts", 0), "a shard is empty"),
    "a shard of no row": (entry(1, "rows", 0), "a shard is empty"),
    "more cut than texts": (entry(1, "n_cut", 4), "more of its texts were cut"),
    "fewer rows than none": (entry(1, "rows", -6), r"shards\[1\].rows is not usable: got -6"),
    "a count that is true": (
        entry(2, "n_texts", True),
        r"shards\[2\].n_texts is not usable: got true or false",
    ),
    "a count with a point": (entry(1, "rows", 6.0), r"shards\[1\].rows is not usable: got 6.0"),
    "a count past all numbers": (
        entry(1, "rows", 1 << 200),
        r"shards\[1\].rows is not usable: got 16",
    ),
    "a count that is a text": (field("n_texts", "6"), "n_texts is not usable: got text"),
    "no digest": (entry(1, "sha256", None), r"shards\[1\].sha256 is not usable: got null"),
    "a digest that is none": (
        field("text_digest", "AB" * 32),
        "text_digest is not usable: got 64 long",
    ),
    "another dtype": (field("dtype", "float64"), "dtype is unknown: got float64"),
    "a dtype that is a list": (field("dtype", []), r"dtype is unknown: got \[\]"),
    "no dimensions": (field("space", {"dim": 0}), "space lacks fields: expected "),
    "labels of bells": (field("labels", ["no", "\a"]), r"labels\[1\] is not usable: got 1 long"),
    "repeated labels": (field("labels", ["no", "no"]), "labels of the folder are not usable"),
    "labels that are one text": (field("labels", "ab"), "labels is not a list: got text"),
    "labels that are lists": (
        field("labels", [["no"], ["yes"]]),
        r"labels\[0\] is not usable: got a list",
    ),
    "no shards": (field("shards", []), "shards is not usable: got 0 long"),
    "shards that are a number": (field("shards", 3), "shards is not a list: got a whole number"),
    "shards that are numbers": (
        field("shards", [1, 2]),
        r"shards\[0\] is not an object: got a whole number",
    ),
    "too many shards": (
        field("shards", [{}] * (manifest.MAX_SHARDS + 1)),
        "shards is not usable: got 65537",
    ),
    "an unknown field": (field("folder", "/"), "has unknown fields: got folder"),
    "an unknown field of a shard": (entry(1, "x", 1), r"shards\[1\] has unknown fields: got x"),
    "a missing field": (
        lambda f: sealed(f, lambda raw: raw.pop("rows")),
        "lacks fields: expected rows",
    ),
    "a newer version": (field("version", 2), "unknown version"),
    "a version that is true": (field("version", True), "unknown version"),
    "another format": (
        field("format", "linalign-model"),
        "is not a manifest: got linalign-model, expected format linalign-states-folder",
    ),
    "a broken seal": (lambda f: altered(f / "manifest.json"), "its own digest"),
    "no JSON": (lambda f: (f / "manifest.json").write_text("{"), "not a usable manifest"),
    "NaN": (lambda f: (f / "manifest.json").write_text('{"rows": NaN}'), "not a usable manifest"),
    "a list": (lambda f: (f / "manifest.json").write_text("[]"), "is not a manifest"),
    "depth": (lambda f: (f / "manifest.json").write_text("[" * 90_000), "not a usable manifest"),
    "no text": (lambda f: (f / "manifest.json").write_bytes(b"\xff"), "not a usable manifest"),
}
# Found when the shard is read.
INSIDE = {
    "a flipped byte": (lambda f: flipped(f / SHARD), "does not have the digest"),
    "a shard of another model": (lambda f: put(f, 1, states(3, first=2, model="ef" * 32)),
                                 "another space"),
    "a shard of another pooling": (
        lambda f: put(f, 1, replace(SECOND, space=replace(SECOND.space, pooling="mean"))),
        "another space"),
    "a shard of other labels": (lambda f: put(f, 1, replace(SECOND, labels=("no", "yep"))),
                                "another labels"),
    "a shard of another context": (lambda f: put(f, 1, replace(SECOND, max_length=7)),
                                   "another max length"),
    "a shard of another dtype": (lambda f: put(f, 1, states(3, first=2, dtype=np.float16)),
                                 "another dtype"),
    "text indices before its texts": (lambda f: put(f, 1, states(3, first=1)), "text indices"),
    "text indices after its texts": (lambda f: put(f, 1, states(3, first=3)), "text indices"),
    "text indices out of order": (
        lambda f: put(f, 1, replace(SECOND, text_index=SECOND.text_index[::-1].copy())),
        "text indices"),
    "another number of texts": (lambda f: put(f, 1, replace(SECOND, n_texts=4)), "other counts"),
    "another number of cuts": (lambda f: put(f, 1, replace(SECOND, n_cut=0)), "other counts"),
    "another number of rows": (lambda f: put(f, 1, states(2, first=2, each=4)), "other counts"),
    "no text indices": (lambda f: put(f, 1, replace(SECOND, text_index=None)), "token positions"),
    "no labels of its rows": (
        lambda f: put(f, 1, replace(SECOND, labels=(), label_ids=None)), "labels"),
    "no states file": (lambda f: vouched(f, b"x" * 400), "is not a readable|does not end"),
}  # fmt: skip


def altered(path: Path) -> None:
    path.write_text(path.read_text().replace('"n_cut": 2', '"n_cut": 1', 1))


def flipped(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def vouched(folder: Path, content: bytes) -> None:
    (folder / SHARD).write_bytes(content)
    entry(1, "sha256", hash_file(folder / SHARD))(folder)


@pytest.mark.parametrize("name", sorted(BEFORE_READING))
def test_attacks_are_refused_before_a_shard_is_read(name, good, monkeypatch):
    attack, words = BEFORE_READING[name]
    attack(good)
    monkeypatch.setattr(states_folder, "load_states", lambda _: pytest.fail("a shard was read"))
    monkeypatch.setattr(states_folder, "hash_file", lambda _: pytest.fail("a shard was hashed"))
    with pytest.raises(FormatError, match=words) as caught:
        open_folder(good)
    assert str(good) in str(caught.value)
    with pytest.raises(FormatError):
        describe(good)


@pytest.mark.parametrize("name", sorted(INSIDE))
def test_attacks_inside_a_shard_are_refused_and_name_it(name, good):
    attack, words = INSIDE[name]
    attack(good)
    opened = open_folder(good)
    for read in (
        lambda: list(opened),
        opened.load,
        lambda: describe(good),
        lambda: states_of(good),
    ):
        with pytest.raises(FormatError, match=words) as caught:
            read()
        assert SHARD in str(caught.value)


def test_pooled_rows_must_be_as_many_as_texts(tmp_path):
    good = made(
        tmp_path / "s", states(2, pooling="mean"), states(3, first=2, pooling="mean")
    ).folder
    sealed(good, lambda raw: (raw["shards"][0].update(rows=3), raw.update(rows=6)))
    with pytest.raises(FormatError, match="must have one row per text"):
        open_folder(good)


def test_a_folder_changed_after_it_was_opened_is_refused(good):
    opened = open_folder(good)
    link(good, SHARD)
    with pytest.raises(FormatError, match=f"{SHARD} is a link"):
        list(opened)
    (good / SHARD).unlink()
    with pytest.raises(FormatError, match=f"{SHARD} is missing"):
        list(opened)


def test_a_cap_is_kept_before_anything_is_read(good, monkeypatch):
    size = 12 * (3 * 4 + 4 * 4)
    assert len(states_of(good, cap=size)) == 12
    monkeypatch.setattr(states_folder, "load_states", lambda _: pytest.fail("a shard was read"))
    with pytest.raises(FormatError, match=f"got {size} bytes, expected at most {size - 1}"):
        states_of(good, cap=size - 1)


def test_rows_that_the_disk_does_not_hold_are_refused_unallocated(good):
    def claim(raw):
        raw["shards"][2]["rows"] = 1 << 40
        raw["rows"] = (1 << 40) + 10

    sealed(good, claim)
    with pytest.raises(FormatError, match="size that its rows need"):
        open_folder(good)


def test_what_is_no_folder_of_states_is_an_input_error(tmp_path):
    for path in (tmp_path, tmp_path / "gone", demo.model_folder("ash")):
        with pytest.raises(
            InputError, match=r"not a folder of states: no manifest\.json"
        ) as caught:
            open_folder(path)
        assert not isinstance(caught.value, FormatError)
    with pytest.raises(InputError, match="cannot read"):
        states_of(tmp_path / "gone")


def test_the_manifest_is_as_the_format_says(good):
    raw = json.loads((good / "manifest.json").read_text())
    assert set(raw) == {
        "format", "version", "space", "dtype", "text_digest", "n_texts", "n_cut", "max_length",
        "labels", "rows", "shards", "library", "seal",
    }  # fmt: skip
    assert (raw["format"], raw["version"]) == ("linalign-states-folder", 1)
    assert raw["text_digest"] == text_digest("012345")
    assert raw["shards"][1] == {
        "file": SHARD, "sha256": hash_file(good / SHARD), "rows": 6, "first_text": 2,
        "n_texts": 3, "n_cut": 1,
    }  # fmt: skip
    assert npz.peek_npz(good / SHARD)["format"] == "linalign-states"


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    lines = [
        json.dumps({"text": t, "label": x}) for t, x in zip(TEXTS.texts, TEXTS.labels, strict=True)
    ]
    Path("t.jsonl").write_text("\n".join([*lines[:3], "", *lines[3:]]))
    return tmp_path


def call(capsys, *args, code=0):
    assert main([str(a) for a in args]) == code
    return capsys.readouterr()


def test_extract_writes_and_inspect_reads_a_folder(here, capsys):
    said = call(capsys, "extract", ASH, "t.jsonl", "whole", "--pooling", "tokens", "--shard-texts",
                4, "--max-length", 9, "--threads", 1, "--json")  # fmt: skip
    data = json.loads(said.out)
    whole = states_of("whole")
    assert data == {
        "out": "whole", "rows": len(whole), "dim": whole.space.dim, "texts": 9, "cut": whole.n_cut,
        "blank": 1, "pooling": "tokens", "prompt": "", "labels": 3, "text_digest": TEXTS.digest,
        "shards": 3,
    }  # fmt: skip
    assert "1 blank line(s) skipped" in said.err
    assert f"{whole.n_cut} text(s) cut to 9 tokens" in said.err
    call(capsys, "extract", ASH, "t.jsonl", "whole.npz", "--pooling", "tokens", "--max-length", 9,
         "--threads", 1)  # fmt: skip
    in_one = load_states("whole.npz")
    np.testing.assert_allclose(whole.states, in_one.states, atol=2e-5)
    same(replace(whole, states=in_one.states), in_one)
    found = json.loads(call(capsys, "inspect", "whole", "--json").out)
    of_file = json.loads(call(capsys, "inspect", "whole.npz", "--json").out)
    assert found == of_file | {"kind": "folder of hidden states", "shards": 3}
    assert "folder of hidden states" in call(capsys, "inspect", "whole").out
    flipped(here / "whole" / SHARD)
    assert f"{SHARD} does not have the digest" in call(capsys, "inspect", "whole", code=2).err


def test_the_default_shard_and_an_empty_folder(here, capsys):
    (here / "out").mkdir()
    said = call(capsys, "extract", ASH, "t.jsonl", "out", "--quiet")
    assert said.out.startswith("out: 9 states of ")
    assert said.out.endswith(" dimensions, mean pooling, 3 labels, 1 shards\n")
    assert said.err == ""
    assert [s.n_texts for s in open_folder("out").shards] == [9]
    same(states_of("out"), states_of("out"))


@pytest.mark.parametrize("out", ["x.npz", "x"])
def test_labels_stay_at_home_if_asked(here, capsys, out):
    said = call(capsys, "extract", ASH, "t.jsonl", out)
    assert "3 labels go wherever the states go" in said.err
    assert states_of(out).labels
    said = call(capsys, "extract", ASH, "t.jsonl", f"y{out}", "--no-labels")
    assert "label" not in said.err + said.out
    assert states_of(f"y{out}").labels == ()


@pytest.mark.parametrize("out", ["x.npz", "x"])
def test_the_command_stores_half_precision(here, capsys, out):
    call(capsys, "extract", ASH, "t.jsonl", out, "--dtype", "fp16", "--threads", 1)
    half = states_of(out)
    call(capsys, "extract", ASH, "t.jsonl", f"y{out}", "--threads", 1)
    full = states_of(f"y{out}")
    assert full.states.dtype == np.float32
    same(half, replace(full, states=full.states.astype(np.float16)))
    assert json.loads(call(capsys, "inspect", out, "--json").out)["dtype"] == "float16"


def test_wrong_outputs_are_refused_before_the_model_is_loaded(here, capsys):
    (here / "full").mkdir()
    (here / "full" / "mine").write_text("keep")
    (here / "file").write_text("keep")
    (here / "link").symlink_to("nowhere")
    before = sorted(here.rglob("*"))
    cases = [
        (("full",), "full is already there and is not an empty folder"),
        (("file",), "file is already there and is not an empty folder"),
        (("link",), "link is already there and is not an empty folder"),
        (("t.jsonl",), "is an input of this command"),
        (("gone/x",), "the folder gone is not there"),
        ((".",), "is a folder"),
        (("x.npz", "--shard-texts", 4), "--shard-texts is for a folder: got x.npz"),
        (("x", "--shard-texts", 0), "--shard-texts"),
        (("x", "--dtype", "fp64"), "fp64"),
        (("x.npy",), "states are not written to .npy: got x.npy"),
        (("x.json",), "states are not written to .json"),
        (("x", "--no-labels", "--label-field", "l"), "exclude each other"),
    ]
    for args, words in cases:
        said = call(capsys, "extract", "no-such-model", "t.jsonl", *args, code=2)
        assert words in said.err, args
        assert said.out == ""
    assert sorted(here.rglob("*")) == before
    assert (here / "full" / "mine").read_text() == "keep"
    assert (here / "file").read_text() == "keep"


def test_a_full_disk_leaves_no_folder(here, capsys, monkeypatch):
    def full(_fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    said = call(capsys, "extract", ASH, "t.jsonl", "x", "--shard-texts", 2, code=1)
    assert said.err.endswith("error: No space left on device\n")
    assert [p.name for p in here.iterdir()] == ["t.jsonl"]


def test_a_folder_survives_a_copy(good, tmp_path):
    shutil.copytree(good, tmp_path / "copy")
    same(states_of(tmp_path / "copy"), states_of(good))
