"""Documents that a search found, in the clear or encrypted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from linalign_lite.commands.console import Console
from linalign_lite.errors import InputError, MismatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from linalign_lite.core.verdict import Verdict
    from linalign_lite.encrypt.scores import Scores
    from linalign_lite.retrieval.index.card import IndexCard, RowIds
    from linalign_lite.retrieval.index.clusters import Centroids, NearestClusters

SHOWN = (1, 4, 16)  # clusters whose recall is printed


def load_optional_card(path: Path | None) -> IndexCard | None:
    """Load the card of --index, if given."""
    from linalign_lite.retrieval.index.card import read_card

    return None if path is None else read_card(path)


def load_asked(
    index: Path | None, card: IndexCard | None, clusters: str | None
) -> IndexCard | NearestClusters | None:
    """The card of --index, if given, or with --clusters the centroids that are beside it."""
    from linalign_lite.retrieval.index.clusters import read_centroids

    if clusters is None:
        return card
    if card is None or index is None:
        raise InputError("--clusters are of an index", hint="add --index index.json")
    return nearest_clusters(read_centroids(index, card), clusters)


def nearest_clusters(centroids: Centroids, clusters: str) -> NearestClusters:
    """Ask as many clusters as --clusters says; auto: as hold 0.95 of the first ten."""
    from linalign_lite.retrieval.index.clusters import NearestClusters, enough_clusters

    count = number_or_auto(clusters)
    return NearestClusters(
        centroids, enough_clusters(centroids.card) if isinstance(count, str) else count
    )


def number_or_auto(text: str) -> int | Literal["auto"]:
    """Parse --clusters. Raises InputError for other text."""
    if text == "auto":
        return "auto"
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= 10**8):
        raise InputError("--clusters is not usable", got=text[:40], expected="a number, or auto")
    return int(text)


def asked_words(card: IndexCard, clusters: tuple[int, ...]) -> str:
    """Say which part of an index a query asks."""
    from linalign_lite.retrieval.index.clusters import row_numbers

    if not clusters or card.clusters is None:
        return "an index"
    rows, count = len(row_numbers(card, clusters)), len(card.clusters.sizes)
    return (
        f"{len(clusters)} of {count} clusters ({rows} rows; the provider learns which) of an index"
    )


def ranking_lines(card: IndexCard) -> list[str]:
    """Say which share of the first ten rows is kept, by bits of rows and by clusters asked."""
    shown = ", ".join(f"{o.row_bits} bits {o.overlap:.3f}" for o in card.overlaps)
    lines = [f"rows are rounded to {card.row_bits} bits"]
    if shown:
        lines.append(f"of the first 10: {shown} ({card.sample} queries)")
    if card.clusters and card.clusters.recalls:
        some = [r for r in card.clusters.recalls if r.clusters in SHOWN]
        mean = card.rows / len(card.clusters.sizes)
        parts = ", ".join(
            f"{r.clusters} nearest {r.recall:.3f} (about {r.clusters * mean:.0f} rows)"
            for r in some
        )
        lines.append(f"of the first 10, in clusters: {parts}")
    return lines


def ranking_verdict(card: IndexCard) -> Verdict | None:
    """Grade the share of the first ten rows that rows of so few bits keep; None if not measured."""
    from linalign_lite.core.verdict import RANKS_KEPT
    from linalign_lite.retrieval.index.card import FRACTION

    kept = [o.overlap for o in card.overlaps if o.row_bits == card.row_bits]
    more = "" if card.row_bits == FRACTION else "more --bits of `index build`"
    return RANKS_KEPT.judge(kept[0], more) if kept else None


def ids_of(scores: Scores, index: Path | None, card: IndexCard | None) -> RowIds:
    """Ids of the rows of decrypted scores; numbers without an index.

    Raises MismatchError for scores of a head, or of another index.
    """
    from linalign_lite.retrieval.index.card import RowNumbers, read_ids

    if index is None or card is None:
        if scores.clusters:
            raise InputError(
                "these are scores of clusters, whose rows only their index tells",
                hint="add --index index.json",
            )
        return RowNumbers(scores.values.shape[1])
    return shown_ids(scores, card, read_ids(index, card), index)


def shown_ids(scores: Scores, card: IndexCard, ids: RowIds, index: object) -> RowIds:
    """Ids of the rows that were scored. MismatchError unless scores are of this card's index."""
    from linalign_lite.retrieval.index.card import ids_digest
    from linalign_lite.retrieval.index.clusters import ClusterIds, row_numbers

    n, same = scores.values.shape[1], scores.ids == ids_digest(card)
    numbers = row_numbers(card, scores.clusters if same else ())
    if not same or n != len(numbers):
        raise MismatchError(
            f"this response is not of the index {index}",
            got=f"{n} scores of {'another index' if scores.ids else 'a head'}",
            expected=f"{len(numbers)} rows",
        )
    return ClusterIds(ids, numbers) if scores.clusters else ids


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
