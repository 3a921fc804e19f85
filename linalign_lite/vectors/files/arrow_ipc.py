"""Arrow files (`.arrow`, Feather), as files or streams: columns as in Parquet. Extra `parquet`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from linalign_lite.storage.atomic import open_regular
from linalign_lite.vectors.columns import (
    VECTOR_COLUMN,
    arrow_errors,
    find_columns,
    import_arrow,
    schema_of,
    to_table,
)
from linalign_lite.vectors.files.common import FileSink, FileSource, file_version, row_cursor
from linalign_lite.vectors.locations import Location
from linalign_lite.vectors.source import ROWS, Batch, VectorInfo

_MAGIC = b"ARROW1"  # of a file; a stream, as the Hugging Face datasets library writes, has none


class Source(FileSource):
    """Rows of an Arrow file or stream, one record batch in memory at a time."""

    def __init__(self, location: Location) -> None:
        self.location, self.path = location, Path(location.path)
        pa = import_arrow()
        with open_regular(self.path), arrow_errors(location, "Arrow"):
            version = file_version(self.path)
            count, first = 0, None
            for batch in self._read():
                count += batch.num_rows
                if not first and batch.num_rows:
                    first = pa.Table.from_batches([batch.slice(0, 1)])
                schema = batch.schema
            if first is None:
                first = pa.table({})
                schema = first.schema
            self.columns = find_columns(location, schema, first, count, version)
        self.count, self.info = count, self.columns.info

    def batches(self, rows: int = ROWS, after: str = "") -> Iterator[Batch]:
        skip = at = row_cursor(after, self.count)
        with arrow_errors(self.location, "Arrow"):
            for whole in self._read():
                batch = whole.slice(min(skip, whole.num_rows))
                skip -= whole.num_rows - batch.num_rows
                for start in range(0, batch.num_rows, rows):
                    found = self.columns.batch(batch.slice(start, rows), at)
                    at += len(found)
                    yield found

    def _read(self) -> Iterator[Any]:
        """Yield the record batches, each checked: offsets from outside could point anywhere."""
        ipc = import_arrow("pyarrow.ipc")
        with open_regular(self.path) as f:
            whole = f.read(len(_MAGIC)) == _MAGIC
            f.seek(0)
            reader = ipc.open_file(f) if whole else ipc.open_stream(f)
            parts = map(reader.get_batch, range(reader.num_record_batches)) if whole else reader
            for batch in parts:
                batch.validate(full=True)
                yield batch


class Sink(FileSink):
    """An Arrow file of the columns `id`, `embedding` (or #NAME), and the payload."""

    def __init__(self, location: Location, info: VectorInfo, *, resume: bool = False) -> None:  # noqa: ARG002 (starts again)
        self._ipc = import_arrow("pyarrow.ipc")
        super().__init__(location, info)
        self._writer: Any = None
        self._schema: Any = None

    def write(self, batch: Batch) -> None:
        if self._writer is None:
            self._schema = schema_of(batch, self.info, self.location.part or VECTOR_COLUMN)
            self._writer = self._ipc.new_file(self.file, self._schema)
        self._writer.write_table(to_table(batch, self._schema, self.location))
        self.rows += len(batch)

    def complete(self) -> None:
        self._writer.close()
