"""One graph of model, pooling, map and head has the outputs of the parts in sequence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from linalign_lite import demo, extract, from_onnx, fuse, load_model
from linalign_lite.commands.describe_file import describe
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.choices import TextPooling
from linalign_lite.core.head import Head
from linalign_lite.core.space import Space
from linalign_lite.errors import InputError, MismatchError, ParityError
from linalign_lite.onnx import fuse_model
from linalign_lite.onnx.fuse_model import tokenizer_beside
from linalign_lite.onnx.metadata import read_card

onnx = pytest.importorskip("onnx")
TEXTS = (*demo.labelled_texts(held_out=True).texts[:40], "Hi", "A dog. " * 60)


@pytest.fixture(scope="module")
def models():
    return {name: load_model(demo.model_folder(name)) for name in ("ash", "birch")}


def parts(model, rng, pooling="mean", normalize=False, softcap=None, width=20):
    source = model.card.space(pooling, normalize)
    between = Space(width, "ef" * 32, "other", "mean")
    first = AffineMap(rng.normal(size=(width, source.dim)), rng.normal(size=width), source, between)
    head = Head(rng.normal(size=(4, width)), rng.normal(size=4), tuple("abcd"), between, softcap)
    return first, head


def run(path, model, texts=TEXTS):
    """Run a graph without this library: all texts in one batch, padded on the right."""
    import onnxruntime as ort

    encoded = [e.ids for e in model.encode(list(texts))]
    longest = max(map(len, encoded))
    ids = np.array([[*e, *[0] * (longest - len(e))] for e in encoded], dtype=np.int64)
    mask = np.array([[1] * len(e) + [0] * (longest - len(e)) for e in encoded], dtype=np.int64)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["input_ids", "attention_mask"]
    names = [o.name for o in session.get_outputs()]
    found = session.run(None, {"input_ids": ids, "attention_mask": mask})
    return dict(zip(names, found, strict=True))


def near(got, want, within):
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= within * np.abs(want).max()


@pytest.mark.parametrize("name", ["ash", "birch"])
@pytest.mark.parametrize("pooling", list(TextPooling)[:-1])
@pytest.mark.parametrize("normalize", [False, True])
def test_outputs_are_those_of_the_parts(tmp_path, rng, models, name, pooling, normalize):
    model = models[name]
    first, head = parts(model, rng, pooling, normalize, softcap=9.0)
    made = fuse(tmp_path / "x.onnx", model, map=first, head=head)  # pooling is the map's
    got = run(tmp_path / "x.onnx", model)
    states = extract(model, TEXTS, pooling=pooling, normalize=normalize).states
    assert list(got) == ["states", "mapped", "scores"]
    near(got["states"], states, 1e-5)
    near(got["mapped"], first.apply(states), 1e-5)
    near(got["scores"], (head @ first).apply(states), 1e-4)
    assert set(made.differences) == set(got)
    assert max(made.differences.values()) < 1e-4


@pytest.mark.parametrize("name", ["ash", "birch"])
@pytest.mark.parametrize(("dtype", "within"), [("fp16", 4e-3), ("int8", 0.3)])
def test_narrower_weights(tmp_path, rng, models, name, dtype, within):
    model = models[name]
    first, head = parts(model, rng)
    sizes = {
        d: fuse(tmp_path / f"{d}.onnx", model, map=first, head=head, dtype=d).size
        for d in ("fp32", dtype)
    }
    got = run(tmp_path / f"{dtype}.onnx", model)
    states = extract(model, TEXTS).states
    near(got["states"], states, within)
    near(got["scores"], (head @ first).apply(states), within)
    assert sizes[dtype] < sizes["fp32"] * (0.7 if dtype == "int8" else 1)


def test_options_select_the_outputs(tmp_path, rng, models):
    model = models["birch"]
    first, head = parts(model, rng)
    path = tmp_path / "x.onnx"
    states = extract(model, TEXTS).states
    fuse(path, model)
    assert list(run(path, model)) == ["states"]
    fuse(path, model, map=first)
    assert list(run(path, model)) == ["states", "mapped"]
    fuse(path, model, head=head @ first)
    assert list(run(path, model)) == ["states", "scores"]
    fuse(path, model, map=first, head=head, fold=True)
    got = run(path, model)
    assert list(got) == ["states", "scores"]
    near(got["scores"], head.apply(first.apply(states)), 1e-4)
    graph = onnx.load(path).graph  # one Gemm for both, and nothing of the map
    stored = {t.name: list(t.dims) for t in graph.initializer}
    assert stored["head.weight"] == [144, 4]
    assert "map.weight" not in stored


def test_queries_may_have_another_prompt_than_the_maps_texts(tmp_path, rng, models):
    model = models["birch"]
    first, _ = parts(model, rng)
    path = tmp_path / "x.onnx"
    for prompt, kept in ((None, ""), ("Ask: ", "Ask: ")):
        fuse(path, model, map=first, prompt=prompt)
        assert read_card(path)["states"].get("prompt", "") == kept
    with pytest.raises(MismatchError, match="this map reads other states"):
        fuse(path, models["ash"], map=first, prompt="Ask: ")


def test_it_is_valid_onnx_and_always_the_same(tmp_path, rng, models):
    first, head = parts(models["ash"], rng)
    for dtype in ("fp32", "int8"):
        for name in ("a.onnx", "b.onnx"):
            fuse(tmp_path / name, models["ash"], map=first, head=head, dtype=dtype)
        assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
        model = onnx.load(tmp_path / "a.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert {o.domain for o in model.opset_import} <= {"", "ai.onnx"}
        assert model.opset_import[0].version == read_card(tmp_path / "a.onnx")["opset"]


def test_the_card_says_what_a_consumer_must_know(tmp_path, rng, models):
    first, head = parts(models["ash"], rng, softcap=5.0)
    fuse(tmp_path / "x.onnx", models["ash"], map=first, head=head)
    card = read_card(tmp_path / "x.onnx")
    assert card["model"]["digest"] == models["ash"].card.digest
    assert card["model"]["max_length"] == 384
    assert card["states"]["pooling"] == "mean"
    assert card["scores"] == {"n": 4, "labels": list("abcd"), "softcap": 5.0}
    found = describe(tmp_path / "x.onnx")
    assert (found["kind"], found["labels"], found["name"]) == ("ONNX model", list("abcd"), "ash")
    with pytest.raises(InputError, match="is a whole model, which is not read back"):
        from_onnx(tmp_path / "x.onnx")


def test_the_size_is_that_of_the_weights(tmp_path, rng, models):
    first, head = parts(models["birch"], rng, width=128)
    before = (demo.model_folder("birch") / "model.onnx").stat().st_size
    size = fuse(tmp_path / "x.onnx", models["birch"], map=first, head=head).size
    assert abs(size - before - 4 * (128 * 145 + 4 * 129)) < 0.01 * size


def test_weights_beside_the_graph(tmp_path, rng, models):
    first, head = parts(models["birch"], rng)
    for dtype, within in (("fp32", 1e-4), ("fp16", 4e-3), ("int8", 0.2)):
        fuse(tmp_path / "x.onnx", models["birch"], map=first, head=head, dtype=dtype,
             one_file_limit=1000)  # fmt: skip
        assert sorted(p.name for p in tmp_path.iterdir()) == ["x.onnx", "x.onnx_data"]
        want = (head @ first).apply(extract(models["birch"], TEXTS).states)
        near(run(tmp_path / "x.onnx", models["birch"])["scores"], want, within)


# --- errors ---------------------------------------------------------------------------------------


def test_parts_that_do_not_belong_together(tmp_path, rng, models):
    first, head = parts(models["birch"], rng)
    out = tmp_path / "x.onnx"
    with pytest.raises(MismatchError, match="this map reads other states: got ash"):
        fuse(out, models["ash"], map=first, head=head)
    with pytest.raises(MismatchError, match="this head reads other states"):
        fuse(out, models["birch"], head=head)
    with pytest.raises(MismatchError, match="this map reads other states"):
        fuse(out, models["birch"], map=first, pooling="last")
    other = Head(head.weight, head.bias, head.labels, Space(20, "00" * 32, "third", "mean"))
    with pytest.raises(MismatchError, match="does not lead into this head's space"):
        fuse(out, models["birch"], map=first, head=other)
    with pytest.raises(InputError, match="only a map and a head are folded"):
        fuse(out, models["birch"], map=first, fold=True)
    tokens = AffineMap(first.weight, first.bias, models["birch"].card.space("tokens"))
    with pytest.raises(InputError, match="does not make one state per text: got 'tokens'"):
        fuse(out, models["birch"], map=tokens)
    with pytest.raises(InputError, match="does not make one state per text: got 'median'"):
        fuse(out, models["birch"], pooling="median")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_with_other_outputs_is_not_left(tmp_path, models, monkeypatch):
    def wrong(build, pooling, *rest):
        return real(build, "cls", *rest)

    real = fuse_model.add_pooling
    monkeypatch.setattr(fuse_model, "add_pooling", wrong)
    with pytest.raises(ParityError, match="states differ too much from NumPy's"):
        fuse(tmp_path / "x.onnx", models["birch"])
    monkeypatch.undo()
    with pytest.raises(ParityError, match=r"expected at most 0\.001 .*--limit"):
        fuse(tmp_path / "x.onnx", models["birch"], dtype="int8", limit=0.001)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_of_another_model_is_not_replaced(tmp_path):
    ash, birch = map(demo.model_folder, ("ash", "birch"))
    assert tokenizer_beside(tmp_path / "x.onnx", ash) == tmp_path / "tokenizer.json"
    (tmp_path / "tokenizer.json").write_bytes((ash / "tokenizer.json").read_bytes())
    tokenizer_beside(tmp_path / "x.onnx", ash)
    with pytest.raises(MismatchError, match="is another model's"):
        tokenizer_beside(tmp_path / "x.onnx", birch)


# --- models with more inputs than ids and mask ----------------------------------------------------


@pytest.mark.export
@pytest.mark.parametrize("family", ["Bert", "Roberta", "Llama", "GPT2", "Qwen3"])
def test_families(tmp_path, tiny, rng, family):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("optimum.exporters.onnx")
    from linalign_lite.onnx.model_export import export_model

    few = {"num_key_value_heads": 2, "head_dim": 8} if family in ("Llama", "Qwen3") else {}
    causal = {"Llama": "ForCausalLM", "GPT2": "LMHeadModel", "Qwen3": "ForCausalLM"}
    config = getattr(transformers, f"{family}Config")
    folder = tiny(config, getattr(transformers, family + causal.get(family, "Model")), **few)
    export_model(str(folder), tmp_path / "exported")
    model = load_model(tmp_path / "exported")
    first, head = parts(model, rng, "last")
    out = tmp_path / "x.onnx"
    for dtype, within in (("fp32", 1e-4), ("fp16", 0.02), ("int8", 1.0)):
        fuse(out, model, map=first, head=head, dtype=dtype, limit=1.0 if dtype == "int8" else None)
        got = run(out, model, TEXTS[:5])
        near(got["states"], extract(model, TEXTS[:5], pooling="last").states, within)


@pytest.mark.shared
def test_the_real_minilm(tmp_path, shared_model, rng):
    pytest.importorskip("optimum.exporters.onnx")
    from linalign_lite.onnx.model_export import export_model

    export_model(str(shared_model("all-minilm-l6-v2")), tmp_path / "minilm")
    model = load_model(tmp_path / "minilm")
    first, head = parts(model, rng, "mean", normalize=True)
    states = extract(model, TEXTS).states
    for dtype, within in (("fp32", 1e-5), ("fp16", 4e-3), ("int8", 0.2)):
        made = fuse(tmp_path / "x.onnx", model, map=first, head=head, dtype=dtype)
        got = run(tmp_path / "x.onnx", model)
        near(got["states"], states, within)
        cosines = (got["states"] * states).sum(axis=1) / np.linalg.norm(got["states"], axis=1)
        assert cosines.min() > (0.95 if dtype == "int8" else 0.9999)
        assert made.size < {"fp32": 91.5e6, "fp16": 46e6, "int8": 24e6}[dtype]


def test_the_command(tmp_path, capsys, rng, models):
    from linalign_lite import save
    from linalign_lite.commands import main

    first, head = parts(models["birch"], rng)
    save(tmp_path / "a.map.npz", first)
    save(tmp_path / "a.head.npz", head)

    def said(*args, code=0):
        assert main([str(a) for a in args]) == code
        captured = capsys.readouterr()
        return captured.err if code else json.loads(captured.out)

    at = [tmp_path / n for n in ("a.map.npz", "a.head.npz", "x.onnx", "back.npz")]
    found = said("onnx", at[1], at[2], "--map", at[0], "--json")
    assert (found["kind"], found["opset"]) == ("head", 17)
    assert said("from-onnx", at[2], at[3], "--json")["outputs"] == 4
    near(from_onnx(at[2]).weight, (head @ first).weight, 1e-6)
    assert said("inspect", at[2], "--json")["kind"] == "ONNX head"
    assert "is a map" in said("onnx", at[0], at[2], "--map", at[0], code=2)
    assert "is an input of this command" in said("onnx", at[0], at[0], code=2)
    assert "--limit" in said("onnx", at[1], at[2], "--dtype", "int8", "--limit", "1e-6", code=1)
    where: Path = tmp_path / "app"
    where.mkdir()
    model = demo.model_folder("birch")
    found = said("fuse", model, where / "x.onnx", "--map", at[0], "--head", at[1],
                 "--with-tokenizer", "--quiet", "--json")  # fmt: skip
    assert set(found["differences"]) == {"states", "mapped", "scores"}
    assert sorted(p.name for p in where.iterdir()) == ["tokenizer.json", "x.onnx"]
    assert "is another model's" in said(
        "fuse", demo.model_folder("ash"), where / "y.onnx", "--with-tokenizer", code=2
    )
    assert "is not an exported model" in said("fuse", where, where / "y.onnx", code=2)
    assert sorted(p.name for p in where.iterdir()) == ["tokenizer.json", "x.onnx"]
