"""Comparison of two tokenizers: every figure against a count by hand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from linalign_lite import demo, extract, load_model
from linalign_lite.commands import main
from linalign_lite.errors import FormatError, InputError
from linalign_lite.extraction.tokenizer_compatibility import (
    GOOD_MATCH,
    Compatibility,
    Located,
    _pieces,
    check_compatibility,
    jaccard,
    locate,
    vocabulary,
)

ASH, BIRCH = demo.model_folder("ash"), demo.model_folder("birch")
TEXT = "one two 猫 é"


def saved(tmp_path, made, name):
    folder = tmp_path / name
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return folder


def words(special=()):
    """One token per word, without spaces."""
    vocab = {token: i for i, token in enumerate(["[UNK]", *special])}
    made = Tokenizer(models.WordLevel(vocab, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def letters():
    """One token per character, without spaces."""
    made = words()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("."), "isolated")]
    )
    return made


def raw_bytes(extra=(), merges=()):
    """One token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*alphabet, *extra])}
    made = Tokenizer(models.BPE(vocab, list(merges)))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


@pytest.fixture
def folders(tmp_path):
    return {
        name: saved(tmp_path, make(), name)
        for name, make in (("words", words), ("letters", letters), ("bytes", raw_bytes))
    }


def test_words_and_letters(folders):
    """'one two': both have ends 3 and 7; no word is a letter."""
    found = check_compatibility(folders["words"], folders["letters"], ["one two", "a b"])
    assert (found.words, found.source_tokens, found.target_tokens) == (4, 4, 8)
    assert found.pairs == 4
    assert found.matches == 2  # a, b
    assert (found.paired_source, found.paired_target) == (1.0, 0.5)
    assert found.exact_match == 0.25
    assert (found.source_fertility, found.target_fertility, found.fertility_ratio) == (1, 2, 0.5)
    back = check_compatibility(folders["letters"], folders["words"], ["one two", "a b"])
    assert (back.exact_match, back.paired_target, back.fertility_ratio) == (0.5, 1.0, 2.0)


def test_a_character_in_bytes_pairs_once_and_matches_nothing_whole(folders):
    """猫 is three tokens of one and one token of the other: the same piece, cut differently."""
    found = check_compatibility(folders["bytes"], folders["letters"], ["猫犬"])
    assert (found.source_tokens, found.target_tokens, found.pairs, found.matches) == (6, 2, 2, 0)
    same = check_compatibility(folders["bytes"], folders["bytes"], [TEXT])
    assert same.source_tokens == 14
    assert (same.pairs, same.matches) == (11, 14)
    assert same.exact_match == same.vocabulary_jaccard == 1


def test_a_piece_must_begin_at_the_same_character(tmp_path, folders):
    """' two' and 'two' end together, but are not the same piece of text."""
    spaced = raw_bytes(["tw", "two", "Ġtwo"], [("t", "w"), ("tw", "o"), ("Ġ", "two")])
    found = check_compatibility(saved(tmp_path, spaced, "spaced"), folders["words"], ["a two"])
    assert (found.source_tokens, found.target_tokens, found.pairs, found.matches) == (2, 2, 2, 1)


def test_special_tokens_are_left_out(tmp_path, folders):
    made = words(["[A]", "[B]"])
    made.post_processor = processors.TemplateProcessing(
        single="[A] $A [B]", special_tokens=[("[A]", 1), ("[B]", 2)]
    )
    made.add_special_tokens(["[A]", "[B]"])
    special = saved(tmp_path, made, "special")
    found = check_compatibility(special, folders["words"], [TEXT, "one"])
    plain = check_compatibility(folders["words"], folders["words"], [TEXT, "one"])
    assert found == plain
    assert plain.exact_match == plain.vocabulary_jaccard == 1


