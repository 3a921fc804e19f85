"""Write `tokenizer.json` and the chat template; compare ids with the original tokenizer's."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from linalign_lite.errors import InputError, ParityError, quote_errors
from linalign_lite.extraction.model_card import CHAT_FILE, MAX_CHAT, TOKENIZER_FILE

# Ids and states of these texts are compared. Short and long, with unusual characters.
TEXTS = (
    "Once upon a time, there was a little girl named Lily.",
    "Hello",
    "  two leading spaces,  two inside, and a trailing one ",
    "Zoë's naïve café: “quotes” — dashes… 日本語 🙂",
    "line one\nline two\ttab",
    "The patient was given 2.5 mg at 08:30; no side effects (so far).",
    "CAPITALS and lowercase, http://example.org/?q=1&r=2, a_b-c 1234567890",
    "A longer text: the quick brown fox jumps over the lazy dog, again and again, until the "
    "evening comes and the dog, who has had enough of it, gets up and walks slowly home.",
)

FAST_HINT = "save one with `AutoTokenizer.from_pretrained(MODEL, use_fast=True).save_pretrained`"
Encode = Callable[[str], Sequence[int]]


def read_tokenizer(path: Path) -> Any:
    """Load a `tokenizer.json` without its settings for truncation and padding."""
    if not path.is_file():
        raise InputError(f"{path.parent} has no {path.name}", hint=FAST_HINT)
    with quote_errors(f"{path} is not a usable tokenizer"):
        return _parse(path.read_text(encoding="utf-8"))


def write_tokenizer(text: str, folder: Path) -> Any:
    """Write `tokenizer.json` without settings for truncation and padding, and load it."""
    path = folder / TOKENIZER_FILE
    path.write_text(_parse(text).to_str(pretty=False), encoding="utf-8", newline="")
    return _parse(path.read_text(encoding="utf-8"))


def copy_chat_template(model: Path, folder: Path) -> None:
    """Write `chat_template.jinja` if the model has a template, in a file or its settings.

    Of several templates, the one named "default". Raises InputError when it is not usable.
    """
    file, settings = model / CHAT_FILE, model / "tokenizer_config.json"
    found: Any = None
    with quote_errors(f"{model} has no usable chat template"):
        if file.is_file():
            found = file.read_text(encoding="utf-8")
        elif settings.is_file():
            found = json.loads(settings.read_text(encoding="utf-8")).get("chat_template")
        if isinstance(found, list):
            found = {t["name"]: t["template"] for t in found}.get("default")
        data = found.encode() if isinstance(found, str) else b""
    if len(data) > MAX_CHAT:
        problem = f"{model}: its chat template is too large"
        raise InputError(problem, got=f"{len(data)} bytes", expected=f"at most {MAX_CHAT}")
    if data:
        (folder / CHAT_FILE).write_bytes(data)


def _parse(text: str) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def check_tokenizer(tokenizer: Any, encode: Encode, vocab_size: int) -> None:
    """Raise ParityError when ids differ, InputError when one is beyond the model's vocabulary."""
    for number, text in enumerate((*TEXTS, "")):
        got, want = list(tokenizer.encode(text).ids), list(encode(text))
        if got != want:
            raise ParityError(
                f"the saved tokenizer splits sample text {number} in another way",
                got=f"{len(got)} tokens",
                expected=f"{len(want)} tokens with the ids of the original tokenizer",
            )
    # added tokens may have no embedding: EmbeddingGemma's <image_soft_token> has none
    known = tokenizer.get_vocab(with_added_tokens=False).values()
    largest = max(*known, *(token for t in TEXTS for token in tokenizer.encode(t).ids))
    if largest >= vocab_size:
        raise InputError(
            "the tokenizer does not belong to this model",
            got=f"token id {largest}",
            expected=f"below the vocabulary size {vocab_size}",
        )
