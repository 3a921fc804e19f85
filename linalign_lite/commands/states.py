"""extract: hidden states of texts; extraction for the other commands."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from linalign_lite.commands import options as shared
from linalign_lite.commands.console import Console, Interrupted, require_elsewhere, require_output
from linalign_lite.commands.moment_files import workers
from linalign_lite.core.choices import FloatDtype, Pooling, TextFormat
from linalign_lite.errors import InputError
from linalign_lite.storage import places
from linalign_lite.storage.remote import Remote

VECTORS = frozenset({".npy", ".parquet", ".arrow", ".jsonl"})
OTHER_FILES = VECTORS | {".csv", ".txt", ".json", ".onnx", ".zip", ".h5", ".pt", ".safetensors"}

if TYPE_CHECKING:
    from linalign_lite.core.hidden_states import HiddenStates
    from linalign_lite.core.shards.states_folder import StatesFolder
    from linalign_lite.extraction.session import Model
    from linalign_lite.extraction.texts import Texts


def extract(
    model: shared.ModelFolder,
    texts: Annotated[str, Argument(help="A .txt, .jsonl, .csv, .parquet file or URL; - is stdin.")],
    out_at: Annotated[
        str,
        Argument(
            metavar="out",
            help="The file of states to write (.states.npz), or a folder to make; or a URL.",
        ),
    ],
    pooling: Annotated[
        Pooling | None, Option(help="How token states become a text's state; default: the model's.")
    ] = None,
    normalize: shared.Normalize = None,
    prompt: Annotated[
        str | None,
        Option(help="Name of one of the model's prompts, or a text to put first; '' for none."),
    ] = None,
    max_length: Annotated[int | None, Option(help="Cut texts to this many tokens.")] = None,
    batch_tokens: Annotated[int | None, Option(help="Tokens in one batch.")] = None,
    threads: shared.Threads = None,
    fmt: shared.Format = TextFormat.auto,
    limit: shared.Limit = None,
    separator: shared.Separator = None,
    text_field: shared.TextField = "text",
    label_field: shared.LabelField = None,
    no_labels: shared.NoLabels = False,
    dtype: shared.StoredDtype = FloatDtype.fp32,
    shard_texts: Annotated[int | None, Option(help="Texts per shard; default 4096.", min=1)] = None,
    scheduler: shared.Scheduler = None,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
) -> None:
    """Run a model on texts and save its hidden states.

    The states are saved with their provenance: model, pooling, prompt and a digest of the texts.
    An OUT that does not end in .npz is a folder of shards: one shard is in memory at a time, and
    the same command resumes a run that was interrupted. TEXTS may be compressed (.gz, .zst).
    TEXTS and OUT may be URLs that fsspec can open (extra `remote`).
    Labels of the texts are saved too, and go wherever the states go; --no-labels leaves them out.
    Blank lines are skipped, and texts longer than the model's context are cut; both are counted.

    \b
    Examples:
      linalign-lite extract minilm questions.jsonl questions.states.npz
      linalign-lite extract my-llama corpus.txt.zst corpus-states --pooling tokens --dtype fp16
      linalign-lite extract minilm s3://mine/corpus.txt.zst s3://mine/corpus-states
      linalign-lite extract gemma questions.txt questions.states.npz --prompt query
      linalign-lite extract minilm tickets.csv t.states.npz --text-field body --label-field queue
      echo "hello" | linalign-lite extract minilm - hello.states.npz
    """
    from linalign_lite.extraction.texts import Fields

    console, out = Console(as_json, quiet), places.place(out_at)
    require_elsewhere(out, texts)
    _require_states_name(out)
    if no_labels and label_field is not None:
        raise InputError("--label-field and --no-labels exclude each other")
    fields = Fields(text_field, None if no_labels else label_field or "label")
    job = _Job(
        model=model,
        texts=texts,
        out=out,
        reading={"fmt": fmt.value, "limit": limit, "separator": separator, "fields": fields},
        options=ModelOptions(
            pooling=pooling.value if pooling else None,
            normalize=normalize,
            prompt=prompt,
            max_length=max_length,
            batch_tokens=batch_tokens,
        ),
        threads=threads,
        dtype=dtype.value,
    )
    made: HiddenStates | StatesFolder
    if out.suffix.lower() != ".npz":
        folder, blank = _write_folder(console, job, shard_texts, scheduler)
        made, rows, shards = folder, folder.rows, {"shards": len(folder.shards)}
    elif scheduler is not None or shard_texts is not None:
        option = "--shard-texts" if scheduler is None else "--scheduler"
        raise InputError(f"{option} is for a folder", got=str(out), hint="drop the .npz")
    else:
        require_output(out, texts)
        with console.replacing(out):
            states, blank = _write_file(console, job)
        made, rows, shards = states, len(states), {}
    space, n_labels = made.space, len(made.labels)
    data = {
        "out": str(out),
        "rows": rows,
        "dim": space.dim,
        "texts": made.n_texts,
        "cut": made.n_cut,
        "blank": blank,
        "pooling": space.pooling,
        "prompt": space.prompt,
        "labels": n_labels,
        "text_digest": made.text_digest,
        **shards,
    }
    line = f"{out}: {rows} states of {space.dim} dimensions, {space.pooling} pooling"
    line += f", prompt {space.prompt!r}" if space.prompt else ""
    line += f", {n_labels} labels" if n_labels else ""
    line += f", {shards['shards']} shards" if shards else ""
    if n_labels:
        console.note(f"{n_labels} labels go wherever the states go (--no-labels leaves them out)")
    console.result(data, [line])


def _require_states_name(out: places.Place) -> None:
    """Raise InputError for a name that would make a folder and says another kind of file."""
    ending = Path(out.name).suffix.lower()
    if ending in OTHER_FILES and not out.is_dir():
        raise InputError(
            f"states are not written to {ending}",
            got=str(out),
            expected="a name that ends in .npz, or one without an ending, for a folder",
            hint="`vectors export` writes other files from states" if ending in VECTORS else "",
        )


@dataclass(frozen=True)
class ModelOptions:
    """Options of `extract` that concern the model; None is the default of the model or library."""

    pooling: str | None = None
    normalize: bool | None = None
    prompt: str | None = None
    max_length: int | None = None
    batch_tokens: int | None = None

    def given(self) -> dict[str, Any]:
        """The options that are set, as keyword arguments."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class _Job:
    model: Path
    texts: str
    out: places.Place
    reading: Mapping[str, Any]  # options of read_texts and read_corpus
    options: ModelOptions
    threads: int | None
    dtype: str


