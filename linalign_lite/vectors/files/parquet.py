"""Parquet files: a column of vectors, a column of ids, and the rest as payload.

A file is written in segments, each on the disk before the next: an interrupted run is resumed
after the last one. docs/FORMAT.md, section 10. Needs the extra `parquet`.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.atomic import open_regular
from linalign_lite.vectors.cards import write_card
from linalign_lite.vectors.columns import (
    VECTOR_COLUMN,
    arrow_errors,
    find_columns,
    import_arrow,
    schema_of,
    to_table,
)
from linalign_lite.vectors.files import parquet_footer as footer
from linalign_lite.vectors.files.common import FileSource, file_version, row_cursor
from linalign_lite.vectors.files.journal import Journal
from linalign_lite.vectors.files.parquet_claims import require_claims
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.source import ROWS, Batch, VectorInfo, VectorSink

SEGMENT = 16 << 20  # bytes of vectors in one row group
_BUFFER = 1 << 20  # bytes read at once of a column: without it a whole row group would be read


class Source(FileSource):
    """Rows of a Parquet file, a batch at a time: row groups may be larger than memory.

    What footer and pages claim is held against the file before anything is read by it.
    """

    def __init__(self, location: Location) -> None:
        pq, pa = import_arrow("pyarrow.parquet"), import_arrow()
        self.location, self.path = location, Path(location.path)
        with open_regular(self.path) as f, arrow_errors(location, "Parquet"):
            version = file_version(self.path)
            require_claims(f.fileno(), location)
            self._file = pq.ParquetFile(self.path, buffer_size=_BUFFER, pre_buffer=False)
            self.count = self._file.metadata.num_rows
            schema = self._file.schema_arrow
            first = next(self._read(1), None)
            table = schema.empty_table() if first is None else pa.Table.from_batches([first])
            self.columns = find_columns(location, schema, table, self.count, version)
        self.info = self.columns.info

    def batches(self, rows: int = ROWS, after: str = "") -> Iterator[Batch]:
        at = row_cursor(after, self.count)
        with arrow_errors(self.location, "Parquet"):
            for table in self._tables(rows, at):
                found = self.columns.batch(table, at)
                at += len(found)
                yield found
        if at != self.count:
            raise FormatError(
                f"{self.location} does not hold the rows that its footer claims",
                got=str(at),
                expected=str(self.count),
            )

    def _tables(self, rows: int, at: int) -> Iterator[Any]:
        """Yield the columns from row ``at`` on."""
        groups: list[int] = []
        skip, metadata = at, self._file.metadata
        for i in range(metadata.num_row_groups):
            n = metadata.row_group(i).num_rows
            if groups or skip < n:
                groups.append(i)
            else:
                skip -= n
        names = [self.columns.vectors, *self.columns.payload]
        names += [self.columns.ids] if self.columns.ids else []
        for batch in self._read(rows, row_groups=groups, columns=names):
            if skip >= batch.num_rows:
                skip -= batch.num_rows
            else:
                yield batch.slice(skip)
                skip = 0

    def _read(self, rows: int, **some: Any) -> Iterator[Any]:
        found: Iterator[Any] = self._file.iter_batches(batch_size=rows, use_threads=False, **some)
        return found

    def close(self) -> None:
        self._file.close()


class Sink(VectorSink):
    """A Parquet file of the columns `id`, `embedding` (or #NAME), and the payload."""

    def __init__(self, location: Location, info: VectorInfo, *, resume: bool = False) -> None:
        self._pq = import_arrow("pyarrow.parquet")
        self.location, self.info = location, info
        job = write_card(info) + info.version
        self._journal = Journal(Path(location.path), job, resume=resume)
        self.cursor = self._journal.cursor
        self._schema: Any = None
        self._waiting: list[Any] = []  # tables of a segment
        self._rows = 0
        if self._journal.entries:
            self._schema = self._footers()[0].schema.to_arrow_schema()

    def write(self, batch: Batch) -> None:
        if self._schema is None:
            self._schema = schema_of(batch, self.info, self.location.part or VECTOR_COLUMN)
        self._waiting.append(to_table(batch, self._schema, self.location))
        self._rows += len(batch)
        self._last = batch.cursor
        if self._rows * self.info.dim * 4 >= SEGMENT:
            self._write_segment()

    def finish(self) -> None:
        if not self._journal.complete:
            if self._waiting:
                self._write_segment()
            if not self._journal.entries:
                raise InputError(f"there are no vectors to write to {self.location}")
            first, *rest = self._footers()
            for other in rest:
                first.append_row_groups(other)
            end = io.BytesIO()
            first.write_metadata_file(end)
            self._journal.write_end(end.getvalue()[len(footer.MAGIC) :])
        self._journal.finish()

    def abort(self) -> None:
        self._journal.discard()

    def suspend(self) -> None:
        if self._journal.entries:
            self._journal.close()
        else:
            self.abort()

    def _write_segment(self) -> None:
        """Write a row group as a file in memory, and append what is in it."""
        pa, vectors = import_arrow(), self._schema.names[1]
        table, out = pa.concat_tables(self._waiting), pa.BufferOutputStream()
        with arrow_errors(self.location, "Parquet"):
            self._pq.write_table(
                table,
                out,
                row_group_size=len(table),
                use_dictionary=[name for name in table.column_names if name != vectors],
                compression=_compression(self._schema),
                write_statistics=False,
            )
            body, ending = footer.split(out.getvalue())
        self._waiting, self._rows = [], 0
        parts = [body] if self._journal.entries else [footer.MAGIC, body]
        moved = footer.moved(bytes(ending), max(0, self._journal.end - len(footer.MAGIC)))
        self._journal.add(parts, moved, self._last)
        self.cursor = self._last

    def _footers(self) -> list[Any]:
        files = (io.BytesIO(footer.as_file(e.footer)) for e in self._journal.entries)
        with arrow_errors(self.location, "Parquet"):
            return [self._pq.read_metadata(file) for file in files]


def _compression(schema: Any) -> dict[str, str]:
    """Vectors are stored as they are: numbers hardly shrink, and unpacking takes time."""
    vectors = schema.names[1]
    return {n: "NONE" if n == vectors else "ZSTD" for n in schema.names} | {
        f"{vectors}.list.element": "NONE"
    }
