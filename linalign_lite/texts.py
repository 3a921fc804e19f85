"""Read texts, and labels where there are any, from .txt, .jsonl, .csv or standard input."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from linalign_lite.errors import InputError
from linalign_lite.files import open_regular
from linalign_lite.hidden import text_digest
from linalign_lite.linear import usable_label

FORMATS = ("txt", "jsonl", "csv")


@dataclass(frozen=True)
class Texts:
    """Texts in file order. ``labels`` is empty, or has one label a text. ``n_blank``: skipped."""

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
        return text_digest(self.texts)

    def label_ids(self) -> tuple[tuple[str, ...], npt.NDArray[np.int32] | None]:
        """The distinct labels, sorted, and each text's index into them; ((), None) without."""
        if not self.labels:
            return (), None
        names = tuple(sorted(set(self.labels)))
        index = {name: i for i, name in enumerate(names)}
        return names, np.array([index[label] for label in self.labels], dtype=np.int32)


def read_texts(
    path: str, *, fmt: str = "auto", limit: int | None = None, separator: str | None = None
) -> Texts:
    """Read ``path`` ("-" is standard input).

    ``txt``: a text a line. ``jsonl``: objects with `text` and optionally `label`. ``csv``: a header
    with a column `text` and optionally `label`. "auto" goes by the file's ending (standard input:
    txt). Blank lines are skipped, and counted but for those of a csv.

    With a ``separator``, the texts of a txt are what stands between lines that equal it: line
    breaks inside are kept, those around a text dropped, and blank texts skipped and counted.

    Raises InputError for an empty file, bytes that are not UTF-8, a row without usable text, and a
    label that only some rows have, naming the line; and for a separator that is no line, or that is
    given for another format.
    """
    kind = _kind(path, fmt)
    if separator is not None:
        _require_separator(separator, kind)
    content = _decode(path, _read(path))
    if separator is not None:
        rows = _separated(content, separator)
    else:
        rows = {"txt": _txt, "jsonl": _jsonl, "csv": _csv}[kind](path, content)
    texts: list[str] = []
    labels: list[str | None] = []
    n_blank = 0
    for line, text, label in rows:
        if text is None:
            n_blank += 1
            continue
        if limit is not None and len(texts) >= limit:
            break
        texts.append(text)
        if labels and (label is None) != (labels[0] is None):
            raise InputError(
                f"{path}, line {line}: a label is missing",
                got="rows with a label and rows without",
                expected="a label on every row, or on none",
            )
        labels.append(label)
    if not texts:
        raise InputError(f"{path} holds no text", expected="at least one line that is not blank")
    return Texts(tuple(texts), tuple(x for x in labels if x is not None), n_blank)


Row = tuple[int, str | None, str | None]  # line, text (None: a blank line), label


def _txt(_path: str, content: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(content), 1):
        yield number, line if line.strip() else None, None


def _separated(content: str, separator: str) -> Iterator[Row]:
    """Texts of several lines. Nothing at all after the last separator is not a blank text."""
    start, lines = 1, []
    for number, line in enumerate(io.StringIO(content, newline="\n"), 1):
        if line.rstrip("\r\n") != separator:
            lines.append(line)
            continue
        yield start, _joined(lines), None
        start, lines = number + 1, []
    if lines:
        yield start, _joined(lines), None


def _joined(lines: list[str]) -> str | None:
    text = "".join(lines).strip("\r\n")
    return text if text.strip() else None


def _require_separator(separator: str, kind: str) -> None:
    if kind != "txt":
        raise InputError("a separator is for txt only", got=kind, hint="leave it out")
    if not separator or not {"\r", "\n"}.isdisjoint(separator):
        raise InputError(
            "the separator is not usable",
            got="nothing" if not separator else "more than a line",
            expected="a line, such as <|endoftext|>",
        )


def _jsonl(path: str, content: str) -> Iterator[Row]:
    for number, line in enumerate(_lines(content), 1):
        if not line.strip():
            yield number, None, None
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:  # a number of 5,000 digits is a ValueError
            raise InputError(f"{path}, line {number} is not JSON", hint="one object a line") from e
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number} is not a JSON object", got=type(row).__name__)
        yield number, _text(path, number, row.get("text")), _label(path, number, row.get("label"))


def _csv(path: str, content: str) -> Iterator[Row]:
    csv.field_size_limit(1 << 30)  # the library's own limit would cut at 131,072 characters
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    try:
        fields = reader.fieldnames or []
        if "text" not in fields:
            raise InputError(
                f"{path} has no column `text`",
                got=", ".join(str(name)[:40] for name in fields[:8]) or "no header",
                expected="a header line with `text`, and `label` where there are labels",
            )
        for column in ("text", "label"):
            if list(fields).count(column) > 1:
                raise InputError(f"{path} has more than one column `{column}`")
        for row in reader:
            number = reader.line_num
            label = row.get("label") or None
            yield number, _text(path, number, row["text"]), _label(path, number, label)
    except csv.Error as e:
        raise InputError(f"{path}, line {reader.line_num} is not CSV", got=str(e)) from e


def _text(path: str, number: int, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        got = "nothing" if value is None else "blank" if isinstance(value, str) else "no string"
        raise InputError(
            f"{path}, line {number} has no usable text", got=got, expected="a string in `text`"
        )
    if any("\ud800" <= c <= "\udfff" for c in value):  # JSON can say what UTF-8 cannot
        raise InputError(f"{path}, line {number} has half of a surrogate pair in its text")
    return value


def _label(path: str, number: int, value: object) -> str | None:
    if value is None:
        return None
    # numbers are names here: 3 and "3" are the same label
    label = str(value) if type(value) is int else value
    if not isinstance(label, str) or not usable_label(label):
        raise InputError(
            f"{path}, line {number}: the label is not usable",
            got=type(value).__name__,
            expected="a whole number, or a printable string of 1 to 256 characters",
        )
    return label


def _lines(content: str) -> Iterator[str]:
    """Lines ended by \\n or \\r\\n only: U+2028 and friends may stand inside a text."""
    for line in io.StringIO(content, newline="\n"):
        yield line.rstrip("\r\n")


def _kind(path: str, fmt: str) -> str:
    if fmt != "auto":
        if fmt not in FORMATS:
            raise InputError("unknown format", got=fmt, expected=", ".join(FORMATS))
        return fmt
    if path == "-":
        return "txt"
    ending = Path(path).suffix.lower().lstrip(".")
    if ending not in FORMATS:
        raise InputError(
            f"cannot tell the format of {path}",
            got=f".{ending}" if ending else "no ending",
            expected="a file that ends in .txt, .jsonl or .csv",
            hint="or say it with --format",
        )
    return ending


def _read(path: str) -> bytes:
    if path == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed", expected="texts, a line each")
        return sys.stdin.buffer.read()
    with open_regular(path) as f:
        return f.read()


def _decode(path: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = raw.count(b"\n", 0, e.start) + 1
        raise InputError(
            f"{path}, line {line} is not UTF-8",
            got=f"byte 0x{raw[e.start]:02x} at offset {e.start}",
            hint="convert the file, for instance with iconv -t utf-8",
        ) from e
