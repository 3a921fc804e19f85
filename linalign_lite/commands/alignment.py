"""fit, head, evaluate: maps between models, and classifiers on their states."""

from __future__ import annotations

import dataclasses
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linalign_lite.commands.console import AsJson, Console, Quiet, require_output, table
from linalign_lite.commands.few import fit_few, require_few_options
from linalign_lite.commands.moments import Scheduler, described, fit_folders
from linalign_lite.errors import InputError

if TYPE_CHECKING:
    from linalign_lite.hidden import HiddenStates
    from linalign_lite.kl.objective import Teaching
    from linalign_lite.linear import AffineMap, Head


class MapMethod(StrEnum):
    ridge = "ridge"
    lstsq = "lstsq"
    procrustes = "procrustes"


class HeadMethod(StrEnum):
    auto = "auto"
    ridge = "ridge"
    logistic = "logistic"


class Objective(StrEnum):
    least_squares = "least-squares"
    kl = "kl"


class Pairing(StrEnum):
    exact = "exact"
    after = "after"


Seed = Annotated[int, typer.Option(help="Seed of the folds.", min=0)]


def register(app: typer.Typer) -> None:
    app.command()(fit)
    app.command()(head)
    app.command()(evaluate)


def fit(
    source: Annotated[Path, typer.Argument(help="States of the model that reads.")],
    target: Annotated[Path, typer.Argument(help="States of the other model, same texts.")],
    out: Annotated[Path, typer.Argument(help="The map to write (.map.npz).")],
    objective: Annotated[
        Objective, typer.Option(help="What the map is to be good at; kl needs --head.")
    ] = Objective.least_squares,
    head_file: Annotated[
        Path | None, typer.Option("--head", help="The head, or model folder, it is to serve.")
    ] = None,
    method: Annotated[MapMethod, typer.Option(help="How to fit.")] = MapMethod.ridge,
    penalty: Annotated[
        str, typer.Option(help="auto, or a number relative to the mean variance of the source.")
    ] = "auto",
    pair: Annotated[
        Pairing, typer.Option(help="Token states: which positions belong together.")
    ] = Pairing.exact,
    fold: Annotated[
        bool, typer.Option("--fold", help="Write head∘map, a head for source states, to OUT.")
    ] = False,
    temperature: Annotated[
        float | None, typer.Option(help="kl: of what the head says on true states.")
    ] = None,
    truth: Annotated[
        float | None, typer.Option(help="kl: share of the true next token in what is learnt.")
    ] = None,
    iterations: Annotated[int, typer.Option(help="kl: at most so many in each stage.")] = 200,
    checkpoint: Annotated[
        Path | None, typer.Option(help="kl: keep what is done here; go on from it.")
    ] = None,
    few: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--with-few",
            metavar="FEW_SOURCE FEW_TARGET",
            help="States of a few texts of the kind that the map is for.",
        ),
    ] = None,
    few_weight: Annotated[
        str | None,
        typer.Option(help="auto, or what they count for over the others: 0 to inf."),
    ] = None,
    folds: Annotated[int, typer.Option(help="Folds of the cross-validation.")] = 5,
    seed: Seed = 0,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fit the affine map from one model's states to another's.

    least-squares brings the mapped states near to the target's. kl makes a head, a classifier or a
    model's token head, say on mapped states what it says on the target's own: far better where the
    map is for that head. SOURCE and TARGET are files or folders of states (of two folders a shard
    is in memory at a time, but for kl and lstsq); tokens that end at one character are paired.
    With --with-few they are of public texts, and the few, unlabelled, say which map is best.

    \b
    Examples:
      linalign-lite fit client.states.npz provider.states.npz client-to-provider.map.npz
      linalign-lite fit a.states.npz b.states.npz a-to-b.map.npz --method procrustes
      linalign-lite fit a.states.npz b.states.npz a-to-b.map.npz --objective kl --head b.head.npz
      linalign-lite fit b-tokens a-tokens b-to-a.map.npz --objective kl --head a-model
      linalign-lite fit a.states.npz b.states.npz a-to-b.map.npz --with-few a.few.npz b.few.npz
    """
    console = Console(as_json, quiet)
    require_output(out, source, target, head_file, checkpoint, *(few or ()))
    require_few_options(few, few_weight, method.value, checkpoint)
    if checkpoint is not None and checkpoint.absolute() == out.absolute():
        raise InputError("--checkpoint is the map's own name", hint="name another file")
    served = _served(head_file, kl=objective is Objective.kl, fold=fold)
    kl = objective is Objective.kl
    if not kl and (temperature is not None or truth is not None or checkpoint is not None):
        raise InputError("--temperature, --truth and --checkpoint go with --objective kl")
    if kl and method is not MapMethod.ridge:
        raise InputError("kl starts from ridge", got=method.value, hint="leave --method out")
    alone = not kl and few is None and method is not MapMethod.lstsq
    if alone and source.is_dir() and target.is_dir():
        affine, facts, rows = fit_folders(
            console, source, target, method=method.value, penalty=penalty, folds=folds, seed=seed,
            pairing=pair.value, scheduler=scheduler,
        )  # fmt: skip
        _write(console, out, affine, served if fold else None, facts, rows)
        return
    if scheduler is not None:
        raise InputError("--scheduler goes with two folders of states, ridge or procrustes")
    states, taught = _paired(source, target, pair.value), (temperature, truth)
    if few is not None:
        affine, facts, rows = fit_few(
            console, states, _paired(*few, pair.value), served if kl else None,
            weight=few_weight or "auto", penalty=penalty, folds=folds, seed=seed,
            iterations=iterations, teaching=_teaching(states[1], served, taught) if kl else None,
        )  # fmt: skip
    elif kl:
        affine, facts, rows = _fit_kl(
            console, states, served, penalty=penalty, iterations=iterations, seed=seed,
            checkpoint=checkpoint, teaching=_teaching(states[1], served, taught),
        )  # fmt: skip
    else:
        affine, facts, rows = _fit_squares(
            console, states, method=method.value, penalty=penalty, folds=folds, seed=seed,
        )  # fmt: skip
    _write(console, out, affine, served if fold else None, facts, rows)


def _write(
    console: Console, out: Path, affine: AffineMap, folded: Head | None, facts: dict[str, Any],
    rows: list[tuple[str, object]],
) -> None:  # fmt: skip
    """Save the map, or the head that it is folded into, and say so."""
    from linalign_lite.store import save

    save(out, affine if folded is None else folded @ affine)
    console.result({"out": str(out), **facts}, table([("head" if folded else "map", out), *rows]))


Fitted = tuple["AffineMap", dict[str, Any], list[tuple[str, object]]]


def _fit_squares(
    console: Console, states: tuple[HiddenStates, HiddenStates], **options: Any
) -> Fitted:
    from linalign_lite.fitting import fit as fit_states

    affine, report = fit_states(*states, **options)
    return affine, *described(console, report)


def _teaching(
    target: HiddenStates, served: Head | None, given: tuple[float | None, float | None]
) -> Teaching:
    """The temperature and truth of the options, the usual ones where they are not given."""
    from linalign_lite.kl.fitting import default_teaching
    from linalign_lite.kl.objective import Teaching

    assert served is not None
    usual, (temperature, truth) = default_teaching(target, served), given
    return Teaching(
        usual.temperature if temperature is None else temperature,
        usual.truth if truth is None else truth,
    )


def _fit_kl(
    console: Console,
    states: tuple[HiddenStates, HiddenStates],
    served: Head | None,
    *,
    checkpoint: Path | None,
    **options: Any,
) -> Fitted:
    from linalign_lite.kl.checkpoint import Checkpoint
    from linalign_lite.kl.fitting import fit_kl

    assert served is not None
    with console.descent() as watch:
        affine, report = fit_kl(
            *states, served, watch=watch, checkpoint=Checkpoint(checkpoint), **options
        )  # fmt: skip
    console.warn(report.warnings)
    rows: list[tuple[str, object]] = [
        ("objective", f"kl, penalty {report.penalty:.3g}, temperature {report.temperature:g}, "
                      f"truth {report.truth:g}"),
        ("dimensions", f"{report.d_source} to {report.d_target}, {report.n_outputs} outputs"),
        ("rows", report.n),
        ("held-out divergence", f"{report.held_out_divergence:.4f} nats "
                                f"({report.start_method}: {report.start_divergence:.4f})"),
        ("held-out agreement", f"{report.held_out_agreement:.4f} "
                               f"({report.start_method}: {report.start_agreement:.4f})"),
    ]  # fmt: skip
    return affine, {**report.as_card(), "curve": report.curve}, rows


def _paired(source: Path, target: Path, rule: str) -> tuple[HiddenStates, HiddenStates]:
    """Both sides, row i of both the same text or position."""
    from linalign_lite.shards import states_of
    from linalign_lite.tokens import pair_states

    x, y = states_of(source), states_of(target)
    if x.text_index is None or y.text_index is None:
        return x, y
    return pair_states(x, y, rule)


def _served(path: Path | None, *, kl: bool, fold: bool) -> Head | None:
    """The head of --head: a file, or a model folder's token head."""
    from linalign_lite.modelcard import HEAD_FILE, load_card
    from linalign_lite.store import load_head

    if path is None:
        if kl or fold:
            raise InputError(
                f"{'--objective kl' if kl else '--fold'} needs --head",
                expected="a .head.npz file, or an exported model folder with a token head",
            )
        return None
    if not (kl or fold):
        raise InputError("--head goes with --objective kl or --fold")
    if not path.is_dir():
        return load_head(path)
    card = load_card(path)
    if HEAD_FILE not in card.files:
        raise InputError(f"{path} has no token head", expected="a causal LM, or a .head.npz file")
    found = load_head(path / HEAD_FILE)
    return dataclasses.replace(found, space=card.space("tokens", normalize=False))


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
