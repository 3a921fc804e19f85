"""Compare two tokenizers on texts, without running a model.

A map for generation is fitted on positions at which both tokenizations have read the same text. The
share of such positions, and of tokens that both cut alike, depends on `tokenizer.json` alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.core.text_tables import Pairs
from linalign_lite.core.token_alignment import boundary_rows, pair_positions
from linalign_lite.errors import FormatError, InputError
from linalign_lite.extraction.batching import Int64
from linalign_lite.extraction.model_card import TOKENIZER_FILE
from linalign_lite.extraction.tokenizer import (
    FALLBACK_BYTE,
    byte_alphabet,
    encode_batch,
    load_tokenizer,
    read_ends,
)
from linalign_lite.storage.atomic import PathLike

GOOD_MATCH = 0.67  # arXiv 2603.18908: exact-token match of pairs that generated well
GOOD_BILLIONS = 4  # parameters of their sources
WINDOW = 1024  # texts tokenised at a time


@dataclass(frozen=True)
class Compatibility:
    """Report of a comparison of two tokenizers. Special tokens are not counted.

    ``pairs``: of tokens, exact (`pair_positions`). ``matches``: the target's tokens for which the
    source has a token with the same start and end; tokens that share a character count as one
    piece, which both must cut into as many tokens. ``vocabulary_jaccard``: see `vocabulary` and
    `jaccard`. Fertility: tokens per word; words are separated by white space.
    """

    n_texts: int
    words: int
    source_tokens: int
    target_tokens: int
    pairs: int
    matches: int
    vocabulary_jaccard: float

    @property
    def paired_target(self) -> float:
        """Share of the target's tokens that have an exact pair."""
        return self.pairs / self.target_tokens

    @property
    def paired_source(self) -> float:
        """Share of the source's tokens that have an exact pair."""
        return self.pairs / self.source_tokens

    @property
    def exact_match(self) -> float:
        """Share of the target's tokens that are also tokens of the source."""
        return self.matches / self.target_tokens

    @property
    def source_fertility(self) -> float:
        """Tokens of the source per word."""
        return self.source_tokens / self.words

    @property
    def target_fertility(self) -> float:
        """Tokens of the target per word."""
        return self.target_tokens / self.words

    @property
    def fertility_ratio(self) -> float:
        """The source's fertility over the target's: above 1, the source has more tokens."""
        return self.source_tokens / self.target_tokens

    @property
    def promising(self) -> bool:
        """True if exact_match reaches that of pairs that generated well."""
        return self.exact_match >= GOOD_MATCH

    @property
    def verdict(self) -> str:
        """Verdict on generation, in words."""
        size = f"{GOOD_BILLIONS} billion parameters"
        if self.promising:
            return (
                "good for generation, if the source is large enough: exact-token match is at least "
                f"{GOOD_MATCH}. In the paper such pairs generated well with a source of {size} or "
                "more, and poorly with a smaller one; the size of yours is not known here."
            )
        return (
            f"poor for generation: exact-token match is below {GOOD_MATCH}. In the paper the pairs "
            f"that generated well had at least that, and a source of {size} or more; the size of "
            "yours is not known here. Maps between pooled states do not depend on this."
        )

    def as_dict(self) -> dict[str, Any]:
        """Values of the report for JSON."""
        derived = [name for name, v in vars(Compatibility).items() if isinstance(v, property)]
        return asdict(self) | {name: getattr(self, name) for name in derived}

    def rows(self) -> Pairs:
        """Names and values of the report for printing."""
        words = f"{self.source_fertility:.3f} source, {self.target_fertility:.3f} target"
        return [
            ("texts", f"{self.n_texts} ({self.words} words)"),
            ("tokens", f"{self.source_tokens} source, {self.target_tokens} target"),
            ("exact pairs", self.pairs),
            ("  of the target's tokens", f"{self.paired_target:.3f}"),
            ("  of the source's tokens", f"{self.paired_source:.3f}"),
            ("exact-token match", f"{self.exact_match:.3f}"),
            ("vocabulary Jaccard", f"{self.vocabulary_jaccard:.3f}"),
            ("tokens per word", f"{words}, ratio {self.fertility_ratio:.3f}"),
        ]


@dataclass(frozen=True, eq=False)
class Located:
    """Positions of all tokens of some texts, in order, without special tokens."""

    text_index: Int64  # shape: (n,)
    char_start: Int64  # shape: (n,)
    char_end: Int64  # shape: (n,); see `read_ends`

    def __len__(self) -> int:
        return len(self.text_index)


def check_compatibility(source: PathLike, target: PathLike, texts: Sequence[str]) -> Compatibility:
    """Compare the tokenizers of two model folders, exported or of Hugging Face, on ``texts``.

    Texts are not cut. Raises InputError when there are no words, a folder has no `tokenizer.json`,
    or its tokenizer gives no tokens or no offsets; FormatError when it is broken.
    """
    words = sum(len(text.split()) for text in texts)
    if not words:
        raise InputError("no words to compare tokenizers on", got=f"{len(texts)} texts")
    tokenizers = [read_tokenizer(folder) for folder in (source, target)]
    mine = locate(tokenizers[0], texts, str(source))
    theirs = locate(tokenizers[1], texts, str(target))
    rows, partners = pair_positions(
        (mine.text_index, mine.char_end), (theirs.text_index, theirs.char_end)
    )
    # pairs end at the same character; equal pieces also begin at the same one, of as many tokens
    other, own = _pieces(mine)[:, rows], _pieces(theirs)[:, partners]
    return Compatibility(
        n_texts=len(texts),
        words=words,
        source_tokens=len(mine),
        target_tokens=len(theirs),
        pairs=len(rows),
        matches=int(own[1, (own == other).all(axis=0)].sum()),
        vocabulary_jaccard=jaccard(*map(vocabulary, tokenizers)),
    )


