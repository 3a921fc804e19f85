"""A `tokenizer.json`, read with care, and how much of a text each of its tokens has read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from linalign_lite.errors import FormatError
from linalign_lite.storage.atomic import PathLike, open_regular

MAX_TOKENIZER = 256 << 20  # bytes of a tokenizer.json; the largest known are about 35 MB
# A quote inside a JSON string is escaped, so only a key of the file itself looks like this.
_TRIMMED = re.compile(rb'("trim_offsets"\s*:\s*)true\b')


def load_tokenizer(path: PathLike) -> Any:
    """A `tokenizer.json` as a tokenizers.Tokenizer that neither cuts nor pads.

    Byte-level tokenizers may leave spaces out of what they report as a token's place; here they
    never do, for a state that has read a space is not one that has not. The ids stay the same.
    Raises InputError when the file cannot be read, FormatError when it is too large or broken.
    """
    from tokenizers import Tokenizer

    with open_regular(path) as f:
        size = Path(path).stat().st_size
        raw = f.read(size) if size <= MAX_TOKENIZER else b""
    if size > MAX_TOKENIZER:
        raise FormatError(
            f"{path} is too large for a tokenizer",
            got=f"{size} bytes",
            expected=f"at most {MAX_TOKENIZER}",
        )
    try:
        tokenizer = Tokenizer.from_buffer(_TRIMMED.sub(rb"\1false", raw))
    except Exception as e:  # the library raises plain Exception
        raise FormatError(f"{path} is not a usable tokenizer", got=str(e)[:160]) from e
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for the 256 bytes, the other way round."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def read_ends(text: str, encoding: Any) -> list[int]:
    """How much of ``text`` has been read, whole, at each token of its tokenizers.Encoding.

    A token's own end says too much where it shares its characters with a later token: one byte of
    a character, one letter of a ligature, or a prefix space that is reported as if it were the
    first letter. Such a token gets the end of the later one, and `boundary_rows` takes the last
    alone. An end says too little where a normaliser took what follows into the token, such as
    a combining accent: characters that no token has, up to white space, are added to the token
    before them. Special tokens keep their end. What a cut text has lost is looked at too, so that
    the ends are those of the whole text.
    """
    parts = [encoding, *encoding.overflowing]
    offsets = [pair for part in parts for pair in part.offsets]
    special = [flag for part in parts for flag in part.special_tokens_mask]
    return _whole_ends(text, offsets, special)[: len(encoding)]


def _whole_ends(text: str, offsets: Sequence[tuple[int, int]], special: Sequence[int]) -> list[int]:
    """Ends as `read_ends` gives them, from places (start, end) in code points."""
    top = 0
    tops = []  # the furthest that any token has gone so far
    for (_, end), left_out in zip(offsets, special, strict=True):
        top = top if left_out else max(top, end)
        tops.append(top)
    ends = [end for _, end in offsets]
    later = len(text)  # where what is read after this token begins
    whole = top
    for i in range(len(ends) - 1, -1, -1):
        if special[i]:
            continue
        start, end = offsets[i]
        if tops[i] <= later:
            whole = _stretch(text, tops[i], later)
        ends[i] = whole
        if start < end:
            later = min(later, start)
    return ends


def _stretch(text: str, end: int, later: int) -> int:
    """``end`` moved over what stands there without a token, up to white space."""
    if end:  # before the first token there is none to add to
        while end < later and not text[end].isspace():
            end += 1
    return end
