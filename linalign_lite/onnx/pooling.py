"""What a model's folder says of itself: its JSON settings, read without any of its libraries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linalign_lite.errors import InputError

_POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "max_seq_len",
    "n_ctx",
)
_SANE = 10_000_000  # tokenizers say 10^30 when they do not know
_FALLBACK = 2048  # for models without position limit whose tokenizer states none
# These count positions from padding_idx + 1, so that many of them are never used.
_OFFSET_TYPES = (
    "roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer",
    "data2vec-text", "roberta-prelayernorm", "xmod", "ibert", "luke",
)  # fmt: skip
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}
_WORDS = {"cls": "cls", "mean": "mean", "lasttoken": "last", "last": "last"}


@dataclass(frozen=True)
class Pooling:
    """How a sentence-transformers folder makes one vector of a text."""

    pooling: str = "mean"
    normalize: bool = False
    found: bool = False  # whether the folder is a sentence-transformers folder
    remark: str = ""  # what of it is not kept, in words


def read_json(path: Path, *, needed: bool = False) -> Any:
    """The content of a JSON file; {} when it is not there and not needed."""
    try:
        there = path.is_file()
    except (OSError, ValueError):  # a name that no file can have, from another file
        there = False
    if not there:
        if needed:
            raise InputError(f"{path.parent} has no {path.name}", hint="is this a model's folder?")
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as e:
        raise InputError(f"{path} is not readable JSON", got=type(e).__name__) from e


def _settings(path: Path) -> dict[str, Any]:
    """As read_json, of a file that must hold an object."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a JSON object", got=type(found).__name__)
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json`; a text model inside a larger one is laid over what is around it."""
    config = read_json(folder / "config.json", needed=True)
    if not isinstance(config, dict):
        raise InputError(f"{folder / 'config.json'} is not a JSON object")
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def architecture(config: Mapping[str, Any]) -> str:
    """The class that the weights belong to, else the family, else "unknown"."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else config.get("model_type")
    return name if isinstance(name, str) and name else "unknown"


def guess_task(folder: Path, config: Mapping[str, Any]) -> str:
    """`embed` for a sentence-transformers folder or an encoder, `generate` for a causal LM."""
    causal = architecture(config).endswith(("ForCausalLM", "LMHeadModel"))
    return "generate" if causal and not (folder / "modules.json").is_file() else "embed"


def max_length(folder: Path, config: Mapping[str, Any]) -> int:
    """The least of the model's positions, the tokenizer's and sentence-transformers' limits."""
    limits = [v for key in _POSITIONS if (v := _count(config.get(key)))][:1]
    if limits and config.get("model_type") in _OFFSET_TYPES:
        padding = config.get("pad_token_id")
        limits = [limits[0] - (padding if type(padding) is int else 1) - 1]
    limits.append(_count(_settings(folder / "tokenizer_config.json").get("model_max_length")))
    limits.append(_count(_settings(folder / "sentence_bert_config.json").get("max_seq_length")))
    return min((n for n in limits if n), default=_FALLBACK)


def special_tokens(folder: Path, config: Mapping[str, Any], ids: Any) -> dict[str, int | None]:
    """bos, eos and pad ids, by the tokenizer's settings or else the model's.

    ids: a function from a token's text to its id or None.
    """
    tokens = {
        **_settings(folder / "special_tokens_map.json"),
        **_settings(folder / "tokenizer_config.json"),
    }
    result: dict[str, int | None] = {}
    for name in ("bos", "eos", "pad"):
        token = tokens.get(f"{name}_token")
        text = token.get("content") if isinstance(token, dict) else token
        value = ids(text) if isinstance(text, str) else None
        stated = config.get(f"{name}_token_id")
        if value is None:
            value = stated[0] if isinstance(stated, list) and stated else stated
        result[name] = value if type(value) is int else None
    return result


def read_pooling(folder: Path) -> Pooling:
    """Pooling and normalization by `modules.json`; mean and none when there is no such file."""
    modules = read_json(folder / "modules.json")
    if not isinstance(modules, list):
        return Pooling()
    kinds = {str(m.get("type", "")).rsplit(".", 1)[-1]: m for m in modules if isinstance(m, dict)}
    remarks = []
    if "Dense" in kinds:
        remarks.append("its Dense layer after pooling is left out")
    pooling = "mean"
    if "Pooling" in kinds:
        where = folder / str(kinds["Pooling"].get("path", "1_Pooling"))
        modes = _modes(_settings(where / "config.json"))
        if len(modes) == 1 and modes[0] in _WORDS.values():
            pooling = modes[0]
        else:
            remarks.append(f"its pooling ({', '.join(modes) or 'unknown'}) becomes mean")
    return Pooling(pooling, "Normalize" in kinds, True, "; ".join(remarks))


def _modes(settings: Mapping[str, Any]) -> list[str]:
    word = settings.get("pooling_mode")
    if isinstance(word, str):
        return [_WORDS.get(word, word)]
    on = [k for k, v in settings.items() if k.startswith("pooling_mode_") and v is True]
    return [_FLAGS.get(k, k.removeprefix("pooling_mode_")) for k in on]


def _count(value: Any) -> int:
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and 1 < value < _SANE
    return int(value) if usable else 0
