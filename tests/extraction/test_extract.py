"""Extraction on the bundled models: order, padding, pooling, and refused input."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linalign_lite import demo, load_model
from linalign_lite.commands import main
from linalign_lite.core.choices import TextPooling
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.serialization import load_states, save_states
from linalign_lite.errors import FormatError, InputError, LinalignError, MismatchError
from linalign_lite.extraction.batching import plan_batches, pool
from linalign_lite.extraction.model_card import load_card, seal_card
from linalign_lite.extraction.pipeline import extract
from linalign_lite.extraction.texts import Texts

TEXTS = [
    "The dog ran.",
    "Once upon a time, there was a little girl who lived in a small house near the big forest.",
    "Hi",
    "Mom made a cake. It was yummy!",
    "é ü 猫 🙂",
]
GOLDEN = {
    "ash": [-0.04669, 0.06111, -0.02522, 0.61504, -0.78297],
    "birch": [0.43327, -1.08494, 0.09745, -1.85155, 0.04508],
}


@pytest.fixture(scope="module", params=["ash", "birch"])
def model(request):
    return load_model(demo.model_folder(request.param))


@given(st.lists(st.integers(1, 300), min_size=1, max_size=200), st.integers(1, 2000))
def test_batches_hold_every_text_once_within_the_budget(lengths, budget):
    batches = list(plan_batches(lengths, budget))
    assert sorted(i for b in batches for i in b.rows) == list(range(len(lengths)))
    for batch in batches:
        assert batch.length == max(lengths[i] for i in batch.rows)
        assert len(batch.rows) == 1 or len(batch.rows) * batch.length <= budget
    assert [b.length for b in batches] == sorted((b.length for b in batches), reverse=True)


def naive(model, text, pooling):
    """States of one text alone, without padding or batch."""
    ids = np.array([model.tokenizer.encode(text).ids], dtype=np.int64)
    states = model.run(ids, np.ones_like(ids))[0]
    places = np.arange(1.0, len(states) + 1)
    return {
        "mean": states.mean(0),
        "last": states[-1],
        "cls": states[0],
        "max": states.max(0),
        "mean-sqrt": states.sum(0) / np.sqrt(len(states)),
        "weighted-mean": places @ states / places.sum(),
    }[pooling]


@pytest.mark.parametrize("pooling", list(TextPooling)[:-1])
@pytest.mark.parametrize("budget", [1, 40, 4096])
def test_batching_changes_nothing(model, pooling, budget):
    got = extract(model, TEXTS, pooling=pooling, batch_tokens=budget)
    for row, text in zip(got.states, TEXTS, strict=True):
        np.testing.assert_allclose(row, naive(model, text, pooling), atol=2e-5)
    assert got.states.dtype == np.float32
    assert got.space.pooling == pooling


def with_prompts(model, default=""):
    card = replace(model.card, prompts={"query": "Tell me: ", "none": ""}, default_prompt=default)
    return replace(model, card=card)


def test_a_prompt_stands_before_each_text_and_is_kept_in_the_space(model):
    asked = with_prompts(model)
    got = extract(asked, TEXTS, prompt="query")
    written_out = extract(model, ["Tell me: " + text for text in TEXTS])
    np.testing.assert_allclose(got.states, written_out.states, atol=2e-5)
    assert got.space.prompt == "Tell me: "
    assert got.text_digest == extract(model, TEXTS).text_digest  # of the texts alone
    assert extract(asked, TEXTS, prompt="Tell me: ").space == got.space
    assert extract(asked, TEXTS).space.prompt == extract(asked, TEXTS, prompt="none").space.prompt


def test_the_default_prompt_is_the_cards_but_tokens_take_none(model):
    asked = with_prompts(model, "query")
    assert extract(asked, TEXTS).space.prompt == "Tell me: "
    assert extract(asked, TEXTS, prompt="").space.prompt == ""
    assert extract(asked, TEXTS, pooling="tokens").space.prompt == ""
    with pytest.raises(InputError, match="states of tokens take no prompt"):
        extract(asked, TEXTS, pooling="tokens", prompt="query")


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        ("document", "no prompt of this name: got 'document', expected query, none"),
        ("a" * 513 + ": ", "the prompt is not usable: got 515 long"),
        ("a\x00: ", "the prompt is not usable"),
    ],
)
def test_prompts_that_are_not_usable(model, prompt, problem):
    with pytest.raises(InputError) as e:
        extract(with_prompts(model), TEXTS, prompt=prompt)
    assert problem in str(e.value)


def test_the_command_names_a_prompt_that_is_not_there_and_leaves_nothing(tmp_path, capsys):
    (tmp_path / "t.txt").write_text("one text\n")
    args = [str(demo.model_folder("ash")), str(tmp_path / "t.txt"), str(tmp_path / "a.states.npz")]
    assert main(["extract", *args, "--prompt", "query"]) == 2
    assert "has no prompt of this name: got 'query'" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["t.txt"]


def test_a_folder_keeps_its_prompts(tmp_path):
    folder = tmp_path / "ash"
    shutil.copytree(demo.model_folder("ash"), folder)
    before = (folder / "card.json").read_bytes()
    card = seal_card(folder, load_card(folder))
    assert (folder / "card.json").read_bytes() == before  # without prompts: as before
    seal_card(folder, replace(card, prompts={"query": "Q:\n"}, default_prompt="query"))
    found = load_card(folder)
    assert (found.prompts, found.default_prompt) == ({"query": "Q:\n"}, "query")
    assert found.space().prompt == "Q:\n"
    seal_card(folder, replace(card, default_prompt="query"))
    with pytest.raises(FormatError, match="default prompt is not among its prompts"):
        load_card(folder)


def test_states_of_different_prompts_do_not_mix(model, tmp_path):
    asked, plain = with_prompts(model), extract(model, TEXTS)
    queries = extract(asked, TEXTS, prompt="query")
    save_states(tmp_path / "queries.states.npz", queries)
    assert load_states(tmp_path / "queries.states.npz").space == queries.space
    save_states(tmp_path / "plain.states.npz", plain)
    assert b"prompt" not in (tmp_path / "plain.states.npz").read_bytes()
    with pytest.raises(MismatchError, match="prompt 'Tell me: '") as e:
        queries.space.require(plain.space, "this map does not read these states")
    assert "with the same pooling and prompt (`--prompt`)" in str(e.value)
    queries.space.require(HiddenStates(plain.states).space, "arrays that a caller brought")


def test_windows_change_nothing(model, monkeypatch):
    whole = extract(model, TEXTS)
    monkeypatch.setattr("linalign_lite.extraction.pipeline.WINDOW", 2)
    parts = extract(model, TEXTS)
    np.testing.assert_allclose(parts.states, whole.states, atol=2e-5)
    assert parts.text_digest == whole.text_digest


def test_token_states_carry_positions(model):
    got = extract(model, Texts(tuple(TEXTS), ("a", "b", "a", "b", "a")), pooling="tokens")
    assert len(got.text_index) == len(got.char_end) == len(got)
    for i, text in enumerate(TEXTS):
        ends = got.char_end[got.text_index == i]
        assert ends[-1] == len(text)
        assert (np.diff(ends) >= 0).all()
        assert ends.min() >= 0
        encoded = model.encode([text])[0]
        ids = [k for k, left in zip(encoded.ids, encoded.special, strict=True) if not left]
        assert got.next_token[got.text_index == i].tolist() == [*ids[1:], -1]
    assert [got.labels[k] for k in got.label_ids[got.text_index == 1]] == ["b"] * int(
        (got.text_index == 1).sum()
    )
    # the states that pooling averages, without the special token
    ids = model.tokenizer.encode(TEXTS[3]).ids
    assert int((got.text_index == 3).sum()) == len(ids) - 1


def test_normalized_states_have_length_one(model):
    got = extract(model, TEXTS, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(got.states, axis=1), 1, atol=1e-6)
    assert got.space.normalize


def test_mean_pooling_ignores_padding():
    states = np.ones((2, 3, 2), dtype=np.float32)
    states[1, 1:] = 99
    np.testing.assert_allclose(pool(states, np.array([3, 1]), "mean"), 1)


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_golden_floats(name):
    """States of the bundled models stay as recorded."""
    loaded = load_model(demo.model_folder(name))
    states = extract(loaded, ["Once upon a time, there was a little dog."]).states
    np.testing.assert_allclose(states[0, :5], GOLDEN[name], atol=2e-4)


def test_progress_counts_every_text(model):
    seen = []
    extract(model, TEXTS, batch_tokens=10, progress=seen.append)
    assert sum(seen) == len(TEXTS)


def test_cut_texts_are_counted(model):
    got = extract(model, ["word " * 500, "short"], max_length=16)
    assert (got.n_cut, got.max_length) == (1, 16)


def test_the_token_head_continues_a_story(model):
    """The head's best next token after "Once upon a" is "time"."""
    states = extract(model, ["Once upon a"], pooling="last").states
    head = model.token_head()
    assert head.n_outputs == model.card.vocab_size
    best = int(head.predict(states)[0])
    assert "time" in model.tokenizer.decode([*model.tokenizer.encode("Once upon a").ids, best])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pooling": "median"}, "unknown pooling: got median"),
        ({"max_length": 1}, "expected 2 to 384"),
        ({"max_length": 385}, "got 385"),
        ({"batch_tokens": 0}, "token budget"),
    ],
)
def test_wrong_options_are_named(model, options, words):
    with pytest.raises(InputError, match=words):
        extract(model, TEXTS, **options)


def test_a_string_is_not_a_list_of_texts(model):
    with pytest.raises(InputError, match="put it in a list"):
        extract(model, "hello there")


def test_a_tokenizer_that_fails_is_named(model, tmp_path):
    """A folder of intact files that do not fit together."""
    folder = tmp_path / "m"
    shutil.copytree(model.folder, folder)
    broken = {"version": "1.0", "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "u"}}
    (folder / "tokenizer.json").write_text(json.dumps(broken))
    seal_card(folder, model.card)
    with pytest.raises(FormatError, match="its tokenizer fails on these texts"):
        extract(load_model(folder), ["b"])


def test_no_texts(model):
    with pytest.raises(InputError, match="no texts"):
        extract(model, [])


def test_a_graph_that_fails_is_named(model):
    unknown = np.array([[model.card.vocab_size + 5]])
    with pytest.raises(LinalignError, match=r"on a batch of 1 texts of 1 tokens.*--batch-tokens"):
        model.run(unknown, np.ones_like(unknown))
