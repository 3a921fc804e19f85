"""Parquet files: a column of vectors, a column of ids, and the rest as payload.

A file is written in segments, each on the disk before the next: an interrupted run is resumed
after the last one. docs/FORMAT.md, section 10. Needs the extra `parquet`.
"""

from __future__ import annotations

import contextlib
import io
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.core.space import MAX_DIM
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
from linalign_lite.vectors.files.parquet_pages import OtherLayout, Pages
from linalign_lite.vectors.files.parquet_template import Template, from_template, make_template
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.source import ROWS, Batch, VectorInfo, Vectors, VectorSink

SEGMENT = 16 << 20  # bytes of vectors in one row group
_BUFFER = 1 << 20  # bytes read at once of a column: without it a whole row group would be read


class Source(FileSource):
    """Rows of a Parquet file, read page by page: row groups may be larger than memory."""

    def __init__(self, location: Location) -> None:
        pq = import_arrow("pyarrow.parquet")
        self.location, self.path = location, Path(location.path)
        with open_regular(self.path), arrow_errors(location, "Parquet"):
            version = file_version(self.path)
            self._file = pq.ParquetFile(self.path, buffer_size=_BUFFER, pre_buffer=False)
            self.count = self._file.metadata.num_rows
            self._require_lengths()
            pa = import_arrow()
            schema = self._file.schema_arrow
            first = schema.empty_table()
            for batch in self._file.iter_batches(batch_size=1, use_threads=False):
                first = pa.Table.from_batches([batch])
                break
            self.columns = find_columns(location, schema, first, self.count, version)
        self.info = self.columns.info

    def _require_lengths(self) -> None:
        """Refuse lists longer than a vector can be before one is read: 1 kB may hold gigabytes."""
        for i in range(self._file.metadata.num_row_groups):
            group = self._file.metadata.row_group(i)
            most = max((group.column(j).num_values for j in range(group.num_columns)), default=0)
            if most > group.num_rows * MAX_DIM:
                raise FormatError(
                    f"{self.location} has lists that are too long",
                    got=f"{most} numbers in {group.num_rows} rows",
                    expected=f"at most {MAX_DIM} a row",
                )

    def batches(self, rows: int = ROWS, after: str = "") -> Iterator[Batch]:
        at = row_cursor(after, self.count)
        with arrow_errors(self.location, "Parquet"):
            with contextlib.suppress(OtherLayout), open_regular(self.path) as f:
                columns = self.columns
                pages = Pages(f.fileno(), self._file.metadata, columns.vectors, self.info.dim)
                for batch in self._by_pages(pages, rows, at):
                    at += len(batch)
                    yield batch
            for table in self._tables(rows, at, with_vectors=True):
                found = self.columns.batch(table, at)
                at += len(found)
                yield found

    def _by_pages(self, pages: Pages, rows: int, at: int) -> Iterator[Batch]:
        """Yield batches whose vectors are read as they stand in the file."""
        tables: deque[Any] = deque()

        def counts() -> Iterator[int]:
            for table in self._tables(rows, at, with_vectors=False):
                tables.append(table)
                yield table.num_rows

        for vectors in pages.read(at, counts()):
            found = self.columns.of_vectors(vectors, tables.popleft(), at)
            at += len(found)
            yield found

    def _tables(self, rows: int, at: int, *, with_vectors: bool) -> Iterator[Any]:
        """Yield the other columns, and the vectors, from row ``at`` on."""
        groups: list[int] = []
        skip, metadata = at, self._file.metadata
        for i in range(metadata.num_row_groups):
            n = metadata.row_group(i).num_rows
            if groups or skip < n:
                groups.append(i)
            else:
                skip -= n
        columns = self.columns
        names = [*([columns.ids] if columns.ids else []), *columns.payload]
        if with_vectors:
            names = [columns.vectors, *names]
        if not names:
            yield from _empty_tables(rows, self.count - at)
            return
        for batch in self._file.iter_batches(
            batch_size=rows, row_groups=groups, columns=names, use_threads=False
        ):
            if skip >= batch.num_rows:
                skip -= batch.num_rows
            else:
                yield batch.slice(skip)
                skip = 0

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
        self._waiting: list[Any] = []  # tables of a segment, and their vectors
        self._vectors: list[Vectors] = []
        self._rows = 0
        self._template: Template | None = None
        self._template_rows = 0
        if self._journal.entries:
            self._schema = self._footers()[0].schema.to_arrow_schema()

    def write(self, batch: Batch) -> None:
        if self._schema is None:
            self._schema = schema_of(batch, self.info, self.location.part or VECTOR_COLUMN)
        self._waiting.append(to_table(batch, self._schema, self.location))
        self._vectors.append(batch.vectors)
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
        table = import_arrow().concat_tables(self._waiting)
        vectors = np.concatenate(self._vectors)
        self._waiting, self._vectors = [], []
        vector_column = self._schema.names[1]
        with arrow_errors(self.location, "Parquet"):
            if self._template is not None and self._rows == self._template_rows:
                others = self._file_of(table.drop_columns([vector_column]))
                parts, ending = from_template(self._template, others, vectors)
            else:
                whole = self._file_of(table)
                body, ending = footer.split(whole)
                parts, ending = [body], bytes(ending)
                self._template, self._template_rows = make_template(whole, vectors), len(vectors)
        self._rows = 0
        if not self._journal.entries:
            parts.insert(0, footer.MAGIC)
        moved = footer.moved(ending, max(0, self._journal.end - len(footer.MAGIC)))
        self._journal.add(parts, moved, self._last)
        self.cursor = self._last

    def _file_of(self, table: Any) -> Any:
        """Return a Parquet file in memory of one row group."""
        out, vectors = import_arrow().BufferOutputStream(), self._schema.names[1]
        self._pq.write_table(
            table,
            out,
            row_group_size=len(table),
            use_dictionary=[name for name in table.column_names if name != vectors],
            compression=_compression(self._schema),
            write_statistics=False,
        )
        return out.getvalue()

    def _footers(self) -> list[Any]:
        files = (io.BytesIO(footer.as_file(e.footer)) for e in self._journal.entries)
        with arrow_errors(self.location, "Parquet"):
            return [self._pq.read_metadata(file) for file in files]


def _empty_tables(rows: int, left: int) -> Iterator[Any]:
    """Yield tables of ``left`` rows in all and no column."""
    pa = import_arrow()
    for at in range(0, left, rows):
        n = min(rows, left - at)
        yield pa.table({"none": pa.nulls(n)})


def _compression(schema: Any) -> dict[str, str]:
    """Vectors are stored as they are: numbers hardly shrink, and unpacking takes time."""
    vectors = schema.names[1]
    return {n: "NONE" if n == vectors else "ZSTD" for n in schema.names} | {
        f"{vectors}.list.element": "NONE"
    }