def read_tokenizer(folder: PathLike) -> Any:
    """Load a model folder's tokenizer. InputError without one, FormatError when it is broken."""
    path = Path(folder) / TOKENIZER_FILE
    if not Path(folder).is_dir():
        raise InputError(f"{folder} is not a folder", expected="a model folder")
    if not path.is_file():
        raise InputError(
            f"{folder} has no {TOKENIZER_FILE}",
            hint="save one with `AutoTokenizer.from_pretrained(MODEL, use_fast=True)"
            ".save_pretrained`",
        )
    return load_tokenizer(path)


def locate(tokenizer: Any, texts: Sequence[str], name: str = "the tokenizer") -> Located:
    """Find the position of each token of ``texts``. ``name``: of the tokenizer, for messages.

    Raises FormatError when the tokenizer fails, InputError when it gives no tokens or no offsets.
    """
    index, positions = list[Int64](), [np.empty((0, 2), dtype=np.int64)]
    for start in range(0, len(texts), WINDOW):
        window = texts[start : start + WINDOW]
        found = encode_batch(tokenizer, window, name)
        for i, (text, encoding) in enumerate(zip(window, found, strict=True), start):
            ends = read_ends(text, encoding, f"{name}: its tokenizer")
            tokens = zip(encoding.offsets, ends, encoding.special_tokens_mask, strict=True)
            kept = [(offset[0], end) for offset, end, special in tokens if not special]
            positions.append(np.array(kept, dtype=np.int64).reshape(-1, 2))
            index.append(np.full(len(kept), i, dtype=np.int64))
    where = np.concatenate(positions)
    if not len(where):
        raise InputError(f"{name}: its tokenizer gives no token for these texts")
    return Located(np.concatenate(index), where[:, 0], where[:, 1])


def _pieces(located: Located) -> Int64:
    """Start and number of tokens of the piece that each row completes, (2, n); 0 for other rows.

    A piece is the text from one completing position to the next, usually of one token.
    """
    rows = boundary_rows(located.text_index, located.char_end)
    pieces = np.zeros((2, len(located)), dtype=np.int64)
    # a token that completes no piece belongs to the next piece
    piece = np.searchsorted(rows, np.arange(len(located)))
    owned = np.flatnonzero(piece < len(rows))
    owned = owned[located.text_index[rows[piece[owned]]] == located.text_index[owned]]
    if len(rows):
        first = np.searchsorted(piece[owned], np.arange(len(rows)))
        pieces[0, rows] = np.minimum.reduceat(located.char_start[owned], first)
        pieces[1, rows] = np.diff(first, append=len(owned))
    return pieces


def vocabulary(tokenizer: Any) -> frozenset[bytes]:
    """Bytes of all tokens, without special ones.

    Byte-level spelling is undone (Ġ is a space), and so is SentencePiece's (▁ is a space, <0x0A>
    the byte 10). WordPiece leaves out the space before a word: a token without the continuation
    prefix (##) that begins with a letter or a digit gets one, as in other tokenizers.
    """
    added = tokenizer.get_added_tokens_decoder().values()
    special = {token.content for token in added if token.special}
    try:
        spelled = _spelling(tokenizer)
    except Exception as e:  # the tokenizers library raises plain Exception
        raise FormatError("a tokenizer fails on its own tokens", got=str(e)[:160]) from e
    return frozenset(spelled(token) for token in tokenizer.get_vocab() if token not in special)


def jaccard(source: frozenset[bytes], target: frozenset[bytes]) -> float:
    """Jaccard index: size of the intersection over that of the union; 0 for two empty sets."""
    return len(source & target) / max(len(source | target), 1)


def _spelling(tokenizer: Any) -> Callable[[str], bytes]:
    if _is_byte_level(tokenizer):
        letters = byte_alphabet()
        return lambda token: _from_letters(token, letters)
    mark = getattr(tokenizer.model, "continuing_subword_prefix", None)
    if type(tokenizer.model).__name__ == "WordPiece" and mark:
        return lambda token: _from_word_piece(token, mark)
    return _from_metaspace


def _is_byte_level(tokenizer: Any) -> bool:
    """Return True if the tokenizer writes a space as Ġ."""
    return (
        tokenizer.decoder is not None and tokenizer.decoder.decode(["a", "Ġ", "b"]) == "a b"
    ) or (
        tokenizer.pre_tokenizer is not None
        and any("Ġ" in piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str("a b"))
    )


def _from_letters(token: str, letters: Mapping[str, int]) -> bytes:
    if all(c in letters for c in token):
        return bytes(letters[c] for c in token)
    return token.encode("utf-8", "surrogatepass")  # an added token is written as it is


def _from_word_piece(token: str, mark: str) -> bytes:
    if token.startswith(mark) and token != mark:
        token = token.removeprefix(mark)
    elif token[:1].isalnum():
        token = " " + token
    return token.encode("utf-8", "surrogatepass")


def _from_metaspace(token: str) -> bytes:
    if byte := FALLBACK_BYTE.fullmatch(token):
        return bytes([int(byte[1], 16)])
    return token.replace("▁", " ").encode("utf-8", "surrogatepass")
