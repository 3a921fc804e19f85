"""Generation: each part alone, two models together, and the command."""

from __future__ import annotations

import codecs
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite import AffineMap, Head, Space, demo, load_model, save
from linalign_lite.commands import main
from linalign_lite.errors import InputError, LinalignError, MismatchError
from linalign_lite.extraction.tokenizer import byte_alphabet
from linalign_lite.generation.decoding import sampling
from linalign_lite.generation.decoding.detokenizer import StreamingDetokenizer, TokenBytes
from linalign_lite.generation.decoding.incremental_tokenizer import (
    PATTERNS,
    WINDOW,
    IncrementalTokenizer,
)
from linalign_lite.generation.decoding.kv_cache import OLDER_CACHES, CachedModel
from linalign_lite.generation.decoding.sampling import RepetitionPenalty, StopStrings, make_sampler
from linalign_lite.generation.decoding.token_scores import MAX_FOLD, TokenScores
from linalign_lite.generation.hybrid import Piece, generate

PROMPT = "Once upon a time"
STORY = (
    "Once upon a time there was a little girl. She said: \u201cI can\u2019t see it!\u201d  Then "
    "she went to the cafe\u0301 (12,345 people)\nand met a cat \U0001f642, who spoke Chinese: "
    "\u4f60\u597d. They were happy ever after, and the dog too; "
) * 6
COMMAND = [str(Path(sys.executable).with_name("linalign-lite"))]
FOLDERS = {name: str(demo.model_folder(name)) for name in ("ash", "birch")}
exactly = settings(max_examples=60, deadline=None, derandomize=True)


@cache
def model(name):
    return load_model(demo.model_folder(name), threads=1)


def text_of(generation):
    return "".join(piece.text for piece in generation)


def tokens_of(generation):
    return [piece.token for piece in generation if piece.token is not None]


def a_map(source, target, weight=None, pooling="tokens", **names):
    """A map between two models' token states; random without a weight."""
    ends = [m.card.space(pooling, normalize=False) for m in (source, target)]
    if weight is None:
        weight = np.random.default_rng(3).normal(size=(ends[1].dim, ends[0].dim)) / 8
    bias = np.zeros(ends[1].dim, dtype=np.float32)
    return AffineMap(weight.astype(np.float32), bias, *ends, **names)


def identity(name):
    return a_map(model(name), model(name), np.eye(model(name).card.hidden_size))


# --- tokenizers -----------------------------------------------------------------------------------


