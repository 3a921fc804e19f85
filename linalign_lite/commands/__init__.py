"""The command line: each command parses its options, calls the library, and prints the result.

In: files, folders, texts and options. Out: files, and text or one JSON object on standard output;
progress, notes and errors on standard error. `COMMANDS` is the one list of all commands.
"""

import errno
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer import Option
from typer.core import TyperGroup

from linalign_lite.commands.bundles import app as bundle
from linalign_lite.commands.comparison import compat, report, similarity, survey
from linalign_lite.commands.detectors import app as ood
from linalign_lite.commands.generation import evaluate_generation, generate
from linalign_lite.commands.getting_started import demo, inspect
from linalign_lite.commands.heads import evaluate, head
from linalign_lite.commands.indexes import app as index
from linalign_lite.commands.keys import keygen
from linalign_lite.commands.maps import apply, fit
from linalign_lite.commands.migration import app as migrate
from linalign_lite.commands.moment_files import fit_moments, moments
from linalign_lite.commands.onnx_files import export, from_onnx, fuse, onnx
from linalign_lite.commands.privacy import audit, budget, plan
from linalign_lite.commands.private_fit import app as fit_private
from linalign_lite.commands.retrieval import app as retrieval
from linalign_lite.commands.scoring import decrypt, encrypt, score
from linalign_lite.commands.service import ask, serve
from linalign_lite.commands.states import extract
from linalign_lite.commands.vectors import app as vectors
from linalign_lite.errors import LinalignError, MismatchError, is_disk_full, printable
from linalign_lite.version import __version__

# NumPy and SciPy each bring an OpenBLAS whose threads spin while they wait for work. Where small
# products of the two alternate, each takes the processor from the other: a fit took six times as
# long. OpenBLAS reads the variable when NumPy is loaded, which no import above does.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")

COMMANDS: dict[str, tuple[Callable[..., None] | typer.Typer, ...]] = {  # by job, as help shows them
    "Getting started": (demo, inspect),
    "Models and states": (export, extract, vectors),
    "Maps": (fit, apply, moments, fit_moments, fit_private),
    "Heads and detectors": (head, evaluate, ood),
    "Retrieval": (retrieval, index, migrate),
    "Text": (generate, evaluate_generation),
    "Private scoring": (keygen, encrypt, score, decrypt, plan, budget, audit),
    "Scoring service": (serve, ask),
    "Comparison": (similarity, compat, survey, report),
    "ONNX and delivery": (onnx, fuse, from_onnx, bundle),
}


def command_names(title: str) -> list[str]:
    """Names of the commands that stand under a title of `COMMANDS`."""
    return [
        str(c.info.name) if isinstance(c, typer.Typer) else c.__name__.replace("_", "-")
        for c in COMMANDS[title]
    ]


class _ByJob(TyperGroup):
    """The root command; its help lists the commands under the titles of `COMMANDS`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 (click's signature)
        width = max(map(len, self.commands))
        for title in COMMANDS:
            names = command_names(title)
            with formatter.section(title):
                formatter.write_dl(
                    [(n.ljust(width), self.commands[n].get_short_help_str(200)) for n in names]
                )


app = typer.Typer(
    name="linalign-lite",
    cls=_ByJob,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Let two parties with different language models work together: affine maps between "
    "hidden states, and encrypted scoring, on CPU.",
)
for command in (c for commands in COMMANDS.values() for c in commands):
    if isinstance(command, typer.Typer):
        app.add_typer(command)
    else:
        app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"linalign-lite {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version_wanted: Annotated[
        bool, Option("--version", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    pass


def _terminate(_signal: int, _frame: object) -> NoReturn:
    """Exit as after Ctrl-C, through every `finally`, so that no temporary file stays."""
    raise SystemExit(128 + signal.SIGTERM)


def main(argv: list[str] | None = None) -> int:
    """Run the command line. Returns 0, 1 for a failure, 2 for wrong usage or wrong files."""
    for stream in (sys.stdout, sys.stderr):  # so that an ASCII terminal can show R²
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader has closed the pipe: end quietly
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except OSError as e:  # a full disk, a folder without permission
        full = os.strerror(errno.ENOSPC) if is_disk_full(e) else ""  # NumPy does not say it
        text = e.strerror or full or str(e)
        _print_error(f"error: {text}{f': {e.filename}' if e.filename else ''}")
        return 1
    return code


def _run(argv: list[str] | None) -> int:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _print_warning
            app(args=argv, prog_name="linalign-lite")
    except LinalignError as e:
        _print_error(f"error: {e}{_files(e, sys.argv[1:] if argv is None else argv)}")
        return e.exit_code
    except SystemExit as e:
        if e.code in {130, 128 + signal.SIGTERM}:  # typer makes 130 of Ctrl-C
            left = getattr(e, "left", "nothing half-written was left behind")
            _print_error(f"interrupted; {left}")
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    return 0


def _files(error: LinalignError, argv: list[str]) -> str:
    """The files that a command was given, where some do not belong together and none is named."""
    if not isinstance(error, MismatchError):
        return ""
    given = [word for word in argv[1:] if Path(word).exists()]
    named = any(word in str(error) for word in given)
    return "" if named else f"; of {', '.join(map(printable, given))}" * bool(given)


def _print_warning(message: Warning | str, *_where: Any, **_to: Any) -> None:
    _print_error(f"warning: {printable(str(message))}")


def _print_error(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(text + "\n")
