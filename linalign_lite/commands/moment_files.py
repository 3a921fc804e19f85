"""moments, fit-moments: sufficient statistics of two models' states as a file; maps from them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from linalign_lite.commands import options as shared
from linalign_lite.commands.console import Console, require_output
from linalign_lite.commands.remarks import nameless
from linalign_lite.core.choices import MAP_FOLDS, MomentsMethod, PairingRule
from linalign_lite.core.text_tables import pair_lines
from linalign_lite.errors import InputError
from linalign_lite.storage.places import delivered, fetched, place

if TYPE_CHECKING:
    from linalign_lite.alignment.paired_moments import PairedMoments


IN_MEMORY = 1 << 30  # bytes of two sides above which vectors are measured batch by batch


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
    folds: Annotated[int, Option(help="Folds of the fit, fit-moments.")] = MAP_FOLDS,
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
    from linalign_lite.vectors.reading import place_of

    console, out = Console(as_json, quiet), place(out_at)
    require_output(out, *map(place_of, (source_at, target_at)))
    options = MomentsOptions(folds, seed, pair.value, verify, scheduler)
    found = measure_states(console, source_at, target_at, options)
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
    strict: shared.Strict = False,
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
    with console.replacing(out), delivered(out) as path:
        save(path, affine)
    console.warn([*report.warnings, *nameless(affine)])
    lines = pair_lines([("map", out), ("files", len(files)), *affine.rows(), *report.rows()])
    data = {"out": str(out), "files": len(files), **report.as_dict()}
    console.judged(data, lines, report.verdict, strict=strict)


def measure_states(
    console: Console, source: str, target: str, options: MomentsOptions
) -> PairedMoments:
    """Measure the moments of two files, or of what streams: folders of states, many vectors."""
    from linalign_lite.alignment.streaming.measure import measure_pair, measure_shards
    from linalign_lite.core.shards.states_folder import open_folder
    from linalign_lite.vectors.reading import read_pair

    if are_folders(source, target):
        x, y = open_folder(place(source)), open_folder(place(target))
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
    if stream(source, target):
        return _measure_batches(console, source, target, options)
    a, b = read_pair(source, target, options.pairing)
    pairing = "" if a.text_index is None or b.text_index is None else options.pairing
    return measure_pair(a, b, folds=options.folds, seed=options.seed, pairing=pairing)


def are_folders(source: str, target: str) -> bool:
    """Return True for two folders of states, which are measured shard by shard."""
    from linalign_lite.vectors.reading import is_vectors

    return all(not is_vectors(at) and place(at).is_dir() for at in (source, target))


def stream(source: str, target: str) -> bool:
    """Return True for vectors that are measured batch by batch: many, or of unknown number."""
    from linalign_lite.vectors.locations import open_vectors
    from linalign_lite.vectors.reading import is_vectors

    if not (is_vectors(source) or is_vectors(target)):
        return False
    with open_vectors(source) as x, open_vectors(target) as y:
        known = [info.count for info in (x.info, y.info) if info.count is not None]
        return bool(known) and max(known) * (x.info.dim + y.info.dim) * 4 > IN_MEMORY


def _measure_batches(
    console: Console, source: str, target: str, options: MomentsOptions
) -> PairedMoments:
    """Measure vectors of the same order, a batch of each in memory."""
    from linalign_lite.alignment.streaming.measure import measure_batches
    from linalign_lite.vectors.locations import open_vectors
    from linalign_lite.vectors.reading import count, paired_batches

    with open_vectors(source) as x, open_vectors(target) as y:
        n = count(x)
        with console.progress("measuring", n) as tally:
            return measure_batches(
                paired_batches(x, y),
                n,
                x.info.space,
                y.info.space,
                folds=options.folds,
                seed=options.seed,
                progress=tally,
            )


@contextlib.contextmanager
def workers(scheduler: str | None) -> Iterator[dict[str, Any]]:
    """Yield the options that send tasks to a scheduler's workers; empty without a scheduler."""
    if scheduler is None:
        yield {}
        return
    from linalign_lite.alignment.streaming.dask_executor import connected

    with connected(scheduler) as (executor, in_flight):
        yield {"executor": executor, "in_flight": in_flight}
