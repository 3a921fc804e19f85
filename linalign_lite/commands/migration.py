"""migrate plan, fit, verify, apply, rollback: another embedding model for a collection."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from linalign_lite.commands.console import Console, Interrupted, require_elsewhere
from linalign_lite.commands.options import AsJson, Quiet, Seed
from linalign_lite.core.choices import MigrationWay, SearchMetric
from linalign_lite.core.text_tables import pair_lines
from linalign_lite.storage.schema import plain

app = typer.Typer(
    name="migrate",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Change a collection's embedding model by a map.",
)

Folder = Annotated[Path, Argument(metavar="FOLDER", help="The folder of the migration.")]


@app.command()
def plan(
    folder: Folder,
    documents: Annotated[
        str, Argument(metavar="DOCUMENTS", help="The collection, with the old model's vectors.")
    ],
    sample: Annotated[
        str, Argument(metavar="SAMPLE", help="The new model's vectors of some of its documents.")
    ],
    queries: Annotated[
        str, Option(help="The new model's vectors of queries; `relevant`: ids of documents.")
    ] = "",
    queries_old: Annotated[str, Option(help="The old model's vectors of these queries.")] = "",
    judgements: Annotated[
        str, Option(help="Grades of documents for the queries (qrels/test.tsv, or .jsonl).")
    ] = "",
    gate: Annotated[float, Option(help="Retention to ask for: overlap, or share of nDCG.")] = 0.7,
    k: Annotated[int, Option("-k", help="Documents that a search returns.", min=1)] = 10,
    metric: Annotated[
        SearchMetric, Option(help="auto: the collection's, or cosine.")
    ] = SearchMetric.auto,
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure what each way to migrate keeps of the search.

    Ways: map queries into the old space; map documents into the new one, perhaps with a part
    embedded again; or both, where scores of both spaces add up. SAMPLE has the ids of DOCUMENTS. A
    fifth of it, the canaries, is held out of every fit. Overlap is with the new model's own
    ranking of the canaries, 95 % intervals by bootstrap; "stay" is the old model's search. With
    --judgements, nDCG over the new model's own is measured instead, of the canaries they judge.
    Nothing is changed but FOLDER.

    \b
    Examples:
      linalign-lite migrate plan to-new qdrant:store#docs sample.jsonl
      linalign-lite migrate plan to-new docs.parquet sample.jsonl --queries q.jsonl \\
        --judgements qrels/test.tsv --gate 0.9
    """
    from linalign_lite.migration.folder import MigrationFolder
    from linalign_lite.migration.plan import make_plan
    from linalign_lite.migration.sample import read_sample

    console = Console(as_json, quiet)
    require_elsewhere(folder)
    wanted = "" if metric is SearchMetric.auto else metric.value
    places = (documents, sample, queries, queries_old)
    sample_read = read_sample(*places, wanted, judgements=judgements)
    found = make_plan(sample_read, places, k=k, gate=gate, seed=seed, judgements=judgements)
    folder.mkdir(exist_ok=True)
    MigrationFolder(folder).write("plan", found)
    console.result({"folder": str(folder), **plain(found)}, found.lines())