def _trained(kind):
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, processors, trainers
    from tokenizers import pre_tokenizers as splits

    corpus = [STORY[i : i + 300] for i in range(0, 1200, 150)]
    special = ["<unk>", "<s>", "</s>"]
    quiet = {"special_tokens": special, "show_progress": False}
    if kind == "wordpiece":
        tok = Tokenizer(models.WordPiece(unk_token="<unk>"))
        tok.normalizer = normalizers.BertNormalizer()
        tok.pre_tokenizer, tok.decoder = splits.BertPreTokenizer(), decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=300, **quiet)
    elif kind == "unigram":
        tok = Tokenizer(models.Unigram())
        tok.normalizer = normalizers.NFKC()
        tok.pre_tokenizer, tok.decoder = splits.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=200, unk_token="<unk>", **quiet)
    elif kind == "llama3":
        tok = Tokenizer(models.BPE())
        tok.pre_tokenizer = splits.Sequence([
            splits.Split(Regex(max(PATTERNS)), "isolated"), splits.ByteLevel(False, use_regex=False)
        ])  # fmt: skip
        tok.decoder = decoders.ByteLevel()
        alphabet = splits.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, **quiet)
    else:  # merges across words, as SentencePiece allows
        tok = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        tok.normalizer = normalizers.Sequence(
            [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
        )
        tok.decoder = decoders.Sequence([
            decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ])  # fmt: skip
        quiet["special_tokens"] = [*special, *(f"<0x{b:02X}>" for b in range(256))]
        trainer = trainers.BpeTrainer(vocab_size=460, limit_alphabet=40, **quiet)
    tok.train_from_iterator(corpus, trainer)
    if kind == "merges":
        raw = json.loads(tok.to_str())
        raw["added_tokens"] = raw["added_tokens"][:3]  # the byte tokens are ordinary ones
        tok = Tokenizer.from_str(json.dumps(raw))
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return tok


@cache
def tokenizer(kind):
    if kind in ("ash", "birch"):
        return load_model(demo.model_folder(kind)).tokenizer
    return _trained(kind)


KINDS = ["ash", "birch", "wordpiece", "unigram", "llama3", "merges"]
characters = st.one_of(
    st.sampled_from("abcdefgh  .,'!\n\u2581\u0301"), st.characters(exclude_categories=["Cs"])
)
words = st.sampled_from(
    [" the", " a", " girl", "Once", " can't", "\u4f60", "</s>", " <s>", "  ", "\n", " 12"]
)
pieces = st.lists(st.one_of(words, st.text(characters, max_size=8)), max_size=30)


def check_growing(tok, start, parts):
    growing, text = IncrementalTokenizer(tok), start
    for part in ["", *parts]:
        text += part
        tok.no_truncation()
        found = tok.encode(text)
        mask = found.special_tokens_mask
        end = max((i for i, special in enumerate(mask) if not special), default=len(mask) - 1) + 1
        assert growing.encode(text) == found.ids[:end]
    return growing


@pytest.mark.parametrize("kind", KINDS)
@given(begin=st.integers(0, 300), length=st.integers(0, 700), parts=pieces)
@exactly
def test_a_growing_text_is_tokenised_as_if_whole(kind, begin, length, parts):
    check_growing(tokenizer(kind), STORY[begin : begin + length], parts)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_end_is_tokenised_again(kind):
    growing = check_growing(
        tokenizer(kind), STORY[:300], [STORY[i : i + 7] for i in range(300, 1200, 7)]
    )
    assert len(growing._settled) > 1200 - 2 * WINDOW
    assert check_growing(tokenizer(kind), STORY, ["x"])  # and with another text
    assert growing.encode("Another girl") == IncrementalTokenizer(tokenizer(kind)).encode(
        "Another girl"
    )


def test_merges_that_reach_far_back_are_found():
    """The 512th letter merges with all before it, settled ones too, into one token."""
    from tokenizers import Tokenizer, models

    sizes = [2**i for i in range(10)]
    vocab = {"a" * n: i for i, n in enumerate(sizes)} | {"c": 10}
    tok = Tokenizer(models.BPE(vocab=vocab, merges=[("a" * n, "a" * n) for n in sizes[:-1]]))
    assert tok.encode("c" + "a" * 512).ids == [10, 9]
    growing = check_growing(tok, "c" + "a" * 511, ["", "a", "a" * 40, "c", "a" * 300])
    assert len(growing._settled) > 500
    growing = IncrementalTokenizer(tok)
    growing.encode("c" + "a" * 511)
    growing.encode("c" + "a" * 511)
    assert len(growing._settled) > 256  # else this test would not see a wrong cut


def test_a_tokenizer_that_might_look_back_is_never_split():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    tok = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    tok.normalizer = normalizers.Strip()
    tok.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert IncrementalTokenizer(tok)._splitter is None
    tok.normalizer = normalizers.Lowercase()
    assert IncrementalTokenizer(tok)._splitter is not None
    from tokenizers import AddedToken

    tok.add_tokens([AddedToken("ab", lstrip=True)])
    assert IncrementalTokenizer(tok)._splitter is None


@pytest.mark.shared
@pytest.mark.parametrize("name", ["stories260k", "tinystories-656k", "all-minilm-l6-v2"])
def test_real_tokenizers_are_cut_exactly(shared, name):
    from tokenizers import Tokenizer

    tok = Tokenizer.from_file(str(shared / "models" / name / "tokenizer.json"))
    tok.no_padding()
    text = (shared / "data" / "tinystories_valid.txt").read_text(encoding="utf-8")[:2500]
    growing = check_growing(tok, text[:100], [text[i : i + 9] for i in range(100, 2500, 9)])
    assert len(growing._settled) > 2000
    check_growing(tok, STORY[:500], [STORY[i : i + 5] for i in range(500, 900, 5)])


# --- from tokens to text --------------------------------------------------------------------------


def decoded(table, ids, follows_text):
    detokenizer = StreamingDetokenizer(table, follows_text=follows_text)
    return "".join([*map(detokenizer.push, ids), detokenizer.close()])


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@exactly
def test_streamed_texts_together_are_the_tokenizers_decode(kind, data):
    tok = tokenizer(kind)
    table, size = TokenBytes(tok), tok.get_vocab_size()
    some = st.integers(0, size + 3)  # a head may have more outputs than the vocabulary
    if table.kind == "pieces" and tok.token_to_id("<0x00>") is not None:
        some |= st.sampled_from([tok.token_to_id(f"<0x{b:02X}>") for b in (0xE4, 0xBD, 0xA0, 0x41)])
    ids = data.draw(st.lists(some, max_size=25))
    assert decoded(table, ids, follows_text=False) == tok.decode(ids)
    before = tok.encode("girl", add_special_tokens=False).ids
    assert decoded(table, ids, follows_text=True) == tok.decode([*before, *ids])[len("girl") :]


@pytest.mark.parametrize("kind", ["ash", "birch", "merges", "llama3"])
def test_a_character_comes_whole_and_at_once(kind):
    tok = tokenizer(kind)
    table = TokenBytes(tok)
    assert table.kind == ("bytes" if kind in ("birch", "llama3") else "pieces")
    ids = tok.encode("a \U0001f642 b", add_special_tokens=False).ids
    detokenizer = StreamingDetokenizer(table, follows_text=False)
    said = [
        *map(detokenizer.push, ids),
        detokenizer.close(),
    ]  # "b" may be a fallback byte, whose run ends last
    assert not any("\ufffd" in s for s in said)
    assert "".join(said) == "a \U0001f642 b"
    # the source reads characters as soon as they are complete
    pending, text = b"", ""
    for i in ids:
        new, pending = table.append(pending, i)
        text += new
    assert (text.lstrip(), pending) == ("a \U0001f642 b", b"")


def test_a_decoder_that_looks_ahead_returns_text_at_the_end():
    from tokenizers import Tokenizer, decoders, models

    tok = Tokenizer(models.BPE(vocab={"a</w>": 0, "b": 1}, merges=[]))
    tok.decoder = decoders.BPEDecoder()
    table = TokenBytes(tok)
    assert table.kind == "whole"
    detokenizer = StreamingDetokenizer(table, follows_text=False)
    assert [detokenizer.push(0), detokenizer.push(0), detokenizer.close()] == ["", "", "a a"]
    with pytest.raises(InputError, match=r"cannot decode token by token.*BPEDecoder"):
        table.require_streaming("x")


def byte_letters(*tokens):
    from tokenizers import Tokenizer, decoders, models

    byte = {b: c for c, b in byte_alphabet().items()}
    names = ["".join(byte[b] for b in token) for token in tokens]
    tok = Tokenizer(models.BPE(vocab={n: i for i, n in enumerate(names)}, merges=[]))
    tok.decoder = decoders.ByteLevel()
    return TokenBytes(tok)


def test_only_bytes_that_continue_a_character_are_taken():
    table = byte_letters(b"a", b"\xe7", b"\x8c", b"\x8c\xab!", b"\xab\xe7", b"\xff")
    assert table.append(b"", 1) == ("", b"\xe7")
    assert table.append(b"", 2) is None  # continues no character
    assert table.append(b"", 5) is None
    assert table.append(b"\xe7", 0) is None
    assert table.append(b"\xe7", 3) == ("\u732b!", b"")
    assert table.append(b"\xe7\x8c", 4) == ("\u732b", b"\xe7")
    scores = table.mask_to_continuations(np.arange(9, dtype=np.float32))  # more outputs than tokens
    assert np.flatnonzero(np.isfinite(scores)).tolist() == [2, 3, 4]


@pytest.mark.parametrize(
    ("tokens", "good"),
    [
        ([b"\xe7"], False),  # no token continues it
        ([b"\xe7", b"\x8c"], True),  # twice
        ([b"\xf0\x9f", b"\x80\x80\xf0\x9f"], False),  # without end
        ([b"\xf0\x9f", b"\x80\x80\xf0\x9f", b"\x80\x80"], True),
        ([b"\xe0", b"\x80"], False),  # no character begins with E0 80
    ],
)
def test_a_character_that_cannot_be_completed_is_not_begun(tokens, good):
    assert (byte_letters(*tokens).append(b"", 0) is not None) == good


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ash", "birch"])
def test_cached_states_are_those_of_a_whole_run(name, rng):
    loaded = model(name)
    reader, ids = CachedModel(loaded), [1]
    for step in range(40):
        if step % 3 == 2:
            keep = int(rng.integers(0, len(ids) + 1)) if step % 2 else max(1, len(ids) - 2)
            ids = ids[:keep]
        ids = ids + rng.integers(3, 1000, size=int(rng.integers(0 if ids else 1, 9))).tolist()
        whole = np.array([ids])
        wanted = loaded.run(whole, np.ones_like(whole))[0, -1]
        np.testing.assert_allclose(reader.last_state(ids), wanted, atol=1e-4)
        assert len(reader._caches) <= OLDER_CACHES + 1
    assert reader.crops > 0
    with pytest.raises(InputError, match=r"got 385, expected 1 to 384"):
        reader.last_state([3] * 385)
    with pytest.raises(InputError, match="got 0"):
        reader.last_state([])


def test_only_new_tokens_are_run():
    reader = CachedModel(model("ash"))
    ids = list(range(3, 103))
    reader.last_state(ids)
    assert reader.tokens_run == 100
    reader.last_state([*ids, 7])
    assert (reader.tokens_run, reader.crops) == (101, 0)
    reader.last_state([*ids, 8, 9])  # the cache of 100 tokens is still there
    assert (reader.tokens_run, reader.crops) == (103, 0)
    reader.last_state([*ids[:50], 8])
    assert (reader.tokens_run, reader.crops) == (104, 1)
    reader.last_state([*ids[:50], 8])
    assert reader.tokens_run == 105


def test_a_failing_graph_is_named_and_its_cache_dropped():
    reader = CachedModel(model("ash"))
    wanted = reader.last_state([3, 4])
    with pytest.raises(LinalignError, match="fails on 1 tokens after 2"):
        reader.last_state([3, 4, 10**9])
    np.testing.assert_allclose(reader.last_state([3, 4]), wanted, atol=1e-5)


def test_a_model_without_a_cache_runs_on_all_tokens():
    loaded = model("ash")
    reader = CachedModel(loaded)
    reader._cached = False
    np.testing.assert_allclose(
        reader.last_state([3, 4, 5]), CachedModel(loaded).last_state([3, 4, 5]), atol=1e-5
    )
    reader.last_state([3, 4, 5, 6])
    assert reader.tokens_run == 7


# --- choosing and stopping ------------------------------------------------------------------------


def test_greedy_takes_the_first_of_the_highest():
    assert make_sampler()(np.array([0, 3, 3, 1], dtype=np.float32)) == 1
    for bad in ([np.nan, 1], [1, np.inf], [-np.inf, -np.inf]):
        for choose in (make_sampler(), make_sampler(1.0)):
            with pytest.raises(LinalignError, match="no token can be chosen"):
                choose(np.array(bad, dtype=np.float32))


def test_draws_have_the_requested_distribution():
    scores = np.log(np.array([0.1, 0.5, 0.05, 0.35], dtype=np.float32))

    def shares(temperature, top_p, n=4000):
        choose = make_sampler(temperature, top_p, seed=1)
        found = Counter(choose(scores) for _ in range(n))
        return [found[i] / n for i in range(4)]

    assert shares(1.0, 1.0) == pytest.approx([0.1, 0.5, 0.05, 0.35], abs=0.03)
    squares = np.array([0.01, 0.25, 0.0025, 0.1225])
    assert shares(0.5, 1.0) == pytest.approx(squares / squares.sum(), abs=0.03)
    assert shares(1.0, 0.49)[1] == 1  # the fewest tokens with that mass: one
    assert shares(1.0, 0.51) == pytest.approx([0, 0.5 / 0.85, 0, 0.35 / 0.85], abs=0.03)
    assert shares(1.0, 0.9)[2] == 0
    assert shares(1.0, 1e-9)[1] == shares(1e-300, 1.0)[1] == 1


@given(
    scores=st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=30),
    seen=st.lists(st.integers(0, 29)),
    penalty=st.floats(1, 3),
)
@exactly
def test_tokens_that_occurred_lose_and_no_other(scores, seen, penalty):
    given, seen = np.array(scores, dtype=np.float32), [t for t in seen if t < len(scores)]
    lower = RepetitionPenalty(penalty, seen[:1])
    for token in seen:
        lower.add(token)
    found = lower(given)
    assert given.tolist() == [np.float32(s) for s in scores]  # the caller's, as they were
    for token, before in enumerate(scores):
        once = before / penalty if before > 0 else before * penalty
        wanted = once if token in seen else before
        assert found[token] == pytest.approx(wanted, rel=1e-5)
        assert lower.lowers(token) == (penalty > 1 and token in seen)


