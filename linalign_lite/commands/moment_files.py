"""moments, fit-moments: sufficient statistics of two models' states as a file; maps from them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Executor
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from linalign_lite.commands.console import AsJson, Console, Quiet, require_output, table
from linalign_lite.errors import InputError
from linalign_lite.storage.remote import Place, delivered, fetched, place

if TYPE_CHECKING:
    from linalign_lite.alignment.least_squares import FitReport
    from linalign_lite.alignment.paired_moments import PairedMoments
    from linalign_lite.core.affine_map import AffineMap


class Pairing(StrEnum):
    exact = "exact"
    after = "after"


class Solver(StrEnum):
    ridge = "ridge"
    procrustes = "procrustes"


Source = Annotated[
    str, typer.Argument(metavar="source", help="States of the model that reads: a path or a URL.")
]
Target = Annotated[
    str, typer.Argument(metavar="target", help="States of the other model, same texts.")
]
Seed = Annotated[int, typer.Option(help="Seed of the folds.", min=0)]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="A dask scheduler whose workers do the work, such as tcp://host:8786 (extra `dask`).",
    ),
]


def moments(
    source_at: Source,
    target_at: Target,
    out_at: Annotated[
        str, typer.Argument(metavar="out", help="The moments to write (.moments.npz).")
    ],
    folds: Annotated[int, typer.Option(help="Folds for the cross-validation in fit-moments.")] = 5,
    seed: Seed = 0,
    pair: Annotated[
        Pairing, typer.Option(help="Token states: which positions belong together.")
    ] = Pairing.exact,
    reveal: Annotated[
        bool,
        typer.Option("--reveal", help="Write them even if the states can be recovered from them."),
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare shards with their SHA-256.")
    ] = True,
    scheduler: Scheduler = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Summarise two models' states in a file of fixed size.

    The file holds sufficient statistics (counts, means, cross-products) for `fit-moments`. Its
    size does not grow with the number of texts. Several machines or organisations can each measure
    their own texts; `fit-moments` merges their files, and no states have to be sent.
    SOURCE and TARGET are files or folders of states; of folders one shard is in memory at a time.
    SOURCE, TARGET and OUT may be URLs that fsspec can open (extra `remote`).

    \b
    Examples:
      linalign-lite moments a-states b-states here.moments.npz
      linalign-lite moments a-states b-states here.moments.npz --scheduler tcp://head:8786
    """
    from linalign_lite.alignment.moments_io import save_moments

    console, out = Console(as_json, quiet), place(out_at)
    source, target = place(source_at), place(target_at)
    require_output(out, source, target)
    found = measured(
        console, source, target, folds=folds, seed=seed, pairing=pair.value, verify=verify,
        scheduler=scheduler,
    )  # fmt: skip
    with delivered(out) as path:
        save_moments(path, found, reveal=reveal)
        size = path.stat().st_size
    console.result(
        {"out": str(out), "pairs": found.n, "folds": folds, "fewest_in_a_fold": found.fewest,
         "d_source": found.source.dim, "d_target": found.target.dim, "bytes": size},
        table([
            ("moments", out),
            ("pairs", f"{found.n} in {folds} folds"),
            ("dimensions", f"{found.source.dim} to {found.target.dim}"),
            ("size", f"{size / 1e6:.1f} MB"),
        ]),
    )  # fmt: skip


