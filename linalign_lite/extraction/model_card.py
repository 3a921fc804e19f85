"""The card of an exported model folder. docs/FORMAT.md, section 2."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from linalign_lite.core.space import MAX_NAME, POOLINGS, Space
from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.atomic import write_atomic
from linalign_lite.storage.hashing import hash_file, seal_of
from linalign_lite.storage.schema import strict_json

FORMAT = "linalign-model"
VERSION = 1
MODEL_FILE, DATA_FILE, TOKENIZER_FILE = "model.onnx", "model.onnx_data", "tokenizer.json"
HEAD_FILE, CARD_FILE = "token_head.head.npz", "card.json"
DIGESTED = (MODEL_FILE, DATA_FILE, TOKENIZER_FILE)
DTYPES = ("fp32", "fp16", "int8")  # of stored weights
LAST_HIDDEN_STATE = "last_hidden_state"  # the graph's output: (batch, length, hidden_size)
PAST, PRESENT = "past_key_values.", "present."  # prefixes of KV-cache inputs and outputs
_MAX_CARD = 1 << 20


@dataclass(frozen=True)
class PastTensor:
    """One KV-cache input (`past_key_values.0.key`): (batch, heads, past length, head_dim)."""

    name: str
    heads: int
    head_dim: int


@dataclass(frozen=True)
class ModelCard:
    """What is known of an exported model. ``digest`` names its space; see `folder_digest`."""

    name: str
    architecture: str
    task: str  # "embed" or "generate"
    hidden_size: int
    max_length: int  # tokens
    vocab_size: int
    pooling: str  # default for extract
    normalize: bool
    dtype: str  # "fp32", "fp16" or "int8": how the weights are stored
    opset: int
    digest: str = ""
    past: tuple[PastTensor, ...] = ()
    special: Mapping[str, int | None] = field(default_factory=dict)  # bos, eos, pad
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def space(self, pooling: str | None = None, normalize: bool | None = None) -> Space:
        """The space of this model's states, read with ``pooling`` (default: the card's own)."""
        return Space(
            dim=self.hidden_size,
            model=self.digest,
            name=self.name,
            pooling=self.pooling if pooling is None else pooling,
            normalize=self.normalize if normalize is None else normalize,
        )


def folder_digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 over the lines `NAME SHA256\\n` of the files that decide what the states are."""
    lines = (f"{name} {files[name]['sha256']}\n" for name in DIGESTED if name in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def seal_card(folder: Path, card: ModelCard) -> ModelCard:
    """Hash the folder's files, fill in ``files`` and ``digest``, and write `card.json` last."""
    names = [*DIGESTED, HEAD_FILE]
    files = {
        name: {"sha256": hash_file(folder / name), "size": (folder / name).stat().st_size}
        for name in names
        if (folder / name).exists()
    }
    card = dataclasses.replace(card, files=files, digest=folder_digest(files))
    raw = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(card)}
    raw["seal"] = seal_of(raw)
    write_atomic(folder / CARD_FILE, (json.dumps(raw, indent=2, sort_keys=True) + "\n").encode())
    return card


def load_card(folder: str | os.PathLike[str], *, verify: bool = True) -> ModelCard:
    """Read and check an exported model folder; with ``verify``, hash its files too.

    Raises InputError when the folder is not there or was not exported, FormatError when the card
    or a file was altered.
    """
    folder = Path(folder)
    path = folder / CARD_FILE
    if not path.is_file():
        hint = "make one with `linalign-lite export MODEL OUT`"
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder", expected="an exported model", hint=hint)
        raise InputError(f"{folder} is not an exported model: no {CARD_FILE}", hint=hint)
    if path.stat().st_size > _MAX_CARD:
        raise FormatError(f"{path} is too large", got=f"{path.stat().st_size} bytes")
    try:
        raw = strict_json(path.read_bytes())
        if raw["format"] != FORMAT:
            raise FormatError(f"{path} is not a model card")
        version = raw["version"]
        if not isinstance(version, int) or not 1 <= version <= VERSION:
            raise FormatError(f"{path}: unknown version", got=str(version)[:20])
        if raw.pop("seal") != seal_of(raw):
            raise FormatError(
                f"{path} does not agree with its own digest",
                hint="the card may be altered; export or copy the folder again",
            )
        del raw["format"], raw["version"]
        raw["past"] = tuple(PastTensor(**p) for p in raw["past"])
        card = ModelCard(**raw)
        _check(path, card)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        raise FormatError(f"{path} is not a usable model card", got=type(e).__name__) from e
    for name, entry in card.files.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != entry["size"]:
            raise FormatError(
                f"{folder}: {name} is missing or has another size than its card says",
                hint="the folder may be truncated or altered; export or copy it again",
            )
        if verify and hash_file(file) != entry["sha256"]:
            raise FormatError(
                f"{folder}: {name} does not have the digest that its card says",
                hint="the folder may be altered; export or copy it again",
            )
    return card


def _check(path: Path, card: ModelCard) -> None:
    texts = (card.name, card.architecture, card.digest, card.pooling)
    numbers = (card.hidden_size, card.max_length, card.vocab_size, card.opset)
    sizes = [n for p in card.past for n in (p.heads, p.head_dim)]
    sound = (
        all(isinstance(t, str) for t in texts)
        and all(type(n) is int and 0 < n < 1 << 40 for n in numbers)
        and all(type(p.name) is str for p in card.past)
        and all(type(n) is int and 0 < n < 1 << 16 for n in sizes)
        and card.task in ("embed", "generate")
        and card.pooling in POOLINGS
        and card.dtype in DTYPES
        and len(card.name) <= MAX_NAME
        and card.name.isprintable()
        and isinstance(card.normalize, bool)
        and {MODEL_FILE, TOKENIZER_FILE} <= set(card.files) <= {*DIGESTED, HEAD_FILE}
        and all(type(e["size"]) is int and type(e["sha256"]) is str for e in card.files.values())
    )
    if not sound:
        raise FormatError(f"{path} has a field that is not usable")
    if folder_digest(card.files) != card.digest:
        raise FormatError(f"{path}: its digest does not follow from its files")