@given(
    values=st.lists(st.integers(0, 6), min_size=1, max_size=80),
    top_p=st.floats(0.01, 1),
    first=st.integers(1, 9),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_a_nucleus_is_that_of_a_whole_sort(values, top_p, first):
    mass = np.array([*values, 3], dtype=np.float64)
    order = np.argsort(-mass, kind="stable")
    sums = np.cumsum(mass[order])
    wanted = order[: np.searchsorted(sums, top_p * sums[-1]) + 1]
    with mock.patch.object(sampling, "FIRST_SORTED", first):
        found = sampling._nucleus_of(mass, top_p * mass.sum())
    assert found.tolist() == wanted.tolist()


@given(
    st.lists(st.text("ab", max_size=3), max_size=12),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_no_stop_string_is_ever_shown(parts, strings):
    text = "".join(parts)
    ends = (n for n in range(len(text) + 1) if any(text[:n].endswith(s) for s in strings))
    end = next(ends, None)
    wanted = text
    if end is not None:
        wanted = text[: end - max(len(s) for s in strings if text[:end].endswith(s))]
    stops, shown = StopStrings(strings), ""
    for part in parts:
        shown += stops.push(part)
        assert wanted.startswith(shown)
    assert shown + stops.close() == wanted
    assert stops.met == (end is not None)
    if not strings:
        assert shown == text  # nothing is held back


# --- two models -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ash", "birch"])
def test_an_identity_map_generates_what_the_model_generates_alone(name):
    loaded = model(name)
    native = generate(loaded, loaded, PROMPT, max_tokens=120)
    hybrid = generate(loaded, loaded, PROMPT, max_tokens=120, affine=identity(name))
    assert native.summary is None
    said = list(native)
    assert [p for p in hybrid if p.token is not None] == said
    assert native.summary == hybrid.summary
    assert native.summary.reason == "length"
    ids = loaded.encode([PROMPT])[0].ids
    assert native.summary.tokens_read == len(ids) + 119
    whole = loaded.tokenizer.decode([*ids, *(p.token for p in said)])
    assert whole == PROMPT + "".join(p.text for p in said)


@pytest.mark.parametrize("name", ["ash", "birch"])
def test_a_repetition_penalty_ends_a_loop_the_same_way_alone_and_through_a_map(name):
    def repeats(said):
        tokens = tokens_of(said)
        return len(tokens) - len(set(tokens))

    loaded, free = model(name), [*generate(model(name), model(name), PROMPT, max_tokens=120)]
    options = {"max_tokens": 120, "repetition_penalty": 1.3}
    native = list(generate(loaded, loaded, PROMPT, **options))
    hybrid = generate(loaded, loaded, PROMPT, affine=identity(name), **options)
    assert [p for p in hybrid if p.token is not None] == native
    assert repeats(native) < 0.7 * repeats(free)
    with mock.patch("linalign_lite.generation.decoding.greedy_head.MIN_SIZE", 1):
        assert list(generate(loaded, loaded, PROMPT, **options)) == native  # by the int8 copy


@pytest.mark.parametrize(("source", "target"), [("ash", "birch"), ("birch", "ash")])
def test_the_source_reads_the_text_of_the_target(source, target):
    """Compare with tokenising all, running all, mapping, applying the head, and decoding all."""
    reads, speaks = model(source), model(target)
    affine = a_map(reads, speaks)
    generation = generate(reads, speaks, PROMPT, max_tokens=25, affine=affine)
    said = list(generation)
    head, table = speaks.token_head(), TokenBytes(speaks.tokenizer)
    text, pending = PROMPT, b""
    for piece in said:
        ids = np.array([reads.encode([text])[0].ids])
        state = reads.run(ids, np.ones_like(ids))[0, -1]
        scores = head(affine(state))
        order = np.argsort(-scores, kind="stable")
        best = next(int(t) for t in order if table.append(pending, int(t)) is not None)
        # whole and cached runs differ in the last bits, so nearly equal scores may swap
        assert scores[piece.token] == pytest.approx(scores[best], abs=1e-3)
        new, pending = table.append(pending, piece.token)
        assert piece.text == new
        text += new
    assert generation.summary.tokens == 25


def constant(name, order):
    """A token head with the same scores for every state: the first of ``order`` highest."""
    loaded = model(name)
    head = loaded.token_head()
    bias = np.zeros(head.n_outputs, dtype=np.float32)
    names = byte_alphabet() if name == "birch" else {}
    byte = {b: c for c, b in names.items()}
    for rank, token in enumerate(order):
        if isinstance(token, int):
            named = byte[token] if name == "birch" else f"<0x{token:02X}>"
        else:
            named = token
        bias[loaded.tokenizer.token_to_id(named)] = 100 - rank
    return Head(np.zeros(head.weight.shape, dtype=np.float32), bias, (), head.space)


@pytest.mark.parametrize("name", ["ash", "birch"])
def test_a_begun_character_is_completed_from_the_same_state(name):
    """E7 scores highest: then only bytes that continue it, of which AB scores highest."""
    loaded = model(name)
    head = constant(name, ["<s>", 0x80, 0xE7, "a", "</s>", 0xAB])
    generation = generate(
        loaded, loaded, PROMPT, affine=identity(name), head=head, max_tokens=8, stop=()
    )
    said = list(generation)
    assert [p.text for p in said] == ["", "", "\u7aeb"] * 2 + ["", ""]
    assert text_of(said) == "\u7aeb" * 2  # an incomplete character is dropped
    prompt = len(loaded.encode([PROMPT])[0].ids)
    ids = len(loaded.encode([PROMPT + "\u7aeb" * 2])[0].ids)
    assert generation.summary.tokens_read == ids
    assert ids > prompt


def test_the_end_of_text_ends_and_is_not_shown():
    loaded = model("ash")
    for affine in (None, identity("ash")):
        generation = generate(
            loaded, loaded, PROMPT, affine=affine, head=constant("ash", ["</s>", "a"])
        )
        assert list(generation) == []
        assert (generation.summary.reason, generation.summary.tokens) == ("eos", 0)


def test_a_token_that_the_source_does_not_see_is_not_repeated(monkeypatch):
    loaded = model("ash")
    encode = IncrementalTokenizer.encode
    monkeypatch.setattr(
        IncrementalTokenizer, "encode", lambda self, text: encode(self, text.replace("z", ""))
    )
    head = constant("ash", ["z", "a"])
    said = generate(loaded, loaded, PROMPT, affine=identity("ash"), head=head, max_tokens=4)
    assert text_of(said) == "zaza"


def test_stop_strings_end_the_text_before_them():
    loaded = model("ash")
    whole = text_of(generate(loaded, loaded, PROMPT, max_tokens=40))
    assert "little girl" in whole
    generation = generate(loaded, loaded, PROMPT, max_tokens=40, stop=["tle gi", "nowhere"])
    said = list(generation)
    assert text_of(said) == whole[: whole.index("tle gi")]
    assert generation.summary.reason == "stop"
    assert generation.summary.tokens == len(tokens_of(said)) < 40
    # a held beginning of a stop string is shown at the end
    begun = whole + "!"
    generation = generate(loaded, loaded, PROMPT, max_tokens=40, stop=[begun])
    assert list(generation)[-1] == Piece(whole, None)


def test_the_same_seed_draws_the_same_text():
    loaded = model("birch")

    def draw(seed, **options):
        return text_of(generate(loaded, loaded, PROMPT, max_tokens=30, seed=seed, **options))

    assert draw(5, temperature=1.0) == draw(5, temperature=1.0)
    assert draw(5, temperature=1.0) != draw(6, temperature=1.0)
    assert draw(5, temperature=1.0, top_p=1e-6) == draw(0)


@pytest.mark.parametrize("through_a_map", [False, True])
def test_a_full_context_ends_it(through_a_map):
    loaded = model("ash")
    affine = identity("ash") if through_a_map else None
    ids = loaded.tokenizer.encode("girl").ids
    text = "girl" + " girl" * (380 - len(ids) + 1 - 1)
    length = len(IncrementalTokenizer(loaded.tokenizer).encode(text))
    assert length <= 384
    generation = generate(loaded, loaded, text, affine=affine)
    count = len(tokens_of(generation))
    assert generation.summary.reason == "context"
    if not through_a_map:
        assert length + count == 385
    with pytest.raises(InputError, match=r"longer than the context.*at most 384") as error:
        generate(loaded, loaded, text + " girl" * 9, affine=affine)
    assert f"got {length + 9} tokens" in str(error.value)


def test_a_map_is_folded_where_that_is_less_work(rng):
    state = rng.normal(size=6).astype(np.float32)
    for outputs, inner, cap in ((9, 40, None), (300, 5, 3.0)):  # folded, and not
        head = Head(rng.normal(size=(outputs, inner)), rng.normal(size=outputs), softcap=cap)
        affine = AffineMap(rng.normal(size=(inner, 6)), rng.normal(size=inner))
        assert outputs * inner * 6 < MAX_FOLD
        got = TokenScores(head, affine)(state)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, head(affine(state)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_tokens": 0}, "max_tokens must be at least 1: got 0"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top-p"),
        ({"top_p": 1.1}, "top-p"),
        ({"repetition_penalty": 0.9}, "penalty is not usable: got 0.9"),
        ({"repetition_penalty": float("nan")}, "penalty is not usable"),
        ({"seed": -1}, "seed"),
        ({"stop": ["x", ""]}, "stop string"),
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": " \n"}, "the prompt is empty"),
        ({"prompt": "a\ud800"}, "no Unicode text"),
    ],
)
def test_unusable_options_are_refused(options, said):
    prompt = options.pop("prompt", PROMPT)
    with pytest.raises(InputError, match=said):
        generate(model("ash"), model("ash"), prompt, **options)


