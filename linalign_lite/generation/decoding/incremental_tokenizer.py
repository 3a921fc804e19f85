"""Tokens of a text that grows at its end, without tokenising all of it every time.

What is far from the end is *settled*: its tokens are kept, and only what comes after is tokenised.
Two kinds of tokenizers can be cut so without changing a token:

- those whose pre-tokenizer cuts every text between a letter and a space (all words are tokenised
  alone), at such places between ASCII letters, where no normalisation reaches across;
- plain byte-pair encoding over the whole text (SentencePiece's). There, a sequence of tokens is
  what the merges give exactly when each two neighbours are what the merges give of the two alone:
  a merge across a boundary depends on nothing but the two tokens that it would have torn. So when
  the settled tokens once stood before a token, they stand before every text that begins with it.

All others are tokenised whole each time.
"""

from __future__ import annotations

import re
from typing import Any, Protocol

from linalign_lite.errors import InputError
from linalign_lite.generation.decoding.tokenizer_config import steps

WINDOW = 256  # characters after the settled part before more is settled
MARGIN = 64  # characters at the end that are never settled
PLACE = re.compile(r"[A-Za-z](?= [A-Za-z])")

# llama 3, and Qwen 2 and later: the patterns that end every word before a space
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {_WORD + digits + _REST for digits in (r"\p{N}{1,3}", r"\p{N}")}
NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer"}
CUTTERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
NEUTRAL = {"Digits", "Punctuation", "ByteLevel", "Metaspace"}
META = "\u2581"


class _Cutter(Protocol):
    """A kind of tokenizer: the text as it is cut, the tokens of a part, and where to cut it."""

    def prepare(self, text: str) -> str | None: ...

    def tokens(self, part: str, *, first: bool) -> list[int]: ...

    def place(self, part: str, *, first: bool) -> int | None: ...


