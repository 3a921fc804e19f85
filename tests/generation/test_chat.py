"""Chat: the target's template as transformers renders it, its end of turn, and bad templates."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from linalign_lite import AffineMap, demo, load_model
from linalign_lite.commands import main
from linalign_lite.errors import FormatError, InputError, MissingExtraError
from linalign_lite.extraction.model_card import CHAT_FILE, MAX_CHAT, load_card, seal_card
from linalign_lite.generation.decoding import chat_template
from linalign_lite.generation.decoding.chat_template import chat_prompt
from linalign_lite.generation.hybrid import generate
from linalign_lite.onnx.tokenizer_file import copy_chat_template

pytest.importorskip("jinja2")
PLAIN = (
    "{{ bos_token }}{% for m in messages %}\n"
    "{% generation %}{{ m['role'] + ': ' + m.content | trim + '\\n' }}{% endgeneration %}\n"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}\n"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def chatty(tmp_path, template=PLAIN, name="ash"):
    """A copy of a bundled model, with a template."""
    folder = tmp_path / "chatty"
    shutil.copytree(demo.model_folder(name), folder)
    (folder / CHAT_FILE).write_text(template, encoding="utf-8")
    seal_card(folder, load_card(folder, verify=False))
    return folder


def test_a_template_changes_neither_digest_nor_folders_without_one(tmp_path):
    folder, before = chatty(tmp_path), load_card(demo.model_folder("ash"))
    card = load_card(folder)
    assert (card.digest, set(card.files) - set(before.files)) == (before.digest, {CHAT_FILE})
    (folder / CHAT_FILE).unlink()
    with pytest.raises(FormatError, match=f"{CHAT_FILE} is missing"):
        load_card(folder)
    seal_card(folder, before)
    was = (Path(demo.model_folder("ash")) / "card.json").read_bytes()
    assert (folder / "card.json").read_bytes() == was


def test_a_message_is_rendered_and_the_turn_ends(tmp_path):
    model = load_model(chatty(tmp_path), threads=1)
    asked = chat_prompt(model, model, " Hello ")
    assert asked.text == "user: Hello\nassistant: "  # the text begin is left out
    eos = model.card.special["eos"]
    assert asked.end == {eos}
    scores = np.zeros(model.card.vocab_size, dtype=np.float32)
    scores[eos] = 1
    head = dataclasses.replace(
        model.token_head(), weight=np.zeros_like(model.token_head().weight), bias=scores
    )
    birch = load_model(demo.model_folder("birch"), threads=1)
    spaces = [m.card.space("tokens", normalize=False) for m in (birch, model)]
    weight = np.zeros((spaces[1].dim, spaces[0].dim), dtype=np.float32)
    for source, affine in ((model, None), (birch, AffineMap(weight, weight[:, 0], *spaces))):
        found = generate(source, model, asked.text, affine=affine, head=head, end=asked.end)
        assert (list(found), found.summary.reason) == ([], "eos")
        scores[[7, eos]] = scores[[eos, 7]]  # any token can end a turn
        found = generate(source, model, asked.text, affine=affine, head=head, end={7})
        assert (list(found), found.summary.reason) == ([], "eos")
        scores[[7, eos]] = scores[[eos, 7]]


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for %}", "TemplateSyntaxError"),
        ("{{ raise_exception('only tools') }}", "only tools"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{% for i in range(9999) %}{% for j in range(9999) %}a{% endfor %}{% endfor %}",
         "more than"),
    ],
)  # fmt: skip
def test_a_template_that_fails_is_named(tmp_path, monkeypatch, template, problem):
    monkeypatch.setattr(chat_template, "MAX_TEXT", 1000)
    model = load_model(chatty(tmp_path, template), threads=1)
    with pytest.raises(InputError, match=f"its chat template fails.*{problem}"):
        chat_prompt(model, model, "x")


def test_a_template_that_is_too_large_is_refused(tmp_path):
    with pytest.raises(FormatError, match="too large"):
        load_card(chatty(tmp_path, "a" * (MAX_CHAT + 1)))


def test_jinja_is_an_extra(tmp_path, monkeypatch):
    model = load_model(chatty(tmp_path), threads=1)
    monkeypatch.setitem(sys.modules, "jinja2.sandbox", None)
    with pytest.raises(MissingExtraError, match=r"linalign-lite\[chat\]"):
        chat_prompt(model, model, "x")


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({}, None),
        ({"tokenizer_config.json": "{}"}, None),
        ({"tokenizer_config.json": json.dumps({"chat_template": "a"})}, "a"),
        ({"tokenizer_config.json": json.dumps({"chat_template": "a"}), CHAT_FILE: "b"}, "b"),
        ({"tokenizer_config.json": json.dumps({"chat_template": [
            {"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"},
        ]})}, "d"),
    ],
)  # fmt: skip
def test_an_export_takes_the_template_along(tmp_path, files, wanted):
    for name in ("model", "out"):
        (tmp_path / name).mkdir()
    for name, text in files.items():
        (tmp_path / "model" / name).write_text(text)
    copy_chat_template(tmp_path / "model", tmp_path / "out")
    found = tmp_path / "out" / CHAT_FILE
    assert (found.read_text() if found.exists() else None) == wanted


@pytest.mark.parametrize("bad", ["[]", '{"chat_template": [1]}', "{"])
def test_a_broken_template_of_a_model_is_named(tmp_path, bad):
    (tmp_path / "tokenizer_config.json").write_text(bad)
    with pytest.raises(InputError, match="no usable chat template"):
        copy_chat_template(tmp_path, tmp_path)
    (tmp_path / CHAT_FILE).write_text("a" * (MAX_CHAT + 1))
    with pytest.raises(InputError, match="too large"):
        copy_chat_template(tmp_path, tmp_path)


def test_the_command(tmp_path, capsys):
    folder = str(chatty(tmp_path))
    args = ["generate", "--source", folder, "--target", folder, "--threads", "1",
            "--max-tokens", "9", "--json"]  # fmt: skip
    assert main([*args, "--chat", "Hello"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert main([*args, "user: Hello\nassistant: "]) == 0
    plain = json.loads(capsys.readouterr().out)
    assert (told["prompt"], told["token_ids"]) == ("Hello", plain["token_ids"])


def test_a_model_without_a_template_is_named_before_it_is_loaded(capsys, monkeypatch):
    monkeypatch.setattr("linalign_lite.commands.generation.load_limited", None)
    ash = str(demo.model_folder("ash"))
    assert main(["generate", "--source", ash, "--target", ash, "--chat", "Hello"]) == 2
    assert "ash has no chat template" in capsys.readouterr().err


def test_smollm2_is_asked_as_transformers_asks_it(tmp_path):
    real = Path(os.environ.get("LINALIGN_REAL", "/nowhere")) / "smollm2-135m-instruct"
    if not real.is_dir():
        pytest.skip("LINALIGN_REAL has no smollm2-135m-instruct")
    transformers = pytest.importorskip("transformers")
    template = (real / CHAT_FILE).read_text(encoding="utf-8")
    ash = load_model(chatty(tmp_path, template), threads=1)
    from linalign_lite.extraction.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(real / "tokenizer.json")
    special = {"bos": 1, "eos": 2, "pad": 2}
    model = dataclasses.replace(
        ash, tokenizer=tokenizer, card=dataclasses.replace(ash.card, special=special)
    )
    asked = chat_prompt(model, model, "What is the capital of France?")
    theirs = transformers.AutoTokenizer.from_pretrained(real)
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    assert tokenizer.encode(asked.text).ids == theirs.apply_chat_template(
        chat, add_generation_prompt=True
    )
    assert [tokenizer.id_to_token(i) for i in asked.end] == ["<|im_end|>"]
