"""Configurations of a survey: fields, defaults, and the errors of unusable ones."""

from __future__ import annotations

import contextlib
import tomllib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from linalign_lite.errors import FormatError, InputError
from linalign_lite.survey.config import MAX_CONFIG, TASKS, USUAL_TASKS, load_config, parse_config

WHOLE = """
title = "Three"
seed = 3
pooling = "last"
few = [16, 64]
tasks = ["ood", "classification"]
objectives = ["kl", "ridge"]
permutations = 20

[models]
a = "models/a"
b = "/elsewhere/b"

[prompts]
a = "task: classification | query: "

[public]
texts = "public.txt"
limit = 100

[[data]]
name = "intents"
train = "train.jsonl"
test = { texts = "test.jsonl", limit = 5 }
outside = "oos.jsonl"

[generation]
train = { texts = "stories.txt", separator = "<|end|>" }
test = "valid.txt"
"""


def test_a_whole_config(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text(WHOLE)
    c = load_config(path)
    assert dict(c.models) == {"a": tmp_path / "models/a", "b": c.models["b"]}
    assert str(c.models["b"]) == "/elsewhere/b"  # absolute paths stay
    assert (c.public.texts, c.public.limit) == (tmp_path / "public.txt", 100)
    (data,) = c.data
    assert (data.name, data.test.limit, data.outside.texts.name) == ("intents", 5, "oos.jsonl")
    assert c.generation.train.separator == "<|end|>"
    assert (c.seed, c.pooling, c.few, c.permutations) == (3, "last", (16, 64), 20)
    assert dict(c.prompts) == {"a": "task: classification | query: "}
    assert c.tasks == ("classification", "ood")  # in the survey's own order
    assert c.objectives == ("ridge", "kl")
    assert c.pairs() == [("a", "b"), ("b", "a")]


def test_what_is_left_out_has_defaults(tmp_path):
    raw = {"models": {"a": "a", "b": "b"}, "public": "p.txt"}
    c = parse_config(raw, tmp_path)
    assert (c.tasks, c.few, c.generation, c.data) == (USUAL_TASKS, (128, 512), None, ())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('title = "Three"', "titel = 1", "config has unknown fields: got titel, expected models, "),
        (
            'title = "Three"',
            'title = ""',
            "config.title is not usable: got 0 long, expected 1 to 80",
        ),
        ("seed = 3", "seed = -1", "config.seed is not usable: got -1, expected 0 to"),
        (
            "seed = 3",
            "seed = true",
            "config.seed is not usable: got true or false, expected a whole number",
        ),
        ("few = [16, 64]", "few = [4]", "config.few[0] is not usable: got 4, expected 8 to"),
        ("few = [16, 64]", 'few = "many"', "config.few is not a list: got text"),
        (
            'pooling = "last"',
            'pooling = "tokens"',
            "config.pooling is not usable: got tokens, expected 'mean'",
        ),
        (
            'tasks = ["ood", "classification"]',
            'tasks = ["oood"]',
            "config.tasks[0] is not usable: got oood, expected 'similar",
        ),
        (
            'objectives = ["kl", "ridge"]',
            'objectives = ["kl"]',
            "config.objectives must contain ridge",
        ),
        ('b = "/elsewhere/b"', "", "config.models is not usable: got 1 long, expected 2 to 32"),
        ('b = "/elsewhere/b"', "b = 3", "config.models.b is not usable: got a whole number"),
        (
            "[public]\ntexts",
            "[public]\ntext",
            "config.public has unknown fields: got text, expected",
        ),
        ("limit = 100", "limit = 0", "config.public.limit is not usable: got 0, expected 1 to"),
        (
            'name = "intents"',
            'name = "public"',
            "config.data: this name has another meaning in results: got public",
        ),
        ('train = "train.jsonl"', "", "config.data[0] lacks fields: expected train"),
        ('test = "valid.txt"', "", "config.generation lacks fields: expected test"),
        ("[generation]", "[generations]", "config has unknown fields: got generations"),
        ('a = "task', 'c = "task', "config.prompts names no model of the survey: got c"),
        ("[[data]]", "[data]", "config.data is not a list: got an object"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, old, new, said):
    assert old in WHOLE
    path = tmp_path / "c.toml"
    path.write_text(WHOLE.replace(old, new))
    with pytest.raises(FormatError) as e:
        load_config(path)
    assert said in str(e.value)
    assert "c.toml" in str(e.value)
    assert e.value.exit_code == 2


def test_two_data_sets_of_one_name(tmp_path):
    path = tmp_path / "c.toml"
    again = WHOLE[WHOLE.index("[[data]]") : WHOLE.index("[generation]")]
    path.write_text(WHOLE + again)
    with pytest.raises(FormatError, match="two data sets have the same name"):
        load_config(path)


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"a = ", b"a = 1\na = 2", b"[" * 5000])
def test_what_is_no_toml(tmp_path, raw):
    path = tmp_path / "c.toml"
    path.write_bytes(raw)
    with pytest.raises(FormatError, match=r"c\.toml is not TOML"):
        load_config(path)


def test_a_config_too_large(tmp_path):
    path = tmp_path / "c.toml"
    path.write_bytes(b"#" * (MAX_CONFIG + 1))
    with pytest.raises(FormatError, match="too large"):
        load_config(path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=8), x, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(tomllib.loads(WHOLE))), VALUES)
@example("public", "~0")  # a home that cannot be found
@settings(max_examples=300, deadline=None)
def test_any_value_in_any_place_is_a_config_or_a_named_error(tmp_path_factory, key, value):
    base = tmp_path_factory.getbasetemp()
    raw = {**tomllib.loads(WHOLE), key: value}
    with contextlib.suppress(InputError):  # anything else that is raised fails
        config = parse_config(raw, base)
        assert 2 <= len(config.models) <= 32
        assert set(config.tasks) <= set(TASKS)
