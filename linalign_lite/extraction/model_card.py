"""Read and write the card of an exported model folder. docs/FORMAT.md, section 2."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from linalign_lite.core.choices import WeightDtype
from linalign_lite.core.space import MAX_DIM, MAX_NAME, POOLINGS, Prompt, Space
from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.atomic import write_atomic
from linalign_lite.storage.hashing import hash_file, seal_of
from linalign_lite.storage.schema import (
    LEFT_OUT,
    Range,
    Sha256,
    Size,
    Text,
    format_errors,
    parse,
    plain,
    read_document,
)

FORMAT = "linalign-model"
VERSION = 1
MODEL_FILE, DATA_FILE, TOKENIZER_FILE = "model.onnx", "model.onnx_data", "tokenizer.json"
HEAD_FILE, CARD_FILE = "token_head.head.npz", "card.json"
CHAT_FILE = "chat_template.jinja"
OPTIONAL = (HEAD_FILE, CHAT_FILE)
MAX_CHAT = 1 << 20  # bytes of a chat template
EMBEDDER_FILE = "embedder.npz"  # poolings and layers of a sentence-transformers model
DIGESTED = (MODEL_FILE, DATA_FILE, TOKENIZER_FILE, EMBEDDER_FILE)
LAST_HIDDEN_STATE = "last_hidden_state"  # the graph's output: (batch, length, hidden_size)
PAST, PRESENT = "past_key_values.", "present."  # prefixes of KV-cache inputs and outputs
MAX_PROMPTS = 256
MAX_ENDS = 64
_MAX_CARD = 1 << 20
_NAME = re.compile(r"[\w.-]+")  # of a prompt; a prompt's own text has a space or a colon


@dataclass(frozen=True)
class PastTensor:
    """One KV-cache input (`past_key_values.0.key`): (batch, heads, past length, head_dim)."""

    name: str
    heads: Annotated[int, Range(1, (1 << 16) - 1)]
    head_dim: Annotated[int, Range(1, (1 << 16) - 1)]


Count = Annotated[int, Range(1, (1 << 40) - 1)]
Tokens = Annotated[tuple[Annotated[int, Range(0, (1 << 31) - 1)], ...], Size(MAX_ENDS)]
Prompts = Annotated[Mapping[Annotated[str, Text(MAX_NAME, 1)], Prompt], Size(MAX_PROMPTS)]


@dataclass(frozen=True)
class ModelCard:
    """Description of an exported model. ``digest`` names its space; see `folder_digest`."""

    name: str
    architecture: str
    task: Literal["embed", "generate"]
    hidden_size: Count
    max_length: Count  # tokens
    vocab_size: Count
    pooling: Annotated[str, Text(pattern="|".join(POOLINGS))]  # default for extract
    normalize: bool
    dtype: Annotated[str, Text(pattern="|".join(WeightDtype))]  # of the stored weights
    opset: Count
    digest: str = ""
    past: tuple[PastTensor, ...] = ()
    special: Mapping[str, int | None] = field(default_factory=dict)  # bos, eos, pad
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    embedding_size: Annotated[int, Range(0, MAX_DIM)] = field(default=0, metadata=LEFT_OUT)
    prompts: Prompts = field(default_factory=dict, metadata=LEFT_OUT)  # by name
    default_prompt: str = field(default="", metadata=LEFT_OUT)  # its name
    eos_token_ids: Tokens = field(default=(), metadata=LEFT_OUT)  # where there are several
    block_size: Annotated[int, Range(0, 1 << 16)] = field(default=0, metadata=LEFT_OUT)  # int8

    @property
    def ends(self) -> frozenset[int]:
        """Tokens that end a text."""
        eos = self.special.get("eos")
        return frozenset(self.eos_token_ids if eos is None else (*self.eos_token_ids, eos))

    def space(
        self, pooling: str | None = None, normalize: bool | None = None, prompt: str | None = None
    ) -> Space:
        """The space of this model's states; ``pooling`` and ``normalize`` default to the card's.

        prompt: a name in ``prompts``, or a text; see `prompt_text`.
        """
        pooling = self.pooling if pooling is None else pooling
        whole = pooling == "embedding"
        if whole and not self.embedding_size:
            raise InputError(
                f"{self.name} has no modules of its own after its token states",
                got=f"pooling {pooling}",
                hint=f"its pooling is {self.pooling}",
            )
        return Space(
            dim=self.embedding_size if whole else self.hidden_size,
            model=self.digest,
            name=self.name,
            pooling=pooling,
            normalize=self.normalize if normalize is None else normalize,
            prompt=self.prompt_text(prompt, pooling),
        )

    def prompt_text(self, prompt: str | None, pooling: str) -> str:
        """The text that stands before each text: that of the prompt of this name, or ``prompt``.

        None is the default prompt, or no prompt where pooling is "tokens". Raises InputError for a
        name that is not there, a text that is not usable, and a prompt with pooling "tokens".
        """
        if prompt is None:
            return "" if pooling == "tokens" else self.prompts.get(self.default_prompt, "")
        if prompt and pooling == "tokens":
            raise InputError(
                "states of tokens take no prompt", got=repr(prompt[:60]), hint="leave --prompt out"
            )
        known = prompt in self.prompts or prompt in self.prompts.values()
        if _NAME.fullmatch(prompt) and not known:
            raise InputError(
                f"{self.name} has no prompt of this name",
                got=repr(prompt[:60]),
                expected=", ".join(self.prompts) or "no name, it has no prompts",
                hint="a prompt's own text has a space or a colon in it, such as 'query: '",
            )
        found: str = parse(Prompt, self.prompts.get(prompt, prompt), "the prompt")
        return found


@dataclass(frozen=True)
class _File:
    sha256: Sha256
    size: Annotated[int, Range(0, 1 << 60)]  # bytes


def folder_digest(files: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 over the lines `NAME SHA256\\n` of the files that the states depend on."""
    lines = (f"{name} {files[name]['sha256']}\n" for name in DIGESTED if name in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def seal_card(folder: Path, card: ModelCard) -> ModelCard:
    """Hash the folder's files, fill in ``files`` and ``digest``, and write `card.json` last."""
    paths = [folder / name for name in (*DIGESTED, *OPTIONAL) if (folder / name).exists()]
    files = {p.name: {"sha256": hash_file(p), "size": p.stat().st_size} for p in paths}
    card = dataclasses.replace(card, files=files, digest=folder_digest(files))
    raw = {"format": FORMAT, "version": VERSION, **plain(card)}
    raw["seal"] = seal_of(raw)
    write_atomic(folder / CARD_FILE, (json.dumps(raw, indent=2, sort_keys=True) + "\n").encode())
    return card


def load_card(folder: str | os.PathLike[str], *, verify: bool = True) -> ModelCard:
    """Read and check an exported model folder; with ``verify``, hash its files too.

    Raises InputError when the folder is missing or was not exported, FormatError when the card or
    a file was altered.
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
    with format_errors(path, "model card"):
        raw = read_document(
            path.read_bytes(), path, "model card", kind=FORMAT, version=VERSION, sealed=True
        )
        card: ModelCard = parse(ModelCard, raw, "the card")
        files: dict[str, _File] = parse(dict[str, _File], dict(card.files), "files")
        if not {MODEL_FILE, TOKENIZER_FILE} <= set(files) <= {*DIGESTED, *OPTIONAL}:
            raise FormatError(f"{path} does not list the files of an exported model")
        if bool(card.embedding_size) != (EMBEDDER_FILE in files):
            raise FormatError(f"{path} does not agree with its folder about {EMBEDDER_FILE}")
        if card.default_prompt and card.default_prompt not in card.prompts:
            raise FormatError(f"{path}: its default prompt is not among its prompts")
        if folder_digest(card.files) != card.digest:
            raise FormatError(f"{path}: its digest does not follow from its files")
    if CHAT_FILE in files and files[CHAT_FILE].size > MAX_CHAT:
        raise FormatError(
            f"{folder / CHAT_FILE} is too large", expected=f"at most {MAX_CHAT} bytes"
        )
    for name, entry in files.items():
        file, problem = folder / name, ""
        if not file.is_file() or file.stat().st_size != entry.size:
            problem = "is missing or has another size than its card says"
        elif verify and hash_file(file) != entry.sha256:
            problem = "does not have the digest that its card says"
        if problem:
            hint = "the folder may be truncated or altered; export or copy it again"
            raise FormatError(f"{folder}: {name} {problem}", hint=hint)
    return card
