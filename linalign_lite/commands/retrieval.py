"""retrieval extract, evaluate: search across models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from linalign_lite.commands import options as shared
from linalign_lite.commands.console import Console, draw, load_optional_map, require_plot
from linalign_lite.commands.moment_files import MomentsOptions
from linalign_lite.commands.states import load_limited
from linalign_lite.core.choices import Metric, Use
from linalign_lite.core.text_tables import pair_lines
from linalign_lite.errors import InputError, without_secrets

if TYPE_CHECKING:
    from linalign_lite.core.affine_map import AffineMap
    from linalign_lite.retrieval.collection import Judged
    from linalign_lite.retrieval.evaluation import CollectionStates
    from linalign_lite.retrieval.fit_report import RetrievalFitReport

QUERIES, DOCUMENTS, PSEUDO = "queries.states.npz", "documents.states.npz", "pseudo.states.npz"
PROMPTS = {QUERIES: "query", DOCUMENTS: "document", PSEUDO: "query"}

app = typer.Typer(
    name="retrieval",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Search one model's documents by another's queries.",
)


@dataclass(frozen=True)
class SearchOptions:
    """Options of `fit --objective retrieval`."""

    wanted: bool
    pseudo: tuple[str, str] | None
    use: Use | None
    part: bool

    def check(self, *, plain: bool) -> None:
        """Raise InputError unless all fit; plain: --method and --with-few are left out."""
        given = self.pseudo is not None or self.use is not None or self.part
        if given and not self.wanted:
            raise InputError("--pseudo, --use and --part go with --objective retrieval")
        if self.wanted and not plain:
            hint = "leave --method and --with-few out"
            raise InputError("--objective retrieval chooses the method", hint=hint)


def fit_for_search(
    source: str, target: str, options: SearchOptions, moments: MomentsOptions
) -> tuple[AffineMap, RetrievalFitReport]:
    """Fit on states of documents, and of pseudo-queries if there are some."""
    from linalign_lite.retrieval.choosing import fit_retrieval
    from linalign_lite.vectors.reading import read_pair

    if moments.scheduler is not None:
        raise InputError("--scheduler goes with two folders of states, ridge or procrustes")
    return fit_retrieval(
        *read_pair(source, target, moments.pairing),
        pseudo=None if options.pseudo is None else read_pair(*options.pseudo, moments.pairing),
        use=(options.use or Use.queries).value,
        whole=not options.part,
        folds=moments.folds,
        seed=moments.seed,
    )


CollectionAt = Annotated[
    Path,
    Argument(
        metavar="COLLECTION",
        help="A folder in BEIR's layout (corpus.jsonl, queries.jsonl, qrels/test.tsv), "
        "or the prefix of _corpus.jsonl, _queries.jsonl and _qrels.jsonl.",
    ),
]


@app.command()
def extract(
    model: shared.ModelFolder,
    collection_at: CollectionAt,
    out: Annotated[Path, Argument(help="The folder to make.")],
    query_prompt: Annotated[
        str | None, Option(help="Prompt of queries; default: the model's `query`, if it has one.")
    ] = None,
    document_prompt: Annotated[
        str | None, Option(help="Prompt of documents; default: the model's `document`.")
    ] = None,
    max_length: Annotated[int | None, Option(help="Cut texts to this many tokens.")] = None,
    per_document: Annotated[
        int, Option("--pseudo", help="Pseudo-queries taken from each document.", min=1)
    ] = 2,
    threads: shared.Threads = None,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
) -> None:
    """Run a model on a collection's queries and documents.

    OUT gets queries.states.npz, documents.states.npz and pseudo.states.npz: titles and other
    sentences of the documents, read with the prompt of queries. A map fitted on these and on the
    documents has seen no query.

    \b
    Examples:
      linalign-lite retrieval extract minilm cranfield minilm-cranfield
      linalign-lite retrieval extract gemma ../shared/data/cranfield gemma-cranfield
    """
    from linalign_lite.extraction.pipeline import extract as extract_states
    from linalign_lite.heads.serialization import save
    from linalign_lite.retrieval.collection import read_collection
    from linalign_lite.storage.atomic import whole_folder

    console, found = Console(as_json, quiet), read_collection(collection_at)
    texts = {
        QUERIES: found.queries,
        DOCUMENTS: found.documents,
        PSEUDO: found.pseudo_queries(per_document),
    }
    asked = {QUERIES: query_prompt, DOCUMENTS: document_prompt, PSEUDO: query_prompt}
    with whole_folder(out) as folder:
        loaded = load_limited(model, threads)
        with console.progress("extracting", sum(map(len, texts.values()))) as tally:
            for name, some in texts.items():
                default = PROMPTS[name] if PROMPTS[name] in loaded.card.prompts else None
                prompt = default if asked[name] is None else asked[name]
                made = extract_states(
                    loaded, some, prompt=prompt, max_length=max_length, progress=tally
                )
                save(folder / name, made)
                if made.n_cut:
                    console.note(f"{name}: {made.n_cut} text(s) cut to {made.max_length} tokens")
    data = {name.partition(".")[0]: len(some) for name, some in texts.items()}
    console.result({"out": str(out), **data}, pair_lines([("folder", out), *data.items()]))


@app.command()
def evaluate(
    collection_at: Annotated[
        Path,
        Argument(
            metavar="COLLECTION",
            help="As for extract; or a file of judgements (.tsv, .jsonl), for vectors with ids.",
        ),
    ],
    source: Annotated[
        str, Option(help="Folder of the source's states (retrieval extract), or its documents.")
    ],
    target: Annotated[str, Option(help="The same of the target, for the same collection.")],
    map_file: Annotated[Path, Option("--map", help="The map from source to target.")],
    source_queries: Annotated[str, Option(help="The source's queries, if not in a folder.")] = "",
    target_queries: Annotated[str, Option(help="The target's queries, if not in a folder.")] = "",
    documents_map: Annotated[
        Path | None, Option("--documents-map", help="Map of documents, if it is another.")
    ] = None,
    metric: Annotated[Metric, Option(help="Score of a query and a document.")] = Metric.cosine,
    k: Annotated[int, Option("-k", help="Cut of the measures.", min=1)] = 10,
    binary: Annotated[bool, Option("--binary", help="Count every grade above 0 as 1.")] = False,
    seed: Annotated[int, Option(help="Seed of the bootstrap.", min=0)] = 0,
    plot: shared.Plot = None,
    strict: shared.Strict = False,
    as_json: shared.AsJson = False,
    quiet: shared.Quiet = False,
) -> None:
    """Measure search across models beside each model's own.

    Two ways are measured: mapped queries search the target's documents, and the target's queries
    search mapped documents. nDCG, recall, reciprocal rank, and overlap with the target's own
    ranking have 95 % bootstrap intervals over queries. The metric does all scaling there is.
    Documents and queries may be vectors of any file or store; those with ids are put in order by
    them, others are in the collection's order.

    \b
    Examples:
      linalign-lite retrieval evaluate cranfield --source minilm-c --target gemma-c --map m.map.npz
      linalign-lite retrieval evaluate qrels/test.tsv --map m.map.npz \\
        --source qdrant:store#docs --source-queries q-old.jsonl \\
        --target docs.parquet --target-queries q-new.jsonl
    """
    from linalign_lite.core.serialization import load_map
    from linalign_lite.retrieval.evaluation import evaluate_retrieval

    console = Console(as_json, quiet)
    require_plot(plot, map_file)
    old, new = _places(source, source_queries, "source"), _places(target, target_queries, "target")
    found = _judged(collection_at, new)
    if found.unknown:
        console.warn([f"{found.unknown} judgement(s) of unknown queries or documents left out"])
    report = evaluate_retrieval(
        _states(old, found),
        _states(new, found),
        load_map(map_file),
        found.binary() if binary else found,
        documents_map=load_optional_map(documents_map),
        k=k,
        metric=metric.value,
        seed=seed,
    )
    draw(plot, "Search across models", report, report.rows())
    console.judged(report.as_dict(), report.lines(), report.verdict, strict=strict)


def _places(documents: str, queries: str, side: str) -> tuple[str, str]:
    """Locations of documents and queries."""
    if queries:
        return documents, queries
    folder = Path(documents)
    if not (folder / DOCUMENTS).is_file():
        raise InputError(
            f"{without_secrets(documents)} is not a folder that `retrieval extract` wrote",
            hint=f"if these are vectors of documents, name their queries: --{side}-queries",
        )
    return str(folder / DOCUMENTS), str(folder / QUERIES)


def _judged(at: Path, places: tuple[str, str]) -> Judged:
    """Read a collection, or judgements of vectors that have ids."""
    from linalign_lite.retrieval.collection import judged, read_collection, read_judgements
    from linalign_lite.vectors.reading import read_with_ids

    if not at.is_file():
        return read_collection(at)
    documents, queries = (read_with_ids(place)[1] for place in places)
    for place, ids in zip(places, (documents, queries), strict=True):
        if not ids:
            raise InputError(
                f"{without_secrets(place)} has no ids, so judgements say nothing of it",
                hint="give the whole collection, whose order it has",
            )
    return judged(read_judgements(at), queries, documents)


def _states(places: tuple[str, str], found: Judged) -> CollectionStates:
    from linalign_lite.retrieval.evaluation import CollectionStates
    from linalign_lite.vectors.reading import read_by_ids

    documents, queries = places
    return CollectionStates(
        read_by_ids(queries, found.query_ids), read_by_ids(documents, found.document_ids)
    )