def test_parts_that_do_not_belong_together_are_refused(tmp_path):
    ash, birch = model("ash"), model("birch")
    with pytest.raises(InputError, match="need a map between them: got birch and ash"):
        generate(birch, ash, PROMPT)
    with pytest.raises(MismatchError, match="source model"):
        generate(birch, ash, PROMPT, affine=a_map(ash, ash))
    with pytest.raises(MismatchError, match="target model"):
        generate(birch, ash, PROMPT, affine=a_map(birch, birch))
    for pooling in ("mean", "last"):
        with pytest.raises(MismatchError, match=r"whole texts.*--pooling tokens"):
            generate(birch, ash, PROMPT, affine=a_map(birch, ash, pooling=pooling))
    good = a_map(birch, ash)
    with pytest.raises(MismatchError, match="head does not belong to ash"):
        generate(birch, ash, PROMPT, affine=good, head=birch.token_head())
    classes = Head(np.ones((2, 128)), np.zeros(2), ("x", "y"), Space(128))
    with pytest.raises(MismatchError, match="does not score the tokens of ash"):
        generate(birch, ash, PROMPT, affine=good, head=classes)
    unknown = AffineMap(good.weight, good.bias)  # of arrays, without spaces
    assert tokens_of(generate(birch, ash, PROMPT, affine=unknown, max_tokens=3))
    import dataclasses

    card = dataclasses.replace(
        ash.card, files={k: v for k, v in ash.card.files.items() if "head" not in k}
    )
    with pytest.raises(InputError, match="has no token head"):
        generate(birch, dataclasses.replace(ash, card=card), PROMPT, affine=good)


