"""The JavaScript examples, in node and in Chromium, give the scores of Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pages import artefact, until

from linalign_lite import demo, extract, fuse, load_model, save, train_head
from linalign_lite.extraction.embedder import Embedder, Layer, LayerKind, save_embedder
from linalign_lite.extraction.model_card import load_card, seal_card
from linalign_lite.extraction.texts import read_texts

pytest.importorskip("onnx", reason="onnx is absent: pip install '.[onnx]'")


def in_node(folder, model, texts, *options, code=0):
    listed = model.parent / "texts.txt"
    listed.write_text("\n".join(texts), encoding="utf-8")
    done = subprocess.run(
        ["node", "score.mjs", str(model), str(listed), *options],
        cwd=folder, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


def test_node_gives_the_scores_of_python(tmp_path, installed, topics):
    folder = installed("node")
    want = artefact(tmp_path, topics)
    found = json.loads(in_node(folder, tmp_path / "model.onnx", topics[3], "--json").stdout)
    assert found["labels"] == list(topics[2].labels)
    assert np.abs(np.array(found["scores"]) - want).max() <= 1e-4
    assert np.array(found["states"]).shape == (200, 144)
    shown = in_node(folder, tmp_path / "model.onnx", topics[3]).stdout.splitlines()
    labels = [line.split("\t")[0] for line in shown]
    assert labels == [topics[2].labels[i] for i in want.argmax(axis=1)]


def test_node_puts_the_prompt_first_and_computes_the_modules(tmp_path, installed, topics, rng):
    """A model with a Dense layer after two poolings that leave out the prompt's tokens."""
    made = tmp_path / "made"
    shutil.copytree(demo.model_folder("birch"), made)
    weight = rng.normal(size=(24, 288)).astype(np.float32) / 17
    layers = (
        Layer(LayerKind("dense", "gelu"), weight),
        Layer(LayerKind("layer-norm"), weight[:, 0]),
    )
    save_embedder(made / "embedder.npz", Embedder(("mean", "max"), layers, include_prompt=False))
    seal_card(made, replace(load_card(made), pooling="embedding", embedding_size=24))
    fuse(tmp_path / "model.onnx", made, prompt="Tell me: ", normalize=True)
    shutil.copy(made / "tokenizer.json", tmp_path)
    done = in_node(installed("node"), tmp_path / "model.onnx", topics[3], "--json")
    want = extract(load_model(made), topics[3], prompt="Tell me: ", normalize=True)
    assert np.abs(np.array(json.loads(done.stdout)["states"]) - want.states).max() <= 1e-4


def test_node_reads_json_lines_and_says_what_it_cuts(tmp_path, installed, topics):
    folder, (model, first, *_) = installed("node"), topics
    artefact(tmp_path, topics)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a dog", "label": "x"}\n\n{"text": "' + "dog " * 999 + '"}\n')

    def score(model, *more):
        command = ["node", "score.mjs", str(tmp_path / model), *map(str, more)]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    done = score("model.onnx", rows)
    assert done.stdout.splitlines()[0].endswith("\ta dog")
    assert done.stderr == f"1 text(s) cut at {model.card.max_length} tokens\n"
    rows.write_text('{"text": "a dog"}\n"no object"\n')
    assert "rows.jsonl, line 2: no object with a text" in score("model.onnx", rows).stderr
    rows.write_text('{"text": "a dog"}\n')
    fuse(tmp_path / "private.onnx", model, map=first)
    assert "has no head, so no scores" in score("private.onnx", rows).stderr
    for wrong in (("--help",), (rows, rows)):
        found = score("model.onnx", *wrong)
        assert (found.returncode, found.stderr[:6]) == (2, "usage:")