@app.command()
def fit(
    folder: Folder,
    way: Annotated[
        MigrationWay | None, Option(help="Which side is mapped; default: the planned choice.")
    ] = None,
    embedded: Annotated[
        bool | None,
        Option(
            "--embedded/--mapped",
            help="Use the new model's own vectors of the sample; default: if that kept more.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Fit the maps of the planned way, or of another.

    Writes documents.map.npz, queries.map.npz or both into FOLDER, fitted on the sample without the
    canaries. A map of documents that will stand among the new model's own vectors is scaled about
    the mean, so that both have scores of the same spread.

    \b
    Examples:
      linalign-lite migrate fit to-new
      linalign-lite migrate fit to-new --way queries
    """
    from linalign_lite.migration.folder import MigrationFolder
    from linalign_lite.migration.steps import fit as fit_maps

    found = MigrationFolder(folder)
    chosen = fit_maps(found, "" if way is None else way.value, embedded=embedded)
    names = sorted(found.digests())
    lines = [f"{chosen}: {', '.join(str(folder / name) for name in names)}"]
    Console(as_json).result({"way": chosen, "maps": names}, lines)


@app.command()
def verify(
    folder: Folder,
    gate: Annotated[float | None, Option(help="Another gate than the plan's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the maps on the canaries, against the gate.

    Overlap of search results, or share of nDCG where the plan has judgements, is measured with the
    maps of FOLDER on documents, and queries if the plan has some, that no map was fitted on. Exit
    code 1 when it is below the gate. After
    `apply` it is also checked that the live collection holds what was written.

    \b
    Example:
      linalign-lite migrate verify to-new && linalign-lite migrate apply to-new
    """
    from linalign_lite.migration.folder import GateError, MigrationFolder
    from linalign_lite.migration.steps import verify as measure

    verdict, found = measure(MigrationFolder(folder), gate)
    name = MigrationFolder(folder).plan().measure
    rows: list[tuple[str, object]] = [
        ("way", verdict.choice),
        (name, f"{verdict.retention:.3f} ({verdict.low:.3f} to {verdict.high:.3f})"),
        ("gate", f"{verdict.gate:g}, {'met' if verdict.passed else 'not met'}"),
    ]
    if found.recall is not None:
        rows.append(("recall", f"{found.recall.value:.3f}"))
    if (change := found.recall_change) is not None:
        interval = f"{change.value:+.3f} ({change.low:+.3f} to {change.high:+.3f})"
        rows.append(("− the old model's", interval))
    data = {**plain(verdict), "recall": plain(found.recall), "change": plain(found.recall_change)}
    Console(as_json).result(data, pair_lines(rows))
    if not verdict.passed:
        raise GateError(
            "the gate is not met",
            got=f"{name} {verdict.retention:.3f}",
            expected=f"{verdict.gate:g} or more",
            hint="embed more texts, or re-embed a part: see `migrate plan`",
        )


@app.command()
def apply(
    folder: Folder,
    to: Annotated[str, Option(help="Where to write; default: beside the old collection.")] = "",
    in_place: Annotated[
        bool, Option("--in-place/--keep", help="Put it in the place of the old collection.")
    ] = True,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write the mapped documents, and switch to them at once.

    Needs a passed `verify`. The same command resumes a run that was interrupted. Until the switch
    the old collection is untouched, and it is kept afterwards: `rollback` restores it. Where only
    queries are mapped no document changes.

    \b
    Examples:
      linalign-lite migrate apply to-new
      linalign-lite migrate apply to-new --to qdrant:store#docs-2 --keep
    """
    from linalign_lite.migration.folder import MigrationFolder
    from linalign_lite.migration.steps import apply as write

    console, found = Console(as_json, quiet), MigrationFolder(folder)
    try:
        with console.progress("mapping", found.plan().count) as tally:
            state = write(found, to, in_place=in_place, progress=tally)
    except (KeyboardInterrupt, SystemExit) as e:
        raise Interrupted(e, "the old collection is untouched; the same command resumes") from e
    if state is None:
        line = f"no document changes: map queries with {found.queries_map}"
        console.result({"state": "queries", "map": str(found.queries_map)}, [line])
        return
    where = state.live if state.state == "switched" else state.new
    rows: list[tuple[str, object]] = [("documents", state.count), ("new collection", where)]
    if state.state == "switched":
        rows.append(("old collection", state.former or "not noted"))
    if found.queries_map.exists():
        rows.append(("map of queries", found.queries_map))
    console.result(dataclasses.asdict(state), pair_lines(rows))


@app.command()
def rollback(
    folder: Folder,
    former: Annotated[str, Option(help="Where the old collection is, if that is not noted.")] = "",
    as_json: AsJson = False,
) -> None:
    """Put the old collection back in its place; the new one is kept.

    \b
    Example:
      linalign-lite migrate rollback to-new
    """
    from linalign_lite.migration.folder import MigrationFolder
    from linalign_lite.migration.steps import rollback as undo

    state = undo(MigrationFolder(folder), former)
    lines = pair_lines([("collection", state.live), ("new one", state.new)])
    Console(as_json).result(dataclasses.asdict(state), lines)
