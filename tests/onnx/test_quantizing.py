"""int8 exports: near the float32 states or refused, with the cosines in the card."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from linalign_lite import demo, extract, load_model
from linalign_lite.commands import main
from linalign_lite.errors import FormatError, InputError, ParityError
from linalign_lite.extraction.model_card import load_card
from linalign_lite.onnx import quantization
from linalign_lite.storage.hashing import seal_of

pytestmark = pytest.mark.export
pytest.importorskip("transformers")

TEXTS = demo.public_texts().texts[:40]


@pytest.fixture(scope="module")
def bert(tmp_path_factory, tiny_tokenizer) -> Path:
    """A random BERT, whose weights have no outliers that int8 would round badly."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("bert")
    size = tiny_tokenizer(folder)
    torch.manual_seed(0)
    config = BertConfig(vocab_size=size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
                        intermediate_size=64, max_position_embeddings=64)  # fmt: skip
    BertModel(config, add_pooling_layer=False).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def both(bert, tmp_path_factory) -> tuple[Path, Path]:
    from linalign_lite.onnx.model_export import export_model

    root = tmp_path_factory.mktemp("both")
    export_model(str(bert), root / "fp32")
    export_model(str(bert), root / "int8", quantize=TEXTS)
    return root / "fp32", root / "int8"


def test_an_int8_export_is_near_and_states_its_cosines(both):
    import onnx

    plain, small = both
    card = load_card(small)
    assert card.dtype == "int8"
    a = extract(load_model(plain, threads=1), TEXTS, normalize=False).states
    b = extract(load_model(small, threads=1), TEXTS, normalize=False).states
    found = card.parity["int8_cosine"]
    want = quantization.cosines(a, b)
    for name in ("min", "p01", "median"):  # padding, and with it the scales, may differ
        assert found[name] == pytest.approx(want[name], abs=2e-3)
        assert found[name] >= quantization.MIN_COSINE[name]
    assert found["texts"] == len(TEXTS)
    assert not np.array_equal(a, b)
    assert card.parity["states_max_abs"] > 0  # of the float32 graph against torch
    graph = onnx.load(str(small / "model.onnx")).graph
    products = [n for n in graph.node if n.op_type == "MatMulInteger"]
    assert len(products) == 2 * 6
    assert {d.domain for d in onnx.load(str(small / "model.onnx")).opset_import} <= {"", "ai.onnx"}
    scales = [t for t in graph.initializer if t.name.endswith("_scale") and t.dims]
    assert {int(t.dims[0]) for t in scales} >= {32, 64}  # one per channel
    assert sorted(p.name for p in small.iterdir()) == ["card.json", "model.onnx", "tokenizer.json"]


def test_what_is_too_far_is_refused_and_nothing_left(both, bert, tmp_path, monkeypatch):
    from linalign_lite.onnx.model_export import export_model

    monkeypatch.setitem(quantization.MIN_COSINE, "median", 1.1)
    with pytest.raises(ParityError, match=r"int8 states are too far.*\(median\)"):
        export_model(str(bert), tmp_path / "x", quantize=TEXTS)
    assert not list(tmp_path.iterdir())


def test_wrong_requests_are_refused(bert, tmp_path):
    from linalign_lite.onnx.model_export import export_model

    with pytest.raises(InputError, match="quantising is of fp32 weights: got dtype fp16"):
        export_model(str(bert), tmp_path / "x", dtype="fp16", quantize=TEXTS)
    with pytest.raises(InputError, match="too few texts"):
        export_model(str(bert), tmp_path / "x", quantize=TEXTS[:3])
    assert not list(tmp_path.iterdir())


def test_the_command_prints_the_cosines(bert, tmp_path, capsys):
    out = tmp_path / "m"
    (tmp_path / "t.txt").write_text("\n".join(TEXTS))
    args = ["export", str(bert), str(out), "--quantize", "--texts", str(tmp_path / "t.txt")]
    assert main([*args, "--json"]) == 0
    said = capsys.readouterr()
    assert "cosine to float32 states: min " in said.err
    found = json.loads(said.out)
    assert found["parity"]["int8_cosine"]["texts"] == len(TEXTS)
    assert main(["inspect", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dtype"] == "int8"
    assert main(["export", str(bert), str(tmp_path / "n"), "--texts", "t.txt"]) == 2
    assert "--texts needs --quantize" in capsys.readouterr().err


def test_cosines_by_hand():
    a = np.array([[1, 0], [0, 2], [3, 3]], dtype=np.float32)
    b = np.array([[2, 0], [1, 0], [3, 0]], dtype=np.float32)
    found = quantization.cosines(a, b)
    assert found == {"min": 0.0, "p01": round(0.02 * 0.5**0.5, 5), "median": 0.70711, "texts": 3}


def test_an_unknown_dtype_in_a_card_is_refused(both, tmp_path):
    import shutil

    shutil.copytree(both[1], tmp_path / "m")
    path = tmp_path / "m" / "card.json"
    raw = json.loads(path.read_text())
    raw["dtype"] = "int4"
    raw["seal"] = seal_of(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(FormatError):
        load_card(tmp_path / "m")
