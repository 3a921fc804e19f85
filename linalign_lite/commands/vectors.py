"""vectors info, import, export: vectors of files and stores from elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from linalign_lite.commands.console import Console, require_elsewhere, require_output
from linalign_lite.commands.options import AsJson, Quiet
from linalign_lite.core.text_tables import pair_lines
from linalign_lite.errors import InputError, MismatchError, without_secrets

if TYPE_CHECKING:
    from linalign_lite.vectors.source import Batch, VectorInfo, VectorSource

app = typer.Typer(
    name="vectors",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Read and write vectors of files and databases.",
)

SourceAt = Annotated[
    str,
    Argument(
        metavar="SOURCE",
        help="x.npy, x.npz#NAME, x.parquet#COLUMN, x.arrow, x.jsonl, a store, or states.",
    ),
]
ModelName = Annotated[
    str, Option("--model", help="Name of the model that made the vectors, where unknown.")
]


@app.command()
def info(source_at: SourceAt, as_json: AsJson = False) -> None:
    """Show number, dimension, model and columns of vectors.

    \b
    Examples:
      linalign-lite vectors info corpus.parquet
      linalign-lite vectors info openai-batch.jsonl --json
    """
    from linalign_lite.vectors.locations import open_vectors

    with open_vectors(source_at) as source:
        first = next(iter(source.batches(1)))
        about = source.info
    row = dict(first.payload[0]) if first.payload is not None else {}
    data: dict[str, Any] = {
        "location": without_secrets(source_at),
        "count": about.count,
        "dim": about.dim,
        "model": about.model,
        "digest": about.space.model,
        "metric": about.metric,
        "ids": about.ids,
        "payload": sorted(row),
    }
    rows: list[tuple[str, object]] = [
        ("vectors", "unknown number" if about.count is None else about.count),
        ("space", about.space.describe()),
        ("metric", about.metric or "unknown"),
        ("ids", "numbers of the rows" if about.ids == "rows" else f"{about.ids}: {first.ids[0]}"),
        ("payload", ", ".join(sorted(row)) or "none"),
    ]
    Console(as_json).result(data, pair_lines(rows))


@app.command(name="import")
def import_(
    source_at: SourceAt,
    out: Annotated[Path, Argument(help="States to write: a .states.npz, or a folder to make.")],
    model: ModelName = "",
    shard_rows: Annotated[int, Option(help="A folder: vectors per shard.", min=1)] = 4096,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn vectors into states, with the name of their model.

    Ids are left out; payload `label` becomes the labels. Of a folder one shard is in memory at a
    time. Every command also reads the vectors as they are: import them to say which model made
    them, so that states of two models are not mixed up, or to work on a local copy of a store.

    \b
    Examples:
      linalign-lite vectors import corpus.parquet corpus.states.npz --model text-embedding-3-small
      linalign-lite vectors import qdrant:store#docs docs-states --model all-MiniLM-L6-v2
    """
    from linalign_lite.core.shards.states_folder import write_shards
    from linalign_lite.vectors.files.states import in_parts
    from linalign_lite.vectors.locations import open_vectors
    from linalign_lite.vectors.reading import place_of

    console = Console(as_json, quiet)
    if out.suffix.lower() == ".npz":
        _copy(console, source_at, str(out), model)
        return
    require_elsewhere(out, place_of(source_at))
    with open_vectors(source_at) as source:
        named = _named(source.info, model)
        parts, digest = in_parts(source, shard_rows)
        renamed = (dataclasses.replace(part, space=named.space) for part in parts)
        made = write_shards(out, renamed, text_digest=digest)
    _tell(console, str(out), made.rows, named)


@app.command()
def export(
    source_at: SourceAt,
    out: Annotated[str, Argument(help="Where to write: a file, or a collection of a store.")],
    model: ModelName = "",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Copy states or vectors to a file or store of another kind.

    Ids and payload go along where OUT has a place for them; .npy and .npz have none. A file or
    collection is visible when it is complete, and an existing collection is never overwritten.

    \b
    Examples:
      linalign-lite vectors export docs.states.npz docs.parquet
      linalign-lite vectors export corpus.parquet corpus.npy
      linalign-lite vectors export openai.jsonl qdrant:store#docs
    """
    _copy(Console(as_json, quiet), source_at, out, model)


@app.command()
def switch(
    live: Annotated[str, Argument(help="The collection that programs search in.")],
    new: Annotated[str, Argument(help="The collection that is to take its place.")],
    as_json: AsJson = False,
) -> None:
    """Put one collection in the place of another, and back.

    Of the same store, or two files of one kind. Programs that search find the old one or the
    new one, never neither. Nothing is removed: the line that is printed undoes it. Make indexes and
    grants of the new collection first.

    \b
    Examples:
      linalign-lite vectors switch qdrant://localhost:6333#docs qdrant://localhost:6333#docs-new
      linalign-lite vectors switch docs.faiss docs-new.faiss
    """
    from shlex import quote

    from linalign_lite.vectors.switching import switch_vectors

    former = switch_vectors(live, new)
    live, former = without_secrets(live), without_secrets(former)
    undo = f"linalign-lite vectors switch {quote(live)} {quote(former)}"
    Console(as_json).result({"live": live, "former": former}, [f"to undo: {undo}"])


def _copy(console: Console, source_at: str, out: str, model: str) -> None:
    from linalign_lite.vectors.locations import STATES, create_vectors, locate, open_vectors
    from linalign_lite.vectors.reading import place_of

    if (file := place_of(out)) is not None and not locate(out).scheme:
        require_output(file, place_of(source_at))
    with open_vectors(source_at) as source:
        named, n = _named(source.info, model), 0
        with create_vectors(out, named) as sink:
            for batch in _shown(console, source):
                sink.write(batch)
                n += len(batch)
            sink.finish()
    suffix, shown = Path(locate(out).path).suffix.lower(), without_secrets(out)
    if named.ids != "rows" and locate(out).backend.module == STATES:
        console.note(f"{shown} has a place for payload `label`: ids and other payload are left out")
    elif named.ids != "rows" and suffix in {".npy", ".npz"}:
        console.note(f"{shown} has no place for ids and payload: they are left out")
    elif suffix == ".faiss":
        console.note(f"{shown} has a place for ids that are integers, and none for payload")
    _tell(console, out, n, named)


def _shown(console: Console, source: VectorSource) -> Iterator[Batch]:
    """Yield the batches while a bar shows how far they are."""
    with console.progress("vectors", source.info.count or 0) as tally:
        for batch in source.batches():
            yield batch
            tally(len(batch))


def _named(info: VectorInfo, model: str) -> VectorInfo:
    """Return the info with the name of the model. MismatchError when another one is stated."""
    if model and info.model and model != info.model:
        raise MismatchError("the vectors are of another model", got=info.model, expected=model)
    if len(model) > 256 or not (not model or model.isprintable()):
        raise InputError("the model's name is not usable", expected="256 printable characters")
    return dataclasses.replace(
        info, space=dataclasses.replace(info.space, name=model or info.model), version=""
    )


def _tell(console: Console, out: str, n: int, info: VectorInfo) -> None:
    out = without_secrets(out)
    data = {"out": out, "vectors": n, "dim": info.dim, "model": info.model}
    console.result(data, [f"{out}: {n} vectors, {info.space.describe()}"])
