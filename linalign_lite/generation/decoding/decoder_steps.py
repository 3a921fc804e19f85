"""Find out whether a tokenizer's decoder turns each token into text alone, and in which steps.

The `tokenizers` library decodes in steps over a list of tokens: some change every token, ByteLevel
and Fuse join all tokens to one, and steps after that see the whole text. A decoder can be run token
by token if every step after the joining one changes single characters or the text's beginning.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from linalign_lite.extraction.tokenizer import byte_alphabet
from linalign_lite.generation.decoding.tokenizer_config import steps

PROBE = "x"  # precedes a token, so that it is not the first
_BYTE_NAMES = {form.format(b) for form in ("<0x{:02X}>", "<0x{:02x}>") for b in range(256)}
_TOKENIZER = {"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": []}}


@dataclass(frozen=True)
class _OnText:
    """A step on characters: replace one by ``content``, or strip up to ``most`` at the start."""

    character: str
    content: str = ""
    most: int = 0


@dataclass(frozen=True)
class DecoderSteps:
    """A decoder as `read_decoder` understands it; ``kind``: see `TokenBytes`.

    ``problem`` names the step of a decoder of kind "whole". ``fallback``: tokens such as <0x0A> are
    bytes. ``after``: the steps after bytes have become characters.
    """

    kind: str
    problem: str = ""
    fallback: bool = False
    before: Any = None  # a decoder of the steps before ByteLevel; None if they change nothing
    after: tuple[_OnText, ...] = ()

    def letters(self, name: str) -> str:
        """The letters that ByteLevel gets of a token that is not the first."""
        if self.before is None:
            return name
        return str(self.before.decode([PROBE, name]))[len(PROBE) :]

    def finish(self, text: str, *, first: bool) -> str:
        """Apply ``after`` to text; ``first``: it is the beginning."""
        for step in self.after:
            if not step.most:
                text = text.replace(step.character, step.content)
            elif first:
                stripped = text.lstrip(step.character)
                text = text[min(step.most, len(text) - len(stripped)) :]
        return text


class _StepError(Exception):
    """A step that cannot be run token by token."""


def read_decoder(tokenizer: Any, special: frozenset[int]) -> DecoderSteps:
    """Describe the decoder of a tokenizers.Tokenizer. ``special``: ids that decoding leaves out."""
    found = steps(tokenizer.decoder)
    if found is None:
        return DecoderSteps("whole", "a step that is written in Python")
    try:
        return _read(found, tokenizer, special)
    except _StepError as e:
        return DecoderSteps("whole", str(e))


def _read(decoder: list[dict[str, Any]], tokenizer: Any, special: frozenset[int]) -> DecoderSteps:
    has_bytes = any(tokenizer.token_to_id(name) not in (None, *special) for name in _BYTE_NAMES)
    joined = fallback = False
    before, after = None, list[_OnText]()
    kind = "pieces"
    for i, step in enumerate(decoder):
        name = step["type"]
        if name == "Fuse":
            joined = True
        elif name == "ByteFallback":
            if joined or (has_bytes and not all(map(_keeps_byte_names, decoder[:i]))):
                raise _StepError("ByteFallback after a step that changes the names of bytes")
            fallback, after = has_bytes, []
        elif name == "ByteLevel":
            if kind == "bytes" or fallback:
                raise _StepError(f"ByteLevel after {'ByteLevel' if joined else 'ByteFallback'}")
            before = _letters_before(decoder[:i])
            if joined:
                _require_letters(before, tokenizer, special)
            kind, joined, after = "bytes", True, []
        elif not joined and not fallback and name in ("Replace", "Strip", "WordPiece", "Metaspace"):
            pass  # changes each token alone, the first differently
        else:
            after += _on_text(step, joined=joined)
    return DecoderSteps(kind, "", fallback, before, tuple(after))


def _on_text(step: Mapping[str, Any], *, joined: bool) -> list[_OnText]:
    """The step on a text that several tokens spell, all of them if ``joined``."""
    name = step["type"]
    where = "the joined text" if joined else "joined bytes"
    if name == "Metaspace":
        first = joined and step.get("prepend_scheme", "always") != "never"
        return [_OnText(step["replacement"], "" if first else " ")]
    if name == "Replace":
        if not _one_character(step):
            raise _StepError(f"Replace of more than a character in {where}")
        return [_OnText(step["pattern"]["String"], step["content"])]
    if name == "Strip" and joined:
        if step["stop"]:
            raise _StepError("Strip at the end of the text")
        return [_OnText(step["content"], most=step["start"])] if step["start"] else []
    if name == "WordPiece" and joined and not step["cleanup"]:
        return []
    raise _StepError(f"{name} on {where}" if name in ("Strip", "WordPiece") else name)


def _one_character(step: Mapping[str, Any]) -> bool:
    return len(step["pattern"].get("String", "")) == 1


def _keeps_byte_names(step: Mapping[str, Any]) -> bool:
    """Return True if no name such as <0x0A> is changed."""
    if step["type"] == "Metaspace":
        return True
    return step["type"] == "Replace" and _one_character(step) and (
        step["pattern"]["String"] == " " or not step["pattern"]["String"].isascii()
    )  # fmt: skip


def _letters_before(decoder: list[dict[str, Any]]) -> Any:
    """A decoder of the steps before ByteLevel, or None if they change no token."""
    changing = [step for step in decoder if step["type"] not in ("Fuse", "ByteFallback")]
    if not changing:
        return None
    from tokenizers import Tokenizer

    kinds = [step["type"] for step in changing]
    joined = any(step["type"] == "Fuse" for step in decoder)
    for kind in ("WordPiece", "Metaspace", *["Strip"] * joined):  # the first token differs
        if kind in kinds:
            raise _StepError(f"{kind} before ByteLevel")
    whole = {**_TOKENIZER, "decoder": {"type": "Sequence", "decoders": changing}}
    part = Tokenizer.from_str(json.dumps(whole)).decoder
    if part.decode([PROBE]) != PROBE:
        raise _StepError("Replace or Strip of letters before ByteLevel")
    return part


def _require_letters(before: Any, tokenizer: Any, special: frozenset[int]) -> None:
    """Refuse a token that has another letter than those of bytes.

    ByteLevel leaves a joined text that has one as it is, all of it.
    """
    letters, described = byte_alphabet().keys(), DecoderSteps("bytes", before=before)
    for name, i in tokenizer.get_vocab().items():
        if i not in special and not letters >= set(described.letters(name)):
            raise _StepError("ByteLevel after Fuse, and a token that is not spelled in bytes")
