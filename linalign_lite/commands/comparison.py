"""similarity, compat, survey, report: comparison of models, by pairs and in surveys."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from linalign_lite.commands.console import Console, require_output
from linalign_lite.commands.options import AsJson, Format, Limit, Quiet, Separator, TextsFile
from linalign_lite.core.choices import MAP_FOLDS, TextFormat
from linalign_lite.core.text_tables import column_lines, pair_lines
from linalign_lite.errors import InputError, MissingExtraError, printable

if TYPE_CHECKING:
    from linalign_lite.core.hidden_states import HiddenStates
    from linalign_lite.survey.results import Results


def similarity(
    states: Annotated[list[str], Argument(help="States of two or more models, same texts.")],
    measures: Annotated[
        str, Option(help="all, or some of cka,cka_debiased,svcca,mutual_knn,r2,cosine,cycle.")
    ] = "all",
    permutations: Annotated[int, Option(help="Permutations per p-value; 0 for none.", min=0)] = 100,
    k: Annotated[int, Option(help="Neighbours of mutual_knn.", min=1)] = 10,
    share: Annotated[float, Option(help="Share of variance that svcca keeps.")] = 0.99,
    folds: Annotated[int, Option(help="Folds of r2, cosine and cycle.")] = MAP_FOLDS,
    null_rows: Annotated[int, Option(help="Maximum rows in the permutation test.")] = 1000,
    knn_rows: Annotated[int, Option(help="Maximum rows for mutual_knn.")] = 10000,
    limit: Annotated[int | None, Option(help="Only the first N rows.", min=1)] = None,
    seed: Annotated[int, Option(help="Seed of folds, samples and permutations.", min=0)] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure the similarity of models' states.

    STATES are files or folders of states; token states are compared at positions where every
    model has a token's end. Each value has a p-value of a permutation test: the share of random
    pairings that are at least as similar as the true one. "paired" is the measure on the rows
    sampled for the test, "shuffled" its mean over the permutations. r2, cosine and cycle are of
    the ridge map on held-out rows; cycle is the error of mapping there and back: small is similar.

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
        lines += ["", printable(f"{pair.first} and {pair.second}"), *pair.lines()]
    data: dict[str, Any] = {
        "models": [
            {"name": name, "file": str(path), "dim": value.space.dim, "digest": value.space.model}
            for path, (name, value) in zip(states, sets.items(), strict=True)
        ],
        "rows": n, "k": k, "share": share, "folds": folds, "seed": seed,
        "permutations": permutations, "pairs": [pair.as_dict() for pair in found],
    }  # fmt: skip
    console.result(data, lines)


def compat(
    source: Annotated[Path, Argument(help="The source's folder, with tokenizer.json.")],
    target: Annotated[Path, Argument(help="The target's folder, with tokenizer.json.")],
    texts: TextsFile,
    fmt: Format = TextFormat.auto,
    limit: Limit = None,
    separator: Separator = None,
    as_json: AsJson = False,
) -> None:
    """Check whether two models' tokenizers suit each other.

    Needs only the tokenizer.json of two folders, exported or not, and runs no model. Measures the
    share of tokens that can be paired to fit a map for generation, compares the tokenizations, and
    gives a verdict. The exit code is 0 whatever the verdict.

    \b
    Examples:
      linalign-lite compat small-model large-model texts.txt
      linalign-lite compat ./my-llama ./my-qwen texts.jsonl --limit 1000 --json
    """
    from linalign_lite.extraction.texts import read_texts
    from linalign_lite.extraction.tokenizer_compatibility import check_compatibility

    console = Console(as_json)
    read = read_texts(texts, fmt=fmt.value, limit=limit, separator=separator)
    found = check_compatibility(source, target, read.texts)
    lines = [*pair_lines(found.rows()), "", found.verdict]
    console.result({**found.as_dict(), "blank": read.n_blank}, lines)


def _read(paths: list[str], limit: int | None) -> dict[str, HiddenStates]:
    """Load the states by name: that of the file, or its path if two files share a name."""
    import numpy as np

    from linalign_lite.alignment.similarity.comparison import common_rows
    from linalign_lite.vectors.reading import read_aligned

    if len(paths) < 2:
        raise InputError("similarity needs states of two models or more", got=str(len(paths)))
    names = [Path(p).name.removesuffix(".npz").removesuffix(".states") for p in paths]
    if len(set(names)) < len(names):
        names = list(paths)
    if len(set(names)) < len(names):
        raise InputError("a file is given twice", expected="states of different models")
    sets = common_rows(dict(zip(names, read_aligned(paths), strict=True)))
    if limit is not None:
        sets = {n: value.rows(np.arange(min(limit, len(value)))) for n, value in sets.items()}
    return sets


def survey(
    config: Annotated[str, Argument(help="CONFIG.toml, or demo: the bundled models.")],
    out: Annotated[Path, Argument(help="The folder for results; an interrupted survey resumes.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Compare every pair of several models on every task.

    Tasks: similarity, classification through every kind of map, out-of-distribution detection,
    generation, tokenizers. Writes results.json, results.md and, with the extra `report`,
    report.html. Intermediate files are kept in OUT/cache: an interrupted survey resumes, and a
    survey with one more model computes only what is new.

    \b
    Examples:
      linalign-lite survey demo bundled
      linalign-lite survey models.toml results
    """
    from linalign_lite.storage.atomic import write_atomic
    from linalign_lite.survey.config import load_config
    from linalign_lite.survey.demo_survey import NAME, write_bundled
    from linalign_lite.survey.report import to_markdown, write_report
    from linalign_lite.survey.results_file import save_results
    from linalign_lite.survey.run import require_survey_folder, run_survey

    console = Console(as_json, quiet)
    require_survey_folder(out)
    asked = write_bundled(out) if config == NAME else load_config(config)
    with console.steps() as (progress, tell):
        results = run_survey(asked, out, progress=progress, tell=tell)
    written = [out / "results.json", out / "results.md"]
    save_results(written[0], results)
    write_atomic(written[1], to_markdown(results).encode())
    try:
        write_report(out / "report.html", results)
        written.append(out / "report.html")
    except MissingExtraError as e:  # `report` can make the page later from results.json
        console.note(f"no report.html: {e}")
    console.result(
        {"written": [str(p) for p in written], "results": dataclasses.asdict(results)},
        [*_summary(results), "", *(str(p) for p in written)],
    )


