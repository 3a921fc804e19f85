"""Convert token ids to text, token by token, through the bytes of each token."""

import codecs
from typing import Any

import numpy as np

from linalign_lite.core.affine_map import Array
from linalign_lite.errors import FormatError, InputError
from linalign_lite.extraction.tokenizer import FALLBACK_BYTE, byte_alphabet
from linalign_lite.generation.decoding.decoder_steps import read_decoder
from linalign_lite.generation.decoding.tokenizer_config import special_ids

CONTINUATION_BYTES = range(0x80, 0xC0)  # of UTF-8: no character begins with one


class TokenBytes:
    """UTF-8 bytes that each token of a vocabulary appends to an existing text.

    ``kind``: "bytes" (byte-level: every token is bytes), "pieces" (every token is text, except
    those of byte fallback), or "whole" (a token's text depends on other tokens, or the decoder is
    unknown: ``problem`` says which step).
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.special = special_ids(tokenizer)
        self._decoder = read_decoder(tokenizer, self.special)
        self.kind, self.problem = self._decoder.kind, self._decoder.problem
        self._fallback = self._decoder.fallback
        self._alphabet = byte_alphabet()
        self._known: dict[int, bytes] = {}
        self._completable: dict[bytes, bool] = {}
        self._continuations: list[int] | None = None
        self._anchor = None if self.kind == "bytes" else self._find_anchor()
        if self._anchor is None and self.kind == "pieces":
            self.kind, self.problem = "whole", "no token of letters that it leaves unchanged"

    def bytes_of(self, token: int) -> bytes:
        """Bytes of a token; empty for a special token or an id without one."""
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._compute_bytes(token)
        return found

    def is_fallback_byte(self, token: int) -> bool:
        """Return True if the token is a byte of byte fallback."""
        if not self._fallback or token in self.special:
            return False
        return FALLBACK_BYTE.fullmatch(self.tokenizer.id_to_token(token) or "") is not None

    def _compute_bytes(self, token: int) -> bytes:
        name = self.tokenizer.id_to_token(token)
        if name is None or token in self.special:
            return b""
        if self.kind == "bytes":
            letters = self._decoder.letters(name)
            try:
                return bytes(self._alphabet[c] for c in letters)
            except KeyError:  # an added token is written as it is
                return letters.encode()
        if self.is_fallback_byte(token):
            return bytes([int(name[3:5], 16)])
        return self.decode([token], follows_text=True).encode()

    def decode(self, tokens: list[int], *, follows_text: bool) -> str:
        """The tokenizer's decode, as the text's beginning or after other tokens."""
        if not follows_text or self._anchor is None:
            return self._decode(tokens)
        anchor, length = self._anchor
        return self._decode([anchor, *tokens])[length:]

    def _decode(self, tokens: list[int]) -> str:
        try:
            return str(self.tokenizer.decode(tokens))
        except BaseException as e:  # a panic of the library is no Exception
            if type(e).__name__ != "PanicException":
                raise
            raise FormatError("a tokenizer's decoder fails", got=str(e)[:160]) from e

    def _find_anchor(self) -> tuple[int, int] | None:
        """A token to decode before others, so that they are not the first, and its length."""
        for token in range(self.tokenizer.get_vocab_size()):
            name = self.tokenizer.id_to_token(token)
            usable = name and name.isascii() and name.isalnum() and token not in self.special
            if usable and self._decode([token]) == name:
                return token, len(name)
        return None

    def append(self, pending: bytes, token: int) -> tuple[str, bytes] | None:
        """Complete characters of ``pending`` and the token, and the bytes left over.

        None for a special token, for bytes that are not UTF-8, and for left-over bytes that no
        token of the vocabulary can complete.
        """
        added = self.bytes_of(token)
        found = complete_characters(pending + added) if added else None
        if found is None or (found[1] and not self._can_complete(found[1])):
            return None
        text, rest = found
        if self.kind == "bytes" or self.is_fallback_byte(token):
            text = self.finish(text)
        return (text, rest) if text or rest else None

    def finish(self, text: str, *, first: bool = False) -> str:
        """Apply the decoder's steps on characters, those after bytes have become characters."""
        return self._decoder.finish(text, first=first)

    def _can_complete(self, pending: bytes) -> bool:
        if pending not in self._completable:
            self._completable[pending] = False  # a sequence that returns here completes nothing
            tokens = self._continuation_tokens()
            self._completable[pending] = any(self.append(pending, t) for t in tokens)
        return self._completable[pending]

    def _continuation_tokens(self) -> list[int]:
        """Tokens whose first byte continues a character."""
        if self._continuations is None:
            if self.kind == "bytes":
                tokens = list(range(self.tokenizer.get_vocab_size()))
            else:
                names = (f"<0x{byte:02X}>" for byte in CONTINUATION_BYTES)
                found = map(self.tokenizer.token_to_id, names)
                tokens = [token for token in found if token is not None]
            self._continuations = [
                t for t in tokens if (data := self.bytes_of(t)) and data[0] in CONTINUATION_BYTES
            ]
        return self._continuations

    def mask_to_continuations(self, scores: Array) -> Array:
        """A copy of scores, -inf but for tokens whose first byte continues a character."""
        masked = np.full_like(scores, -np.inf)
        tokens = [t for t in self._continuation_tokens() if t < len(scores)]
        masked[tokens] = scores[tokens]
        return masked

    def require_streaming(self, name: str) -> None:
        """Raise InputError when a token's text depends on later tokens."""
        if self.kind == "whole":
            raise InputError(
                f"{name}'s tokenizer cannot decode token by token",
                got=f"a decoder with {self.problem}",
                expected="steps that decode each token alone",
                hint="as byte-level, metaspace, byte-fallback and WordPiece decoders do",
            )


