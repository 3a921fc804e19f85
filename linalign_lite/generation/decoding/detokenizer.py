"""From token ids to text, token by token: what each token spells, in bytes."""

from __future__ import annotations

import codecs
import re
from typing import Any

import numpy as np

from linalign_lite.core.affine_map import Array
from linalign_lite.errors import InputError
from linalign_lite.extraction.tokenizer import byte_alphabet
from linalign_lite.generation.decoding.tokenizer_config import silent_ids, steps

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
LOCAL = {"Replace", "Metaspace", "WordPiece", "ByteFallback", "Strip", "Fuse"}
CONTINUES = range(0x80, 0xC0)  # bytes that only go on with a character


class Letters:
    """What each token of a vocabulary adds to a text that is already there, in UTF-8 bytes.

    ``kind``: "bytes" (byte-level: every token is bytes), "pieces" (every token is text, but for
    those of byte fallback), or "whole" (what a token says depends on those after it, or its decoder
    is not known).
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.silent = silent_ids(tokenizer)
        decoder = steps(tokenizer.decoder)
        self.kind = _kind(decoder)
        self._fallback = any(s["type"] == "ByteFallback" for s in decoder or ())
        self._alphabet = byte_alphabet()
        self._known: dict[int, bytes] = {}
        self._viable: dict[bytes, bool] = {}
        self._tails: list[int] | None = None
        self._before = None if self.kind == "bytes" else self._find_before()
        if self._before is None and self.kind == "pieces":
            self.kind = "whole"

    def spelled(self, token: int) -> bytes:
        """The bytes of a token; none of a special token or an id without one."""
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._spell(token)
        return found

    def raw(self, token: int) -> bool:
        """Whether the token is a byte of byte fallback."""
        if not self._fallback or token in self.silent:
            return False
        return BYTE.fullmatch(self.tokenizer.id_to_token(token) or "") is not None

    def _spell(self, token: int) -> bytes:
        name = self.tokenizer.id_to_token(token)
        if name is None or token in self.silent:
            return b""
        if self.kind == "bytes":
            try:
                return bytes(self._alphabet[c] for c in name)
            except KeyError:  # an added token, which stands for itself
                return str(name).encode()
        if self.raw(token):
            return bytes([int(name[3:5], 16)])
        return self.decode([token], begun=True).encode()

    def decode(self, tokens: list[int], *, begun: bool) -> str:
        """The tokenizer's decode; ``begun``: of tokens that follow others."""
        if not begun or self._before is None:
            return str(self.tokenizer.decode(tokens))
        before, length = self._before
        return str(self.tokenizer.decode([before, *tokens]))[length:]

    def _find_before(self) -> tuple[int, int] | None:
        """A token to stand before another, so that this one is not the first, and its length."""
        for token in range(self.tokenizer.get_vocab_size()):
            name = self.tokenizer.id_to_token(token)
            if name and name.isascii() and name.isalnum() and token not in self.silent:
                text = self.tokenizer.decode([token])
                if text == name:
                    return token, len(text)
        return None

    def step(self, pending: bytes, token: int) -> tuple[str, bytes] | None:
        """Whole characters of ``pending`` and the token, and the bytes left over.

        None when the token is silent, is not UTF-8 there, or leaves bytes over that no token of the
        vocabulary can complete.
        """
        added = self.spelled(token)
        found = whole_characters(pending + added) if added else None
        if found is None or (found[1] and not self._can_go_on(found[1])):
            return None
        return found

    def _can_go_on(self, pending: bytes) -> bool:
        if pending not in self._viable:
            self._viable[pending] = False  # a way that leads back here is no way
            self._viable[pending] = any(self.step(pending, t) for t in self.tails())
        return self._viable[pending]

    def tails(self) -> list[int]:
        """Tokens that go on with a character begun before them."""
        if self._tails is None:
            if self.kind == "bytes":
                everything = list(range(self.tokenizer.get_vocab_size()))
            else:
                names = (self.tokenizer.token_to_id(f"<0x{b:02X}>") for b in CONTINUES)
                everything = [t for t in names if t is not None]
            self._tails = [t for t in everything if self.spelled(t)[:1] in _CONTINUING]
        return self._tails

    def going_on(self, scores: Array) -> Array:
        """A copy of scores in which only `tails` can be chosen."""
        found = np.full_like(scores, -np.inf)
        tails = [t for t in self.tails() if t < len(scores)]
        found[tails] = scores[tails]
        return found

    def require_streaming(self, what: str) -> None:
        """Raise InputError when a token's text is not known as soon as the token is."""
        if self.kind == "whole":
            raise InputError(
                f"{what}'s tokenizer cannot speak token by token",
                got=type(self.tokenizer.decoder).__name__,
                expected="a byte-level, metaspace, byte-fallback or WordPiece decoder",
            )


_CONTINUING = {bytes([b]) for b in CONTINUES}


def _kind(decoder: list[dict[str, Any]] | None) -> str:
    if decoder is None:
        return "whole"
    names = [step["type"] for step in decoder]
    if names == ["ByteLevel"]:
        return "bytes"
    fused = False
    for step in decoder:
        ends = step["type"] == "Strip" and step["stop"] > 0
        if step["type"] not in LOCAL or (fused and (step["type"] != "Strip" or ends)):
            return "whole"
        fused = fused or step["type"] == "Fuse"
    return "pieces"


def whole_characters(data: bytes) -> tuple[str, bytes] | None:
    """The characters of ``data`` and the bytes of one that is not complete; None: not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    try:
        text = decoder.decode(data)
    except UnicodeDecodeError:
        return None
    return text, decoder.getstate()[0]


class Voice:
    """Says tokens one after the other: what it said in all is the tokenizer's decode of them.

    It says what no later token can change. So part of a character waits for the rest, a run of
    byte-fallback tokens waits for its end (one wrong byte makes the whole run unreadable), and a
    tokenizer of kind "whole" says all at the end. ``begun``: there is text before the first token,
    which keeps its leading space.
    """

    def __init__(self, letters: Letters, *, begun: bool) -> None:
        self._letters = letters
        self._begun = begun
        self._held: list[int] = []  # tokens whose text is not known yet
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The text that is certain now and was not before; often that of the token."""
        letters = self._letters
        if token in letters.silent:
            return ""
        if letters.kind == "bytes":
            return self._utf8.decode(letters.spelled(token))
        if self._begun and not self._held and letters.kind == "pieces" and not letters.raw(token):
            return letters.spelled(token).decode()
        self._held.append(token)
        if letters.kind == "whole" or letters.raw(token):
            return ""
        text = letters.decode(self._held, begun=self._begun)
        if text:
            self._begun, self._held = True, []
        return text

    def close(self) -> str:
        """What was still held back, as the tokenizer shows it."""
        held, self._held = self._held, []
        rest = self._letters.decode(held, begun=self._begun) if held else ""
        return self._utf8.decode(b"", final=True) + rest
