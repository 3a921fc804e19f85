"""What the commands say: results on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from linalign_lite.errors import InputError, printable
from linalign_lite.storage.atomic import require_replaceable
from linalign_lite.storage.places import Place, place, require_writable, same_place
from linalign_lite.storage.remote import Remote


class Interrupted(SystemExit):
    """Ctrl-C, or the signal to end, with what is to be said of what was left behind."""

    def __init__(self, cause: BaseException, said: str) -> None:
        super().__init__(cause.code if isinstance(cause, SystemExit) else 130)
        self.said = said


@dataclass(frozen=True)
class Console:
    """One command's voice."""

    as_json: bool = False
    quiet: bool = False

    def result(self, data: Mapping[str, Any], lines: Sequence[str]) -> None:
        """The command's answer: ``data`` with --json, else ``lines``."""
        if sys.stdout is None:  # closed by the caller, who does not want to know
            return
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        text = "\n".join(lines)
        if self.as_json:
            text = json.dumps(data, ensure_ascii=not utf8, allow_nan=False)
        sys.stdout.write(text + "\n")

    def note(self, text: str) -> None:
        """Something to know beside the answer."""
        if not self.quiet and sys.stderr is not None:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def warn(self, warnings: Sequence[str]) -> None:
        for text in warnings:
            self.note(f"warning: {text}")

    @contextlib.contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar on standard error when that is a terminal; nothing when it is not."""
        if self.quiet or sys.stderr is None or not sys.stderr.isatty():
            yield lambda _: None
            return
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Remaining())
        with Progress(*columns, console=Terminal(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda count: bar.advance(task, count)

    @contextlib.contextmanager
    def steps(self) -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
        """A bar of many jobs: (done, all) → None, and what is being done → None."""
        if self.quiet or sys.stderr is None or not sys.stderr.isatty():
            yield lambda _done, _all: None, lambda _what: None
            return
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        columns = (BarColumn(), MofNCompleteColumn(), Elapsed(), TextColumn("{task.description}"))
        with Progress(*columns, console=Terminal(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None)
            yield (
                lambda done, total: bar.update(task, completed=done, total=total),
                lambda what: bar.update(task, description=what),
            )

    @contextlib.contextmanager
    def fitting_steps(self) -> Iterator[Callable[[Any], None]]:
        """A line on standard error, written over at each kl.fitting.Step, on a terminal only."""
        if self.quiet or sys.stderr is None or not sys.stderr.isatty():
            yield lambda _: None
            return

        def show(step: Any) -> None:
            judged = "" if step.held_out != step.held_out else f", held-out {step.held_out:.4f}"
            line = f"{step.stage}, step {step.iteration}: loss {step.loss:.4f}{judged}"
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()

        try:
            yield show
        finally:
            sys.stderr.write("\r\x1b[K")


def table(rows: Sequence[tuple[str, object]]) -> list[str]:
    """Two aligned columns."""
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{name:<{width}}  {printable(str(value))}" for name, value in rows]


def require_output(path: Place, *inputs: Place | str | None) -> None:
    """Raise InputError now, not after an hour's work, when ``path`` cannot be written.

    Nor may it be one of the command's own inputs.
    """
    if isinstance(path, Remote):
        require_writable(path)
    else:
        if path.is_dir():
            raise InputError(f"{path} is a folder", expected="the name of a file to write")
        if not path.parent.is_dir():
            raise InputError(f"the folder {path.parent} is not there", hint="make it first")
        require_replaceable(path)
    for given in inputs:
        if given is not None and same_place(path, place(given)):
            raise InputError(f"{path} is an input of this command", hint="write to another file")


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Right-aligned columns but for the first; the first row names them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0])]
            + [c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)]
        )
        for row in rows
    ]
