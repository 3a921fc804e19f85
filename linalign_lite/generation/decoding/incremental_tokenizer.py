"""Tokenize a text that grows at its end, without tokenising all of it every time.

Text far from the end is *settled*: its tokens are kept, and only the text after it is tokenised.
Two kinds of tokenizers can be split so without changing a token; others run on the whole text:

- those whose pre-tokenizer splits every text between a letter and a space, at such positions
  between ASCII letters, where no normalisation reaches across;
- plain byte-pair encoding over the whole text (SentencePiece's): a merge across a boundary depends
  only on the two tokens on its sides. So once the settled tokens have preceded some token, they
  precede every text that begins with it.
"""

from __future__ import annotations

import operator
import re
from typing import Any

from linalign_lite.errors import InputError
from linalign_lite.generation.decoding.tokenizer_config import steps

WINDOW = 256  # characters after the settled text before more is settled
MARGIN = 64  # characters at the end that are never settled
WORD_END = re.compile(r"[A-Za-z](?= [A-Za-z])")

# llama 3, and Qwen 2 and later: the patterns that end every word before a space
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {_WORD + digits + _REST for digits in (r"\p{N}{1,3}", r"\p{N}")}
NORMALIZERS = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "BertNormalizer"}
SPLITTERS = {"BertPreTokenizer", "Whitespace", "WhitespaceSplit"}
NEUTRAL = {"Digits", "Punctuation", "ByteLevel", "Metaspace"}
META = "\u2581"


class IncrementalTokenizer:
    """Tokenizer of a growing text; leaves out special tokens at the very end."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._splitter = _bpe_splitter(tokenizer) or _word_splitter(tokenizer)
        self._prefix: list[int] | None = None  # special tokens at the start
        self._settled = ""  # the beginning of the text, as the splitter prepares it
        self._ids: list[int] = []  # its tokens
        self._next = -1  # the token after them

    @property
    def prefix_length(self) -> int:
        """Number of special tokens at the start; known after the first `encode`."""
        return len(self._prefix or ())

    def encode(self, text: str) -> list[int]:
        """Token ids, with the special tokens at the start and without those at the end."""
        body = self._splitter.prepare(text) if self._splitter else None
        if self._splitter is None or body is None or self._prefix is None:
            return self._encode_all(text)
        if not body.startswith(self._settled):
            self._reset()
        part = body[len(self._settled) :]
        tokens = self._splitter.tokens(part, first=not self._settled)
        if self._settled and tokens[:1] != [self._next]:
            self._reset()
            return self._encode_all(text)
        ids = [*self._prefix, *self._ids, *tokens]
        if len(part) > WINDOW:
            self._settle(self._splitter, part, tokens)
        return ids

    def _encode_all(self, text: str) -> list[int]:
        try:
            found = self._tokenizer.encode(text)
        except Exception as e:  # the tokenizers library raises plain Exception
            raise InputError("the tokenizer fails on this text", got=str(e)[:160]) from e
        mask, ids = found.special_tokens_mask, found.ids
        real = [i for i, special in enumerate(mask) if not special]
        start, end = (real[0], real[-1] + 1) if real else (len(ids), len(ids))
        if real:
            self._prefix = ids[:start]
        return list(ids[:end])

    def _reset(self) -> None:
        self._settled, self._ids, self._next = "", [], -1

    def _settle(self, splitter: _WordSplitter | _BpeSplitter, part: str, tokens: list[int]) -> None:
        boundary = splitter.boundary(part)
        if boundary is None:
            return
        before = splitter.tokens(part[:boundary], first=not self._settled)
        after = splitter.tokens(part[boundary:], first=False)
        if not after or before + after != tokens:  # the tokenizer is not as it describes itself
            return
        self._settled += part[:boundary]
        self._ids += before
        self._next = after[0]


class _WordSplitter:
    """Split between words, for tokenizers that tokenise each word alone.

    `prepare` gives the text that is split into parts, or None; `tokens` those of a part (``first``:
    it begins the text); `boundary` the last position where a part can be split.
    """

    def __init__(self, tokenizer: Any, *, prepends: bool) -> None:
        self._tokenizer = tokenizer
        self._prepends = prepends  # the normalizer adds a space before the first word

    def prepare(self, text: str) -> str | None:
        return text

    def tokens(self, part: str, *, first: bool) -> list[int]:
        text = part if first or not self._prepends else part[1:]
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def boundary(self, part: str) -> int | None:
        ends = [m.end() for m in WORD_END.finditer(part, 0, len(part) - MARGIN)]
        return ends[-1] if ends else None


class _BpeSplitter:
    """Split as `_WordSplitter`, for byte-pair encoding over the whole text, spaces replaced."""

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

    def boundary(self, part: str) -> int | None:
        raw = part.encode()
        limit = len(part[:-MARGIN].encode())
        for token in reversed(self._model.tokenize(part)):
            start = token.offsets[0]  # in bytes
            if 0 < start <= limit and raw[start] & 0xC0 != 0x80:
                return len(raw[:start].decode())
        return None


def _word_splitter(tokenizer: Any) -> _WordSplitter | None:
    """The splitter between words; None unless it is certain to be exact."""
    normalizer, splitter = steps(tokenizer.normalizer), steps(tokenizer.pre_tokenizer)
    if normalizer is None or splitter is None or getattr(tokenizer.model, "dropout", None):
        return None
    prepends = [step for step in normalizer if step["type"] == "Prepend"]
    for step in normalizer:
        known = step["type"] in NORMALIZERS or step in prepends or _spaces_to_meta(step)
        if not known or step.get("prepend", META) != META:
            return None
    splits = [_splits_words(step) for step in splitter]
    neutral = [step["type"] in NEUTRAL for step in splitter]
    if not any(splits) or not all(map(operator.or_, splits, neutral)):
        return None
    if prepends and not any(map(_spaces_to_meta, normalizer)):
        return None
    for token in tokenizer.get_added_tokens_decoder().values():
        reaches = token.lstrip or token.rstrip or token.single_word
        if reaches or not {" ", META}.isdisjoint(token.content):
            return None
    return _WordSplitter(tokenizer, prepends=bool(prepends))


def _splits_words(step: dict[str, Any]) -> bool:
    """Return True if a pre-tokenizer's step always splits between a letter and a space."""
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
    return kind in SPLITTERS


def _spaces_to_meta(step: dict[str, Any]) -> bool:
    same = step["type"] == "Replace" and step["pattern"] == {"String": " "}
    return bool(same and step["content"] == META)


def _bpe_splitter(tokenizer: Any) -> _BpeSplitter | None:
    """The splitter for plain byte-pair encoding without a pre-tokenizer; None for others."""
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
    return _BpeSplitter(tokenizer, normalizer, added)
