"""export, extract, inspect: models, states, and files of any kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linalign_lite.commands.console import (
    AsJson,
    Console,
    Interrupted,
    Quiet,
    require_output,
    table,
)
from linalign_lite.commands.moments import Scheduler, workers
from linalign_lite.commands.reading import extracting, note_losses, states_of
from linalign_lite.errors import InputError
from linalign_lite.files import check_free

if TYPE_CHECKING:
    from linalign_lite.hidden import HiddenStates
    from linalign_lite.shards import StatesFolder


class Task(StrEnum):
    auto = "auto"
    embed = "embed"
    generate = "generate"


class Dtype(StrEnum):
    fp32 = "fp32"
    fp16 = "fp16"


class Pooling(StrEnum):
    mean = "mean"
    last = "last"
    cls = "cls"
    tokens = "tokens"


class Format(StrEnum):
    auto = "auto"
    txt = "txt"
    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"


Separator = Annotated[
    str | None,
    typer.Option(help="Texts of a .txt are what stands between lines that equal this."),
]


def register(app: typer.Typer) -> None:
    app.command()(export)
    app.command()(extract)
    app.command()(inspect)


def export(
    model: Annotated[str, typer.Argument(help="A Hugging Face model: a folder or a hub id.")],
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    task: Annotated[Task, typer.Option(help="What the model is for; auto asks its config.")] = (
        Task.auto
    ),
    dtype: Annotated[
        Dtype, typer.Option(help="How weights are stored; computing is always in float32.")
    ] = Dtype.fp32,
    opset: Annotated[int | None, typer.Option(help="ONNX opset; default: Optimum's own.")] = None,
    from_onnx: Annotated[
        bool,
        typer.Option(
            "--from-onnx", help="MODEL is a folder that somebody exported already; needs no torch."
        ),
    ] = False,
    quantize: Annotated[
        bool,
        typer.Option(
            "--quantize",
            help="Weights and products in 8 bits: faster, smaller, a little less exact.",
        ),
    ] = False,
    texts: Annotated[
        Path | None,
        typer.Option(help="Texts to compare int8 with float32 on; default: sentences of our own."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn a model into a folder that runs with onnxruntime alone.

    Final hidden states come out; a causal LM's token head goes beside. The export is compared with
    the torch model on the same inputs, and nothing is left behind when the two do not agree. Needs
    the extra `export`.

    \b
    Examples:
      linalign-lite export sentence-transformers/all-MiniLM-L6-v2 minilm
      linalign-lite export ./my-llama my-llama-onnx --dtype fp16
      linalign-lite export ./somebodys-onnx mine --from-onnx
      linalign-lite export ./minilm minilm-int8 --quantize --texts questions.jsonl
    """
    console = Console(as_json, quiet)
    compared = _compared(texts) if quantize else None
    if texts is not None and not quantize:
        raise InputError("--texts is for --quantize", hint="say both, or neither")
    if from_onnx:
        from linalign_lite.onnx.split import split_exported

        if task is not Task.auto or opset is not None:
            raise InputError("--from-onnx takes the graph as it is: no --task, no --opset")
        card = split_exported(
            Path(model), out, dtype=dtype.value, progress=console.note, quantize=compared
        )
    else:
        from linalign_lite.onnx.export import export_model

        card = export_model(
            model,
            out,
            task=task.value,
            dtype=dtype.value,
            opset=opset,
            progress=console.note,
            quantize=compared,
        )
    size = sum(int(f["size"]) for f in card.files.values())
    console.result(
        {"out": str(out), "digest": card.digest, "task": card.task, "parity": dict(card.parity),
         "hidden_size": card.hidden_size, "bytes": size},
        [f"{out}: {card.architecture}, {card.task}, {card.hidden_size} dimensions, "
         f"{size / 1e6:.1f} MB"],
    )  # fmt: skip


def _compared(texts: Path | None) -> list[str]:
    """The first of the texts that int8 is compared with float32 on."""
    from linalign_lite.demo import public_texts
    from linalign_lite.texts import read_texts

    most = 300
    if texts is None:
        return list(public_texts().texts[:most])
    return list(read_texts(str(texts), limit=most).texts)