class Tail:
    """`encode` gives what the tokenizer's own gives, but for special tokens at the very end."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._cutter = _merges(tokenizer) or _words(tokenizer)
        self._lead: list[int] | None = None  # special tokens at the start
        self._settled = ""  # the beginning of the text, as the cutter prepares it
        self._ids: list[int] = []  # its tokens
        self._next = -1  # the token that stood after them

    @property
    def lead(self) -> int:
        """How many special tokens the tokenizer puts at the start; known after one `encode`."""
        return len(self._lead or ())

    def encode(self, text: str) -> list[int]:
        """Token ids, with the special tokens at the start and without those at the end."""
        body = self._cutter.prepare(text) if self._cutter else None
        if self._cutter is None or body is None or self._lead is None:
            return self._encode_all(text)
        if not body.startswith(self._settled):
            self._forget()
        part = body[len(self._settled) :]
        found = self._cutter.tokens(part, first=not self._settled)
        if self._settled and found[:1] != [self._next]:
            self._forget()
            return self._encode_all(text)
        ids = [*self._lead, *self._ids, *found]
        if len(part) > WINDOW:
            self._settle(self._cutter, part, found)
        return ids

    def _encode_all(self, text: str) -> list[int]:
        try:
            self._tokenizer.no_truncation()  # a Model cuts to its context when it encodes
            found = self._tokenizer.encode(text)
        except Exception as e:  # all that the tokenizers library raises
            raise InputError("the tokenizer fails on this text", got=str(e)[:160]) from e
        mask, ids = found.special_tokens_mask, found.ids
        real = [i for i, special in enumerate(mask) if not special]
        start, end = (real[0], real[-1] + 1) if real else (len(ids), len(ids))
        if real:
            self._lead = ids[:start]
        return list(ids[:end])

    def _forget(self) -> None:
        self._settled, self._ids, self._next = "", [], -1

    def _settle(self, cutter: _Cutter, part: str, found: list[int]) -> None:
        first = not self._settled
        place = cutter.place(part, first=first)
        if place is None:
            return
        before = cutter.tokens(part[:place], first=first)
        after = cutter.tokens(part[place:], first=False)
        if not after or before + after != found:  # never, unless the tokenizer is not what it says
            return
        self._settled += part[:place]
        self._ids += before
        self._next = after[0]


class _Words:
    """Words are tokenised alone."""

    def __init__(self, tokenizer: Any, *, restores: bool) -> None:
        self._tokenizer = tokenizer
        self._restores = restores  # the normalizer puts the space before the first word back

    def prepare(self, text: str) -> str | None:
        return text

    def tokens(self, part: str, *, first: bool) -> list[int]:
        text = part if first or not self._restores else part[1:]
        self._tokenizer.no_truncation()
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def place(self, part: str, *, first: bool) -> int | None:  # noqa: ARG002
        places = [m.end() for m in PLACE.finditer(part, 0, len(part) - MARGIN)]
        return places[-1] if places else None


class _Merges:
    """Byte-pair encoding over the whole text, spaces replaced."""

    def __init__(self, tokenizer: Any, normalizer: list[dict[str, Any]], added: list[str]) -> None:
        self._model = tokenizer.model
        self._normalizer = normalizer
        self._added = added

    def prepare(self, text: str) -> str | None:
        if any(name in text for name in self._added):
            return None
        for step in self._normalizer:
            if step["type"] == "Replace":
                text = text.replace(step["pattern"]["String"], step["content"])
            elif text:
                text = step["prepend"] + text
        return text

    def tokens(self, part: str, *, first: bool) -> list[int]:  # noqa: ARG002
        return [token.id for token in self._model.tokenize(part)]

    def place(self, part: str, *, first: bool) -> int | None:  # noqa: ARG002
        raw = part.encode()
        limit = len(part[:-MARGIN].encode())
        for token in reversed(self._model.tokenize(part)):
            start = token.offsets[0]  # in bytes
            if 0 < start <= limit and raw[start] & 0xC0 != 0x80:
                return len(raw[:start].decode())
        return None


def _words(tokenizer: Any) -> _Words | None:
    """How to cut this tokenizer's texts between words; None when that is not sure to be exact."""
    normalizer, splitter = steps(tokenizer.normalizer), steps(tokenizer.pre_tokenizer)
    if normalizer is None or splitter is None or getattr(tokenizer.model, "dropout", None):
        return None
    prepends = [step for step in normalizer if step["type"] == "Prepend"]
    for step in normalizer:
        known = step["type"] in NORMALIZERS or step in prepends or _spaces_to_meta(step)
        if not known or step.get("prepend", META) != META:
            return None
    if not all(_cuts(s) or s["type"] in NEUTRAL for s in splitter) or not any(map(_cuts, splitter)):
        return None
    if prepends and not any(map(_spaces_to_meta, normalizer)):
        return None
    for token in tokenizer.get_added_tokens_decoder().values():
        reaches = token.lstrip or token.rstrip or token.single_word
        if reaches or not {" ", META}.isdisjoint(token.content):
            return None
    return _Words(tokenizer, restores=bool(prepends))


def _cuts(step: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer's step always cuts between a letter and a space, kept or not."""
    kind = step["type"]
    if kind == "ByteLevel":
        return bool(step["use_regex"])
    if kind == "Metaspace":
        return bool(step.get("split", True)) and step["replacement"] == META
    if kind == "Split":
        pattern, behaviour = step["pattern"], step["behavior"]
        if step["invert"]:
            return False
        if behaviour == "MergedWithNext":
            return pattern.get("String") in (" ", META)
        return behaviour == "Isolated" and pattern.get("Regex") in PATTERNS
    return kind in CUTTERS


def _spaces_to_meta(step: dict[str, Any]) -> bool:
    same = step["type"] == "Replace" and step["pattern"] == {"String": " "}
    return bool(same and step["content"] == META)


def _merges(tokenizer: Any) -> _Merges | None:
    """The cutter for plain byte-pair encoding without a pre-tokenizer, if this is that."""
    model, normalizer = tokenizer.model, steps(tokenizer.normalizer)
    if type(model).__name__ != "BPE" or tokenizer.pre_tokenizer is not None or normalizer is None:
        return None
    if model.dropout or model.ignore_merges:
        return None
    if model.continuing_subword_prefix or model.end_of_word_suffix:
        return None
    if not all(_spaces_to_meta(s) or s["type"] == "Prepend" for s in normalizer):
        return None
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    if any(" " in name or META in name or not name for name in added):
        return None
    return _Merges(tokenizer, normalizer, added)
