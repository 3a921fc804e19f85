"""Load a `tokenizer.json`, and compute how much of a text each token has read."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.atomic import PathLike, open_regular

MAX_TOKENIZER = 256 << 20  # bytes of a tokenizer.json; the largest known are about 35 MB
FALLBACK_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")  # a token of byte fallback
# quotes inside a JSON string are escaped, so this matches only a key of the file itself
_TRIMMED = re.compile(rb'("trim_offsets"\s*:\s*)true\b')


def load_tokenizer(path: PathLike) -> Any:
    """Load a `tokenizer.json` as a tokenizers.Tokenizer that neither truncates nor pads.

    Byte-level tokenizers may leave spaces out of a token's offsets; here they are always included,
    because a state that has read a space differs from one that has not. The ids stay the same.
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


def encode_batch(tokenizer: Any, texts: Sequence[str], name: object) -> list[Any]:
    """Encodings of the texts. Raises FormatError with ``name`` when the tokenizer fails."""
    try:
        return list(tokenizer.encode_batch(list(texts)))
    except Exception as e:  # the library raises plain Exception
        raise FormatError(f"{name}: its tokenizer fails on these texts", got=str(e)[:160]) from e


def byte_alphabet() -> dict[str, int]:
    """The byte of each of the 256 characters that GPT-2 writes for bytes."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def read_ends(text: str, encoding: Any, name: object = "the tokenizer") -> list[int]:
    """Number of characters of ``text`` read whole at each token of its tokenizers.Encoding.

    A token's own end is too far where it shares its characters with a later token: one byte of a
    character, one letter of a ligature, or a prefix space that is reported as the first letter.
    Such a token gets the end of the later one, of which `completing` takes only the last. An end is
    too near where a normaliser merged the following characters into the token, such as a combining
    accent: characters without a token, up to white space, are added to the token before them.
    Special tokens keep their end. The truncated part of the encoding is used too, so that the ends
    are those of the whole text. Raises InputError with ``name`` when there are no offsets.
    """
    parts = [encoding, *encoding.overflowing]
    offsets = [pair for part in parts for pair in part.offsets]
    special = [flag for part in parts for flag in part.special_tokens_mask]
    if len(offsets) - sum(special) > 1 and not any(end for _, end in offsets):
        raise InputError(
            f"{name} gives no offsets",
            got="offsets (0, 0) for every token",
            expected="a tokenizer that gives offsets",
        )
    return _whole_ends(text, offsets, special)[: len(encoding)]


def _whole_ends(text: str, offsets: Sequence[tuple[int, int]], special: Sequence[int]) -> list[int]:
    """Ends as in `read_ends`, from offsets (start, end) in code points."""
    farthest, farthest_ends = 0, []  # of all tokens so far
    for (_, end), is_special in zip(offsets, special, strict=True):
        farthest = farthest if is_special else max(farthest, end)
        farthest_ends.append(farthest)
    ends = [end for _, end in offsets]
    later = len(text)  # start of the text that later tokens read
    whole = farthest
    for i in range(len(ends) - 1, -1, -1):
        if special[i]:
            continue
        start, end = offsets[i]
        if farthest_ends[i] <= later:
            whole = farthest_ends[i]
            # add characters without a token, up to white space; at 0 there is no token to extend
            while 0 < whole < later and not text[whole].isspace():
                whole += 1
        ends[i] = whole
        if start < end:
            later = min(later, start)
    return ends
