"""Decoders of every make: token by token as the library decodes, or refused by name."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace as replace_fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from linalign_lite import AffineMap, demo, load_model, save
from linalign_lite.commands import main
from linalign_lite.errors import FormatError, InputError
from linalign_lite.generation.decoding.detokenizer import StreamingDetokenizer, TokenBytes
from linalign_lite.generation.hybrid import generate

META = "\u2581"
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": True,
    "trim_offsets": True,
    "use_regex": True,
}
TO_SPACE = {"type": "Replace", "pattern": {"String": META}, "content": " "}


def replace(content, **pattern):
    return {"type": "Replace", "pattern": pattern, "content": content}


def strip(character, start, stop=0):
    return {"type": "Strip", "content": character, "start": start, "stop": stop}


def metaspace(scheme):
    return {"type": "Metaspace", "replacement": META, "prepend_scheme": scheme, "split": True}


FUSE, FALLBACK = {"type": "Fuse"}, {"type": "ByteFallback"}
CTC = {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True}
SUFFIX = {"type": "BPEDecoder", "suffix": "</w>"}
PARTS = [
    FUSE, FALLBACK, BYTE_LEVEL, TO_SPACE, replace("x", String="ab"), replace("y", Regex="b+"),
    replace("", String="c"), strip(" ", 1), strip(META, 2), metaspace("always"), metaspace("never"),
    {"type": "WordPiece", "prefix": "##", "cleanup": True},
    {"type": "WordPiece", "prefix": "##", "cleanup": False}, CTC, SUFFIX,
]  # fmt: skip
# as in transformers' conversions of GGUF files
GGUF = [FALLBACK, FUSE, TO_SPACE]
GGUF_BYTES = [*GGUF, BYTE_LEVEL]
WORDS = ["<s>", "girl", "a", "b", "ab", "c", META, f"{META}a", f"{META}b ", "##a", "##b", ".",
         META * 2, "n't", " ", "a</w>"]  # fmt: skip
LETTERS = ["<s>", "girl", "a", "b", "c", "\u0120", "\u0120a", "\u00c3", "\u00a9", "\u00c3\u00a9",
           "\u0120\u0120", "ab", "\u00e2", "\u0138", "\u0123", "##b"]  # fmt: skip
BYTES = [f"<0x{b:02X}>" for b in (0x41, 0x20, 0xE2, 0x96, 0x81, 0xC3, 0xA9, 0x63)]


def made(names, decoder):
    special = {"id": 0, "content": "<s>", "special": True, "single_word": False, "lstrip": False,
               "rstrip": False, "normalized": False}  # fmt: skip
    vocabulary = {name: i for i, name in enumerate(names)}
    return Tokenizer.from_str(json.dumps({
        "version": "1.0", "added_tokens": [special], "decoder": decoder,
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    }))  # fmt: skip


def sequence(*steps):
    return {"type": "Sequence", "decoders": list(steps)}


def streamed(table, ids, follows_text):
    detokenizer = StreamingDetokenizer(table, follows_text=follows_text)
    return "".join([*map(detokenizer.push, ids), detokenizer.close()])


def check_streams(tok, ids):
    """Streams, whole and after a word, are the library's decode; so are characters read at once."""
    table, start = TokenBytes(tok), len(tok.decode([1]))
    assert streamed(table, ids, follows_text=False) == tok.decode(ids)
    if table.kind == "whole":
        assert table.problem
        return
    after = tok.decode([1, *ids])[start:]
    assert streamed(table, ids, follows_text=True) == after
    pending, text, taken = b"", "", []
    for i in ids:
        found = table.append(pending, i)
        if found is not None:
            text, pending, taken = text + found[0], found[1], [*taken, i]
    if not pending:
        assert text == tok.decode([1, *taken])[start:]


@given(
    steps=st.lists(st.sampled_from(PARTS), min_size=1, max_size=5),
    names=st.sampled_from([WORDS, LETTERS]),
    more=st.sampled_from([[], BYTES, [META, "\u4f60 x"], [*BYTES, "\u4f60 x"]]),
    nested=st.integers(0, 4),
    seed=st.integers(0, 1 << 30),
)
@settings(max_examples=400, deadline=None, derandomize=True)
def test_any_decoder_of_known_parts_streams_as_it_decodes(steps, names, more, nested, seed):
    names = [*names, *(n for n in more if n not in names)]
    decoder = sequence(sequence(*steps[:nested]), *steps[nested:]) if nested else sequence(*steps)
    tok, rng = made(names, decoder), random.Random(seed)
    for _ in range(8):
        check_streams(tok, [rng.randrange(len(names) + 2) for _ in range(rng.randrange(10))])


