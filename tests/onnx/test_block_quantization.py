"""int8 in blocks: near the model or refused, and each weight within half a step of its block."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from linalign_lite import extract, load_model
from linalign_lite.commands import main
from linalign_lite.core.serialization import load_head
from linalign_lite.errors import InputError, LinalignError, ParityError
from linalign_lite.extraction.model_card import load_card
from linalign_lite.onnx import block_quantization, graph_edit, parity

onnx = pytest.importorskip("onnx")
transformers = pytest.importorskip("transformers")
pytest.importorskip("optimum.exporters.onnx")
pytestmark = pytest.mark.export

KV = {"num_key_value_heads": 2, "head_dim": 8}
FAMILIES: dict[str, tuple[str, str, dict[str, Any], int]] = {  # and products in the graph
    "llama": ("LlamaConfig", "LlamaForCausalLM", {**KV, "tie_word_embeddings": True}, 14),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", KV, 14),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4}, 8),
    "bert": ("BertConfig", "BertModel", {}, 12),
}
TEXTS = ["Once upon a time", "there was a very small model", "whose weights were rounded"]


@pytest.fixture
def made(tiny: Callable[..., Path], request: pytest.FixtureRequest) -> Path:
    config, model, settings, _ = FAMILIES[getattr(request, "param", "llama")]
    return tiny(getattr(transformers, config), getattr(transformers, model), **settings)


def export(model: Path, out: Path, **options: Any) -> Any:
    from linalign_lite.onnx.model_export import export_model

    return export_model(str(model), out, **options)


@given(arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=70),
              elements=st.floats(-(2.0**100), 2.0**100, width=32)))  # fmt: skip
def test_each_weight_is_within_half_a_step(rows):
    values, scales = block_quantization.quantize(rows), block_quantization.block_scales(rows)
    blocks = -(-rows.shape[1] // 32)
    assert values.shape == (len(rows), blocks, 32)
    assert scales.shape == (len(rows), blocks)
    back = values.astype(np.float64) * scales[..., None]
    back = back.reshape(len(rows), -1)
    assert not back[:, rows.shape[1] :].any()
    steps = np.repeat(scales, 32, axis=1)[:, : rows.shape[1]].astype(np.float64)
    tiny = np.finfo(np.float32).smallest_normal  # below, scales have fewer digits
    assert (np.abs(back[:, : rows.shape[1]] - rows) <= steps * 0.501 + tiny * 200).all()


@pytest.mark.parametrize(("made", "count"), [(f, v[3]) for f, v in FAMILIES.items()],
                         indirect=["made"])  # fmt: skip
def test_families_are_near_and_say_what_they_are(made: Path, count: int, tmp_path: Path, capsys):
    plain = export(made, tmp_path / "fp32")
    card = export(made, tmp_path / "int8", dtype="int8")
    assert (card.dtype, card.block_size) == ("int8", 32)
    assert load_card(tmp_path / "int8") == card
    assert (plain.block_size, "block_size" in (tmp_path / "fp32/card.json").read_text()) == (0, 0)
    unit = [name for name in card.parity if name.endswith("_relative_rms")]
    assert sorted(unit) == (
        ["decode_relative_rms", "logits_relative_rms", "states_relative_rms"]
        if card.past
        else ["states_relative_rms"]
    )
    assert 0 < card.parity["states_relative_rms"] <= parity.INT8.difference
    assert card.parity["embedding_cosine"] >= parity.INT8.cosine
    graph = onnx.load(tmp_path / "int8" / "model.onnx").graph
    kinds = [node.op_type for node in graph.node if node.domain == "com.microsoft"]
    assert kinds.count("MatMulNBits") == count
    assert set(kinds) == {"MatMulNBits"}
    tables = [n for n in graph.node if n.op_type == "Gather" and n.input[0].endswith(".int8")]
    assert len(tables) >= 1
    floats = {t.name: tuple(t.dims) for t in graph.initializer if t.data_type == 1}
    left = [n for n, d in floats.items() if len(d) == 2 and np.prod(d) >= 256]
    assert all(name.endswith(".scales") for name in left)
    a, b = (extract(load_model(tmp_path / n, threads=1), TEXTS).states for n in ("fp32", "int8"))
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosines.min() >= 0.99
    assert not np.array_equal(a, b)
    assert main(["inspect", str(tmp_path / "int8"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["block_size"] == 32


def test_weights_beside_the_graph_are_the_same_and_a_head_is_halved(made: Path, tmp_path: Path):
    export(made, tmp_path / "one", dtype="int8")
    export(made, tmp_path / "two", dtype="int8", one_file_limit=0)
    assert (tmp_path / "two" / "model.onnx_data").is_file()
    a, b = (extract(load_model(tmp_path / n, threads=1), TEXTS).states for n in ("one", "two"))
    assert np.array_equal(a, b)
    assert load_head(tmp_path / "one" / "token_head.head.npz").weight.dtype == np.float16


def test_an_id_beyond_the_table_is_refused(made: Path, tmp_path: Path):
    size = export(made, tmp_path / "x", dtype="int8").vocab_size
    model = load_model(tmp_path / "x", threads=1)
    ids = np.array([[1, size - 1]])
    assert np.isfinite(model.run(ids, np.ones_like(ids))).all()
    with pytest.raises(LinalignError, match="fails on a batch"):
        model.run(ids + 1, np.ones_like(ids))


def test_an_exported_graph_of_others_is_quantised_too(made: Path, tmp_path: Path):
    export(made, tmp_path / "fp32", task="embed")
    source = tmp_path / "onnx"
    source.mkdir()
    for name in ("model.onnx", "tokenizer.json"):
        (source / name).write_bytes((tmp_path / "fp32" / name).read_bytes())
    (source / "config.json").write_bytes((made / "config.json").read_bytes())
    assert main(["export", str(source), str(tmp_path / "x"), "--from-onnx", "--dtype", "int8"]) == 0
    assert load_card(tmp_path / "x").block_size == 32


def test_what_is_too_far_is_refused_and_nothing_left(made: Path, tmp_path: Path, monkeypatch):
    save = graph_edit.save

    def altered(model: Any, folder: Path, limit: int, weights: Any) -> Path:
        values = dict(weights)
        name = next(n for n in values if "down_proj" in n and n.endswith(".scales"))
        return save(model, folder, limit, {**values, name: values[name] * 3})

    monkeypatch.setattr(graph_edit, "save", altered)
    with pytest.raises(ParityError, match=r"differ from the model's.*better kept as fp16"):
        export(made, tmp_path / "x", dtype="int8")
    assert not (tmp_path / "x").exists()


def test_wrong_requests_are_refused(made: Path, tmp_path: Path, capsys, monkeypatch):
    args = ["export", str(made), str(tmp_path / "x"), "--dtype", "int8"]
    assert main([*args, "--quantize"]) == 2
    assert "quantising is of fp32 weights: got dtype int8" in capsys.readouterr().err
    monkeypatch.setattr(block_quantization, "MIN_SIZE", 1 << 30)
    with pytest.raises(InputError, match="no weight that could be quantised"):
        export(made, tmp_path / "x", dtype="int8")
    assert not (tmp_path / "x").exists()
