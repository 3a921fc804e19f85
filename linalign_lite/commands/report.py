"""report: a survey's results as a page and as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from linalign_lite.commands.console import AsJson, Console, require_output, table
from linalign_lite.errors import InputError


def register(app: typer.Typer) -> None:
    app.command()(report)


def report(
    results: Annotated[Path, typer.Argument(help="The results.json of a survey.")],
    out: Annotated[
        Path | None, typer.Argument(help="The page to write (.html); extra `report`.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Tables in Markdown, without pictures.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a survey's results readable: one page that opens offline, or Markdown tables.

    The page is a single file with its pictures in it; it fetches nothing. The same results give the
    same bytes. It needs matplotlib (extra `report`), the Markdown tables need nothing.

    \b
    Examples:
      linalign-lite report survey/results.json survey/report.html
      linalign-lite report survey/results.json --markdown survey/report.md
    """
    from linalign_lite.storage.atomic import write_atomic
    from linalign_lite.survey.report import render, to_markdown
    from linalign_lite.survey.results_file import load_results

    console = Console(as_json)
    if out is None and markdown is None:
        raise InputError("nothing to write", hint="name a page, or --markdown FILE, or both")
    if out is not None and markdown is not None and out.absolute() == markdown.absolute():
        raise InputError(f"{out} cannot be the page and the Markdown file")
    for path in (out, markdown):
        if path is not None:
            require_output(path, results)
    found = load_results(results)
    made = {  # all of it before anything is written
        path: make(found).encode()
        for path, make in ((out, render), (markdown, to_markdown))
        if path is not None
    }
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
    console.result(data, table(sizes))