def test_texts_do_not_run_into_one_another(folders, monkeypatch):
    """Neither within a window nor across windows, some of them without a token."""
    texts = ["one", " ", "", "two\n", "one two", "猫"]
    whole = check_compatibility(folders["words"], folders["letters"], texts)
    assert (whole.n_texts, whole.words, whole.pairs, whole.matches) == (6, 5, 5, 1)
    monkeypatch.setattr("linalign_lite.extraction.tokenizer_compatibility.WINDOW", 2)
    assert check_compatibility(folders["words"], folders["letters"], texts) == whole
    with pytest.raises(InputError, match="no words"):
        check_compatibility(folders["words"], folders["letters"], [" ", "\n"])


def test_a_prefix_space_alone_is_no_piece(tmp_path, folders):
    """It belongs to the letter after it, which is then cut into two tokens."""
    made = raw_bytes()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    found = check_compatibility(saved(tmp_path, made, "prefix"), folders["bytes"], ["abc"])
    assert (found.source_tokens, found.pairs, found.matches) == (4, 3, 2)


def test_a_text_without_a_position_adds_no_token_to_the_next():
    located = Located(*np.array([[0, 0, 1, 1], [0, 0, 2, 2], [0, 0, 4, 4]]))
    assert _pieces(located).tolist() == [[0, 0, 0, 2], [0, 0, 0, 2]]


# --- vocabularies ---------------------------------------------------------------------------------


def test_spaces_and_bytes_are_equal_in_every_spelling():
    spaced = raw_bytes(["Ġdo", "Ġdog"])
    metaspace = Tokenizer(
        models.BPE({"▁dog": 0, "<0x0A>": 1, "<0xE7>": 2, "dog": 3, "<0xZZ>": 4, "é": 5}, [])
    )
    metaspace.decoder = decoders.Metaspace()
    mine, theirs = vocabulary(spaced), vocabulary(metaspace)
    assert {b" dog", b" do", b"\n", b" ", b"\xe7"} <= mine
    assert theirs == {b" dog", b"\n", b"\xe7", b"dog", b"<0xZZ>", "é".encode()}
    assert mine & theirs == {b" dog", b"\n", b"\xe7"}
    assert jaccard(mine, theirs) == 3 / (256 + 2 + 3)
    assert jaccard(frozenset(), frozenset()) == 0


def test_every_byte_has_a_letter():
    assert vocabulary(raw_bytes()) == {bytes([b]) for b in range(256)}
    undecoded = raw_bytes()
    undecoded.decoder = None  # the pre-tokenizer shows it too
    assert vocabulary(undecoded) == vocabulary(raw_bytes())


def test_word_pieces_begin_with_a_space():
    made = Tokenizer(models.WordPiece({"[UNK]": 0, "dog": 1, "##gy": 2, ",": 3, "##": 4}))
    made.add_special_tokens(["[UNK]"])
    assert vocabulary(made) == {b" dog", b"gy", b",", b"##"}


# --- refused input ------------------------------------------------------------------------------


def test_a_folder_without_a_usable_tokenizer_is_named(tmp_path, folders):
    good = folders["words"]
    with pytest.raises(InputError, match="is not a folder"):
        check_compatibility(tmp_path / "none", good, ["a"])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"empty has no tokenizer.json .*use_fast=True"):
        check_compatibility(good, empty, ["a"])
    (empty / "tokenizer.json").write_text("{}")
    with pytest.raises(FormatError, match="not a usable tokenizer"):
        check_compatibility(good, empty, ["a"])


def test_a_tokenizer_that_fails_is_named(tmp_path, folders):
    broken = Tokenizer(models.WordLevel({"a": 0}, "unknown"))
    with pytest.raises(FormatError, match="broken: its tokenizer fails on these texts"):
        check_compatibility(saved(tmp_path, broken, "broken"), folders["words"], ["b"])


def test_a_tokenizer_that_makes_no_token_is_named(tmp_path, folders):
    silent = words()
    silent.normalizer = normalizers.Replace(Regex("."), "")
    with pytest.raises(InputError, match="silent: its tokenizer gives no token"):
        check_compatibility(saved(tmp_path, silent, "silent"), folders["words"], ["b"])


