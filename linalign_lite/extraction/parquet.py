"""Columns of texts and labels of a Parquet file, a few rows at a time; extra `parquet`."""

from collections.abc import Iterator
from typing import Any

from linalign_lite.errors import FormatError, InputError, import_extra
from linalign_lite.storage.places import opened

ROWS = 1024  # read at a time
MAX_GROUP = 1 << 30  # bytes of a column in one row group, unpacked


def read_columns(
    path: str, text: str = "text", label: str | None = "label", *, required: bool = False
) -> Iterator[tuple[object, object]]:
    """(text, label) of each row by the columns' names, label None without such a column.

    Raises MissingExtraError without pyarrow, FormatError for a file that is not Parquet or whose
    row groups unpack to more than MAX_GROUP, InputError for missing columns and other types.
    """
    pa, pq = (
        import_extra(module, extra="parquet", purpose="reading Parquet")
        for module in ("pyarrow", "pyarrow.parquet")
    )
    with opened(path) as f:
        try:
            file = pq.ParquetFile(f)
            columns = _columns(path, file.schema_arrow, pa.types, text, label)
            if required and len(columns) < 2:
                raise InputError(f"{path} has no column `{label}`")
            _require_groups(path, file.metadata, columns)
            for batch in file.iter_batches(batch_size=ROWS, columns=columns, use_threads=False):
                found = [batch.column(name).to_pylist() for name in columns]
                labels = found[1] if len(found) > 1 else [None] * batch.num_rows
                yield from zip(found[0], labels, strict=True)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as e:
            raise FormatError(f"{path} is not usable Parquet", got=str(e)[:160]) from e


def _columns(path: str, schema: Any, types: Any, text: str, label: str | None) -> list[str]:
    names = list(schema.names)
    if names.count(text) != 1 or names.count(label) > 1:
        raise InputError(
            f"{path} needs one column `{text}`, and one `{label}` where there are labels",
            got=", ".join(str(name)[:40] for name in names[:8]),
            hint="name other columns with --text-field and --label-field",
        )
    columns = [text, *([label] if label is not None and label in names else [])]
    for name in columns:
        kind = schema.field(name).type
        kind = kind.value_type if types.is_dictionary(kind) else kind
        string = types.is_string(kind) or types.is_large_string(kind)
        if not string and not (name == label and types.is_integer(kind)):
            raise InputError(f"{path}: column `{name}` has another type", got=str(kind)[:40])
    return columns


def _require_groups(path: str, metadata: Any, columns: list[str]) -> None:
    """Check the stated unpacked size of each row group; pages are unpacked one at a time."""
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        for j in range(group.num_columns):
            column = group.column(j)
            size = column.total_uncompressed_size
            if column.path_in_schema in columns and not 0 <= size <= MAX_GROUP:
                raise FormatError(
                    f"{path}: row group {i} is too large",
                    got=f"{size} bytes",
                    expected=f"at most {MAX_GROUP}",
                    hint="write it with smaller row groups",
                )