def complete_characters(data: bytes) -> tuple[str, bytes] | None:
    """The characters of ``data`` and the bytes of an incomplete last one; None if not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    try:
        text = decoder.decode(data)
    except UnicodeDecodeError:
        return None
    return text, decoder.getstate()[0]


class StreamingDetokenizer:
    """Decode tokens one by one: the texts together are the tokenizer's decode of all tokens.

    Text is returned once no later token can change it. So part of a character is held until it is
    complete, a run of byte-fallback tokens until it ends (one wrong byte makes the whole run
    unreadable), and a tokenizer of kind "whole" returns everything at the end. ``follows_text``:
    there is text before the first token, which keeps its leading space.
    """

    def __init__(self, token_bytes: TokenBytes, *, follows_text: bool) -> None:
        self._bytes = token_bytes
        self._follows_text = follows_text
        self._held: list[int] = []  # tokens whose text is not final yet
        self._start = ""  # characters at the beginning, of which the decoder left nothing
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Add a token; return the text that is now final, often that of the token."""
        table = self._bytes
        if token in table.special or table.tokenizer.id_to_token(token) is None:
            return ""  # as in the tokenizer's decode, it does not end a run of fallback bytes
        if table.kind == "bytes":
            return self._finish(self._utf8.decode(table.bytes_of(token)))
        held = table.kind == "whole" or table.is_fallback_byte(token)
        if self._follows_text and not self._held and not held:
            return table.bytes_of(token).decode()
        self._held.append(token)
        if held:
            return ""
        text = table.decode(self._held, follows_text=self._follows_text)
        if text:
            self._follows_text, self._held = True, []
        return text

    def close(self) -> str:
        """Return the text that was still held, as the tokenizer decodes it."""
        held, self._held = self._held, []
        rest = self._bytes.decode(held, follows_text=self._follows_text) if held else ""
        return self._finish(self._utf8.decode(b"", final=True)) + rest

    def _finish(self, text: str) -> str:
        if self._follows_text:
            return self._bytes.finish(text)
        self._start += text
        found = self._bytes.finish(self._start, first=True)
        self._follows_text = bool(found)
        return found
