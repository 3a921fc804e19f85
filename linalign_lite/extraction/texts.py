"""Read texts and their labels, if any, from .txt, .jsonl, .csv, .parquet or standard input.

A file is read as a stream of rows, `.gz` and `.zst` unpacked: `read_texts` keeps all rows,
`corpus.read_corpus` none.
"""

import contextlib
import csv
import io
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from linalign_lite.core.choices import TextFormat, values_of
from linalign_lite.core.hidden_states import text_digest
from linalign_lite.core.space import usable_label
from linalign_lite.errors import InputError
from linalign_lite.extraction.compressed_text import MAX_TEXT, PACKED, lines, open_bytes

FORMATS = values_of(TextFormat)
DELIMITERS = ",;\t"  # of a .csv, the first that gives its header the text's column


@dataclass(frozen=True)
class Fields:
    """Names of the fields, or columns, of text and label; no label is read where it is None.

    A label's field other than `label` must be there.
    """

    text: str = "text"
    label: str | None = "label"

    @property
    def label_required(self) -> bool:
        """True if rows without a label are refused."""
        return self.label not in (None, "label")


DEFAULT = Fields()


@dataclass(frozen=True)
class Texts:
    """Texts in file order. ``labels``: none, or one per text. ``n_blank``: skipped blank lines."""

    texts: tuple[str, ...]
    labels: tuple[str, ...] = ()
    n_blank: int = 0

    def __post_init__(self) -> None:
        if len(self.labels) not in {0, len(self.texts)}:
            raise InputError(
                "the labels do not fit the texts",
                got=f"{len(self.labels)} labels",
                expected=f"none, or {len(self.texts)}",
            )

    @property
    def digest(self) -> str:
        """SHA-256 of the texts, in order, without labels."""
        return text_digest(self.texts)

    def label_ids(self) -> tuple[tuple[str, ...], npt.NDArray[np.int32] | None]:
        """Distinct labels, sorted, and each text's index into them; ((), None) without labels."""
        if not self.labels:
            return (), None
        names = tuple(sorted(set(self.labels)))
        index = {name: i for i, name in enumerate(names)}
        return names, np.array([index[label] for label in self.labels], dtype=np.int32)


def read_texts(
    path: str,
    *,
    fmt: str = "auto",
    limit: int | None = None,
    separator: str | None = None,
    fields: Fields = DEFAULT,
) -> Texts:
    """Read ``path`` ("-" is standard input).

    ``txt``: one text per line. ``jsonl``: objects with `text` and optionally `label`, or with the
    ``fields`` named. ``csv``: a header with these columns, separated by commas, semicolons or tabs.
    ``parquet``: these columns, with the extra `parquet`. "auto" takes the file's ending (standard
    input: txt). A text file may be packed: .txt.gz, .jsonl.zst. Blank lines are skipped, and
    counted except those of a csv.

    With a ``separator``, the texts of a txt are separated by lines equal to it: line breaks inside
    a text are kept, those around it dropped, and blank texts skipped and counted.
    Raises InputError for an empty file, bytes that are not UTF-8, a row without usable text, and
    labels on some rows only, naming the line; and for a separator that is not one line, or that is
    given for another format.
    """
    texts: list[str] = []
    labels: list[str | None] = []
    n_blank = 0
    rows = read_rows(path, fmt=fmt, limit=limit, separator=separator, fields=fields)
    for text, label in rows:
        if text is None:
            n_blank += 1
            continue
        texts.append(text)
        labels.append(label)
    return Texts(tuple(texts), tuple(x for x in labels if x is not None), n_blank)


Row = tuple[int, str | None, str | None]  # line, text (None: a blank line), label
Lines = Iterator[tuple[int, str]]


def read_rows(
    path: str,
    *,
    fmt: str = "auto",
    limit: int | None = None,
    separator: str | None = None,
    fields: Fields = DEFAULT,
) -> Iterator[tuple[str | None, str | None]]:
    """Yield (text, label) of each row, (None, None) for a blank line; see `read_texts`."""
    kind = _kind(path, fmt)
    if separator is not None:
        _require_separator(separator, kind)
    if kind == "txt" and fields not in (DEFAULT, Fields(label=None)):
        raise InputError("a .txt has no fields", got=path, hint="leave their names out")
    count, labelled = 0, False
    with _rows(path, kind, separator, fields) as rows:
        for line, text, label in rows:
            if text is None:
                yield None, None
                continue
            if limit is not None and count >= limit:
                return
            if not count:
                labelled = label is not None
            elif (label is not None) != labelled:
                raise InputError(
                    f"{path}, line {line}: a label is missing",
                    got="rows with a label and rows without",
                    expected="a label on every row, or on none",
                )
            count += 1
            yield text, label
    if not count:
        raise InputError(f"{path} holds no text", expected="at least one line that is not blank")


@contextlib.contextmanager
def _rows(path: str, kind: str, separator: str | None, fields: Fields) -> Iterator[Iterator[Row]]:
    if kind == "parquet":
        yield _parquet(path, fields)
        return
    with open_bytes(path) as f:
        found = lines(path, f)
        if separator is not None:
            yield _separated(path, found, separator)
        elif kind == "txt":
            yield _txt(found)
        else:
            yield {"jsonl": _jsonl, "csv": _csv}[kind](path, found, fields)


def _parquet(path: str, fields: Fields) -> Iterator[Row]:
    from linalign_lite.extraction.parquet import read_columns

    rows = read_columns(path, fields.text, fields.label, required=fields.label_required)
    for number, (text, label) in enumerate(rows, 1):
        yield number, _text(path, number, text, fields), _label(path, number, label, fields)


