"""survey, report: all pairs of several models on all tasks, and the results as pages."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from linalign_lite.commands.console import Console, require_output
from linalign_lite.commands.options import AsJson, Quiet
from linalign_lite.core.text_tables import column_lines, pair_lines
from linalign_lite.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from linalign_lite.survey.results import Results


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