def test_scores_that_are_not_finite_are_named():
    wild = identity("ash")
    wild = AffineMap(wild.weight * np.float32(1e38), wild.bias, wild.source, wild.target)
    with np.errstate(all="ignore"), pytest.raises(LinalignError, match="no token can be chosen"):
        list(generate(model("ash"), model("ash"), PROMPT, affine=wild))


# --- the real models ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(shared, tmp_path_factory):
    pytest.importorskip("optimum")
    from linalign_lite.onnx.model_export import export_model

    root = tmp_path_factory.mktemp("models")
    for name in ("stories260k", "tinystories-656k"):
        export_model(str(shared / "models" / name), root / name)
    return root


@pytest.mark.shared
@pytest.mark.export
@pytest.mark.parametrize("name", ["stories260k", "tinystories-656k"])
def test_a_model_alone_generates_what_transformers_generates(shared, exported, name):
    transformers = pytest.importorskip("transformers")
    reference = transformers.AutoModelForCausalLM.from_pretrained(shared / "models" / name)
    encode = transformers.AutoTokenizer.from_pretrained(shared / "models" / name)
    ours = load_model(exported / name, threads=1)
    eos = ours.card.special["eos"]
    asked = ((PROMPT, 150, 1.0), ("The dog and", 40, 1.0), ("\u00e9", 20, 1.0), (PROMPT, 80, 1.3))
    for prompt, steps, penalty in asked:
        inputs = encode(prompt, return_tensors="pt")
        wanted = reference.generate(
            **{k: inputs[k] for k in ("input_ids", "attention_mask")}, do_sample=False,
            max_new_tokens=steps, eos_token_id=eos, pad_token_id=eos, repetition_penalty=penalty,
        )[0].tolist()  # fmt: skip
        new = wanted[inputs["input_ids"].shape[1] :]
        generation = generate(ours, ours, prompt, max_tokens=steps, repetition_penalty=penalty)
        said = list(generation)
        ended = bool(new) and new[-1] == eos
        assert tokens_of(said) == (new[:-1] if ended else new)
        assert generation.summary.reason == ("eos" if ended else "length")
        if prompt.isascii():  # one tokenizer lacks the letter
            assert ours.tokenizer.decode(wanted) == prompt + text_of(said)


