"""Batches in threads and tokens computed ahead give the same states, in order."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from support import TEXTS, Fake
from tokenizers import processors

from linalign_lite import demo, load_model
from linalign_lite.errors import InputError, LinalignError, MismatchError
from linalign_lite.extraction import inference, pipeline, session
from linalign_lite.extraction.corpus import Chunk
from linalign_lite.extraction.pipeline import extract, extract_shards, extract_to
from linalign_lite.extraction.tokenizer import load_tokenizer, read_ends


@dataclass
class Slow(Fake):
    """Fails on one token; records the batches and how many ran at once."""

    callers: int = 3
    bad: int = -1
    ran: list = field(default_factory=list)
    inside: int = 0
    most: int = 0
    gate: threading.Lock = field(default_factory=threading.Lock)

    def run(self, ids, mask):
        with self.gate:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.ran.append(len(ids))
        try:
            if (ids == self.bad).any():
                raise LinalignError("a batch fails")
            threading.Event().wait(0.002 * (ids.shape[1] % 3))  # so that batches end out of order
            return super().run(ids, mask)
        finally:
            with self.gate:
                self.inside -= 1


@pytest.mark.parametrize("pooling", ["mean", "last", "cls", "tokens"])
def test_several_threads_give_the_states_of_one(pooling):
    options = {"pooling": pooling, "batch_tokens": 30}
    one, model = extract(Fake(), TEXTS, **options), Slow()
    seen: list[int] = []
    many = extract(model, TEXTS, progress=seen.append, **options)
    np.testing.assert_array_equal(one.states, many.states)
    assert sum(seen) == sum(model.ran) == len(TEXTS.texts)
    assert 1 < model.most <= 3


def test_a_batch_that_fails_ends_the_extraction():
    model = Slow(bad=ord("V"))
    with pytest.raises(LinalignError, match="a batch fails"):
        extract(model, [*"abcdefgh" * 20, "V", *"ijkl" * 40], batch_tokens=4)
    assert model.inside == 0
    assert threading.active_count() < 20  # no thread is left


def test_few_batches_are_computed_ahead():
    model = Slow(callers=2)
    options = inference.ExtractionOptions(model.space("mean", None), 8, 2, "fp32", 50)
    texts = inference.encode(model, Chunk(0, ("a",) * 50), options)
    batches = inference._run(model, texts, 2, lambda _: None)
    next(batches)
    assert len(model.ran) <= 2 + 3
    batches.close()
    assert len(model.ran) <= 2 + 3


def test_the_next_window_is_tokenised_while_the_model_runs(monkeypatch):
    """The second window is tokenised before the first window's model calls end."""
    split = threading.Event()
    asked: list[bool] = []

    class Watching(Fake):
        def encode(self, texts, max_length, *, places):
            if "second" in texts:
                split.set()
            return super().encode(texts, max_length, places=places)

        def run(self, ids, mask):
            asked.append(split.wait(20))
            return super().run(ids, mask)

    monkeypatch.setattr(pipeline, "WINDOW", 1)
    extract(Watching(), ["first", "second"])
    assert asked == [True, True]


def test_an_error_ahead_is_raised_in_order():
    class Empty(Fake):
        def encode(self, texts, max_length, *, places):
            found = super().encode(texts, max_length, places=places)
            return [
                session.Encoded([], [], [], False) if t == "!" else e
                for t, e in zip(texts, found, strict=True)
            ]

    parts = extract_shards(Empty(), ["a", "b", "!", "c"], shard_texts=1)
    assert len(next(parts)) == len(next(parts)) == 1
    with pytest.raises(InputError, match="text 3 has no token left"):
        next(parts)


