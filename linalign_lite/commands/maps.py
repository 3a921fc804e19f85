"""fit: maps between models."""

from __future__ import annotations

import dataclasses
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linalign_lite.commands.console import AsJson, Console, Quiet, require_output, table
from linalign_lite.commands.few_shot import fit_few, require_few_options
from linalign_lite.commands.moment_files import (
    Pairing,
    Scheduler,
    Seed,
    Source,
    Target,
    described,
    fit_folders,
)
from linalign_lite.errors import InputError
from linalign_lite.storage.remote import Place, delivered, place

if TYPE_CHECKING:
    from linalign_lite.alignment.kl.objective import Teaching
    from linalign_lite.core.affine_map import AffineMap
    from linalign_lite.core.head import Head
    from linalign_lite.core.hidden_states import HiddenStates


class MapMethod(StrEnum):
    ridge = "ridge"
    lstsq = "lstsq"
    procrustes = "procrustes"


class Objective(StrEnum):
    least_squares = "least-squares"
    kl = "kl"


def fit(
    source_at: Source,
    target_at: Target,
    out_at: Annotated[str, typer.Argument(metavar="out", help="The map to write (.map.npz).")],
    objective: Annotated[
        Objective, typer.Option(help="What the fit minimises; kl needs --head.")
    ] = Objective.least_squares,
    head_file: Annotated[
        Path | None,
        typer.Option(
            "--head", help="The head, or model folder with a token head, that the map serves."
        ),
    ] = None,
    method: Annotated[MapMethod, typer.Option(help="Method of the fit.")] = MapMethod.ridge,
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
        float | None, typer.Option(help="kl: temperature of the head's outputs on true states.")
    ] = None,
    truth: Annotated[
        float | None, typer.Option(help="kl: share of the true next token in the training target.")
    ] = None,
    iterations: Annotated[
        int, typer.Option(help="kl: maximum number of iterations in each stage.")
    ] = 200,
    checkpoint: Annotated[
        Path | None, typer.Option(help="kl: save progress in this file, and resume from it.")
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
        typer.Option(help="auto, or the weight of their rows relative to the others: 0 to inf."),
    ] = None,
    folds: Annotated[int, typer.Option(help="Folds of the cross-validation.")] = 5,
    seed: Seed = 0,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fit a map from one model's states to another's.

    least-squares minimises the distance between mapped states and the target's states. kl
    minimises the divergence between a head's outputs on them: far better when the map serves that
    head, a classifier or a model's token head. SOURCE and TARGET are files or folders of states;
    of two folders one shard is in memory at a time, except for kl and lstsq. Tokens that end at
    the same character are paired. SOURCE, TARGET and OUT may be URLs that fsspec can open (extra
    `remote`). With --with-few, SOURCE and TARGET hold states of public texts, and a few unlabelled
    texts of the kind that the map is for choose the penalty and their own weight.

    \b
    Examples:
      linalign-lite fit client.states.npz provider.states.npz client-to-provider.map.npz
      linalign-lite fit a.states.npz b.states.npz a-to-b.map.npz --method procrustes
      linalign-lite fit a.states.npz b.states.npz a-to-b.map.npz --objective kl --head b.head.npz
      linalign-lite fit b-tokens a-tokens b-to-a.map.npz --objective kl --head a-model
      linalign-lite fit a.states.npz b.states.npz a-to-b.map.npz --with-few a.few.npz b.few.npz
    """
    console, out = Console(as_json, quiet), place(out_at)
    source, target = place(source_at), place(target_at)
    require_output(out, source, target, head_file, checkpoint, *(few or ()))
    require_few_options(few, few_weight, method.value, checkpoint)
    if checkpoint is not None and isinstance(out, Path) and checkpoint.absolute() == out.absolute():
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
            console, states, method=method.value, penalty=penalty, folds=folds, seed=seed
        )
    _write(console, out, affine, served if fold else None, facts, rows)


def _write(
    console: Console, out: Place, affine: AffineMap, folded: Head | None, facts: dict[str, Any],
    rows: list[tuple[str, object]],
) -> None:  # fmt: skip
    """Save the map, or the head that it is folded into, and say so."""
    from linalign_lite.heads.serialization import save

    with delivered(out) as path:
        save(path, affine if folded is None else folded @ affine)
    console.result({"out": str(out), **facts}, table([("head" if folded else "map", out), *rows]))


Fitted = tuple["AffineMap", dict[str, Any], list[tuple[str, object]]]


def _fit_squares(
    console: Console, states: tuple[HiddenStates, HiddenStates], **options: Any
) -> Fitted:
    from linalign_lite.alignment.least_squares import fit as fit_states

    affine, report = fit_states(*states, **options)
    return affine, *described(console, report)


def _teaching(
    target: HiddenStates, served: Head | None, given: tuple[float | None, float | None]
) -> Teaching:
    """The temperature and truth of the options, the usual ones where they are not given."""
    from linalign_lite.alignment.kl.fitting import default_teaching
    from linalign_lite.alignment.kl.objective import Teaching

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
    from linalign_lite.alignment.kl.checkpoint import Checkpoint
    from linalign_lite.alignment.kl.fitting import fit_kl

    assert served is not None
    with console.descent() as watch:
        affine, report = fit_kl(
            *states, served, watch=watch, checkpoint=Checkpoint(checkpoint), **options
        )
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


def _paired(source: Place, target: Place, rule: str) -> tuple[HiddenStates, HiddenStates]:
    """Both sides, row i of both the same text or position."""
    from linalign_lite.core.shards.states_folder import states_of
    from linalign_lite.core.token_alignment import pair_states

    x, y = states_of(source), states_of(target)
    if x.text_index is None or y.text_index is None:
        return x, y
    return pair_states(x, y, rule)


def _served(path: Path | None, *, kl: bool, fold: bool) -> Head | None:
    """The head of --head: a file, or a model folder's token head."""
    from linalign_lite.core.serialization import load_head
    from linalign_lite.extraction.model_card import HEAD_FILE, load_card

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
