"""demo, inspect: the exchange on two bundled models, and the content of any file."""

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from linalign_lite.commands.console import Console
from linalign_lite.commands.options import AsJson, Quiet
from linalign_lite.core.choices import Demo
from linalign_lite.core.text_tables import pair_lines
from linalign_lite.storage.atomic import whole_folder


def demo(
    exchange: Annotated[Demo, Argument(help="The exchange to play.")] = Demo.classifier,
    out: Annotated[
        Path | None, Option(help="Keep all files in this folder; default: keep none.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Run the whole exchange on two small bundled models.

    Plays provider and client: extracts states, fits a map, trains a classifier, and scores
    encrypted queries. With search, the provider makes an index of documents in place of a
    classifier, and the client searches it with its own model, encrypted. With fit-private, fits
    the map without showing either party's states. Needs no network.

    \b
    Examples:
      linalign-lite demo
      linalign-lite demo --out somewhere
      linalign-lite demo search
      linalign-lite demo fit-private
    """
    from linalign_lite.demo.private_fit import run_private_fit
    from linalign_lite.demo.search import run_search
    from linalign_lite.demo.walkthrough import run as run_classifier

    console = Console(as_json, quiet)
    runs = {Demo.search: run_search, Demo.fit_private: run_private_fit}
    run = runs.get(exchange, run_classifier)
    started = time.perf_counter()
    # the steps are notes with --json, else the result
    say = console.note if as_json else typer.echo  # both flush, so that each step shows at once
    if out is None:
        with tempfile.TemporaryDirectory(prefix="linalign-demo-") as folder:
            figures = run(Path(folder), say)
        ends = ["Run it with --out DIR to keep the files and look at them."]
    else:
        with whole_folder(out) as folder:
            figures = run(folder, say)
        ends = [
            f"The files are in {out}; look at one with",
            f"  linalign-lite {_look(exchange, out)}",
        ]
    console.result(figures, [f"Done in {time.perf_counter() - started:.1f} s.", *ends])


def _look(exchange: Demo, out: Path) -> str:
    """Return a command that shows what the demo in ``out`` made."""
    if exchange != Demo.search:
        return f"inspect {out / 'client' / 'client-to-provider.map.npz'}"
    sent, keys = out / "exchange", out / "client" / "keys"
    return f"decrypt {sent / 'one.response'} --key {keys} --index {sent / 'index.json'} --top 5"


def inspect(
    file: Annotated[Path, Argument(help="Any file or model folder of linalign-lite.")],
    as_json: AsJson = False,
) -> None:
    """Check a file or folder and print what it contains.

    Reads states or a folder of them, maps, heads, detectors, moments, model folders, ONNX files,
    keys, queries, responses, budgets and bundles. Secrets are never printed.

    \b
    Examples:
      linalign-lite inspect a-to-b.map.npz
      linalign-lite inspect minilm --json
    """
    from linalign_lite.commands.describe_file import describe

    found = describe(file)
    Console(as_json).result(found, pair_lines([(name, _short(v)) for name, v in found.items()]))


def _short(value: object) -> object:
    """Shorten a list for the terminal; --json prints all of it."""
    if not isinstance(value, list):
        return value
    shown = ", ".join(str(v) for v in value[:8])
    return f"{len(value)}: {shown}, …" if len(value) > 8 else shown or "none"
