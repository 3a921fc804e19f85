"""Documents that a search found, in the clear or encrypted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from linalign_lite.commands.console import Console
from linalign_lite.errors import MismatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from linalign_lite.encrypt.scores import Scores
    from linalign_lite.retrieval.index.card import IndexCard, RowIds


def load_optional_card(path: Path | None) -> IndexCard | None:
    """Load the card of --index, if given."""
    from linalign_lite.retrieval.index.card import read_card

    return None if path is None else read_card(path)


def ranking_lines(card: IndexCard) -> list[str]:
    """Say which share of the first ten rows an encrypted search keeps, by bits of rows."""
    shown = ", ".join(f"{o.row_bits} bits {o.overlap:.3f}" for o in card.overlaps)
    lines = [f"rows are rounded to {card.row_bits} bits"]
    return [*lines, f"of the first 10: {shown} ({card.sample} queries)"] if shown else lines


def ids_of(scores: Scores, index: Path | None, card: IndexCard | None) -> RowIds:
    """Ids of the rows of decrypted scores; numbers without an index.

    Raises MismatchError for scores of a head, or of another index.
    """
    from linalign_lite.retrieval.index.card import RowNumbers, read_ids

    if index is None or card is None:
        return RowNumbers(scores.values.shape[1])
    require_same_index(scores, card, index)
    return read_ids(index, card)


def require_same_index(scores: Scores, card: IndexCard, index: object) -> None:
    """Raise MismatchError unless scores are of the index of this card."""
    from linalign_lite.retrieval.index.card import ids_digest

    n = scores.values.shape[1]
    if (scores.ids, n) != (ids_digest(card), card.rows):
        raise MismatchError(
            f"this response is not of the index {index}",
            got=f"{n} scores of {'another index' if scores.ids else 'a head'}",
            expected=f"{card.rows} rows",
        )


def show_best(console: Console, scores: Scores, top: int, ids: RowIds) -> None:
    """Print the best documents of decrypted scores; queries are numbered."""
    best = scores.top(top)
    values = [own[rows].tolist() for own, rows in zip(scores.values, best, strict=True)]
    names = [str(i) for i in range(len(best))]
    show_found(console, names, best.tolist(), values, ids, scores.decimals)


def show_found(
    console: Console,
    names: Sequence[str],
    rows: Sequence[Sequence[int]],
    scores: Sequence[Sequence[float]],
    ids: RowIds,
    digits: int,
) -> None:
    """Print the documents found for each query, a run in TREC's format.

    Its columns are separated by spaces, so whitespace in ids is written as in URLs; not in JSON.
    """
    found = [
        [(ids[row], score) for row, score in zip(*pair, strict=True)]
        for pair in zip(rows, scores, strict=True)
    ]
    console.result(
        {
            "found": [
                {"query": name, "documents": [{"id": i, "score": s} for i, s in best]}
                for name, best in zip(names, found, strict=True)
            ]
        },
        [
            f"{_word(name)} Q0 {_word(own)} {rank} {score:.{digits}f} linalign-lite"
            for name, best in zip(names, found, strict=True)
            for rank, (own, score) in enumerate(best, 1)
        ],
    )


def _word(own: str) -> str:
    return re.sub(r"\s", lambda space: "".join(f"%{byte:02X}" for byte in space[0].encode()), own)
