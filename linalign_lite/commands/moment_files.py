"""moments, fit-moments: sufficient statistics of two models' states as a file; maps from them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from linalign_lite.commands import options as shared
from linalign_lite.commands.console import Console, require_output
from linalign_lite.core.choices import MomentsMethod, PairingRule
from linalign_lite.core.text_tables import pair_lines
from linalign_lite.errors import InputError
from linalign_lite.storage.places import Place, delivered, fetched, place

if TYPE_CHECKING:
    from linalign_lite.alignment.paired_moments import PairedMoments
    from linalign_lite.core.hidden_states import HiddenStates


@dataclass(frozen=True)
class MomentsOptions:
    """Options of the measurement of moments."""

    folds: int
    seed: int
    pairing: str
    verify: bool = True
    scheduler: str | None = None


def moments(
    source_at: shared.SourceStates,
    target_at: shared.TargetStates,
    out_at: Annotated[str, Argument(metavar="out", help="The moments to write (.moments.npz).")],
    folds: Annotated[int, Option(help="Folds for the cross-validation in fit-moments.")] = 5,
    seed: shared.Seed = 0,
    pair: shared.Pairing = PairingRule.exact,
    reveal: Annotated[
        bool, Option("--reveal", help="Write them even if the states can be recovered from them.")
    ] = False,
    verify: Annotated[bool, Option("--verify/--no-verify", help="Check shards' SHA-256.")] = True,
    scheduler: shared.Scheduler = None,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
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
    options = MomentsOptions(folds, seed, pair.value, verify, scheduler)
    found = measure_states(console, source, target, options)
    with delivered(out) as path:
        save_moments(path, found, reveal=reveal)
        size = path.stat().st_size
    sizes = {"d_source": found.source.dim, "d_target": found.target.dim, "bytes": size}
    rows: list[tuple[str, object]] = [
        ("moments", out),
        ("pairs", f"{found.n} in {folds} folds"),
        ("dimensions", f"{found.source.dim} to {found.target.dim}"),
        ("size", f"{size / 1e6:.1f} MB"),
    ]
    counts = {"pairs": found.n, "folds": folds, "fewest_in_a_fold": found.fewest}
    console.result({"out": str(out), **counts, **sizes}, pair_lines(rows))


def fit_moments(
    files: Annotated[list[str], Argument(help="Files of moments, one or more: paths or URLs.")],
    out_at: shared.MapOut,
    method: Annotated[MomentsMethod, Option(help="Method of the fit.")] = MomentsMethod.ridge,
    penalty: shared.Penalty = "auto",
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
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
    console.warn(report.warnings)
    lines = pair_lines([("map", out), ("files", len(files)), *report.rows()])
    console.result({"out": str(out), "files": len(files), **report.as_dict()}, lines)


def measure_states(
    console: Console, source: Place, target: Place, options: MomentsOptions
) -> PairedMoments:
    """Measure the moments of two files, or of two folders shard by shard."""
    from linalign_lite.alignment.streaming.measure import measure_pair, measure_shards
    from linalign_lite.core.shards.states_folder import open_folder

    if source.is_dir() and target.is_dir():
        x, y = open_folder(source), open_folder(target)
        with workers(options.scheduler) as pool, console.progress("measuring", x.n_texts) as tally:
            return measure_shards(
                x,
                y,
                folds=options.folds,
                seed=options.seed,
                pairing=options.pairing,
                verify=options.verify,
                progress=tally,
                **pool,
            )
    if options.scheduler is not None:
        raise InputError("--scheduler goes with folders of states", hint="extract to folders")
    a, b = load_pair(source, target, options.pairing)
    pairing = "" if a.text_index is None or b.text_index is None else options.pairing
    return measure_pair(a, b, folds=options.folds, seed=options.seed, pairing=pairing)


def load_pair(source: Place, target: Place, rule: str) -> tuple[HiddenStates, HiddenStates]:
    """Load the states of both sides; row i of both is the same text or position."""
    from linalign_lite.core.shards.states_folder import states_of
    from linalign_lite.core.token_alignment import pair_states

    x, y = states_of(source), states_of(target)
    return (x, y) if x.text_index is None or y.text_index is None else pair_states(x, y, rule)


@contextlib.contextmanager
def workers(scheduler: str | None) -> Iterator[dict[str, Any]]:
    """Yield the options that send tasks to a scheduler's workers; empty without a scheduler."""
    if scheduler is None:
        yield {}
        return
    from linalign_lite.alignment.streaming.dask_executor import connected

    with connected(scheduler) as (executor, in_flight):
        yield {"executor": executor, "in_flight": in_flight}
