"""similarity: how alike models' states of the same texts are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linalign_lite.commands.console import AsJson, Console, Quiet, columns
from linalign_lite.errors import InputError, printable

if TYPE_CHECKING:
    from linalign_lite.alignment.similarity.results import Measured, Similarity
    from linalign_lite.core.hidden_states import HiddenStates

_HEAD = ["", "value", "rows", "p", "paired", "shuffled", "most alike"]


def register(app: typer.Typer) -> None:
    app.command()(similarity)


def similarity(
    states: Annotated[list[Path], typer.Argument(help="States of two or more models, same texts.")],
    measures: Annotated[
        str,
        typer.Option(
            help="Which, with commas between: cka, cka_debiased, svcca, "
            "mutual_knn, r2, cosine, cycle."
        ),
    ] = "all",
    permutations: Annotated[
        int, typer.Option(help="Shuffles behind each p; 0 for none.", min=0)
    ] = 100,
    k: Annotated[int, typer.Option(help="Neighbours of mutual_knn.", min=1)] = 10,
    share: Annotated[float, typer.Option(help="Share of variance that svcca keeps.")] = 0.99,
    folds: Annotated[int, typer.Option(help="Folds of r2, cosine and cycle.")] = 5,
    null_rows: Annotated[int, typer.Option(help="Rows that are shuffled, at most.")] = 1000,
    knn_rows: Annotated[int, typer.Option(help="Rows of mutual_knn, at most.")] = 10000,
    limit: Annotated[int | None, typer.Option(help="Only the first N rows.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of folds, draws and shuffles.", min=0)] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure how alike models' states are, with a p for each figure.

    STATES are files or folders of states; of token states, positions where every model's token ends
    are compared. p says how often pairs shuffled at random look as alike as the true ones: "paired"
    is the measure on the rows drawn for that, "shuffled" its mean over the shuffles. r2, cosine and
    cycle are of the ridge map, on held-out rows; of cycle, the error of going there and back, small
    is alike.

    \b
    Examples:
      linalign-lite similarity a.states.npz b.states.npz
      linalign-lite similarity a.states.npz b.states.npz c.states.npz --measures cka,svcca --json
    """
    from linalign_lite.alignment.similarity.comparison import compare_all
    from linalign_lite.alignment.similarity.results import MEASURES

    console = Console(as_json, quiet)
    wanted = MEASURES if measures == "all" else tuple(m.strip() for m in measures.split(","))
    sets = _read(states, limit)
    pairs = len(sets) * (len(sets) - 1) // 2
    with console.progress("shuffling", pairs * permutations) as tally:
        found = compare_all(
            sets, measures=wanted, permutations=permutations, k=k, share=share, folds=folds,
            null_rows=null_rows, knn_rows=knn_rows, seed=seed, progress=tally,
        )  # fmt: skip
    n = len(next(iter(sets.values())))
    lines = [f"{n} rows of {len(sets)} models"]
    for pair in found:
        console.warn([f"{pair.first}, {pair.second}: {w}" for w in pair.warnings])
        lines += ["", printable(f"{pair.first} and {pair.second}"), *columns(_rows(pair))]
    data: dict[str, Any] = {
        "models": [
            {"name": name, "file": str(path), "dim": value.space.dim, "digest": value.space.model}
            for path, (name, value) in zip(states, sets.items(), strict=True)
        ],
        "rows": n, "k": k, "share": share, "folds": folds, "seed": seed,
        "permutations": permutations, "pairs": [pair.as_dict() for pair in found],
    }  # fmt: skip
    console.result(data, lines)


def _read(paths: list[Path], limit: int | None) -> dict[str, HiddenStates]:
    """The states by name: the file's, or its whole path where two files have the same."""
    import numpy as np

    from linalign_lite.alignment.similarity.token_positions import common_rows
    from linalign_lite.core.shards.states_folder import states_of

    if len(paths) < 2:
        raise InputError("similarity needs states of two models or more", got=str(len(paths)))
    names = [path.name.removesuffix(".npz").removesuffix(".states") for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise InputError("a file is given twice", expected="states of different models")
    sets = common_rows({n: states_of(path) for n, path in zip(names, paths, strict=True)})
    if limit is None:
        return sets
    return {n: value.rows(np.arange(min(limit, len(value)))) for n, value in sets.items()}


def _rows(pair: Similarity) -> list[list[str]]:
    rows = [_HEAD]
    for name, found in pair.measures.items():
        if name not in pair.back:
            rows.append([name, *_cells(found)])
            continue
        for a, b, one in (
            (pair.first, pair.second, found),
            (pair.second, pair.first, pair.back[name]),
        ):
            way = f"{name} {a} to {b}{' and back' if name == 'cycle' else ''}"
            rows.append([printable(way), *_cells(one)])
    return rows


def _cells(found: Measured) -> list[str]:
    null = found.null
    drawn = (
        ["", "", "", ""]
        if null is None
        else [f"{null.p:.4f}", f"{null.observed:.4f}", f"{null.mean:.4f}", f"{null.extreme:.4f}"]
    )
    return [f"{found.value:.4f}", str(found.n), *drawn]
