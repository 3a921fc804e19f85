"""extract: texts to hidden states."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linalign_lite.commands.console import Console, Interrupted, require_output
from linalign_lite.commands.moment_files import workers
from linalign_lite.commands.options import (
    AsJson,
    Format,
    Limit,
    ModelFolder,
    Normalize,
    Quiet,
    Scheduler,
    Separator,
    StoredDtype,
    Threads,
)
from linalign_lite.core.choices import FloatDtype, Pooling, TextFormat
from linalign_lite.errors import InputError
from linalign_lite.storage.places import (
    Place,
    delivered,
    place,
    require_folder_writable,
    require_free,
    same_place,
)
from linalign_lite.storage.remote import Remote

if TYPE_CHECKING:
    from linalign_lite.core.hidden_states import HiddenStates
    from linalign_lite.core.shards.states_folder import StatesFolder
    from linalign_lite.extraction.session import Model
    from linalign_lite.extraction.texts import Texts


def extract(
    model: ModelFolder,
    texts: Annotated[
        str, typer.Argument(help="A .txt, .jsonl, .csv or .parquet file or URL, or - for stdin.")
    ],
    out_at: Annotated[
        str,
        typer.Argument(
            metavar="out",
            help="The file of states to write (.states.npz), or a folder to make; or a URL.",
        ),
    ],
    pooling: Annotated[
        Pooling | None,
        typer.Option(help="How token states become a text's state; default: the model's."),
    ] = None,
    normalize: Normalize = None,
    max_length: Annotated[int | None, typer.Option(help="Cut texts to this many tokens.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens in one batch.")] = None,
    threads: Threads = None,
    fmt: Format = TextFormat.auto,
    limit: Limit = None,
    separator: Separator = None,
    dtype: StoredDtype = FloatDtype.fp32,
    shard_texts: Annotated[
        int | None, typer.Option(help="Texts in one file of a folder; default 4096.", min=1)
    ] = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run a model on texts and save its hidden states.

    The states are saved with their provenance: the model, its pooling and a digest of the texts.
    An OUT that does not end in .npz is a folder of shards: one shard is in memory at a time, and
    the same command resumes a run that was interrupted. TEXTS may be compressed (.gz, .zst).
    TEXTS and OUT may be URLs that fsspec can open (extra `remote`).
    Blank lines are skipped, and texts longer than the model's context are cut; both are counted.

    \b
    Examples:
      linalign-lite extract minilm questions.jsonl questions.states.npz
      linalign-lite extract my-llama corpus.txt.zst corpus-states --pooling tokens --dtype fp16
      linalign-lite extract minilm s3://mine/corpus.txt.zst s3://mine/corpus-states
      echo "hello" | linalign-lite extract minilm - hello.states.npz
    """
    console, out = Console(as_json, quiet), place(out_at)
    how = _How(
        pooling.value if pooling else None, normalize, max_length,
        batch_tokens, threads, dtype.value, scheduler,
    )  # fmt: skip
    made: HiddenStates | StatesFolder
    reading: dict[str, Any] = {"fmt": fmt.value, "limit": limit, "separator": separator}
    if out.suffix.lower() != ".npz":
        _require_folder(out, texts)
        folder, blank = _write_folder(console, model, texts, reading, out, how, shard_texts)
        made, rows, shards = folder, folder.rows, {"shards": len(folder.shards)}
    elif scheduler is not None:
        raise InputError("--scheduler is for a folder", got=str(out), hint="drop the .npz")
    elif shard_texts is not None:
        raise InputError("--shard-texts is for a folder", got=str(out), hint="drop the .npz")
    else:
        require_output(out, texts)
        states, blank = _write_file(console, model, texts, reading, out, how)
        made, rows, shards = states, len(states), {}
    dim, pooled = made.space.dim, made.space.pooling
    console.result(
        {"out": str(out), "rows": rows, "dim": dim, "texts": made.n_texts, "cut": made.n_cut,
         "blank": blank, "pooling": pooled, "labels": len(made.labels),
         "text_digest": made.text_digest, **shards},
        [f"{out}: {rows} states of {dim} dimensions, {pooled} pooling"
         + (f", {len(made.labels)} labels" if made.labels else "")
         + (f", {shards['shards']} shards" if shards else "")],
    )  # fmt: skip


@dataclass(frozen=True)
class _How:
    """The options that say how texts become states; None is a default."""

    pooling: str | None
    normalize: bool | None
    max_length: int | None
    batch_tokens: int | None
    threads: int | None
    dtype: str
    scheduler: str | None


