"""demo: the main job on bundled models, with no network."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from linalign_lite.commands.console import AsJson, Console, Quiet
from linalign_lite.storage.atomic import whole_folder


def register(app: typer.Typer) -> None:
    app.command()(demo)


def demo(
    out: Annotated[
        Path | None, typer.Option(help="Keep every file here; default: nothing is kept.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Play provider and client on two small bundled models.

    Reads, aligns, classifies, and scores encrypted queries; needs no network.

    \b
    Examples:
      linalign-lite demo
      linalign-lite demo --out somewhere
    """
    from linalign_lite.demo.walkthrough import run

    console = Console(as_json, quiet)
    started = time.perf_counter()
    # with --json the story is a remark, without it it is the answer
    say = console.note if as_json else typer.echo  # both flush: a step is seen when it is done
    if out is None:
        with tempfile.TemporaryDirectory(prefix="linalign-demo-") as folder:
            figures = run(Path(folder), say)
    else:
        with whole_folder(out) as folder:
            figures = run(folder, say)
    lines = [f"Done in {time.perf_counter() - started:.1f} s."]
    if out is not None:
        lines.append(f"The files are in {out}; look at one with")
        lines.append(f"  linalign-lite inspect {out / 'client' / 'client-to-provider.map.npz'}")
    else:
        lines.append("Run it with --out DIR to keep the files and look at them.")
    console.result(figures, lines)
