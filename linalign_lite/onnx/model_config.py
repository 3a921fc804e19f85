"""Settings of a Hugging Face model, read from the JSON files in its folder without any library."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linalign_lite.errors import InputError
from linalign_lite.extraction.model_card import MAX_ENDS, Prompts
from linalign_lite.onnx.sentence_modules import SentenceModules, read_modules
from linalign_lite.storage.schema import parse

_LENGTHS = ("max_position_embeddings", "n_positions", "max_sequence_length", "max_seq_len", "n_ctx")
_MAX_LIMIT = 10_000_000  # tokenizers without a limit state 10^30
_DEFAULT_LENGTH = 2048  # for models without position limit whose tokenizer states none
# These count positions from padding_idx + 1, so that many of them are never used.
_OFFSET_TYPES = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "mpnet",
    "longformer",
    "data2vec-text",
    "roberta-prelayernorm",
    "xmod",
    "ibert",
    "luke",
)
_SENTENCE = "sentence_bert_config.json"
_PROMPTS = "config_sentence_transformers.json"


@dataclass(frozen=True)
class ModelConfig:
    """`config.json` of a model, with the other settings in its folder.

    raw: a text model inside a larger one overrides the settings around it.
    """

    name: str
    folder: Path
    raw: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path, name: str | None = None) -> ModelConfig:
        """Read the folder of a model. Raises InputError for an encoder-decoder model."""
        path = folder / "config.json"
        if not path.is_file():
            raise InputError(f"{folder} has no {path.name}", hint="is this a model's folder?")
        raw = _read_object(path)
        inner = raw.get("text_config")
        raw = {**raw, **inner} if isinstance(inner, dict) else raw
        config = cls(name or folder.resolve().name, folder, raw)
        if raw.get("is_encoder_decoder"):
            raise InputError("encoder-decoder models are not exported", got=config.architecture)
        return config

    @property
    def architecture(self) -> str:
        """The class that the weights belong to, else the family, else "unknown"."""
        names = self.raw.get("architectures")
        name = names[0] if isinstance(names, list) and names else self.raw.get("model_type")
        return name if isinstance(name, str) and name else "unknown"

    @property
    def task(self) -> str:
        """`embed` for a sentence-transformers model or an encoder, `generate` for a causal LM."""
        causal = self.architecture.endswith(("ForCausalLM", "LMHeadModel"))
        return "generate" if causal and not (self.folder / "modules.json").is_file() else "embed"

    @property
    def max_length(self) -> int:
        """The least of the limits of model, tokenizer and sentence-transformers, in tokens."""
        limits = [v for key in _LENGTHS if (v := _limit(self.raw.get(key)))][:1]
        if limits and self.raw.get("model_type") in _OFFSET_TYPES:
            padding = self.raw.get("pad_token_id")
            limits = [limits[0] - (padding if type(padding) is int else 1) - 1]
        for file, key in (
            ("tokenizer_config.json", "model_max_length"),
            (_SENTENCE, "max_seq_length"),
        ):
            limits.append(_limit(_read_object(self.folder / file).get(key)))
        return min((n for n in limits if n), default=_DEFAULT_LENGTH)

    @property
    def modules(self) -> SentenceModules:
        """Modules by `modules.json`; mean without normalization if there is no such file.

        Raises InputError for one that cannot be exported.
        """
        settings = _read_object(self.folder / _SENTENCE)
        if settings.get("do_lower_case") is True:
            raise InputError(
                f"{_SENTENCE} asks for lower case", hint="let tokenizer.json do it: a normalizer"
            )
        entries = self.module_entries
        return read_modules(self.folder, entries, _read_object) if entries else SentenceModules()

    @property
    def module_entries(self) -> list[Any]:
        """The content of `modules.json`, or an empty list."""
        entries = _read_json(self.folder / "modules.json")
        return entries if isinstance(entries, list) else []

    @property
    def prompts(self) -> dict[str, str]:
        """Texts of the prompts by name. Raises InputError when they are not usable."""
        found = _read_object(self.folder / _PROMPTS).get("prompts") or {}
        texts: dict[str, str] = parse(Prompts, found, f"{_PROMPTS}: prompts")
        return texts

    @property
    def default_prompt(self) -> str:
        """Name of the prompt that `extract` uses when none is given, or ""."""
        name = _read_object(self.folder / _PROMPTS).get("default_prompt_name") or ""
        if not isinstance(name, str) or (name and name not in self.prompts):
            raise InputError(
                f"{_PROMPTS}: the default prompt is not there",
                got=str(name)[:60],
                expected=", ".join(self.prompts),
            )
        return name

    def special_tokens(self, token_to_id: Callable[[str], int | None]) -> dict[str, int | None]:
        """Ids of bos, eos and pad: of the tokenizer's settings, or else the model's."""
        tokens = {
            **_read_object(self.folder / "special_tokens_map.json"),
            **_read_object(self.folder / "tokenizer_config.json"),
        }
        result: dict[str, int | None] = {}
        for name in ("bos", "eos", "pad"):
            token = tokens.get(f"{name}_token")
            text = token.get("content") if isinstance(token, dict) else token
            value: Any = token_to_id(text) if isinstance(text, str) else None
            stated = self.raw.get(f"{name}_token_id")
            if value is None:
                value = stated[0] if isinstance(stated, list) and stated else stated
            result[name] = value if type(value) is int else None
        return result

    def eos_token_ids(self, eos: int | None, vocab_size: int) -> tuple[int, ...]:
        """Ids of all tokens that end a text, when there are several: of the generation's settings.

        Raises InputError when there are more than a card may have.
        """
        stated = _read_object(self.folder / "generation_config.json").get("eos_token_id")
        stated = self.raw.get("eos_token_id") if stated is None else stated
        listed = stated if isinstance(stated, list) else [stated]
        known = {i for i in (eos, *listed) if type(i) is int and 0 <= i < vocab_size}
        if len(known) > MAX_ENDS:
            problem = f"{self.name} has too many tokens that end a text"
            raise InputError(problem, got=str(len(known)), expected=f"at most {MAX_ENDS}")
        return tuple(sorted(known)) if len(known) > 1 else ()


def _read_json(path: Path) -> Any:
    """The content of a JSON file, or {} if it is absent."""
    exists = False
    with contextlib.suppress(OSError, ValueError):  # a name from another file that none can have
        exists = path.is_file()
    try:
        return json.loads(path.read_text(encoding="utf-8")) if exists else {}
    except (ValueError, OSError, RecursionError) as e:
        raise InputError(f"{path} is not readable JSON", got=type(e).__name__) from e


def _read_object(path: Path) -> dict[str, Any]:
    found = _read_json(path)
    if not isinstance(found, dict):
        raise InputError(f"{path} is not a JSON object", got=type(found).__name__)
    return found


def _limit(value: Any) -> int:
    """A number of tokens, or 0 if the value is no usable limit."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return int(value) if number and 1 < value < _MAX_LIMIT else 0
