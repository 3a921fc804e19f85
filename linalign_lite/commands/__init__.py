"""The command line. Each command parses, calls one function of the library, and prints."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from typing import Annotated, NoReturn

# NumPy and SciPy each bring an OpenBLAS with threads of its own, which wait for more work by
# spinning: where small products of the two alternate, each takes the processor from the other, and
# a fit took six times as long. Read when they are loaded, so it is said before.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")

import typer

from linalign_lite.commands import (
    alignment,
    bundle,
    demo,
    extract,
    generation,
    heads,
    models,
    moments,
    onnx,
    ood,
    privacy,
    report,
    scoring,
    similarity,
    survey,
    tokenizers,
)
from linalign_lite.errors import LinalignError
from linalign_lite.version import __version__

app = typer.Typer(
    name="linalign-lite",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Let two parties with different language models work together: affine maps between "
    "hidden states, and encrypted scoring, on CPU.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"linalign-lite {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version_wanted: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass


rooms = (
    models,
    extract,
    alignment,
    heads,
    moments,
    similarity,
    tokenizers,
    generation,
    survey,
    report,
    onnx,
    ood,
    scoring,
    privacy,
    bundle,
    demo,
)
for room in rooms:
    room.register(app)


def _terminate(_signal: int, _frame: object) -> NoReturn:
    """Leave as on Ctrl-C, through every `finally`, so that no temporary file stays."""
    raise SystemExit(128 + signal.SIGTERM)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 failure, 2 wrong usage or wrong files."""
    for stream in (sys.stdout, sys.stderr):  # an R² on an ASCII terminal is no failure
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read us has enough; nothing more is to be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except OSError as e:  # a full disk, a folder without permission
        _say(f"error: {e.strerror or e}{f': {e.filename}' if e.filename else ''}")
        return 1
    return code


def _run(argv: list[str] | None) -> int:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    try:
        app(args=argv, prog_name="linalign-lite")
    except LinalignError as e:
        _say(f"error: {e}")
        return e.exit_code
    except SystemExit as e:
        if e.code in {130, 128 + signal.SIGTERM}:  # typer makes 130 of Ctrl-C
            left = getattr(e, "said", "nothing half-written was left behind")
            _say(f"interrupted; {left}")
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    return 0


def _say(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(text + "\n")