@pytest.mark.parametrize("name", ["ash", "birch"])
def test_many_batches_get_a_session_of_one_thread(name, monkeypatch):
    folder = demo.model_folder(name)
    texts = demo.public_texts().texts[:64]
    one = extract(load_model(folder, threads=1), texts, batch_tokens=64)
    model = load_model(folder, threads=2)
    assert model.runner(7)[1] == 1  # too few to be worth a session
    run, callers = model.runner(8)
    assert callers == 2
    assert run.args[0] is not model.session
    two = extract(model, texts, batch_tokens=64)
    np.testing.assert_allclose(one.states, two.states, atol=1e-6 * np.abs(one.states).max())
    monkeypatch.setattr(session, "DOUBLED", 1000)
    monkeypatch.setattr(session, "memory", lambda: 0)
    assert model.runner(8)[1] == 1
    monkeypatch.setattr(session, "memory", lambda: 16 * model._graph_size())
    assert model.runner(8)[1] == 2


def test_threads_are_at_most_those_that_a_model_may_have(monkeypatch):
    folder = demo.model_folder("ash")
    assert 1 <= load_model(folder).threads <= session.MAX_THREADS
    monkeypatch.setattr(session, "cores", lambda *, physical: 1000 if physical else 2000)
    assert load_model(folder).threads == session.MAX_THREADS


@pytest.mark.parametrize("length", [2, 3, 5, 9, 40])
@pytest.mark.parametrize("template", [None, "[A] $A", "$A [B]", "[A] $A [B]"])
def test_texts_are_cut_as_the_tokenizers_library_cuts_them(template, length):
    """The tokenizer, which threads share, is not changed."""
    model = load_model(demo.model_folder("birch"), threads=1)
    mine, theirs = (load_tokenizer(model.folder / "tokenizer.json") for _ in range(2))
    for tokenizer in (mine, theirs):
        if template:
            tokenizer.add_special_tokens(["[A]", "[B]"])
            special = [(name, tokenizer.token_to_id(name)) for name in ("[A]", "[B]")]
            tokenizer.post_processor = processors.TemplateProcessing(
                single=template, special_tokens=special
            )
    before = mine.to_str()
    theirs.enable_truncation(length)
    texts = ["one cat", "a", "the cat 猫 [B] sat on " * 9, "", *TEXTS.texts]
    found = replace(model, tokenizer=mine).encode(texts, length)
    for text, got, want in zip(texts, found, theirs.encode_batch(texts), strict=True):
        assert list(got.ids) == want.ids
        assert list(got.special) == want.special_tokens_mask
        assert list(got.char_end) == read_ends(text, want)
        assert got.cut == bool(want.overflowing)
    assert mine.to_str() == before


class Inline(Executor):
    """Runs each task when it is submitted."""

    def submit(self, function, /, *args):
        future: Future = Future()
        try:
            future.set_result(pickle.loads(pickle.dumps(function))(*args))
        except LinalignError as e:
            future.set_exception(e)
        return future


def test_a_worker_loads_its_model_once(tmp_path, monkeypatch):
    model = load_model(demo.model_folder("ash"), threads=1)
    loaded = []

    def load(folder, *, threads):
        loaded.append(folder)
        return load_model(folder, threads=threads)

    monkeypatch.setattr(pipeline, "load_model", load)
    pipeline._loaded.key = None
    here = extract_to(tmp_path / "here", model, TEXTS, shard_texts=2)
    there = extract_to(
        tmp_path / "there", model, TEXTS, shard_texts=2, executor=Inline(), threads=1
    )
    assert [s.sha256 for s in there.shards] == [s.sha256 for s in here.shards]
    assert loaded == [model.folder]


def test_a_worker_with_another_model_is_refused(tmp_path):
    ash, birch = (load_model(demo.model_folder(name), threads=1) for name in ("ash", "birch"))
    mixed = replace(ash, folder=birch.folder)
    with pytest.raises(MismatchError, match=r"a worker has another model at .*birch"):
        extract_to(tmp_path / "s", mixed, TEXTS, executor=Inline(), threads=1)


def test_positions_are_computed_on_request():
    model = load_model(demo.model_folder("ash"), threads=1)
    plain, placed = model.encode(["a cat"], places=False)[0], model.encode(["a cat"])[0]
    assert (plain.ids, plain.char_end, plain.special) == (placed.ids, (), ())
    assert len(placed.char_end) == len(placed.ids)
