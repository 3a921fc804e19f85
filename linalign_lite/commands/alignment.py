"""fit, head, evaluate: maps between models, and classifiers on their states."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from linalign_lite.commands.console import AsJson, Console, Quiet, require_output, table


class MapMethod(StrEnum):
    ridge = "ridge"
    lstsq = "lstsq"
    procrustes = "procrustes"


class HeadMethod(StrEnum):
    auto = "auto"
    ridge = "ridge"
    logistic = "logistic"


Seed = Annotated[int, typer.Option(help="Seed of the folds.", min=0)]


def register(app: typer.Typer) -> None:
    app.command()(fit)
    app.command()(head)
    app.command()(evaluate)


def fit(
    source: Annotated[Path, typer.Argument(help="States of the model that reads.")],
    target: Annotated[Path, typer.Argument(help="States of the other model, same texts.")],
    out: Annotated[Path, typer.Argument(help="The map to write (.map.npz).")],
    method: Annotated[MapMethod, typer.Option(help="How to fit.")] = MapMethod.ridge,
    penalty: Annotated[
        str, typer.Option(help="auto, or a number relative to the mean variance of the source.")
    ] = "auto",
    folds: Annotated[int, typer.Option(help="Folds of the cross-validation.")] = 5,
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fit the affine map from one model's states to another's.

    \b
    Examples:
      linalign-lite fit client.states.npz provider.states.npz client-to-provider.map.npz
      linalign-lite fit a.states.npz b.states.npz a-to-b.map.npz --method procrustes
    """
    from linalign_lite.fitting import fit as fit_states
    from linalign_lite.store import load_states, save

    console = Console(as_json, quiet)
    require_output(out, source, target)
    affine, report = fit_states(
        load_states(source),
        load_states(target),
        method=method.value,
        penalty=penalty,
        folds=folds,
        seed=seed,
    )
    save(out, affine)
    console.warn(report.warnings)
    rank = f"{report.rank} of {report.d_source}"
    console.result(
        {"out": str(out), **report.as_card(), "curve": report.curve},
        table([
            ("map", out),
            ("method", f"{report.method}, penalty {report.penalty:.3g}"),
            ("dimensions", f"{report.d_source} to {report.d_target}"),
            ("texts", report.n),
            ("held-out R²", f"{report.held_out_r2:.4f} ({report.folds} folds)"),
            ("condition", f"{report.condition:.3g}, rank {rank}, freedom {report.freedom:.1f}"),
        ]),
    )  # fmt: skip


def head(
    states: Annotated[Path, typer.Argument(help="Labelled states.")],
    out: Annotated[Path, typer.Argument(help="The head to write (.head.npz).")],
    method: Annotated[HeadMethod, typer.Option(help="auto takes the better.")] = HeadMethod.auto,
    penalty: Annotated[str, typer.Option(help="auto, or a number above 0.")] = "auto",
    folds: Annotated[int, typer.Option(help="Folds of the cross-validation.")] = 3,
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a linear classifier on labelled states.

    Ridge regression on one-hot labels, or logistic regression; auto takes the better by K-fold
    accuracy and says which.

    \b
    Examples:
      linalign-lite head train.states.npz intents.head.npz
      linalign-lite head train.states.npz intents.head.npz --method logistic --penalty 1e-3
    """
    from linalign_lite.heads import train_head
    from linalign_lite.store import load_states, save

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
        table([
            ("head", out),
            ("method", f"{report.method}, penalty {report.penalty:.3g}"),
            ("classes", report.classes),
            ("texts", report.n),
            ("held-out accuracy", f"{tried} ({report.folds} folds)"),
        ]),
    )  # fmt: skip


def evaluate(
    head_file: Annotated[Path, typer.Argument(metavar="HEAD", help="A head.")],
    states: Annotated[Path, typer.Argument(help="Labelled states.")],
    map_file: Annotated[
        Path | None, typer.Option("--map", help="Carry the states over with this map first.")
    ] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Recall of each class.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure a head's accuracy, alone or after a map.

    \b
    Examples:
      linalign-lite evaluate intents.head.npz test.states.npz
      linalign-lite evaluate intents.head.npz client.states.npz --map client-to-provider.map.npz
    """
    from linalign_lite.evaluation import evaluate as judge
    from linalign_lite.store import load_head, load_map, load_states

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