def _txt(found: Lines) -> Iterator[Row]:
    for number, line in found:
        yield number, line.rstrip("\r\n") if line.strip() else None, None


def _separated(path: str, found: Lines, separator: str) -> Iterator[Row]:
    """Texts of several lines. No line after the last separator is no blank text."""
    start, parts, size = 1, [], 0
    for number, line in found:
        if line.rstrip("\r\n") != separator:
            parts.append(line)
            size += len(line)
            if size > MAX_TEXT:
                raise InputError(
                    f"{path}: the text from line {start} on is too long",
                    expected=f"at most {MAX_TEXT} characters",
                )
            continue
        yield start, _joined(parts), None
        start, parts, size = number + 1, [], 0
    if parts:
        yield start, _joined(parts), None


def _joined(parts: list[str]) -> str | None:
    text = "".join(parts).strip("\r\n")
    return text if text.strip() else None


def _require_separator(separator: str, kind: str) -> None:
    if kind != "txt":
        raise InputError("a separator is for txt only", got=kind, hint="leave it out")
    if not separator or not {"\r", "\n"}.isdisjoint(separator):
        raise InputError(
            "the separator is not usable",
            got="nothing" if not separator else "more than one line",
            expected="one line, such as <|endoftext|>",
        )


def _jsonl(path: str, found: Lines, fields: Fields) -> Iterator[Row]:
    for number, line in found:
        if not line.strip():
            yield number, None, None
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:  # ValueError: too many digits, too
            raise InputError(
                f"{path}, line {number} is not JSON", hint="one object per line"
            ) from e
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number} is not a JSON object", got=type(row).__name__)
        label = row.get(fields.label) if fields.label else None
        text = row.get(fields.text)
        yield number, _text(path, number, text, fields), _label(path, number, label, fields)


def _csv(path: str, found: Lines, fields: Fields) -> Iterator[Row]:
    csv.field_size_limit(MAX_TEXT)  # the library's own limit would cut at 131,072 characters
    # in CSV, a lone \r ends a line
    pieces = (piece for _, line in found for piece in io.StringIO(line, newline=""))
    header = next(pieces, "")
    reader = csv.DictReader(
        itertools.chain([header], pieces), strict=True, delimiter=_delimiter(header, fields.text)
    )
    try:
        names = list(reader.fieldnames or [])
        wanted = [fields.text, *([fields.label or ""] if fields.label_required else [])]
        for column in wanted:
            if column not in names:
                raise InputError(
                    f"{path} has no column `{column}`",
                    got=", ".join(str(name)[:40] for name in names[:8]) or "no header",
                    expected="a header line with `text`, and `label` if there are labels",
                    hint="name other columns with --text-field and --label-field",
                )
        for column in (fields.text, fields.label or ""):
            if names.count(column) > 1:
                raise InputError(f"{path} has more than one column `{column}`")
        for row in reader:
            number = reader.line_num
            label = (row.get(fields.label) or None) if fields.label else None
            text = row[fields.text]
            yield number, _text(path, number, text, fields), _label(path, number, label, fields)
    except csv.Error as e:
        raise InputError(f"{path}, line {reader.line_num} is not CSV", got=str(e)) from e


def _delimiter(header: str, column: str) -> str:
    """The delimiter by which the header has this column; a comma if none gives it."""
    with contextlib.suppress(csv.Error):  # which the reader of the rows will raise
        for delimiter in DELIMITERS:
            if column in next(csv.reader([header], delimiter=delimiter), []):
                return delimiter
    return ","


def _text(path: str, number: int, value: object, fields: Fields) -> str:
    if not isinstance(value, str) or not value.strip():
        got = "nothing" if value is None else "blank" if isinstance(value, str) else "no string"
        raise InputError(
            f"{path}, line {number} has no usable text",
            got=got,
            expected=f"a string in `{fields.text}`",
            hint="" if fields.text != "text" else "name another field with --text-field",
        )
    try:
        value.encode()
    except UnicodeEncodeError as e:  # JSON can escape what UTF-8 cannot encode
        raise InputError(f"{path}, line {number} has half of a surrogate pair in its text") from e
    return value


def _label(path: str, number: int, value: object, fields: Fields) -> str | None:
    if value is None:
        if fields.label_required:
            raise InputError(f"{path}, line {number} has no `{fields.label}`")
        return None
    # a number is a name: 3 and "3" are the same label
    label = str(value) if type(value) is int else value
    if not isinstance(label, str) or not usable_label(label):
        raise InputError(
            f"{path}, line {number}: the label is not usable",
            got=type(value).__name__,
            expected="a whole number, or a printable string of 1 to 256 characters",
        )
    return label


def _kind(path: str, fmt: str) -> str:
    if fmt not in ("auto", *FORMATS):
        raise InputError("unknown format", got=fmt, expected=", ".join(FORMATS))
    if fmt != "auto":
        return fmt
    if path == "-":
        return "txt"
    name = Path(path)
    if name.is_dir():
        raise InputError(f"{path} is a folder", expected="a file of texts", hint="name the file")
    ending = Path(name.stem if name.suffix.lower() in PACKED else name).suffix.lower().lstrip(".")
    if ending not in FORMATS:
        raise InputError(
            f"cannot tell the format of {path}",
            got=f".{ending}" if ending else "no ending",
            expected="a file that ends in .txt, .jsonl, .csv or .parquet, and perhaps .gz or .zst",
            hint="or name it with --format",
        )
    return ending