@pytest.mark.parametrize(
    ("steps", "names", "kind"),
    [
        (GGUF_BYTES, LETTERS, "bytes"),
        ([*GGUF_BYTES, strip(" ", 1)], LETTERS, "bytes"),
        ([sequence(BYTE_LEVEL)], LETTERS, "bytes"),
        (GGUF, [*WORDS, *BYTES], "pieces"),
        ([*GGUF, strip(" ", 1)], [*WORDS, *BYTES], "pieces"),
        ([TO_SPACE, FALLBACK, FUSE], [*WORDS, *BYTES], "pieces"),
        ([TO_SPACE, FALLBACK, FUSE, strip(" ", 1)], [*WORDS, *BYTES], "pieces"),
        ([metaspace("always")], WORDS, "pieces"),
        ([{"type": "WordPiece", "prefix": "##", "cleanup": True}], WORDS, "pieces"),
    ],
)
def test_decoders_that_models_have_stream(steps, names, kind):
    tok, rng = made(names, sequence(*steps)), random.Random(4)
    assert TokenBytes(tok).kind == kind
    for _ in range(60):
        check_streams(tok, [rng.randrange(len(names)) for _ in range(rng.randrange(12))])


@pytest.mark.parametrize(
    ("steps", "names", "problem"),
    [
        ([CTC], WORDS, "CTC"),
        ([SUFFIX], WORDS, "BPEDecoder"),
        ([FUSE, replace("x", String="ab")], WORDS, "Replace of more than a character"),
        ([FUSE, strip(" ", 0, 1)], WORDS, "Strip at the end"),
        (GGUF_BYTES, [*LETTERS, "\u4f60 x"], "ByteLevel after Fuse, and a token that is not"),
        ([BYTE_LEVEL, BYTE_LEVEL], LETTERS, "ByteLevel after ByteLevel"),
        ([{"type": "WordPiece", "prefix": "##", "cleanup": True}, FALLBACK], [*WORDS, *BYTES],
         "ByteFallback after a step"),
    ],
)  # fmt: skip
def test_what_cannot_stream_is_refused_by_name(steps, names, problem):
    table = TokenBytes(made(names, sequence(*steps)))
    with pytest.raises(InputError, match=f"x's tokenizer cannot decode token by token.*{problem}"):
        table.require_streaming("x")


def test_a_decoder_on_which_the_library_panics_is_named():
    tok = made(["<s>", "girl", "", "a"], strip(" ", 0, 1))
    with pytest.raises(FormatError, match="a tokenizer's decoder fails"):
        TokenBytes(tok).decode([2], follows_text=False)


def with_decoder(folder, out, *steps):
    raw = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    raw["decoder"] = sequence(*steps)
    shutil.copytree(folder, out)
    (out / "tokenizer.json").write_text(json.dumps(raw), encoding="utf-8")


def test_the_same_text_through_a_converted_decoder():
    birch = load_model(demo.model_folder("birch"), threads=1)
    eye = np.eye(birch.card.hidden_size, dtype=np.float32)
    space = birch.card.space("tokens", normalize=False)
    affine = AffineMap(eye, np.zeros(len(eye), dtype=np.float32), space, space)
    texts = []
    for decoder in (None, sequence(*GGUF_BYTES)):
        if decoder:
            raw = {**json.loads(birch.tokenizer.to_str()), "decoder": decoder}
            tok = Tokenizer.from_str(json.dumps(raw))
            assert TokenBytes(tok).kind == "bytes"
            birch = replace_fields(birch, tokenizer=tok)
        for a_map in (None, affine):
            found = generate(birch, birch, "Once upon a time", affine=a_map, max_tokens=30)
            texts.append("".join(piece.text for piece in found))
    assert len(set(texts)) == 1


def test_a_decoder_is_refused_before_any_model_is_loaded(tmp_path, capsys, monkeypatch):
    ash, birch = (load_model(demo.model_folder(n), threads=1).card for n in ("ash", "birch"))
    weight = np.zeros((birch.hidden_size, ash.hidden_size), dtype=np.float32)
    spaces = [card.space("tokens", normalize=False) for card in (ash, birch)]
    save(tmp_path / "m.map.npz", AffineMap(weight, weight[:, 0], *spaces))
    with_decoder(demo.model_folder("birch"), tmp_path / "odd", CTC)
    (tmp_path / "t.txt").write_text("One day there was a cat.\n")
    monkeypatch.setattr("linalign_lite.commands.generation.load_limited", None)  # not called
    models = ("--source", str(demo.model_folder("ash")), "--target", str(tmp_path / "odd"),
              "--map", str(tmp_path / "m.map.npz"))  # fmt: skip
    for args in (("generate", "Once"), ("evaluate-generation", str(tmp_path / "t.txt"))):
        assert main([*args, *models]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert (
            "odd's tokenizer cannot decode token by token: got a decoder with CTC" in captured.err
        )