def _require_folder(out: Place, texts: str) -> None:
    """Raise InputError now, not after an hour's work, when ``out`` cannot be made."""
    from linalign_lite.core.shards.states_folder import require_name
    from linalign_lite.core.shards.writer import is_unfinished

    require_name(out)
    if same_place(out, place(texts)):
        raise InputError(f"{out} is an input of this command", hint="write to another file")
    if isinstance(out, Path) and not out.parent.is_dir():
        raise InputError(f"the folder {out.parent} is not there", hint="make it first")
    if not is_unfinished(out):
        require_free(out)
    if isinstance(out, Remote):
        require_folder_writable(out)


def _write_file(
    console: Console, model: Path, texts: str, reading: Mapping[str, Any], out: Place, how: _How
) -> tuple[HiddenStates, int]:
    """The states, saved as one file, and how many blank lines were skipped."""
    from linalign_lite.extraction.pipeline import narrow
    from linalign_lite.extraction.texts import read_texts
    from linalign_lite.heads.serialization import save

    read = read_texts(texts, **reading)
    made = states_of(
        console,
        model,
        read,
        pooling=how.pooling,
        normalize=how.normalize,
        max_length=how.max_length,
        batch_tokens=how.batch_tokens,
        threads=how.threads,
    )
    with delivered(out) as path:
        save(path, dataclasses.replace(made, states=narrow(made.states, how.dtype)))
    return made, read.n_blank


def _write_folder(
    console: Console, model: Path, texts: str, reading: Mapping[str, Any], out: Place, how: _How,
    shard_texts: int | None,
) -> tuple[StatesFolder, int]:  # fmt: skip
    """As `_write_file`, but to the disk, a shard at a time, and never all texts in memory."""
    from linalign_lite.core.shards.writer import is_unfinished
    from linalign_lite.extraction.compressed_text import kept
    from linalign_lite.extraction.corpus import read_corpus
    from linalign_lite.extraction.pipeline import BATCH_TOKENS, SHARD_TEXTS, extract_to

    with kept(texts) as path:
        if texts == "-" and reading["fmt"] == "auto":
            reading = {**reading, "fmt": "txt"}
        corpus = read_corpus(path, **reading)
        if is_unfinished(out):
            console.note(f"resuming {out}")
        try:
            with (
                workers(how.scheduler) as spread,
                extracting(console, model, corpus.n_texts, how.threads) as (loaded, tally),
            ):
                made = extract_to(
                    out,
                    loaded,
                    corpus,
                    shard_texts=SHARD_TEXTS if shard_texts is None else shard_texts,
                    pooling=how.pooling,
                    normalize=how.normalize,
                    max_length=how.max_length,
                    batch_tokens=BATCH_TOKENS if how.batch_tokens is None else how.batch_tokens,
                    dtype=how.dtype,
                    threads=how.threads,
                    progress=tally,
                    **spread,
                )
        except (KeyboardInterrupt, SystemExit) as e:
            if is_unfinished(out):
                raise Interrupted(e, f"{out} is unfinished; the same command resumes") from e
            raise
    note_losses(console, corpus.n_blank, made)
    return made, corpus.n_blank


def states_of(
    console: Console,
    model: Path,
    texts: Texts,
    *,
    pooling: str | None = None,
    normalize: bool | None = None,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    threads: int | None = None,
) -> HiddenStates:
    """Load the model and extract; None is the model's, or the library's, default."""
    from linalign_lite.extraction.pipeline import BATCH_TOKENS, extract

    with extracting(console, model, len(texts.texts), threads) as (loaded, tally):
        states = extract(
            loaded,
            texts,
            pooling=pooling,
            normalize=normalize,
            max_length=max_length,
            batch_tokens=BATCH_TOKENS if batch_tokens is None else batch_tokens,
            progress=tally,
        )
    note_losses(console, texts.n_blank, states)
    return states


@contextlib.contextmanager
def extracting(
    console: Console, model: Path, n_texts: int, threads: int | None
) -> Iterator[tuple[Model, Callable[[int], None]]]:
    """The model, loaded, and what moves the bar."""
    from linalign_lite.extraction.session import load_model

    if threads is not None:  # the tokenizer's own threads; read when it first works
        os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    loaded = load_model(model, threads=threads)
    with console.progress("extracting", n_texts) as tally:
        yield loaded, tally


def note_losses(console: Console, n_blank: int, states: HiddenStates | StatesFolder) -> None:
    """What of the texts is not in the states."""
    if n_blank:
        console.note(f"{n_blank} blank line(s) skipped")
    if states.n_cut:
        console.note(f"{states.n_cut} text(s) cut to {states.max_length} tokens")
