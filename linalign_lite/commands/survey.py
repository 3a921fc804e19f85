"""survey: every pair of some models on every task, as JSON, a table and a page."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from linalign_lite.commands.console import AsJson, Console, Quiet, columns
from linalign_lite.errors import MissingExtraError

if TYPE_CHECKING:
    from linalign_lite.survey.results import Results


def register(app: typer.Typer) -> None:
    app.command()(survey)


def survey(
    config: Annotated[str, typer.Argument(help="CONFIG.toml, or demo: the bundled models.")],
    out: Annotated[Path, typer.Argument(help="The folder for results; a stopped survey goes on.")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure every ordered pair of N models on every task.

    Similarity, classification through every kind of map, out-of-distribution detection, generation,
    tokenizers. Writes results.json, results.md and, with the extra `report`, report.html. What is
    made on the way is kept in OUT/cache: a survey that was stopped goes on where it was, and one
    with another model makes only what is new.

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
    except MissingExtraError as e:  # the figures are there; the page can be made from them later
        console.note(f"no report.html: {e}")
    console.result(
        {"written": [str(p) for p in written], "results": dataclasses.asdict(results)},
        [*_summary(results), "", *(str(p) for p in written)],
    )


def _summary(results: Results) -> list[str]:
    """The best map of every pair and data set beside what the two models reach alone."""
    native = {(r.model, r.data): r.accuracy for r in results.native}
    rows: list[list[str]] = [
        ["source", "target", "data", "map", "accuracy", "target alone", "source alone"]
    ]
    for source, target in results.pairs():
        for data in results.data:
            mine = [r for r in results.classification
                    if (r.source, r.target, r.data) == (source, target, data.name)]  # fmt: skip
            if not mine:
                continue
            best = max(mine, key=lambda r: r.accuracy)
            own = (f"{native[m, data.name]:.3f}" for m in (target, source))
            way = f"{best.objective}, {best.texts}"
            rows.append([source, target, data.name, way, f"{best.accuracy:.3f}", *own])
    return columns(rows) if len(rows) > 1 else []
