"""Pairing of token positions, compared with slow loops."""

from __future__ import annotations

import json
import shutil
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from linalign_lite import HiddenStates, demo, extract, load_model
from linalign_lite.core.space import Space
from linalign_lite.core.token_alignment import RULES, boundary_rows, pair_positions, pair_states
from linalign_lite.errors import FormatError, InputError, MismatchError
from linalign_lite.extraction import tokenizer as tokenizer_module
from linalign_lite.extraction.model_card import seal_card
from linalign_lite.extraction.tokenizer import _whole_ends, load_tokenizer, read_ends

LINES = [
    "Once upon a time, there was a little girl named Lily.",
    "the cat sat on the mat  and  the dog ran to the cat",
    "a naïve café, 日本語 and é",
] * 3


# --- tokenizers of every kind ---------------------------------------------------------------------


def byte_level(prefix, *, bos=False, trim=True):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    made.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<s>", "</s>"]
    made.train_from_iterator(
        LINES,
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=names, initial_alphabet=letters, show_progress=False
        ),
    )
    made.post_processor = processors.ByteLevel(trim_offsets=trim)
    if bos:
        template = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
        made.post_processor = processors.Sequence([made.post_processor, template])
    return made


def byte_fallback():
    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    lines = [line.encode("ascii", "ignore").decode() for line in LINES]
    made.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>"], show_progress=False)
    )
    raw = json.loads(made.to_str())["model"]
    vocab = raw["vocab"]
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    merges = [tuple(pair) for pair in raw["merges"]]
    whole = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    whole.normalizer = made.normalizer
    whole.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return whole


def word_piece():
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.train_from_iterator(
        LINES,
        trainers.WordPieceTrainer(
            vocab_size=90, special_tokens=["[UNK]", "[CLS]", "[SEP]"], show_progress=False
        ),
    )
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return made


def unigram():
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.train_from_iterator(
        LINES,
        trainers.UnigramTrainer(
            vocab_size=70, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False
        ),
    )
    return made


KINDS = {
    "bytes": lambda: byte_level(prefix=False),
    "bytes, prefix": lambda: byte_level(prefix=True),
    "bytes, template": lambda: byte_level(prefix=True, bos=True),
    "fallback": byte_fallback,
    "wordpiece": word_piece,
    "unigram": unigram,
}
LOSSLESS = ["bytes", "bytes, prefix", "bytes, template", "fallback"]


