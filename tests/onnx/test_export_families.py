"""Export a tiny random model of each family, and compare and decode with its cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from linalign_lite.core.serialization import load_head
from linalign_lite.extraction.model_card import load_card
from linalign_lite.extraction.session import load_model
from linalign_lite.onnx.model_config import ModelConfig
from linalign_lite.onnx.model_export import export_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("optimum.exporters.onnx")

pytestmark = pytest.mark.export

KV = {"num_key_value_heads": 2, "head_dim": 8}
ENCODERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertModel", {}),
    "bert-mlm": ("BertConfig", "BertForMaskedLM", {}),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertModel",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    ),
    "roberta": ("RobertaConfig", "RobertaModel", {}),
    "mpnet": ("MPNetConfig", "MPNetModel", {}),
    "modernbert": ("ModernBertConfig", "ModernBertModel", {"reference_compile": False}),
    "qwen3-states": ("Qwen3Config", "Qwen3ForCausalLM", KV),
    "gemma3-states": ("Gemma3TextConfig", "Gemma3ForCausalLM", KV),
}
CAUSAL: dict[str, tuple[str, str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4}),
    "gpt-neox": ("GPTNeoXConfig", "GPTNeoXForCausalLM", {}),
    "gptj": ("GPTJConfig", "GPTJForCausalLM", {"rotary_dim": 4}),
    "bloom": ("BloomConfig", "BloomForCausalLM", {}),
    "opt": ("OPTConfig", "OPTForCausalLM", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "opt-projected": ("OPTConfig", "OPTForCausalLM", {"ffn_dim": 48, "word_embed_proj_dim": 16}),
    "phi": ("PhiConfig", "PhiForCausalLM", {}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", KV),
    "llama-tied": ("LlamaConfig", "LlamaForCausalLM", {**KV, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**KV, "sliding_window": 16}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {"num_key_value_heads": 2}),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", KV),
    "gemma": ("GemmaConfig", "GemmaForCausalLM", KV),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {**KV, "final_logit_softcapping": 5.0}),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", KV),
    "granite": ("GraniteConfig", "GraniteForCausalLM", {**KV, "logits_scaling": 4.0}),
    "cohere": ("CohereConfig", "CohereForCausalLM", {**KV, "logit_scale": 0.25}),
}


def reference_tokens(folder: Path, text: str) -> Any:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return tokenizer(text, return_tensors="pt")["input_ids"]


@pytest.mark.parametrize("family", ENCODERS)
def test_encoder(family: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    config, model, settings = ENCODERS[family]
    folder = tiny(getattr(transformers, config), getattr(transformers, model), **settings)
    out = tmp_path / "out"
    card = export_model(str(folder), out, task="embed")
    assert card.task == "embed"
    assert card.hidden_size == 32
    assert card.past == ()
    assert card.parity["states_max_abs"] <= 1e-4
    assert sorted(p.name for p in out.iterdir()) == ["card.json", "model.onnx", "tokenizer.json"]
    offset = 2 if family in ("roberta", "mpnet") else 0
    assert card.max_length == 96 - offset

    ours = load_model(out)
    assert [o.name for o in ours.session.get_outputs()] == ["last_hidden_state"]
    text = "Twenty-one  tokens or so, naïve."
    encoded = ours.encode([text])[0]
    ids = reference_tokens(folder, text)
    assert ids.tolist() == [list(encoded.ids)]
    loader = transformers.AutoModelForCausalLM if "states" in family else transformers.AutoModel
    reference = loader.from_pretrained(folder)
    reference = reference.model if "states" in family else reference
    with torch.no_grad():
        want = reference(ids).last_hidden_state.numpy()
    got = ours.run(ids.numpy(), np.ones_like(ids.numpy()))
    assert np.abs(got - want).max() <= 1e-4


@pytest.mark.parametrize("family", CAUSAL)
def test_causal_lm(family: str, tiny: Callable[..., Path], tmp_path: Path) -> None:
    config, model, settings = CAUSAL[family]
    folder = tiny(getattr(transformers, config), getattr(transformers, model), **settings)
    out = tmp_path / "out"
    card = export_model(str(folder), out)
    assert load_card(out) == card
    assert card.task == "generate"
    assert card.pooling == "mean"
    assert card.max_length == 96 or family == "bloom"
    assert len(card.past) == 4
    assert card.special == {"bos": 0, "eos": 2, "pad": 1}
    for name in ("states_max_abs", "logits_max_abs", "decode_max_abs"):
        assert card.parity[name] <= 1e-4

    head = load_head(out / "token_head.head.npz")
    assert head.weight.shape == (card.vocab_size, card.hidden_size)
    assert head.weight.dtype == np.float32
    assert head.softcap == settings.get("final_logit_softcapping", head.softcap)
    assert (head.softcap is not None) == (family == "gemma2")
    assert head.space.model == card.digest
    ours = load_model(out)
    outputs = [o.name for o in ours.session.get_outputs()]
    assert outputs[0] == "last_hidden_state"
    assert outputs[1:] == [p.name.replace("past_key_values", "present") for p in card.past]

    ids = reference_tokens(folder, "Where did it go?")
    with torch.no_grad():
        want = transformers.AutoModelForCausalLM.from_pretrained(folder)(ids).logits.numpy()[0]
    states = ours.run(ids.numpy(), np.ones_like(ids.numpy()))[0]
    assert np.abs(head.apply(states) - want).max() <= 1e-4


@pytest.mark.parametrize(
    ("stated", "ends"), [([2, 9, 300], [2, 9]), (9, [2, 9]), ([2], None), ("</s>", None)]
)
def test_every_end_of_text_is_in_the_card(stated, ends, tiny, tmp_path):
    folder = tiny(transformers.LlamaConfig, transformers.LlamaForCausalLM)
    settings = {"eos_token_id": stated}  # beside the tokenizer's own, 2; there is no token 300
    (folder / "generation_config.json").write_text(json.dumps(settings))
    config = ModelConfig.read(folder)
    assert list(config.eos_token_ids(2, 263)) == (ends or [])
    if stated == 9:
        export_model(str(folder), tmp_path / "out")
        assert json.loads((tmp_path / "out" / "card.json").read_text())["eos_token_ids"] == ends
        assert load_card(tmp_path / "out").ends == {2, 9}
