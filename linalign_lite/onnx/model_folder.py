"""The last step of every export: the card, the token head's file, and the seal."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.core.head import Head
from linalign_lite.core.serialization import save_head
from linalign_lite.errors import InputError
from linalign_lite.extraction.model_card import (
    DIGESTED,
    HEAD_FILE,
    ModelCard,
    folder_digest,
    seal_card,
)
from linalign_lite.onnx import float16, graph_edit, model_quantization, pooling
from linalign_lite.onnx.cut_token_head import Cut
from linalign_lite.storage.hashing import hash_file

DTYPES = ("fp32", "fp16")
_PACKAGES = (
    "linalign-lite", "optimum", "optimum-onnx", "transformers", "tokenizers", "torch", "onnx",
    "onnxruntime",
)  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """Where a graph came from: the folder with its settings, and the name to give it."""

    name: str
    folder: Path
    config: Mapping[str, Any]

    @property
    def max_length(self) -> int:
        """Tokens of context."""
        return pooling.max_length(self.folder, self.config)


def check_dtype(dtype: str, quantize: Sequence[str] | None = None) -> None:
    """Raise InputError unless ``dtype`` is fp32 or fp16, and fp32 when weights become int8."""
    if quantize is not None and dtype != "fp32":
        raise InputError("what is quantised is stored as int8", got=f"dtype {dtype}")
    if dtype not in DTYPES:
        raise InputError("the dtype is not known", got=repr(dtype), expected=" or ".join(DTYPES))


def vocab_size(cut: Cut, config: Mapping[str, Any]) -> int:
    """Outputs of the head, or what the settings say. Raises InputError when nothing says."""
    size = cut.head.n_outputs if cut.head else config.get("vocab_size")
    if type(size) is not int or size < 1:
        raise InputError("config.json states no vocabulary size", got=repr(size))
    return size


def quantize(
    folder: Path, cut: Cut, origin: Origin, tokenizer: Any, texts: Sequence[str],
    numbers: Mapping[str, Any], one_file_limit: int, say: Callable[[str], None],
) -> tuple[dict[str, Any], str]:  # fmt: skip
    """Make the graph in ``folder`` int8; what parity then says, and the dtype. See `quantizing`."""
    say(f"quantising, and comparing {len(texts)} texts")
    encoded = [tokenizer.encode(text).ids[: origin.max_length] for text in texts]
    found = model_quantization.quantize(
        folder, cut.past, [ids for ids in encoded if ids],
        pooling.read_pooling(origin.folder).pooling, one_file_limit,
    )  # fmt: skip
    say(
        f"cosine to float32 states: min {found['min']}, 1 % below {found['p01']}, "
        f"median {found['median']}"
    )
    return {**numbers, "int8_cosine": found}, "int8"


def seal(
    folder: Path, model: Any, cut: Cut, origin: Origin, tokenizer: Any, dtype: str,
    numbers: Mapping[str, Any],
) -> ModelCard:  # fmt: skip
    """Write `token_head.head.npz` (causal LM) and `card.json` beside what is in ``folder``."""
    how = pooling.read_pooling(origin.folder)
    card = ModelCard(
        name=origin.name,
        architecture=pooling.architecture(origin.config),
        task="generate" if cut.head else "embed",
        hidden_size=cut.hidden_size,
        max_length=origin.max_length,
        vocab_size=vocab_size(cut, origin.config),
        pooling=how.pooling,
        normalize=how.normalize,
        dtype=dtype,
        opset=graph_edit.opset(model),
        past=cut.past,
        special=pooling.special_tokens(origin.folder, origin.config, tokenizer.token_to_id),
        parity=numbers,
        versions=_versions(),
    )
    if cut.head:
        _save_head(folder, cut.head, card)
    return seal_card(folder, card)


def _save_head(folder: Path, head: Head, card: ModelCard) -> None:
    """float16 when the export is and nothing is lost, else float32."""
    files = {n: {"sha256": hash_file(folder / n)} for n in DIGESTED if (folder / n).exists()}
    weight, bias = head.weight, head.bias
    if card.dtype == "fp16" and float16.is_half(weight) and float16.is_half(bias):
        weight, bias = weight.astype(np.float16), bias.astype(np.float16)
    named = dataclasses.replace(card, digest=folder_digest(files))
    space = named.space("tokens", normalize=False)
    save_head(folder / HEAD_FILE, Head(weight, bias, (), space, head.softcap, head.card))


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
