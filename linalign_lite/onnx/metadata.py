"""What an ONNX file of ours says of itself, read with neither `onnx` nor onnxruntime.

docs/FORMAT.md, section 8. A walk over the outermost fields of the protobuf: the graph is hashed,
not parsed, so that damage is found whatever the size, and nothing in it is believed.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from linalign_lite.errors import FormatError
from linalign_lite.storage.atomic import open_regular
from linalign_lite.storage.hashing import hash_file
from linalign_lite.storage.schema import strict_json

FORMAT, VERSION, KEY = "linalign-onnx", 1, "linalign"
KINDS = ("map", "head", "model")
MAX_CARD = 16 << 20
_MAX_FIELDS = 4096
_PIECE = 1 << 20
_IR, _GRAPH, _OPSET, _PROPS = 1, 7, 8, 14  # fields of ModelProto


@dataclass
class Scan:
    """The outermost fields that matter. ``graph``: SHA-256 of the graph's bytes, hexadecimal."""

    size: int
    graph: str = ""
    props: dict[str, str] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        return KEY in self.props


def scan(path: Path) -> Scan:
    """Walk over an ONNX file. FormatError when it is none or is damaged; InputError if absent."""
    with open_regular(path) as f:
        found = Scan(os.fstat(f.fileno()).st_size)
        try:
            _walk(f, found)
        except (ValueError, UnicodeDecodeError) as e:
            raise FormatError(
                f"{path} is not a readable ONNX file",
                got=str(e)[:120],
                hint="the file may be truncated or altered; make or copy it again",
            ) from e
    return found


def read_card(path: Path) -> dict[str, Any]:
    """The card of an ONNX file of ours, after comparing graph and data with their digests.

    Raises FormatError when the file is somebody else's, altered, or of a later version.
    """
    return checked_card(path, scan(path))


def checked_card(path: Path, found: Scan) -> dict[str, Any]:
    """As `read_card`, of a file that was walked over already."""
    if not found.is_ours:
        raise FormatError(f"{path} has no card", expected="an ONNX file that linalign-lite wrote")
    try:
        card = strict_json(found.props[KEY].encode())
    except (ValueError, RecursionError) as e:
        raise FormatError(f"{path}: its card is not JSON") from e
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        raise FormatError(f"{path}: its card is not one of linalign-lite's")
    version = card.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise FormatError(
            f"{path}: unknown version", got=str(version)[:20], expected=f"at most {VERSION}"
        )
    if card.get("kind") not in KINDS:
        raise FormatError(f"{path}: its card is of an unknown kind")
    if card.get("graph") != found.graph:
        raise FormatError(
            f"{path}: its graph does not have the digest that its card says",
            hint="the file may be altered; make or copy it again",
        )
    _check_data(path, card.get("data"))
    return card


def data_file(path: Path) -> Path:
    """Where the weights of an artefact stand that does not fit in one protobuf."""
    return path.with_name(path.name + "_data")


def _check_data(path: Path, data: Any) -> None:
    if data is None:
        return
    beside = data_file(path)
    if not isinstance(data, dict) or set(data) != {"file", "sha256", "size"}:
        raise FormatError(f"{path}: its card does not say what its data file is")
    if data["file"] != beside.name:
        raise FormatError(
            f"{path} has its weights in a file of another name",
            got=str(data["file"])[:100],
            expected=beside.name,
            hint="rename both files together",
        )
    usable = beside.is_file() and not beside.is_symlink()
    if not usable or beside.stat().st_size != data["size"] or hash_file(beside) != data["sha256"]:
        raise FormatError(
            f"{beside} is missing or is not the file that {path.name} was written with",
            hint="copy both files again",
        )


def _walk(f: IO[bytes], found: Scan) -> None:
    cards = graphs = 0
    for _ in range(_MAX_FIELDS):
        if f.tell() == found.size:
            break
        number, kind = divmod(_varint(f), 8)
        if kind == 0:
            _varint(f)
            continue
        if kind != 2:
            raise ValueError(f"a field of kind {kind}")
        size = _varint(f)
        if size > found.size - f.tell():
            raise ValueError("a field is longer than the file")
        if number == _GRAPH:
            graphs += 1
            found.graph = _hash(f, size)
        elif number == _PROPS:
            cards += size
            if cards > MAX_CARD:
                raise ValueError("more metadata than is read")
            _property(f.read(size), found.props)
        else:
            f.seek(size, os.SEEK_CUR)
    else:
        raise ValueError("too many fields")
    if graphs != 1:
        raise ValueError(f"{graphs} graphs")


def _hash(f: IO[bytes], size: int) -> str:
    digest = hashlib.sha256()
    while size:
        piece = f.read(min(size, _PIECE))
        if not piece:
            raise ValueError("the file ends within the graph")
        digest.update(piece)
        size -= len(piece)
    return digest.hexdigest()


def _property(raw: bytes, props: dict[str, str]) -> None:
    """A StringStringEntryProto: field 1 is the key, field 2 the value."""
    import io

    f, found = io.BytesIO(raw), {1: "", 2: ""}
    while f.tell() < len(raw):
        number, kind = divmod(_varint(f), 8)
        if kind != 2 or number not in found:
            raise ValueError("a metadata entry of an unknown form")
        size = _varint(f)
        if size > len(raw) - f.tell():
            raise ValueError("a metadata entry is longer than its field")
        found[number] = f.read(size).decode("utf-8")
    if found[1] in props:
        raise ValueError("two metadata entries of one name")
    props[found[1]] = found[2]


def _varint(f: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = f.read(1)
        if not byte:
            raise ValueError("the file ends within a number")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("a number of more than ten bytes")