def report(
    results: Annotated[Path, Argument(help="The results.json of a survey.")],
    out: Annotated[Path | None, Argument(help="The page to write (.html); extra `report`.")] = None,
    markdown: Annotated[
        Path | None, Option("--markdown", help="Write tables in Markdown, without pictures.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn a survey's results into a web page or Markdown.

    The page is a single file with its pictures in it; it opens offline and loads nothing. The same
    results give the same bytes. It needs the extra `report`; Markdown does not.

    \b
    Examples:
      linalign-lite report survey/results.json survey/report.html
      linalign-lite report survey/results.json --markdown survey/report.md
    """
    from linalign_lite.storage.atomic import write_atomic
    from linalign_lite.survey.report import render, to_markdown
    from linalign_lite.survey.results_file import load_results

    console = Console(as_json)
    wanted = [(p, make) for p, make in ((out, render), (markdown, to_markdown)) if p is not None]
    if not wanted:
        raise InputError("nothing to write", hint="name a page, or --markdown FILE, or both")
    if out is not None and markdown is not None and out.absolute() == markdown.absolute():
        raise InputError(f"{out} cannot be the page and the Markdown file")
    for path, _ in wanted:
        require_output(path, results)
    found = load_results(results)
    made = {path: make(found).encode() for path, make in wanted}  # before anything is written
    for path, content in made.items():
        write_atomic(path, content)
    data = {
        "models": len(found.models),
        "data": len(found.data),
        "page": out and str(out),
        "markdown": markdown and str(markdown),
        "bytes": {str(path): len(content) for path, content in made.items()},
    }
    sizes = [(str(path), f"{len(content):,} bytes") for path, content in made.items()]
    console.result(data, pair_lines(sizes))


def _summary(results: Results) -> list[str]:
    """Table of the best map of every pair and data set, and of the two models' own accuracies."""
    native = {(r.model, r.data): r.accuracy for r in results.native}
    rows = [["source", "target", "data", "map", "accuracy", "target alone", "source alone"]]
    for source, target in results.pairs():
        for data in results.data:
            key = (source, target, data.name)
            found = [r for r in results.classification if (r.source, r.target, r.data) == key]
            if found:
                best = max(found, key=lambda r: r.accuracy)
                alone = (f"{native[m, data.name]:.3f}" for m in (target, source))
                kind = f"{best.objective}, {best.texts}"
                rows.append([*key, kind, f"{best.accuracy:.3f}", *alone])
    return column_lines(rows) if len(rows) > 1 else []
