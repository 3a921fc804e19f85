"""Output of the commands: results on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linalign_lite.errors import InputError, OutputExistsError, import_extra
from linalign_lite.storage.atomic import require_replaceable
from linalign_lite.storage.places import Place, place, require_writable, same_place
from linalign_lite.storage.remote import Remote

if TYPE_CHECKING:
    from linalign_lite.alignment.kl.report import Step
    from linalign_lite.core.affine_map import AffineMap
    from linalign_lite.core.text_tables import Pairs
    from linalign_lite.core.verdict import Verdict
    from linalign_lite.survey.report.sheet import Measured


class Interrupted(SystemExit):
    """Ctrl-C or SIGTERM, with a message about the files that were left."""

    def __init__(self, cause: BaseException, left: str) -> None:
        super().__init__(cause.code if isinstance(cause, SystemExit) else 130)
        self.left = left


@dataclass(frozen=True)
class Console:
    """Printing of one command."""

    as_json: bool = False
    quiet: bool = False

    def result(self, data: Mapping[str, Any], lines: Sequence[str]) -> None:
        """Print the result: ``data`` with --json, else ``lines``."""
        if sys.stdout is None:  # closed by the caller
            return
        utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        text = "\n".join(lines)
        if self.as_json:
            text = json.dumps(data, ensure_ascii=not utf8, allow_nan=False)
        sys.stdout.write(text + "\n")

    def judged(
        self,
        data: Mapping[str, Any],
        lines: Sequence[str],
        verdict: Verdict | None,
        *,
        strict: bool,
    ) -> None:
        """Print the result and its verdict; end with exit code 1 if it is poor and ``strict``."""
        if verdict is None:
            self.result({**data, "verdict": None}, lines)
            return
        self.result({**data, "verdict": verdict.as_dict()}, [*lines, "", str(verdict)])
        if strict and verdict.grade == "poor":
            raise SystemExit(1)

    def note(self, text: str) -> None:
        """Print a remark on standard error."""
        if not self.quiet and sys.stderr is not None:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    @contextlib.contextmanager
    def replacing(self, path: Place) -> Iterator[None]:
        """Remark that an older file was replaced, once the block has written the new one."""
        older = path.exists()
        yield
        if older:
            self.note(f"replaced {path}, which was there")

    def warn(self, warnings: Sequence[str]) -> None:
        """Print warnings on standard error."""
        for text in warnings:
            self.note(f"warning: {text}")

    @property
    def _live(self) -> bool:
        return not self.quiet and sys.stderr is not None and sys.stderr.isatty()

    @contextlib.contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show a bar on a terminal; yields a function that advances it by a number of steps."""
        with self._bar(label, total) as update:
            yield lambda count: update(advance=count)

    @contextlib.contextmanager
    def steps(self) -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
        """Show a bar of many jobs; yields functions for (done, total) and for a description."""
        with self._bar("", None) as update:
            yield (
                lambda done, total: update(completed=done, total=total),
                lambda what: update(description=what),
            )

    @contextlib.contextmanager
    def _bar(self, label: str, total: int | None) -> Iterator[Callable[..., None]]:
        """Show a bar on a terminal; yields the function that updates it."""
        if not self._live:
            yield lambda **_: None
            return
        from rich import progress as bars
        from rich.console import Console as Terminal

        text, counts = bars.TextColumn("{task.description}"), bars.MofNCompleteColumn()
        columns = [bars.BarColumn(), counts, bars.TimeElapsedColumn(), text]
        if total is not None:
            columns = [text, bars.BarColumn(), counts, bars.TimeRemainingColumn()]
        with bars.Progress(*columns, console=Terminal(stderr=True), transient=True) as bar:
            yield partial(bar.update, bar.add_task(label, total=total))

    @contextlib.contextmanager
    def fitting_steps(self) -> Iterator[Callable[[Step], None]]:
        """Show the latest step of a fit on one line of a terminal; yields the watch function."""
        if not self._live:
            yield lambda _: None
            return

        def show(step: Step) -> None:
            held_out = "" if math.isnan(step.held_out) else f", held-out {step.held_out:.4f}"
            line = f"{step.stage}, step {step.iteration}: loss {step.loss:.4f}{held_out}"
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()

        try:
            yield show
        finally:
            sys.stderr.write("\r\x1b[K")


def require_output(path: Place, *inputs: Place | str | None) -> None:
    """Raise InputError, before any work, if ``path`` cannot be written or is one of the inputs."""
    if isinstance(path, Remote):
        require_writable(path)
    elif path.is_dir():
        raise InputError(f"{path} is a folder", expected="the name of a file to write")
    else:
        require_replaceable(path)
        require_permission(path)
    require_elsewhere(path, *inputs)


def require_permission(path: Path) -> None:
    """Raise InputError, before any work, if nothing may be written beside ``path``."""
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {path}", got=f"no permission to write in {path.parent}")


def require_plot(path: Path | None, *inputs: Place | str | None) -> None:
    """Raise, before any work, if --plot names no page that can be written and drawn."""
    if path is None:
        return
    if path.suffix.lower() not in {".html", ".htm"}:
        raise InputError("--plot writes a page", got=path.name, expected="a name with .html")
    import_extra("matplotlib", extra="report", purpose="a page with pictures")
    require_output(path, *inputs)


def draw(plot: Path | None, title: str, measured: Measured, rows: Pairs) -> None:
    """Write the page of --plot, if it is given."""
    if plot is not None:
        from linalign_lite.survey.report.sheet import write_sheet

        write_sheet(plot, title, measured, rows, measured.verdict)


def require_elsewhere(path: Place, *inputs: Place | str | None) -> None:
    """Raise InputError if ``path`` is one of the inputs or its folder is not there."""
    if isinstance(path, Path) and not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} is not there", hint="make it first")
    for given in inputs:
        if given is not None and same_place(path, place(given)):
            raise InputError(f"{path} is an input of this command", hint="write to another file")


def make_key_folder(folder: Path, *names: str) -> list[Path]:
    """Make a private folder for keys; returns the paths of the keys, which must not exist yet."""
    if folder.is_file():
        raise InputError(f"{folder} is a file", expected="a folder, new or of other files")
    paths = [folder / name for name in names]
    for path in paths:  # before any work is done; the keys' save() checks again
        if path.exists():
            text = f"{path} is already there and is never overwritten"
            raise OutputExistsError(text, hint="choose another folder")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"cannot make the folder {folder}", got=e.strerror or str(e)) from e
    return paths


def in_folder(path: Path, name: str) -> Path:
    """Return the file ``name`` in ``path`` if that is a folder, else ``path``."""
    return path / name if path.is_dir() else path


def load_optional_map(path: Path | None) -> AffineMap | None:
    """Load the map of --map, if given."""
    from linalign_lite.core.serialization import load_map

    return None if path is None else load_map(path)