def fit_moments(
    files: Annotated[
        list[str], typer.Argument(help="Moments (.moments.npz), one or more; paths or URLs.")
    ],
    out_at: Annotated[str, typer.Argument(metavar="out", help="The map to write (.map.npz).")],
    method: Annotated[Solver, typer.Option(help="Method of the fit.")] = Solver.ridge,
    penalty: Annotated[
        str, typer.Option(help="auto, or a number relative to the mean variance of the source.")
    ] = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Fit a map from one or more files of moments.

    The map equals that of `fit` on all their states together. Files that share texts are refused,
    because these texts would count twice.

    \b
    Examples:
      linalign-lite fit-moments here.moments.npz a-to-b.map.npz
      linalign-lite fit-moments north.moments.npz south.moments.npz a-to-b.map.npz
    """
    from linalign_lite.alignment.moments_io import load_moments
    from linalign_lite.alignment.paired_moments import fit_paired, put_together
    from linalign_lite.heads.serialization import save
    from linalign_lite.storage.npz import DEFAULT_CAP

    def read(file: str) -> PairedMoments:
        with fetched(place(file), DEFAULT_CAP) as path:
            return load_moments(path)

    console, out = Console(as_json, quiet), place(out_at)
    require_output(out, *files)
    together = put_together(map(read, files))
    affine, report = fit_paired(together, method=method.value, penalty=penalty)
    with delivered(out) as path:
        save(path, affine)
    facts, rows = described(console, report)
    console.result(
        {"out": str(out), "files": len(files), **facts},
        table([("map", out), ("files", len(files)), *rows]),
    )


def measured(
    console: Console,
    source: Place,
    target: Place,
    *,
    folds: int,
    seed: int,
    pairing: str,
    verify: bool = True,
    scheduler: str | None = None,
) -> PairedMoments:
    """Moments of two files, or of two folders shard by shard."""
    from linalign_lite.alignment.streaming.measure import measure_pair, measure_shards
    from linalign_lite.core.shards.states_folder import open_folder, states_of
    from linalign_lite.core.token_alignment import pair_states

    if source.is_dir() and target.is_dir():
        x, y = open_folder(source), open_folder(target)
        with workers(scheduler) as spread, console.progress("measuring", x.n_texts) as tally:
            return measure_shards(
                x, y, folds=folds, seed=seed, pairing=pairing, verify=verify, progress=tally,
                **spread,
            )  # fmt: skip
    if scheduler is not None:
        raise InputError("--scheduler goes with folders of states", hint="extract to folders")
    a, b = states_of(source), states_of(target)
    if a.text_index is None or b.text_index is None:
        return measure_pair(a, b, folds=folds, seed=seed)
    return measure_pair(*pair_states(a, b, pairing), folds=folds, seed=seed, pairing=pairing)


@contextlib.contextmanager
def workers(scheduler: str | None) -> Iterator[dict[str, Any]]:
    """The options that hand tasks to a scheduler's workers; none without one."""
    if scheduler is None:
        yield {}
        return
    from linalign_lite.alignment.streaming.dask_executor import connected

    executor: Executor
    with connected(scheduler) as (executor, in_flight):
        yield {"executor": executor, "in_flight": in_flight}


def fit_folders(
    console: Console, source: Place, target: Place, *, method: str, penalty: str, **options: Any
) -> tuple[AffineMap, dict[str, Any], list[tuple[str, object]]]:
    """The map from one folder of states to another, a shard of each in memory at a time."""
    from linalign_lite.alignment.paired_moments import fit_paired

    found = measured(console, source, target, **options)
    affine, report = fit_paired(found, method=method, penalty=penalty)
    return affine, *described(console, report)


def described(
    console: Console, report: FitReport
) -> tuple[dict[str, Any], list[tuple[str, object]]]:
    """A least-squares fit for --json, and for people."""
    console.warn(report.warnings)
    rank = f"{report.rank} of {report.d_source}"
    rows: list[tuple[str, object]] = [
        ("method", f"{report.method}, penalty {report.penalty:.3g}"),
        ("dimensions", f"{report.d_source} to {report.d_target}"),
        ("texts", report.n),
        ("held-out R²", f"{report.held_out_r2:.4f} ({report.folds} folds)"),
        ("condition", f"{report.condition:.3g}, rank {rank}, freedom {report.freedom:.1f}"),
    ]
    return {**report.as_card(), "curve": report.curve}, rows
