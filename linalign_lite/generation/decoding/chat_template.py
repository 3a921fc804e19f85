"""Render a message with a model's chat template, as transformers' `apply_chat_template` does.

A template is a program in Jinja from outside: it runs in Jinja's sandbox, and its size and that of
its text are limited.
"""

import datetime
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linalign_lite.errors import InputError, import_extra, quote_errors
from linalign_lite.extraction.model_card import CHAT_FILE, MAX_CHAT, ModelCard
from linalign_lite.extraction.session import Model

MAX_TEXT = 16 << 20  # characters of a rendered prompt
ANSWER = "An answer"  # after which the template ends the assistant's turn
# transformers' own tag, which marks what is trained on: it renders nothing
_GENERATION = re.compile(r"\{%(-?)\s*(?:end)?generation\s*(-?)%\}")


@dataclass(frozen=True)
class ChatPrompt:
    """Text that ends where the assistant's answer begins, and the tokens that end the answer."""

    text: str
    end: frozenset[int]


def read_template(folder: Path, card: ModelCard) -> str:
    """Read the chat template of an exported model. Raises InputError when it has none."""
    if CHAT_FILE not in card.files:
        raise InputError(
            f"{card.name} has no chat template",
            expected=f"a model folder with {CHAT_FILE}",
            hint="only models made for chat have one; if this is one, export it again",
        )
    with (
        quote_errors(f"{folder / CHAT_FILE} is not readable"),
        (folder / CHAT_FILE).open("rb") as f,
    ):
        return f.read(MAX_CHAT).decode("utf-8")


def chat_prompt(target: Model, source: Model, message: str) -> ChatPrompt:
    """Render ``message`` as a user's, with the target's template, for the source to read.

    The end of the answer is the target's end of text and the first added token that the template
    writes after an assistant's message. A token that begins every text is left out of the prompt
    where the source's tokenizer adds one. Raises InputError for a model without a template, or
    one that fails; MissingExtraError without Jinja2.
    """
    template, tokenizer = read_template(target.folder, target.card), target.tokenizer
    ids = {name: token for name, token in target.card.special.items() if token is not None}
    special = {f"{name}_token": tokenizer.id_to_token(i) or "" for name, i in ids.items()}
    asked = [{"role": "user", "content": message}]
    sandbox = import_extra("jinja2.sandbox", extra="chat", purpose="a chat template")
    with quote_errors(f"{target.card.name}: its chat template fails"):
        text = _render(sandbox, template, messages=asked, add_generation_prompt=True, **special)
        answered = [{"role": "user", "content": "A"}, {"role": "assistant", "content": ANSWER}]
        after = _render(
            sandbox, template, messages=answered, add_generation_prompt=False, **special
        )
    begins = source is not target or tokenizer.encode("a").ids[:1] == [ids.get("bos")]
    if begins and special.get("bos_token"):
        text = text.removeprefix(special["bos_token"])
    end, added = set(target.card.ends), tokenizer.get_added_tokens_decoder()
    if ANSWER in after:
        tail = tokenizer.encode(after.rpartition(ANSWER)[2], add_special_tokens=False).ids
        end |= {next((token for token in tail if token in added), *end)} if tail else set()
    return ChatPrompt(text, frozenset(end))


def _render(sandbox: Any, template: str, **names: Any) -> str:
    environment = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    made = environment.from_string(_GENERATION.sub(r"{#\1 \2#}", template))
    pieces, length = list[str](), 0
    for piece in made.generate(**names):
        pieces.append(piece)
        length += len(piece)
        if length > MAX_TEXT:
            raise ValueError(f"more than {MAX_TEXT} characters")
    return "".join(pieces)


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise ValueError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().astimezone().strftime(form)