def _write_file(console: Console, job: _Job) -> tuple[HiddenStates, int]:
    """Extract to one file; returns the states and the number of blank lines."""
    from linalign_lite.extraction.pipeline import narrow
    from linalign_lite.extraction.texts import read_texts
    from linalign_lite.heads.serialization import save

    read = read_texts(job.texts, **job.reading)
    made = extract_texts(console, job.model, read, job.options, job.threads)
    with places.delivered(job.out) as path:
        save(path, dataclasses.replace(made, states=narrow(made.states, job.dtype)))
    return made, read.n_blank


def _write_folder(
    console: Console, job: _Job, shard_texts: int | None, scheduler: str | None
) -> tuple[StatesFolder, int]:
    """Extract to a folder, one shard in memory at a time; returns it and the blank lines."""
    from linalign_lite.core.shards.states_folder import require_name
    from linalign_lite.core.shards.writer import is_unfinished
    from linalign_lite.extraction.compressed_text import kept
    from linalign_lite.extraction.corpus import read_corpus
    from linalign_lite.extraction.pipeline import SHARD_TEXTS, extract_to

    require_name(job.out)
    if not is_unfinished(job.out):
        places.require_free(job.out)
    if isinstance(job.out, Remote):
        places.require_folder_writable(job.out)
    reading = dict(job.reading)
    if job.texts == "-" and reading["fmt"] == "auto":
        reading["fmt"] = "txt"
    with kept(job.texts) as path:
        corpus = read_corpus(path, **reading)
        if is_unfinished(job.out):
            console.note(f"resuming {job.out}")
        try:
            with (
                workers(scheduler) as spread,
                _loaded(console, job.model, corpus.n_texts, job.threads) as (model, tally),
            ):
                made = extract_to(
                    job.out,
                    model,
                    corpus,
                    shard_texts=SHARD_TEXTS if shard_texts is None else shard_texts,
                    dtype=job.dtype,
                    threads=job.threads,
                    progress=tally,
                    **job.options.given(),
                    **spread,
                )
        except (KeyboardInterrupt, SystemExit) as e:
            if is_unfinished(job.out):
                raise Interrupted(e, f"{job.out} is unfinished; the same command resumes") from e
            raise
    _note_losses(console, corpus.n_blank, made)
    return made, corpus.n_blank


def extract_texts(
    console: Console, model: Path, texts: Texts, options: ModelOptions, threads: int | None = None
) -> HiddenStates:
    """Load a model and extract the states of texts in memory, with a progress bar and notes."""
    from linalign_lite.extraction.pipeline import extract as extract_states

    with _loaded(console, model, len(texts.texts), threads) as (loaded, tally):
        states = extract_states(loaded, texts, progress=tally, **options.given())
    _note_losses(console, texts.n_blank, states)
    return states


@contextlib.contextmanager
def _loaded(
    console: Console, model: Path, n_texts: int, threads: int | None
) -> Iterator[tuple[Model, Callable[[int], None]]]:
    """Load the model; yields it and the function that advances the progress bar."""
    loaded = load_limited(model, threads)
    with console.progress("extracting", n_texts) as tally:
        yield loaded, tally


def load_limited(model: Path, threads: int | None, tokenizer: Any = None) -> Model:
    """Load a model with at most ``threads`` threads, those of its tokenizer included.

    tokenizer: the model's, if it is loaded already.
    """
    from linalign_lite.extraction.session import load_model

    if threads is not None:  # read by the tokenizer when it first works
        os.environ.setdefault("RAYON_NUM_THREADS", str(threads))
    return load_model(model, threads=threads, tokenizer=tokenizer)


def _note_losses(console: Console, n_blank: int, states: HiddenStates | StatesFolder) -> None:
    """Note how many lines were skipped and how many texts were cut."""
    if n_blank:
        console.note(f"{n_blank} blank line(s) skipped")
    if states.n_cut:
        console.note(f"{states.n_cut} text(s) cut to {states.max_length} tokens")