def test_a_tokenizer_without_offsets_is_named():
    mute = SimpleNamespace(
        ids=[5, 6], offsets=[(0, 0)] * 2, special_tokens_mask=[0, 0], overflowing=[]
    )
    made = SimpleNamespace(encode_batch=lambda texts: [Counted(mute) for _ in texts])
    with pytest.raises(InputError, match="mine: its tokenizer gives no offsets"):
        locate(made, ["ab", "cd"], "mine")
    ash = load_model(ASH)
    with pytest.raises(InputError, match="gives no offsets"):
        extract(replace(ash, tokenizer=made), ["ab", "cd"], pooling="tokens")


class Counted:
    """An encoding made by hand."""

    def __init__(self, parts):
        self.__dict__.update(vars(parts))

    def __len__(self):
        return len(self.offsets)


# --- the verdict and the command ------------------------------------------------------------------


def judged(matches):
    return Compatibility(1, 100, 100, 100, 100, matches, 1.0)


def test_the_verdict_names_its_thresholds():
    assert GOOD_MATCH == 0.67
    assert judged(67).promising
    assert not judged(66).promising
    for matches, start in ((67, "good for generation"), (66, "poor for generation")):
        verdict = judged(matches).verdict
        assert verdict.startswith(start)
        assert "0.67" in verdict
        assert "4 billion parameters or more" in verdict
        assert "is not known here" in verdict


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("\n".join([*demo.public_texts().texts[:200], "", "é 猫 🙂"]), encoding="utf-8")
    return path


def test_the_command(capsys, texts):
    assert main(["compat", str(ASH), str(BIRCH), str(texts), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_texts"], found["blank"]) == (201, 1)
    assert found["paired_target"] == found["pairs"] / found["target_tokens"] > 0.8
    assert found["paired_source"] == found["pairs"] / found["source_tokens"] > 0.6
    assert found["exact_match"] == found["matches"] / found["target_tokens"] > 0.6
    assert 0.2 < found["vocabulary_jaccard"] < 0.6
    assert found["source_fertility"] / found["target_fertility"] == pytest.approx(
        found["fertility_ratio"]
    )
    assert found["promising"] == (found["exact_match"] >= 0.67)

    assert main(["compat", str(ASH), str(BIRCH), str(texts)]) == 0
    said = capsys.readouterr().out
    assert re.search(rf"^exact-token match +{found['exact_match']:.3f}$", said, re.MULTILINE)
    assert re.search(rf"^exact pairs +{found['pairs']}$", said, re.MULTILINE)
    assert said.endswith(found["verdict"] + "\n")

    assert main(["compat", str(ASH), str(BIRCH), str(texts), "--limit", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_texts"] == 3


def test_a_poor_verdict_is_no_failure(capsys, folders, texts):
    assert main(["compat", str(folders["words"]), str(folders["letters"]), str(texts)]) == 0
    assert "poor for generation" in capsys.readouterr().out


def test_the_command_names_what_is_wrong(capsys, tmp_path, texts):
    assert main(["compat", str(ASH), str(tmp_path), str(texts)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "has no tokenizer.json" in captured.err
    assert main(["compat", str(ASH), str(BIRCH), str(tmp_path / "none.txt")]) == 2


def test_asking_for_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom linalign_lite.commands import main\nmain(['compat', '--help'])\n"
        "import linalign_lite.extraction.tokenizer_compatibility\n"
        "print('LOADED', *({'tokenizers', 'onnxruntime', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "LOADED"
    assert "linalign-lite compat small-model large-model" in done.stdout


@pytest.mark.shared
def test_the_story_models(shared):
    """One has spaces before words, the other after and across them: half the tokens pair."""
    lines = (shared / "data" / "tinystories_valid.txt").read_text("utf-8").split("\n")[:400]
    small, large = (shared / "models" / n for n in ("stories260k", "tinystories-656k"))
    found = check_compatibility(small, large, lines)
    assert found.paired_target > 0.4
    assert 0.05 < found.exact_match < 0.3
    assert found.exact_match <= found.paired_target
    assert not found.promising
    assert found.fertility_ratio > 1.5
    back = check_compatibility(large, small, lines)
    assert (back.pairs, back.vocabulary_jaccard) == (found.pairs, found.vocabulary_jaccard)
    assert check_compatibility(small, small, lines).exact_match == 1