def test_node_refuses_what_does_not_belong_together(tmp_path, installed, topics):
    folder = installed("node")
    artefact(tmp_path, topics)
    shutil.copy(demo.model_folder("ash") / "tokenizer.json", tmp_path)
    done = in_node(folder, tmp_path / "model.onnx", ["a dog"], code=1)
    assert "this tokenizer.json is another model's" in done.stderr
    (tmp_path / "model.onnx").write_bytes(b"no ONNX at all")
    assert "not an ONNX file" in in_node(folder, tmp_path / "model.onnx", ["a dog"], code=1).stderr


@pytest.mark.shared
def test_node_and_minilm_with_150_intents(tmp_path, installed, shared):
    pytest.importorskip("optimum.exporters.onnx")
    from linalign_lite.onnx.model_export import export_model

    folder = installed("node")
    cached = Path(os.environ.get("LINALIGN_CACHE", tmp_path)) / "all-minilm-l6-v2"
    if not cached.is_dir():
        cached = tmp_path / "minilm"
        export_model(str(shared / "models" / "all-minilm-l6-v2"), cached)
    model = load_model(cached)
    train = read_texts(str(shared / "data" / "clinc150_train.jsonl"), limit=3000)
    texts = read_texts(str(shared / "data" / "clinc150_test.jsonl"), limit=200).texts
    head, _ = train_head(extract(model, train))
    save(tmp_path / "a.head.npz", head)
    fuse(tmp_path / "model.onnx", model, head=head)
    shutil.copy(cached / "tokenizer.json", tmp_path)
    want = head.apply(extract(model, texts).states)
    found = json.loads(in_node(folder, tmp_path / "model.onnx", texts, "--json").stdout)
    assert np.abs(np.array(found["scores"]) - want).max() <= 1e-4


# --- the browser ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "within"), [("fp32", 1e-4), ("fp16", 0.02), ("int8", 0.5)])
def test_the_page_gives_the_scores_of_python(browser, served, topics, dtype, within):
    folder, address = served
    want = artefact(folder / dtype, topics, dtype=dtype)
    browser.get(f"{address}?artefact={dtype}")
    assert until(browser, "ready", "failed")[0] == "ready"
    browser.execute_script(
        "document.getElementById('texts').value = arguments[0]", "\n".join(topics[3])
    )
    browser.find_element("id", "score").click()
    state, said = until(browser, "done", "failed")
    assert (state, said[:9]) == ("done", "200 texts")
    cells = browser.execute_script(
        "return [...document.querySelector('#scores').tBodies[0].rows].map(r => "
        "[...r.cells].slice(1).map(c => Number(c.textContent)))"
    )
    assert np.abs(np.array(cells) - want).max() <= within * (
        1 if dtype == "fp32" else np.abs(want).max()
    )
    best = browser.execute_script(
        "return [...document.querySelectorAll('td.best')].map(c => c.cellIndex - 1)"
    )
    assert (np.array(best) == want.argmax(axis=1)).mean() >= (0.9 if dtype == "int8" else 0.995)
    assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []


def test_nothing_leaves_the_page(browser, served, topics):
    folder, address = served
    artefact(folder / "artefact", topics)
    browser.get_log("performance")
    browser.get(address)
    until(browser, "ready")
    browser.find_element("id", "score").click()
    until(browser, "done")
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = [e["params"]["request"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert len(asked) > 5
    assert all(r["url"].startswith((address.removesuffix("browser/"), "data:")) for r in asked)
    assert {r["method"] for r in asked} == {"GET"}
    assert not any("puppy" in json.dumps(r) for r in asked)


def test_the_page_says_what_is_wrong(browser, served):
    folder, address = served
    browser.get(f"{address}?artefact=absent")
    assert until(browser, "failed")[1].startswith("absent/model.onnx: 404. README.md has")
    assert not browser.find_element("id", "score").is_enabled()
    (folder / "odd").mkdir(exist_ok=True)
    for name in ("model.onnx", "tokenizer.json"):
        (folder / "odd" / name).write_bytes(b"<html>not what was asked for</html>")
    browser.get(f"{address}?artefact=odd")
    assert "not an ONNX file" in until(browser, "failed")[1]