@pytest.mark.shared
@pytest.mark.export
def test_real_models_through_an_identity_map(exported):
    for name in ("stories260k", "tinystories-656k"):
        ours = load_model(exported / name, threads=1)
        affine = a_map(ours, ours, np.eye(ours.card.hidden_size))
        native = text_of(generate(ours, ours, PROMPT, max_tokens=100))
        assert text_of(generate(ours, ours, PROMPT, max_tokens=100, affine=affine)) == native


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def map_file(tmp_path):
    path = tmp_path / "b-to-a.map.npz"
    save(path, a_map(model("birch"), model("ash")))
    return path


def arguments(map_file, *more):
    return ["generate", "--source", FOLDERS["birch"], "--target", FOLDERS["ash"],
            "--map", str(map_file), *more]  # fmt: skip


def run(*args, stdin=None, env=None):
    done = subprocess.run(
        [*COMMAND, *args], input=stdin, capture_output=True, check=False,
        env={**os.environ, **(env or {})},
    )  # fmt: skip
    assert b"Traceback" not in done.stderr
    return done


def test_the_command_prints_what_the_library_generates(map_file, capsys):
    wanted = generate(
        model("birch"),
        model("ash"),
        PROMPT,
        max_tokens=20,
        affine=a_map(model("birch"), model("ash")),
    )
    text, more = text_of(wanted), ["--max-tokens", "20", "--threads", "1"]
    assert main(arguments(map_file, PROMPT, *more)) == 0
    captured = capsys.readouterr()
    assert captured.out == text + "\n"
    assert captured.err == ""  # no terminal, no summary
    assert main(arguments(map_file, PROMPT, *more, "--json")) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["prompt"], found["text"], found["reason"]) == (PROMPT, text, "length")
    assert found["tokens"] == len(found["token_ids"]) == 20
    assert found["tokens_per_second"] > 0
    assert (found["source"], found["target"]) == ("birch", "ash")
    assert (
        main(arguments(map_file, PROMPT, *more, "--json", "--stop", text[5:9], "--stop", "q")) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (found["text"], found["reason"]) == (text[: text.index(text[5:9])], "stop")


def test_a_model_alone_reads_standard_input_and_writes_utf8():
    ash = ["generate", "--source", FOLDERS["ash"], "--target", FOLDERS["ash"]]
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    options = ["-", "--temperature", "3", "--seed", "2", "--max-tokens", "60"]
    done = run(*ash, *options, stdin=f"{PROMPT}\n".encode(), env=plain)
    assert done.returncode == 0
    loaded = model("ash")
    wanted = text_of(generate(loaded, loaded, PROMPT, temperature=3.0, seed=2, max_tokens=60))
    assert not wanted.isascii()  # else nothing is tested here
    assert done.stdout.decode() == wanted + "\n"
    done = run(*ash, "-", stdin=b"\xff")
    assert done.returncode == 2
    assert b"not UTF-8" in done.stderr
    done = run(*ash, "-", stdin=b"\n")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"the prompt is empty" in done.stderr


def test_the_command_refuses_a_map_of_whole_texts(tmp_path, capsys):
    path = tmp_path / "mean.map.npz"
    save(path, a_map(model("birch"), model("ash"), pooling="mean"))
    assert main(arguments(path, PROMPT)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "--pooling tokens" in captured.err


def test_a_closed_pipe_ends_the_command_quietly(map_file):
    with subprocess.Popen(
        [*COMMAND, *arguments(map_file, PROMPT, "--max-tokens", "300")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert len(process.stdout.read(10)) == 10
        process.stdout.close()
        assert process.stderr.read() == b""
        process.wait(60)


def test_printed_text_stays_when_interrupted(map_file):
    slow = arguments(map_file, PROMPT, "--temperature", "1", "--max-tokens", "100000")
    with subprocess.Popen(
        [*COMMAND, *slow], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        begun = process.stdout.read(5)
        process.send_signal(signal.SIGINT)
        rest, complaint = process.communicate(timeout=60)
    assert b"Traceback" not in complaint
    assert len(begun) == 5
    assert rest.endswith(b"\n")
    # the context may be full before the signal comes
    assert process.returncode in {130, 0}


def test_a_terminal_gets_the_summary(map_file, capsys, monkeypatch):
    for quiet in ([], ["--quiet"]):
        with monkeypatch.context() as patch:
            patch.setattr(sys.stderr, "isatty", lambda: True)
            assert main(arguments(map_file, PROMPT, "--max-tokens", "3", *quiet)) == 0
        said = capsys.readouterr().err
        assert ("3 tokens" in said and "ended by length" in said) == (not quiet)


def test_bytes_and_their_characters_round_trip():
    from tokenizers import pre_tokenizers

    assert sorted(byte_alphabet()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))
    cases = itertools.product((0x41, 0xC3, 0xE4, 0xF0, 0x80, 0xBD, 0xFF), repeat=3)
    table, byte = TokenBytes(tokenizer("birch")), {b: c for c, b in byte_alphabet().items()}
    for case in cases:
        ids = [table.tokenizer.token_to_id(byte[b]) for b in case]
        assert decoded(table, ids, follows_text=False) == table.tokenizer.decode(ids)
        assert table.tokenizer.decode(ids) == codecs.decode(bytes(case), "utf-8", "replace")


def test_every_end_of_text_of_the_card_ends_it():
    ash = model("ash")
    scores = np.zeros(ash.card.vocab_size, dtype=np.float32)
    scores[7] = 1
    own = ash.token_head()
    head = dataclasses.replace(own, weight=np.zeros_like(own.weight), bias=scores)
    assert ash.card.ends == {ash.card.special["eos"]}
    found = generate(ash, ash, "Once", head=head, max_tokens=3)
    assert (len(list(found)) > 0, found.summary.reason) == (True, "length")
    several = dataclasses.replace(ash, card=dataclasses.replace(ash.card, eos_token_ids=(2, 7)))
    found = generate(several, several, "Once", head=head, max_tokens=3)
    assert (list(found), found.summary.reason) == ([], "eos")
