"""head, evaluate: classifiers on a model's own or mapped states."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from linalign_lite.commands.console import (
    Console,
    draw,
    load_optional_map,
    require_output,
    require_plot,
)
from linalign_lite.commands.options import (
    AsJson,
    Folds,
    LabelledStates,
    MapFile,
    Plot,
    Quiet,
    Seed,
    Strict,
)
from linalign_lite.commands.reading import read_for
from linalign_lite.core.choices import HEAD_FOLDS, HeadMethod
from linalign_lite.core.text_tables import pair_lines


def head(
    states: LabelledStates,
    out: Annotated[Path, Argument(help="The head to write (.head.npz).")],
    method: Annotated[HeadMethod, Option(help="auto takes the more accurate.")] = HeadMethod.auto,
    penalty: Annotated[str, Option(help="auto, or a number above 0.")] = "auto",
    folds: Folds = HEAD_FOLDS,
    seed: Seed = 0,
    strict: Strict = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a linear classifier on labelled states.

    Ridge regression on one-hot labels, or logistic regression; auto takes the one with the higher
    K-fold accuracy.

    \b
    Examples:
      linalign-lite head train.states.npz intents.head.npz
      linalign-lite head train.states.npz intents.head.npz --method logistic --penalty 1e-3
      linalign-lite head train.parquet intents.head.npz
    """
    from linalign_lite.heads.serialization import save
    from linalign_lite.heads.training import train_head
    from linalign_lite.vectors.reading import read_states

    console = Console(as_json, quiet)
    require_output(out, states)
    trained, report = train_head(
        read_states(states),
        method=method.value,
        penalty=penalty,
        folds=folds,
        seed=seed,
        progress=console.note,
    )
    console.warn(report.warnings)
    with console.replacing(out):
        save(out, trained)
    lines = pair_lines([("head", out), *report.rows()])
    console.judged({"out": str(out), **asdict(report)}, lines, report.verdict, strict=strict)


def evaluate(
    head_file: Annotated[Path, Argument(metavar="HEAD", help="A head.")],
    states: LabelledStates,
    map_file: MapFile = None,
    per_class: Annotated[bool, Option("--per-class", help="Print each class's recall.")] = False,
    plot: Plot = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Measure a classifier's accuracy, with or without a map.

    \b
    Examples:
      linalign-lite evaluate intents.head.npz test.states.npz
      linalign-lite evaluate intents.head.npz client.states.npz --map client-to-provider.map.npz
    """
    from linalign_lite.core.serialization import load_head
    from linalign_lite.heads.evaluation import evaluate as measure

    require_plot(plot, head_file, states, map_file)
    affine, head, console = load_optional_map(map_file), load_head(head_file), Console(as_json)
    read = read_for(console, states, affine, head.space, "the head")
    found = measure(head, read, affine=affine)
    data, rows = found.as_dict(), found.rows()
    draw(plot, f"Accuracy of {head_file.name}", found, rows)
    if per_class:
        data["per_class"] = found.per_class
        rows += [(f"  {name}", f"{value:.4f}") for name, value in found.per_class.items()]
    console.judged(data, pair_lines(rows), found.verdict, strict=strict)