@cache
def tokenizer(kind):
    """Load a tokenizer of this kind with load_tokenizer, through a file."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        KINDS[kind]().save(str(path))
        return load_tokenizer(path)


def rows_of(kind, texts):
    """Return (text_index, char_end) and, for the slow loops, (start, end) of every token."""
    index, ends, places = [], [], []
    for i, text in enumerate(texts):
        e = tokenizer(kind).encode(text)
        own = [k for k, special in enumerate(e.special_tokens_mask) if not special]
        read = read_ends(text, e)
        index += [i] * len(own)
        ends += [read[k] for k in own]
        places.append([e.offsets[k] for k in own])
    return (np.array(index, dtype=np.int32), np.array(ends, dtype=np.int32)), places


# what goes wrong first: split characters, composition, joiners, spaces of every width
AWKWARD = [
    "é", "e\u0301", "a\u0323\u0302", "ﬁ", "½", "㎏", "각", "\u1100\u1161\u11a8", "日本", "🙂",
    "👩\u200d👩\u200d👧", "🇳🇱", "\u00ad", "\ufe0f", "\u200b", "İ", "ß", "ﷺ", "\u3000", "\xa0",
    "  ", "\n", "the", " the", "cat", " cat", "Once", " q", "<s>", "▁", "Ġ", "\u0e33", "\u0301",
]  # fmt: skip
TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=12),
    st.lists(st.sampled_from(AWKWARD), max_size=8).map("".join),
)
CALM = settings(max_examples=200, derandomize=True, deadline=None)


def slow_boundary_rows(text, places):
    """Return {end: row} of one text: earlier tokens end by there, later ones start there."""
    covered = {c for start, end in places for c in range(start, end)}
    found = {}
    for row in range(len(places)):
        end = max(e for _, e in places[: row + 1])
        if end == 0 or any(start < end for start, e in places[row + 1 :] if start < e):
            continue
        while end < len(text) and end not in covered and not text[end].isspace():
            end += 1
        found[end] = row
    return found


# --- boundary_rows and pair_positions -------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ends", "rows"),
    [
        ([0, 0, 0], [1, 4, 5], [0, 1, 2]),
        ([0, 0, 0], [0, 4, 4], [2]),  # a prefix space alone, then two bytes of one character
        ([0, 0, 1, 1], [3, 3, 3, 3], [1, 3]),  # the same end in two texts
        ([0, 0, 0], [5, 3, 6], [0, 2]),  # backwards
        ([0, 0, 0], [5, 3, 5], [2]),  # backwards, and back
        ([0, 1], [9, 2], [0, 1]),  # ends restart with each text
        ([2, 2, 7], [0, 0, 0], []),
        ([], [], []),
    ],
)
def test_boundary_rows(text, ends, rows):
    got = boundary_rows(np.array(text, dtype=np.int32), np.array(ends, dtype=np.int32))
    assert got.dtype == np.intp
    assert got.tolist() == rows


ROWS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), max_size=40).map(
    lambda rows: sorted(rows, key=lambda row: row[0])  # stable: ends stay in any order
)


def arrays(rows):
    return tuple(np.array([row[k] for row in rows], dtype=np.int32) for k in (0, 1))


def slow_rows(rows):
    """Find the boundary rows with loops: (text, end) of each, in order, and its row."""
    found = {}
    top = {}
    for i, (text, end) in enumerate(rows):
        if end > 0 and end >= top.get(text, 0):
            top[text] = end
            found[text, end] = i
    return found


@CALM
@given(ROWS)
def test_boundary_rows_are_what_a_loop_finds(rows):
    assert boundary_rows(*arrays(rows)).tolist() == list(slow_rows(rows).values())


@CALM
@given(ROWS, ROWS)
def test_pairs_are_what_a_loop_finds(source, target):
    theirs, mine = slow_rows(source), slow_rows(target)
    want = [(theirs[key], row) for key, row in mine.items() if key in theirs]
    got = pair_positions(arrays(source), arrays(target))
    assert list(zip(*map(np.ndarray.tolist, got), strict=True)) == want

    want = []
    for (text, end), row in mine.items():
        later = [(e, r) for (t, e), r in theirs.items() if t == text and e >= end]
        if later:
            want.append((min(later)[1], row))
    got = pair_positions(arrays(source), arrays(target), "after")
    assert list(zip(*map(np.ndarray.tolist, got), strict=True)) == want


def test_large_numbers_do_not_overflow():
    top = 2**31 - 1
    rows = (np.array([0, top, top]), np.array([top, 1, top]))
    assert [a.tolist() for a in pair_positions(rows, rows)] == [[0, 1, 2]] * 2
    # the last text of the source ends before the target's: no row of another text is used
    after = pair_positions(
        (np.array([0, 1]), np.array([4, 9])), (np.array([0]), np.array([5])), "after"
    )
    assert [a.tolist() for a in after] == [[], []]


@pytest.mark.parametrize(
    ("text", "ends", "words"),
    [
        (np.array([0, 0]), np.array([1]), "do not fit together"),
        (np.array([[0]]), np.array([[1]]), "do not fit together"),
        (np.array([0]), np.array([-1]), "not usable"),
        (np.array([2**31]), np.array([1]), "not usable"),
        (np.array([0.0]), np.array([1]), "not usable"),
        (np.array([1, 0]), np.array([1, 1]), "order of their texts"),
    ],
)
def test_what_are_no_rows_is_named(text, ends, words):
    with pytest.raises(InputError, match=words):
        boundary_rows(text, ends)


def test_an_unknown_rule_is_named():
    rows = (np.array([0]), np.array([1]))
    with pytest.raises(InputError, match="got nearest, expected exact, after"):
        pair_positions(rows, rows, "nearest")


# --- real tokenizers, any Unicode -----------------------------------------------------------------


@CALM
@given(st.sampled_from(sorted(KINDS)), st.lists(TEXT, min_size=1, max_size=3))
def test_tokens_at_a_boundary_have_read_a_whole_prefix(kind, texts):
    (index, ends), places = rows_of(kind, texts)
    got = boundary_rows(index, ends)
    want = []
    first = 0
    for text, own in zip(texts, places, strict=True):
        found = slow_boundary_rows(text, own)
        want += [(first + row, end) for end, row in found.items()]
        first += len(own)
    assert list(zip(got.tolist(), ends[got].tolist(), strict=True)) == want
    assert [a.tolist() for a in pair_positions((index, ends), (index, ends))] == [got.tolist()] * 2


@CALM
@given(st.sampled_from(LOSSLESS), TEXT.filter(lambda text: not {*"▁<"} & {*text}))
def test_decoding_up_to_a_boundary_gives_the_text_up_to_its_end(kind, text):
    """No other prefix decodes to it: parts of a character never count. Offsets are not used."""
    (index, ends), _ = rows_of(kind, [text])
    e = tokenizer(kind).encode(text)
    ids = [i for i, special in zip(e.ids, e.special_tokens_mask, strict=True) if not special]
    prefix = " " if kind not in ("bytes", "fallback") and text[:1] != " " else ""
    prefixes = {prefix + text[:end]: end for end in range(1, len(text) + 1)}
    want = {}
    for row in range(len(ids)):
        read = tokenizer(kind).decode(ids[: row + 1], skip_special_tokens=False)
        if read in prefixes:
            want[prefixes[read]] = row
    got = boundary_rows(index, ends)
    assert dict(zip(ends[got].tolist(), got.tolist(), strict=True)) == want


@CALM
@given(
    st.sampled_from(sorted(KINDS)),
    st.sampled_from(sorted(KINDS)),
    st.lists(TEXT, min_size=1, max_size=3),
)
def test_pairs_of_two_tokenizers(source, target, texts):
    theirs, their_places = rows_of(source, texts)
    mine, my_places = rows_of(target, texts)
    slow = [
        {
            (i, end): row
            for i, text in enumerate(texts)
            for end, row in slow_boundary_rows(text, places[i]).items()
        }
        for places in (their_places, my_places)
    ]
    starts = [np.cumsum([0, *map(len, places)]) for places in (their_places, my_places)]

    rows, partners = pair_positions(theirs, mine)
    got = list(zip(rows.tolist(), partners.tolist(), strict=True))
    want = [
        (int(starts[0][i]) + row, int(starts[1][i]) + slow[1][i, end])
        for (i, end), row in slow[0].items()
        if (i, end) in slow[1]
    ]
    assert got == want
    assert (np.diff(rows) > 0).all()
    assert (np.diff(partners) > 0).all()

    rows, partners = pair_positions(theirs, mine, "after")
    got = dict(zip(partners.tolist(), rows.tolist(), strict=True))
    want = {}
    for (i, end), row in slow[1].items():
        ahead = [e for (j, e) in slow[0] if j == i and e >= end]
        if ahead:
            want[int(starts[1][i]) + row] = int(starts[0][i]) + slow[0][i, min(ahead)]
    assert got == want


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_split_character_pairs_at_its_last_byte_alone(kind):
    text = "a 猫🙂 b"
    (index, ends), places = rows_of(kind, [text])
    whole, _ = rows_of("wordpiece", [text])
    rows, partners = pair_positions((index, ends), whole)
    assert whole[1][partners].tolist() == ends[rows].tolist()
    assert {1, 6} <= set(ends[rows].tolist())
    cat = [row for row, place in enumerate(places[0]) if place == (2, 3)]
    assert len(cat) == 3
    assert set(cat) & set(boundary_rows(index, ends).tolist()) == {cat[-1]}


@pytest.mark.parametrize(
    ("text", "offsets", "ends"),
    [
        ("On", [(0, 1), (0, 2)], [2, 2]),  # a prefix space reported as the first letter
        ("猫x", [(0, 1), (0, 1), (0, 1), (1, 2)], [1, 1, 1, 2]),
        ("猫犬", [(0, 1), (0, 2), (1, 2)], [2, 2, 2]),  # a token with parts of two characters
        ("e\u0301 a", [(0, 1), (3, 4)], [2, 4]),  # composed, or its accent stripped
        ("\u200ba", [(1, 2)], [2]),
        ("a  b ", [(0, 1), (3, 4)], [1, 4]),  # spaces that no token has
        ("abc", [(0, 1), (1, 2), (0, 0), (2, 3)], [1, 2, 2, 3]),  # an empty token has no effect
        ("ab", [(0, 0), (0, 2)], [0, 2]),
        ("", [], []),
    ],
)
def test_read_ends(text, offsets, ends):
    assert _whole_ends(text, offsets, [0] * len(offsets)) == ends


def test_special_tokens_are_not_looked_at():
    assert _whole_ends("ab", [(0, 0), (0, 1), (1, 2), (0, 0)], [1, 0, 0, 1]) == [0, 1, 2, 0]


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("length", [3, 4, 5, 7, 8])
def test_a_cut_text_has_the_ends_of_the_whole(kind, length):
    text = "Once 猫猫 the e\u0301 cats"
    cutter = Tokenizer.from_str(tokenizer(kind).to_str())
    whole = cutter.encode(text)
    cutter.enable_truncation(length)
    cut = cutter.encode(text)
    assert cut.overflowing
    got = [
        end
        for end, special in zip(read_ends(text, cut), cut.special_tokens_mask, strict=True)
        if not special
    ]
    want = [
        end
        for end, special in zip(read_ends(text, whole), whole.special_tokens_mask, strict=True)
        if not special
    ]
    assert got == want[: len(got)]


# --- loading --------------------------------------------------------------------------------------


def roberta():
    made = byte_level(prefix=False)
    made.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), trim_offsets=True)
    return made


@pytest.mark.parametrize(
    "make",
    [
        lambda: byte_level(prefix=False),
        lambda: byte_level(prefix=True),
        lambda: byte_level(prefix=True, bos=True),
        roberta,
    ],
)
@pytest.mark.parametrize("pretty", [True, False])
def test_spaces_belong_to_their_tokens_and_ids_stay(tmp_path, make, pretty):
    made = make()
    made.save(str(tmp_path / "tokenizer.json"), pretty=pretty)
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    text = "the cat   sat  on 猫 "
    before, after = made.encode(text), loaded.encode(text)
    assert before.ids == after.ids
    assert before.tokens == after.tokens
    assert before.offsets != after.offsets, "nothing was trimmed: this shows nothing"
    own = [o for o, s in zip(after.offsets, after.special_tokens_mask, strict=True) if not s]
    assert own[-1] == (len(text) - 1, len(text))
    assert {c for start, end in own for c in range(start, end)} == set(range(len(text)))
    for line in LINES:
        assert loaded.encode(line).ids == made.encode(line).ids


@pytest.mark.parametrize("name", ["ash", "birch"])
def test_the_bundled_models_keep_their_ids(name):
    path = demo.model_folder(name) / "tokenizer.json"
    plain, ours = Tokenizer.from_file(str(path)), load_tokenizer(path)
    loaded = load_model(demo.model_folder(name))
    for text in [*demo.public_texts().texts[:300], "  two  ", "é 猫 🙂\n", ""]:
        assert plain.encode(text).ids == ours.encode(text).ids == loaded.tokenizer.encode(text).ids


def test_only_the_setting_is_changed(tmp_path):
    """Not a token that reads like it."""
    made = byte_level(prefix=False)
    strange = ['"trim_offsets": true', '"trim_offsets":true', "trim_offsets"]
    made.add_tokens(strange)
    made.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.get_vocab() == made.get_vocab()
    text = 'a "trim_offsets": true b'
    assert loaded.encode(text).ids == made.encode(text).ids
    assert json.loads(loaded.to_str())["post_processor"]["trim_offsets"] is False


def test_a_loaded_tokenizer_neither_cuts_nor_pads(tmp_path):
    made = byte_level(prefix=False)
    made.enable_truncation(3)
    made.enable_padding(length=20)
    made.save(str(tmp_path / "tokenizer.json"))
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded.decode(loaded.encode(LINES[0]).ids) == LINES[0]


def test_a_file_that_is_no_tokenizer_is_named(tmp_path, monkeypatch):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(InputError, match="cannot read"):
        load_tokenizer(path)
    for raw in (b"", b"{}", b"\xff\xfe", b'{"version": "1.0", "model": null}'):
        path.write_bytes(raw)
        with pytest.raises(FormatError, match="not a usable tokenizer"):
            load_tokenizer(path)
    monkeypatch.setattr(tokenizer_module, "MAX_TOKENIZER", 20)
    with pytest.raises(FormatError, match="too large for a tokenizer: got 33 bytes"):
        load_tokenizer(path)


def test_a_model_with_a_broken_tokenizer_does_not_load(tmp_path):
    folder = tmp_path / "m"
    shutil.copytree(demo.model_folder("ash"), folder)
    (folder / "tokenizer.json").write_text("{}")
    seal_card(folder, load_model(demo.model_folder("ash")).card)
    with pytest.raises(FormatError, match="does not load"):
        load_model(folder)


# --- states ---------------------------------------------------------------------------------------

STORIES = ["Once upon a time, there was a cat. ", "é 猫 🙂", "Mom made a cake.  It was yummy!"]


@pytest.fixture(scope="module")
def states():
    return [
        extract(load_model(demo.model_folder(name)), STORIES, pooling="tokens")
        for name in ("ash", "birch")
    ]


@pytest.mark.parametrize("rule", RULES)
def test_paired_states_are_the_rows_of_paired_positions(states, rule):
    source, target = states
    mine, theirs = pair_states(source, target, rule)
    rows, partners = pair_positions(
        (source.text_index, source.char_end), (target.text_index, target.char_end), rule
    )
    np.testing.assert_array_equal(mine.states, source.states[rows])
    np.testing.assert_array_equal(theirs.states, target.states[partners])
    np.testing.assert_array_equal(mine.char_end, target.char_end[partners])
    np.testing.assert_array_equal(theirs.char_end, target.char_end[partners])
    mine.require_same_texts(theirs)
    assert (mine.space, theirs.space) == (source.space, target.space)
    assert mine.n_texts == len(STORIES)
    assert set(mine.text_index.tolist()) == {0, 1, 2}


def test_after_pairs_more_than_exact(states):
    assert len(pair_states(*states, "after")[0]) > len(pair_states(*states)[0])


def token_states(ends, digest="d", **more):
    n = len(ends)
    return HiddenStates(
        np.arange(n * 2, dtype=np.float32).reshape(n, 2),
        Space(2, pooling="tokens"),
        text_digest=digest,
        n_texts=1,
        text_index=np.zeros(n, dtype=np.int32),
        char_end=np.array(ends, dtype=np.int32),
        **more,
    )


def test_states_that_do_not_belong_together_are_named():
    with pytest.raises(MismatchError, match="different texts"):
        pair_states(token_states([1]), token_states([1], "other"))
    pair_states(token_states([1]), token_states([1], ""))  # an unknown digest agrees
    pooled = HiddenStates(np.ones((1, 2)), Space(2, pooling="mean"), text_digest="d")
    with pytest.raises(MismatchError, match=r"the source states .* got pooling mean"):
        pair_states(pooled, token_states([1]))
    with pytest.raises(MismatchError, match="the target states"):
        pair_states(token_states([1]), pooled)
    with pytest.raises(InputError, match="no token position"):
        pair_states(token_states([1, 3]), token_states([2, 4]))
    with pytest.raises(InputError, match="unknown rule"):
        pair_states(token_states([1]), token_states([1]), "nearest")


def test_rows_take_along_what_belongs_to_them():
    whole = token_states([2, 5, 9], labels=("a", "b"), label_ids=np.array([0, 1, 0], np.int32))
    some = whole.rows(np.array([2, 1, 1]))
    assert some.states.tolist() == [[4, 5], [2, 3], [2, 3]]
    assert some.char_end.tolist() == [9, 5, 5]
    assert some.label_ids.tolist() == [0, 1, 1]
    assert (some.labels, some.text_digest, some.n_texts) == (("a", "b"), "d", 1)
    assert some.space == whole.space
    plain = HiddenStates(np.eye(3)).rows(np.array([1]))
    assert (len(plain), plain.n_texts, plain.text_index) == (1, 3, None)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (np.array([], dtype=int), "at least one"),
        (np.array([True, False, True]), "got bool"),
        (np.array([0.0]), "got float64"),
        (np.array([[0]]), "shape"),
        (np.array([-1]), "rows -1 to -1, expected 0 to 2"),
        (np.array([0, 3]), "rows 0 to 3"),
    ],
)
def test_rows_that_are_not_there_are_named(index, words):
    with pytest.raises(InputError, match=words):
        token_states([1, 2, 3]).rows(index)


# --- the real tokenizers --------------------------------------------------------------------------


@pytest.mark.shared
def test_the_story_models_pair_up(shared):
    lines = [
        line
        for line in (shared / "data" / "tinystories_valid.txt").read_text("utf-8").split("\n")[:400]
        if line.strip()
    ]
    names = ("stories260k", "tinystories-656k")
    made = [load_tokenizer(shared / "models" / name / "tokenizer.json") for name in names]
    sides = []
    for one in made:
        index, ends = [], []
        for i, text in enumerate(lines):
            e = one.encode(text, add_special_tokens=False)
            index += [i] * len(e.ids)
            ends += read_ends(text, e)
        sides.append((np.array(index), np.array(ends)))
    small, large = sides
    for rule, least in (("exact", 0.4), ("after", 0.9)):
        rows, partners = pair_positions(small, large, rule)
        assert len(partners) > least * len(large[0])
        assert (small[0][rows] == large[0][partners]).all()
        ahead = small[1][rows] - large[1][partners]
        assert (ahead == 0).all() if rule == "exact" else ((ahead >= 0).all() and ahead.any())
    # the prefix space of the larger one stands alone, reported as if it were the first letter
    first = np.flatnonzero(np.diff(large[0], prepend=-1))
    alone = [made[1].encode(t, add_special_tokens=False).tokens[0] == "▁" for t in lines]
    assert any(alone)
    assert not set(first[alone].tolist()) & set(boundary_rows(*large).tolist())
