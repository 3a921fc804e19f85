"""The manifest of a folder of states, and the entries of its shards. docs/FORMAT.md, section 5."""

import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from linalign_lite.core.space import Label, Space
from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.hashing import seal_of
from linalign_lite.storage.schema import Range, Sha256, Size, Text, parse, read_document

FORMAT = "linalign-states-folder"
VERSION = 1
MANIFEST = "manifest.json"
UNFINISHED = "unfinished.jsonl"  # in a folder that is not complete; see `writer`
MAX_SHARDS = 1 << 16
MAX_MANIFEST = 16 << 20
MAX_TEXTS = (1 << 31) - 1  # text_index is an int32
HINT = "the folder may be altered or incomplete; extract or copy it again"

Count = Annotated[int, Range(0, (1 << 48) - 1)]


@dataclass(frozen=True)
class Shard:
    """One file of a folder: the states of ``n_texts`` texts, the first of them ``first_text``."""

    file: Annotated[str, Text(most=64)]
    sha256: Sha256
    rows: Count
    first_text: Count
    n_texts: Count
    n_cut: Count

    def __post_init__(self) -> None:
        if not self.rows or not self.n_texts or self.n_cut > self.n_texts:
            raise InputError("a shard is empty, or more of its texts were cut than it has")


@dataclass(frozen=True)
class Manifest:
    """All fields of a manifest, each checked by itself; see `StatesFolder` for their agreement."""

    space: Space
    dtype: Literal["float32", "float16"]
    text_digest: Sha256  # of all texts
    n_texts: Annotated[int, Range(1, MAX_TEXTS)]
    n_cut: Count
    max_length: Count
    labels: tuple[Label, ...]
    rows: Count
    shards: Annotated[tuple[Shard, ...], Size(MAX_SHARDS, least=1)]
    library: str


def shard_name(i: int) -> str:
    return f"{i:05d}.states.npz"


def manifest_bytes(fields: Mapping[str, Any]) -> bytes:
    """Return the manifest of plain ``fields``. InputError if it is not usable."""
    raw = {**fields, "format": FORMAT, "version": VERSION}
    content = (json.dumps({**raw, "seal": seal_of(raw)}, sort_keys=True) + "\n").encode()
    if len(content) > MAX_MANIFEST:
        raise InputError("the labels and shards are too many for one folder's manifest")
    parse_manifest(MANIFEST, content)
    return content


def parse_manifest(path: object, content: bytes) -> Manifest:
    """Parse a manifest. ``path`` is named in errors. Raises InputError or FormatError."""
    fields = read_document(content, path, "manifest", kind=FORMAT, version=VERSION, sealed=True)
    return cast(Manifest, parse(Manifest, fields, "manifest"))


def regular_size(path: Path) -> int:
    """Return the size of an ordinary file; a link in a folder from outside could lead anywhere."""
    try:
        status = path.lstat()
    except OSError as e:
        raise FormatError(f"{path} is missing", got=e.strerror or str(e), hint=HINT) from e
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(f"{path} is a link, a folder or a device", expected="an ordinary file")
    return status.st_size
