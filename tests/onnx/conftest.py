"""Tiny models with random weights, and real models of the shared folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import SHARED


@pytest.fixture(scope="session")
def shared_model() -> Callable[[str], Path]:
    """Return the folder of a real model by its name; skip the test if it is absent."""

    def find(name: str) -> Path:
        folder = SHARED / "models" / name
        if not (folder / "config.json").is_file():
            pytest.skip(f"no {name} in the shared folder (set LINALIGN_SHARED)")
        return folder

    return find


@pytest.fixture(scope="session")
def tiny_tokenizer() -> Callable[[Path], int]:
    """Write a tokenizer into a folder and return its vocabulary size."""
    return write_tokenizer


def write_tokenizer(folder: Path) -> int:
    """Write a byte-level tokenizer of 256 bytes and four special tokens; return its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    names = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*names, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    tokenizer.enable_truncation(20)  # the export must remove these settings
    tokenizer.enable_padding(length=30)

    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    fast.save_pretrained(folder)
    return len(vocab)


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Make a tiny model's folder: ``tiny(ConfigClass, ModelClass, **settings)``."""

    def make(config_class: Any, model_class: Any, **settings: Any) -> Path:
        import torch

        folder = tmp_path / "model"
        folder.mkdir()
        size = write_tokenizer(folder)
        common = {
            "vocab_size": size + 3,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 96,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": 2,
        }
        torch.manual_seed(0)
        model = model_class(config_class(**{**common, **settings}))
        with torch.no_grad():  # with the usual 0.02 all outputs would be alike
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.eval().save_pretrained(folder)
        return folder

    return make
