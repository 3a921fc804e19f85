"""Embeddings as sentence-transformers computes them, to compare an export with."""

import importlib
import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from linalign_lite.errors import quote_errors
from linalign_lite.extraction.batching import pool
from linalign_lite.onnx.model_config import ModelConfig
from linalign_lite.onnx.parity import Embed, Floats, Int64
from linalign_lite.onnx.sentence_modules import SentenceModules, kind_and_path

_PROMPT_TOKENS = (0, 3)  # lengths of a prompt that are tried


def embeddings(
    config: ModelConfig, modules: SentenceModules, say: Callable[[str], None]
) -> list[tuple[Embed, Embed]]:
    """Pairs of functions for `parity.measure`: our modules, and sentence-transformers' own.

    Empty where the folder has no modules or, as ``say`` is told, the package is not installed.
    """
    if not config.module_entries:
        return []
    if importlib.util.find_spec("sentence_transformers") is None:
        say("not compared with sentence-transformers' embeddings: it is not installed")
        return []
    theirs = _load(config)
    included = modules.embedder is None or modules.embedder.include_prompt
    return [
        (partial(_embed, modules, n), partial(_run, theirs, n))
        for n in (_PROMPT_TOKENS[:1] if included else _PROMPT_TOKENS)
    ]


def own(modules: SentenceModules) -> list[tuple[Embed, Embed]]:
    """The same with our modules on both sides, or pooled states where the model has none."""
    ours = partial(_embed, modules, 0)
    return [(ours, ours)]


def _embed(modules: SentenceModules, prompt_tokens: int, states: Floats, mask: Int64) -> Floats:
    lengths = mask.sum(axis=1)
    if modules.embedder is None:
        return pool(states, lengths, modules.pooling)
    return modules.embedder.apply(states, lengths, prompt_tokens)


def _load(config: ModelConfig) -> list[Callable[[Any], Any]]:
    from linalign_lite.onnx.torch_model import quiet

    with quiet(), quote_errors(f"sentence-transformers does not load {config.name}"):
        library = importlib.import_module("sentence_transformers.models")
        found = []
        for number, entry in enumerate(config.module_entries):
            kind, path = kind_and_path(entry, number)
            if kind != "Transformer":
                load = getattr(library, kind).load
                module = load(str(config.folder), subfolder=path, local_files_only=True)
                found.append(module.eval())
    return found


def _run(
    modules: list[Callable[[Any], Any]], prompt_tokens: int, states: Floats, mask: Int64
) -> Floats:
    import torch

    features: dict[str, Any] = {
        "token_embeddings": torch.from_numpy(np.array(states)),
        "attention_mask": torch.from_numpy(np.array(mask)),
    }
    if prompt_tokens:
        features["prompt_length"] = min(prompt_tokens, int(mask.sum(axis=1).min()) - 1)
    with torch.inference_mode():
        for module in modules:
            features = module(features)
    found: Floats = features["sentence_embedding"].numpy()
    return found
