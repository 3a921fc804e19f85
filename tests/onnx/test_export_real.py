"""Export the real models of the shared folder, compare them, and generate without torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linalign_lite.core.serialization import load_head
from linalign_lite.extraction.model_card import MODEL_FILE
from linalign_lite.extraction.session import load_model
from linalign_lite.onnx import parity
from linalign_lite.onnx.model_export import export_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("optimum.exporters.onnx")

pytestmark = [pytest.mark.export, pytest.mark.shared]
CAUSAL = {"stories260k": (64, 512, 10), "tinystories-656k": (128, 2048, 4)}


def greedy(out: Path, card: Any, ids: list[int], steps: int) -> list[int]:
    """Decode greedily with the exported folder alone: the graph, its cache and the token head."""
    head = load_head(out / "token_head.head.npz")
    graph = parity.open_graph(out / MODEL_FILE, card.past)
    tokens, cache, new = list(ids), None, list(ids)
    for _ in range(steps):
        mask = np.ones((1, len(tokens)), dtype=np.int64)
        result = graph.run(np.array([new], dtype=np.int64), mask, cache)
        cache = result
        new = [int(head.predict(result["last_hidden_state"][0, -1:])[0])]
        tokens += new
        if new[0] == card.special["eos"]:
            break
    return tokens


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("name", CAUSAL)
def test_causal_lm(
    name: str, dtype: str, shared_model: Callable[[str], Path], tmp_path: Path
) -> None:
    source, out = shared_model(name), tmp_path / "out"
    hidden, vocab, cache = CAUSAL[name]
    card = export_model(str(source), out, dtype=dtype)
    assert (card.name, card.task, card.architecture) == (name, "generate", "LlamaForCausalLM")
    assert (card.hidden_size, card.vocab_size, len(card.past)) == (hidden, vocab, cache)
    assert (card.max_length, card.pooling, card.normalize) == (512, "mean", False)
    assert card.parity["texts"] == 9
    for measured in ("states_max_abs", "logits_max_abs", "decode_max_abs"):
        assert card.parity[measured] <= 1e-4
    assert load_head(out / "token_head.head.npz").space.model == card.digest

    if dtype == "fp16":
        return
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    model = transformers.AutoModelForCausalLM.from_pretrained(source)
    inputs = tokenizer("Once upon a time", return_tensors="pt")
    want = model.generate(
        inputs["input_ids"], attention_mask=inputs["attention_mask"], do_sample=False,
        max_new_tokens=60, eos_token_id=card.special["eos"], pad_token_id=card.special["pad"],
    )[0].tolist()  # fmt: skip
    ids = load_model(out).encode(["Once upon a time"])[0].ids
    assert greedy(out, card, list(ids), 60) == want


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_sentence_encoder(dtype: str, shared_model: Callable[[str], Path], tmp_path: Path) -> None:
    source, out = shared_model("all-minilm-l6-v2"), tmp_path / "out"
    card = export_model(str(source), out, dtype=dtype)
    assert (card.task, card.hidden_size, card.max_length) == ("embed", 384, 256)
    assert (card.pooling, card.normalize, card.past) == ("mean", True, ())
    assert card.parity["states_max_abs"] <= 1e-4
    megabytes = card.files[MODEL_FILE]["size"] / 1e6
    assert megabytes < (46 if dtype == "fp16" else 91)

    ours = load_model(out)
    text = "A sentence, to be encoded; naïve café."
    tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        want = transformers.AutoModel.from_pretrained(source, dtype=torch.float32)(**inputs)
    ids = np.array([ours.encode([text])[0].ids])
    got = ours.run(ids, np.ones_like(ids))
    assert np.abs(got - want.last_hidden_state.numpy()).max() <= 1e-4
