"""Files, in common: versions, cursors, and sinks that write a file whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import IO

from linalign_lite.errors import InputError
from linalign_lite.storage.atomic import atomic, open_regular
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.source import VectorInfo, VectorSink, VectorSource


def file_version(path: Path) -> str:
    """Return what changes when a file is written: its size and time."""
    status = path.stat()
    return f"{status.st_size}-{status.st_mtime_ns}"


def row_cursor(after: str, count: int) -> int:
    """Return the number of rows before a cursor of a file. Raises InputError for another."""
    if after and not (after.isdecimal() and int(after) <= count):
        raise InputError("the cursor is not of this file", got=after[:40], expected=f"0 to {count}")
    return int(after or 0)


class FileSource(VectorSource):
    """Base of sources of one file, ``path``, whose size and time are the version."""

    path: Path

    def current(self) -> VectorInfo:
        with open_regular(self.path):  # InputError when it is gone
            return dataclasses.replace(self.info, version=file_version(self.path))


class FileSink(VectorSink):
    """Base of sinks of one file, which gets its name when it is complete."""

    def __init__(self, location: Location, info: VectorInfo) -> None:
        self.location, self.info, self.rows = location, info, 0
        self._open = contextlib.ExitStack()
        self.file: IO[bytes] = self._open.enter_context(atomic(location.path))

    def finish(self) -> None:
        if not self.rows:
            raise InputError(f"there are no vectors to write to {self.location}")
        self.complete()
        self._open.close()

    def complete(self) -> None:
        """Write what stands after the last vector, or is known only then."""

    def abort(self) -> None:
        # as an error in the block would: the unfinished file is removed; empty after `finish`
        self._open.__exit__(InterruptedError, InterruptedError(), None)
