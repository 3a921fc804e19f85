"""index build, search: document vectors that queries are searched in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from linalign_lite.commands.console import (
    Console,
    load_optional_map,
    require_elsewhere,
    require_permission,
)
from linalign_lite.commands.found import number_or_auto, ranking_lines, ranking_verdict, show_found
from linalign_lite.commands.options import AsJson, MapFile, Quiet, Strict
from linalign_lite.commands.reading import read_queries
from linalign_lite.commands.remarks import doubts
from linalign_lite.core.choices import Metric
from linalign_lite.core.text_tables import pair_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from linalign_lite.core.affine_map import AffineMap
    from linalign_lite.core.hidden_states import HiddenStates
    from linalign_lite.core.space import Space

app = typer.Typer(
    name="index",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Keep document vectors, and search them.",
)


@app.command()
def build(
    vectors: Annotated[
        str, Argument(help="Document vectors: x.npy, x.parquet#COLUMN, a store, or states.")
    ],
    out: Annotated[Path, Argument(help="The index to make, a folder.")],
    metric: Annotated[
        Metric | None, Option(help="Score; default: dot if the source says so, else cosine.")
    ] = None,
    queries: Annotated[
        str | None, Option(help="Query vectors to measure rankings on; default: some documents.")
    ] = None,
    row_bits: Annotated[
        int | None,
        Option(
            "--bits", help="Bits of rows in an encrypted search, 9 to 14; default: by --queries."
        ),
    ] = None,
    clusters: Annotated[
        str | None,
        Option(help="Group rows into as many clusters, or auto: the root of their number."),
    ] = None,
    seed: Annotated[int, Option(help="Seed of samples of documents.", min=0)] = 0,
    strict: Strict = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make an index of document vectors.

    Rows are fixed-point numbers, mapped into memory and read in blocks, with ids and a card.
    Rankings by rows of 9 to 14 bits are compared with exact ones, and an encrypted search uses the
    fewest bits that keep 0.99 of the first ten. Clients need index.json and ids.txt of the folder.
    With --clusters a search may look at the nearest clusters alone; how much of the first ten 1, 4
    and 16 of them hold is measured, too. Clients then need centroids.rows as well.

    \b
    Examples:
      linalign-lite index build documents.states.npz documents.index
      linalign-lite index build corpus.parquet corpus.index --queries queries.states.npz
      linalign-lite index build corpus.parquet corpus.index --clusters auto
    """
    from linalign_lite.retrieval.index.building import build_index
    from linalign_lite.vectors.locations import open_vectors
    from linalign_lite.vectors.reading import place_of, read_states

    console = Console(as_json, quiet)
    require_elsewhere(out, place_of(vectors))
    require_permission(out)
    asked = None if queries is None else read_states(queries)
    with (
        open_vectors(vectors) as source,
        console.progress("reading", 2 * (source.info.count or 0)) as tally,
    ):
        card = build_index(
            source,
            out,
            metric=None if metric is None else metric.value,
            queries=asked,
            row_bits=row_bits,
            clusters=None if clusters is None else number_or_auto(clusters),
            seed=seed,
            progress=tally,
        )
    size = sum(file.stat().st_size for file in out.iterdir())
    overlaps = {str(o.row_bits): o.overlap for o in card.overlaps}
    data = {"out": str(out), "rows": card.rows, "dim": card.space.dim, "metric": card.metric}
    data |= {"bytes": size, "row_bits": card.row_bits, "sample": card.sample}
    lines = [
        ("index", out),
        ("rows", f"{card.rows}, {card.space.describe()}"),
        ("metric", card.metric),
        ("size", f"{size / 1e6:.1f} MB, {len(card.shards)} shard(s)"),
    ]
    data["overlaps"] = overlaps
    if card.clusters:
        sizes, recalls = card.clusters.sizes, card.clusters.recalls
        data |= {"clusters": len(sizes), "recalls": {str(r.clusters): r.recall for r in recalls}}
        lines.append(("clusters", f"{len(sizes)} of {min(sizes)} to {max(sizes)} rows"))
    said = [*pair_lines(lines), *ranking_lines(card)]
    console.judged(data, said, ranking_verdict(card), strict=strict)


@app.command()
def search(
    queries: Annotated[
        str, Argument(help="States or vectors, or with --model texts (.txt, .jsonl, .csv, -).")
    ],
    index: Annotated[Path, Option("--index", help="The index, a folder.")],
    k: Annotated[int, Option("-k", "--top", help="Documents for each query.", min=1)] = 10,
    clusters: Annotated[
        int | None, Option(help="Look at as many nearest clusters alone; default: all rows.", min=1)
    ] = None,
    map_file: MapFile = None,
    model: Annotated[Path | None, Option(help="The exported model that encodes the texts.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Search an index in the clear; exact without --clusters.

    Prints a run in TREC's format: query, Q0, document, rank, score and name; whitespace in names of
    queries and documents as in URLs, %20.

    \b
    Examples:
      linalign-lite index search queries.states.npz --index documents.index -k 10
      echo "wing flutter" | linalign-lite index search - --index docs.index --model minilm
    """
    from linalign_lite.retrieval.index.reading import open_index

    console, affine = Console(as_json, quiet), load_optional_map(map_file)
    opened = open_index(index)
    states, names = named_queries(queries, model, affine, console, opened.space)
    rows, scores = opened.search(states, k, affine, clusters=clusters)
    show_found(console, names, rows.tolist(), scores.tolist(), opened.ids, 6)


def named_queries(
    queries: str, model: Path | None, affine: AffineMap | None, console: Console, space: Space
) -> tuple[HiddenStates, Sequence[str]]:
    """Read queries, and their ids; without ids of their own, the numbers of the rows."""
    from linalign_lite.vectors.reading import is_vectors, read_with_ids

    if model is None and is_vectors(queries):
        states, ids = read_with_ids(queries)
        console.warn(doubts(queries, states.space, affine, space, "the index"))
        if ids:
            return states, ids
    else:
        states = read_queries(queries, model, affine, console, search=True, reader=space)
    return states, [str(i) for i in range(len(states))]
