"""head, evaluate: classifiers on a model's own or mapped states."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from linalign_lite.commands.console import AsJson, Console, Quiet, require_output, table
from linalign_lite.commands.moment_files import Seed


class HeadMethod(StrEnum):
    auto = "auto"
    ridge = "ridge"
    logistic = "logistic"


def head(
    states: Annotated[Path, typer.Argument(help="Labelled states.")],
    out: Annotated[Path, typer.Argument(help="The head to write (.head.npz).")],
    method: Annotated[
        HeadMethod, typer.Option(help="auto takes the more accurate.")
    ] = HeadMethod.auto,
    penalty: Annotated[str, typer.Option(help="auto, or a number above 0.")] = "auto",
    folds: Annotated[int, typer.Option(help="Folds of the cross-validation.")] = 3,
    seed: Seed = 0,
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
    """
    from linalign_lite.core.serialization import load_states
    from linalign_lite.heads.serialization import save
    from linalign_lite.heads.training import train_head

    console = Console(as_json, quiet)
    require_output(out, states)
    trained, report = train_head(
        load_states(states),
        method=method.value,
        penalty=penalty,
        folds=folds,
        seed=seed,
        progress=console.note,
    )
    save(out, trained)
    tried = ", ".join(f"{name} {score:.4f}" for name, score in report.tried.items())
    console.result(
        {"out": str(out), **asdict(report)},
        table(
            [
                ("head", out),
                ("method", f"{report.method}, penalty {report.penalty:.3g}"),
                ("classes", report.classes),
                ("texts", report.n),
                ("held-out accuracy", f"{tried} ({report.folds} folds)"),
            ]
        ),
    )


def evaluate(
    head_file: Annotated[Path, typer.Argument(metavar="HEAD", help="A head.")],
    states: Annotated[Path, typer.Argument(help="Labelled states.")],
    map_file: Annotated[
        Path | None, typer.Option("--map", help="Carry the states over with this map first.")
    ] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Print the recall of each class.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a classifier's accuracy, with or without a map.

    \b
    Examples:
      linalign-lite evaluate intents.head.npz test.states.npz
      linalign-lite evaluate intents.head.npz client.states.npz --map client-to-provider.map.npz
    """
    from linalign_lite.core.serialization import load_head, load_map, load_states
    from linalign_lite.heads.evaluation import evaluate as judge

    affine = load_map(map_file) if map_file else None
    found = judge(load_head(head_file), load_states(states), affine)
    interval = found.accuracy
    data: dict[str, Any] = {
        "accuracy": interval.value,
        "low": interval.low,
        "high": interval.high,
        "confidence": interval.confidence,
        "n": found.n,
        "majority": found.majority,
        "unknown": found.unknown,
    }
    rows: list[tuple[str, object]] = [
        ("accuracy", f"{interval.value:.4f} ({interval.low:.4f} to {interval.high:.4f}, "
                     f"{interval.confidence:.0%} bootstrap)"),
        ("texts", found.n),
        ("always the commonest label", f"{found.majority:.4f}"),
    ]  # fmt: skip
    if found.unknown:
        rows.append(("labels that the head does not know", f"{found.unknown} texts, all wrong"))
    if per_class:
        data["per_class"] = found.per_class
        rows += [(f"  {name}", f"{value:.4f}") for name, value in found.per_class.items()]
    Console(as_json).result(data, table(rows))
