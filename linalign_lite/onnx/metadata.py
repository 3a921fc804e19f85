"""The card in an ONNX file that linalign-lite wrote, read with neither `onnx` nor onnxruntime.

docs/FORMAT.md, section 8. Only the outermost fields of the protobuf message are read. The graph is
hashed, not parsed, so that damage is found whatever its size.
"""

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from linalign_lite.core.choices import ArtefactKind, values_of
from linalign_lite.errors import FormatError
from linalign_lite.onnx.protobuf import LENGTH_DELIMITED, VARINT, Field, fields
from linalign_lite.storage.atomic import open_regular
from linalign_lite.storage.hashing import hash_file
from linalign_lite.storage.schema import format_errors, parse, read_document

FORMAT, VERSION, KEY = "linalign-onnx", 1, "linalign"
KINDS = (*values_of(ArtefactKind), "model")
MAX_CARD = 16 << 20
_MAX_FIELDS = 4096
_BLOCK = 1 << 20  # bytes hashed at a time
_GRAPH, _METADATA = 7, 14  # fields of ModelProto


@dataclass(frozen=True)
class Metadata:
    """SHA-256 of the graph's bytes, as hex, and the metadata entries of a model."""

    graph: str
    entries: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _DataFile:
    """The file with the weights of a model that does not fit in one protobuf message."""

    file: str
    sha256: str
    size: int


def read_metadata(path: Path) -> Metadata:
    """Hash the graph and read the metadata of an ONNX file.

    Raises FormatError when the file is of another kind or damaged, InputError when it is absent.
    """
    with open_regular(path) as f:
        try:
            return _read(f)
        except ValueError as e:
            raise FormatError(
                f"{path} is not a readable ONNX file",
                got=str(e)[:120],
                hint="the file may be truncated or altered; make or copy it again",
            ) from e


def read_card(path: Path) -> dict[str, Any]:
    """The card of an ONNX file, after comparing graph and data with their digests.

    Raises FormatError when the file has no card, is altered, or is of a later version.
    """
    return check_card(path, read_metadata(path))


def check_card(path: Path, metadata: Metadata) -> dict[str, Any]:
    """Parse and check the card in the metadata of ``path``, as `read_card` does."""
    if KEY not in metadata.entries:
        raise FormatError(f"{path} has no card", expected="an ONNX file that linalign-lite wrote")
    raw = metadata.entries[KEY].encode()
    name, what = f"the card in {path}", "card of linalign-lite"
    card = read_document(raw, name, what, kind=FORMAT, version=VERSION)
    if card.get("kind") not in KINDS:
        raise FormatError(f"{name} is of an unknown kind")
    if card.get("graph") != metadata.graph:
        raise FormatError(
            f"{path}: its graph does not have the digest in its card",
            hint="the file may be altered; make or copy it again",
        )
    with format_errors(name, what):
        _check_data(path, parse(_DataFile | None, card.get("data"), "data"))
    return {**card, "format": FORMAT, "version": VERSION}


def data_file(path: Path) -> Path:
    """The path of the weights of an artefact that does not fit in one protobuf message."""
    return path.with_name(path.name + "_data")


def _check_data(path: Path, data: _DataFile | None) -> None:
    if data is None:
        return
    beside = data_file(path)
    if data.file != beside.name:
        raise FormatError(
            f"{path} has its weights in a file of another name",
            got=data.file[:100],
            expected=beside.name,
            hint="rename both files together",
        )
    usable = beside.is_file() and not beside.is_symlink()
    if not usable or beside.stat().st_size != data.size or hash_file(beside) != data.sha256:
        raise FormatError(
            f"{beside} is missing or is not the file that {path.name} was written with",
            hint="copy both files again",
        )


def _read(f: IO[bytes]) -> Metadata:
    graphs: list[str] = []
    entries: dict[str, str] = {}
    size = 0
    for count, part in enumerate(fields(f, os.fstat(f.fileno()).st_size), 1):
        if count > _MAX_FIELDS:
            raise ValueError("too many fields")
        if part.wire_type not in {VARINT, LENGTH_DELIMITED}:
            raise ValueError(f"a field of wire type {part.wire_type}")
        if part.wire_type == VARINT:
            continue
        if part.number == _GRAPH:
            graphs.append(_hash(f, part.size))
        elif part.number == _METADATA:
            size += part.size
            if size > MAX_CARD:
                raise ValueError("more metadata than is read")
            key, value = _entry(f, part)
            if key in entries:
                raise ValueError("two metadata entries of one name")
            entries[key] = value
    if len(graphs) != 1:
        raise ValueError(f"{len(graphs)} graphs")
    return Metadata(graphs[0], entries)


def _hash(f: IO[bytes], size: int) -> str:
    digest = hashlib.sha256()
    while size:
        block = f.read(min(size, _BLOCK))
        if not block:
            raise ValueError("the file ends within the graph")
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def _entry(f: IO[bytes], entry: Field) -> tuple[str, str]:
    """Key and value of a StringStringEntryProto, its fields 1 and 2."""
    found = {1: "", 2: ""}
    for part in fields(f, entry.end):
        if part.wire_type != LENGTH_DELIMITED or part.number not in found:
            raise ValueError("a metadata entry of an unknown form")
        found[part.number] = f.read(part.size).decode("utf-8")
    return found[1], found[2]