def extract(
    model: Annotated[Path, typer.Argument(help="An exported model folder.")],
    texts: Annotated[
        str, typer.Argument(help="A .txt, .jsonl, .csv or .parquet file, or - for stdin.")
    ],
    out: Annotated[
        Path, typer.Argument(help="The file of states to write (.states.npz), or a folder to make.")
    ],
    pooling: Annotated[
        Pooling | None, typer.Option(help="How a text becomes one state; default: the model's.")
    ] = None,
    normalize: Annotated[
        bool | None,
        typer.Option("--normalize/--no-normalize", help="Scale states to length 1."),
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Cut texts to this many tokens.")] = None,
    batch_tokens: Annotated[int | None, typer.Option(help="Tokens in one batch.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads; default: one a core.")] = None,
    fmt: Annotated[Format, typer.Option("--format", help="What TEXTS is.")] = Format.auto,
    limit: Annotated[int | None, typer.Option(help="Read only the first N texts.", min=1)] = None,
    separator: Separator = None,
    dtype: Annotated[
        Dtype, typer.Option(help="How states are stored; fp16 takes half the disk.")
    ] = Dtype.fp32,
    shard_texts: Annotated[
        int | None, typer.Option(help="Texts in one file of a folder; default 4096.", min=1)
    ] = None,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn texts into final hidden states, with their provenance.

    An OUT that does not end in .npz is a folder of shards: only one shard is in memory at a time,
    and the same command goes on where a run was cut off. TEXTS may be packed (.gz, .zst).
    Blank lines are skipped; texts longer than the model's context are cut; both are counted.

    \b
    Examples:
      linalign-lite extract minilm questions.jsonl questions.states.npz
      linalign-lite extract my-llama corpus.txt.zst corpus-states --pooling tokens --dtype fp16
      echo "hello" | linalign-lite extract minilm - hello.states.npz
    """
    console = Console(as_json, quiet)
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


def _require_folder(out: Path, texts: str) -> None:
    """Raise InputError now, not after an hour's work, when ``out`` cannot be made."""
    from linalign_lite.resuming import is_unfinished
    from linalign_lite.shards import require_name

    require_name(out)
    if out.exists() and Path(texts).exists() and out.samefile(texts):
        raise InputError(f"{out} is an input of this command", hint="write to another file")
    if not out.parent.is_dir():
        raise InputError(f"the folder {out.parent} is not there", hint="make it first")
    if not is_unfinished(out):
        check_free(out)


def _write_file(
    console: Console, model: Path, texts: str, reading: Mapping[str, Any], out: Path, how: _How
) -> tuple[HiddenStates, int]:
    """The states, saved as one file, and how many blank lines were skipped."""
    from linalign_lite.extraction import narrow
    from linalign_lite.store import save
    from linalign_lite.texts import read_texts

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
    save(out, dataclasses.replace(made, states=narrow(made.states, how.dtype)))
    return made, read.n_blank


def _write_folder(
    console: Console, model: Path, texts: str, reading: Mapping[str, Any], out: Path, how: _How,
    shard_texts: int | None,
) -> tuple[StatesFolder, int]:  # fmt: skip
    """As `_write_file`, but to the disk, a shard at a time, and never all texts in memory."""
    from linalign_lite.corpus import read_corpus
    from linalign_lite.extraction import BATCH_TOKENS, SHARD_TEXTS, extract_to
    from linalign_lite.resuming import is_unfinished
    from linalign_lite.streams import kept

    with kept(texts) as path:
        if texts == "-" and reading["fmt"] == "auto":
            reading = {**reading, "fmt": "txt"}
        corpus = read_corpus(path, **reading)
        if is_unfinished(out):
            console.note(f"going on with {out}")
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
                raise Interrupted(e, f"{out} is unfinished; the same command goes on") from e
            raise
    note_losses(console, corpus.n_blank, made)
    return made, corpus.n_blank


def inspect(
    file: Annotated[Path, typer.Argument(help="Any file or model folder of linalign-lite.")],
    as_json: AsJson = False,
) -> None:
    """Say what a file is, after checking the whole of it.

    States or a folder of them, a map, a head, a model folder, a key, a query or a response.

    \b
    Examples:
      linalign-lite inspect a-to-b.map.npz
      linalign-lite inspect minilm --json
    """
    from linalign_lite.describe import describe

    found = describe(file)
    Console(as_json).result(found, table([(name, _short(v)) for name, v in found.items()]))


def _short(value: object) -> object:
    """A list as a person wants to see it; --json has all of it."""
    if not isinstance(value, list):
        return value
    shown = ", ".join(str(v) for v in value[:8])
    return f"{len(value)}: {shown}, …" if len(value) > 8 else shown or "none"
