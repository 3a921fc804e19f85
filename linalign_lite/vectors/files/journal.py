"""An unfinished file that a killed run can continue: its data, and a journal of the parts in it.

``x.unfinished/data`` holds the parts, ``x.unfinished/journal.jsonl`` an entry for each, added
once the part is on the disk. docs/FORMAT.md, section 10.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

from linalign_lite.errors import FormatError, InputError, MismatchError
from linalign_lite.storage.atomic import require_replaceable
from linalign_lite.storage.schema import Range, Sha256, Text, format_errors, parse, strict_json

SUFFIX = ".unfinished"
MAX_LINE = 64 << 20  # bytes; a footer grows with the columns


@dataclass(frozen=True)
class _Line:
    end: Annotated[int, Range(0, 1 << 62)]
    cursor: Annotated[str, Text(1024)]
    footer: Annotated[str, Text(MAX_LINE)]


@dataclass(frozen=True)
class _Head:
    job: Sha256


@dataclass(frozen=True)
class Entry:
    """One part of the data: where it ends, the cursor of its last vector, and its footer."""

    end: int
    cursor: str
    footer: bytes


class Journal:
    """The unfinished file of ``target``. The job, any text, is what a run must share to resume it.

    complete: only the removal of the journal was left to do. Raises MismatchError when another job
    is to be resumed, InputError when another process is at work on it.
    """

    def __init__(self, target: Path, job: str, *, resume: bool) -> None:
        require_replaceable(target)
        self.target, self.folder = target, target.with_name(target.name + SUFFIX)
        self.entries: list[Entry] = []
        self.complete = False
        self._job = hashlib.sha256(job.encode()).hexdigest()
        log = self.folder / "journal.jsonl"
        if self.folder.is_symlink() or log.is_symlink():
            raise FormatError(f"{self.folder} holds or is a link", hint="remove it to start again")
        try:
            self.folder.mkdir(exist_ok=True)
            self._log = log.open("a+b")
        except OSError as e:
            raise InputError(
                f"cannot write {target}",
                got=e.strerror or str(e),
                hint="does the folder exist, and may you write there?",
            ) from e
        try:
            _lock(self._log, target)
            if resume:
                self._read()
            self._begin()
        except BaseException:
            self._log.close()
            raise

    @property
    def cursor(self) -> str:
        return self.entries[-1].cursor if self.entries else ""

    @property
    def end(self) -> int:
        """Bytes of data that the entries describe."""
        return self.entries[-1].end if self.entries else 0

    def add(self, data: Sequence[Any], footer: bytes, cursor: str) -> None:
        """Append buffers of bytes; the entry is written when they are on the disk."""
        self._append(data)
        size = sum(memoryview(part).nbytes for part in data)
        entry = Entry(self.end + size, cursor, footer)
        text = base64.b64encode(footer).decode()
        line = json.dumps({"end": entry.end, "cursor": cursor, "footer": text})
        self._log.write(line.encode() + b"\n")
        self._log.flush()
        os.fsync(self._log.fileno())
        self.entries.append(entry)

    def write_end(self, data: bytes) -> None:
        """Append what makes the data a file, and give it its name."""
        self._append([data])
        self._data.close()
        (self.folder / "data").replace(self.target)

    def finish(self) -> None:
        """Remove the journal."""
        self._log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        """Leave everything as it is, to be resumed."""
        self._log.close()
        if not self.complete:
            self._data.close()

    def discard(self) -> None:
        """Remove data and journal, unless they are finished."""
        if not self._log.closed:
            self.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _append(self, data: Sequence[Any]) -> None:
        for part in data:
            self._data.write(part)
        self._data.flush()
        os.fsync(self._data.fileno())

    def _read(self) -> None:
        """Read the entries of an earlier run; a last one that is not whole is left out."""
        self._log.seek(0)
        *lines, cut = self._log.read().split(b"\n")
        self._whole = self._log.tell() - len(cut)
        with format_errors(self.folder, "journal", hint="remove it to start again"):
            job = parse(_Head, strict_json(lines[0])).job if lines else self._job
            for raw in lines[1:]:
                line = parse(_Line, strict_json(raw))
                footer = base64.b64decode(line.footer, validate=True)
                self.entries.append(Entry(line.end, line.cursor, footer))
        if job != self._job:
            raise MismatchError(
                f"{self.folder} was left by another command",
                hint="give the same inputs and options, or remove it to start again",
            )

    def _begin(self) -> None:
        """Cut the data to what the entries describe, or begin anew."""
        data = self.folder / "data"
        self.complete = bool(self.entries) and not data.exists() and self.target.exists()
        if self.complete:
            return
        if data.is_symlink() or (self.entries and not data.is_file()):
            raise FormatError(f"{data} is not there", hint=f"remove {self.folder} to start again")
        self._data = data.open("r+b" if self.entries else "wb")
        if self._data.seek(0, os.SEEK_END) < self.end:
            self._data.close()
            raise FormatError(f"{data} ends early", hint=f"remove {self.folder} to start again")
        self._data.truncate(self.end)
        self._data.seek(self.end)
        self._log.truncate(self._whole if self.entries else 0)
        if not self.entries:
            self._log.write(json.dumps({"job": self._job}).encode() + b"\n")
            self._log.flush()


def _lock(log: IO[bytes], target: Path) -> None:
    with contextlib.suppress(ImportError):  # Windows has no such lock
        import fcntl

        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            hint = "let it finish"
            raise InputError(f"another process is at work on {target}", hint=hint) from e
