"""What a folder of states says of itself: its shards, its manifest. docs/FORMAT.md, section 5."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from linalign_lite.core.space import Space
from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.hashing import seal_of
from linalign_lite.storage.schema import strict_json
from linalign_lite.version import __version__

FORMAT = "linalign-states-folder"
VERSION = 1
MANIFEST = "manifest.json"
UNFINISHED = "unfinished.jsonl"  # in a folder that is not whole yet; see `resuming`
FIELDS = ("space", "dtype", "text_digest", "n_texts", "n_cut", "max_length", "labels", "rows",
          "shards")  # fmt: skip
MAX_SHARDS = 1 << 16
MAX_MANIFEST = 16 << 20
MAX_ROWS = 1 << 48
DIGEST = re.compile("[0-9a-f]{64}")
HINT = "the folder may be altered or incomplete; extract or copy it again"


@dataclass(frozen=True)
class Shard:
    """One file of a folder: the states of ``n_texts`` texts, the first of them ``first_text``."""

    file: str
    sha256: str
    rows: int
    first_text: int
    n_texts: int
    n_cut: int

    def __post_init__(self) -> None:
        counts = (self.rows, self.first_text, self.n_texts, self.n_cut)
        if type(self.sha256) is not str or not DIGEST.fullmatch(self.sha256):
            raise InputError("a shard's digest is not usable")
        if not all(type(n) is int and 0 <= n < MAX_ROWS for n in counts):
            raise InputError("a shard's counts are not usable")
        if not self.rows or not self.n_texts or self.n_cut > self.n_texts:
            raise InputError("a shard is empty, or has more texts cut than it has")


def shard_name(i: int) -> str:
    return f"{i:05d}.states.npz"


def manifest_bytes(fields: Mapping[str, Any]) -> bytes:
    """The manifest of FIELDS. Raises InputError when it would be too large."""
    raw = {name: fields[name] for name in FIELDS}
    raw["space"] = asdict(raw["space"])
    raw["shards"] = [asdict(shard) for shard in raw["shards"]]
    raw |= {"format": FORMAT, "version": VERSION, "library": __version__}
    text = json.dumps({**raw, "seal": seal_of(raw)}, sort_keys=True) + "\n"
    if len(text) > MAX_MANIFEST:
        raise InputError("the labels and shards are too many for one folder's manifest")
    return text.encode()


def parse_manifest(path: object, content: bytes) -> dict[str, Any]:
    """FIELDS, of the types they have; that they fit together is the folder's to check.

    path: what errors name. Raises FormatError.
    """
    try:
        raw = strict_json(content)
        if raw["format"] != FORMAT:
            raise FormatError(f"{path} is not the manifest of a folder of states")
        version = raw["version"]
        if type(version) is not int or not 1 <= version <= VERSION:
            raise FormatError(f"{path}: unknown version", got=str(version)[:20])
        if raw.pop("seal") != seal_of(raw):
            raise FormatError(f"{path} does not agree with its own digest", hint=HINT)
        if set(raw) != {*FIELDS, "format", "version", "library"}:
            raise FormatError(f"{path} has unknown or missing fields")
        lists = (raw["labels"], raw["shards"])
        if not all(isinstance(value, list) for value in lists) or len(lists[1]) > MAX_SHARDS:
            raise FormatError(f"{path} has a field that is not usable")
        found = {name: raw[name] for name in FIELDS}
        found["space"] = Space.parse(raw["space"])
        found["labels"] = tuple(raw["labels"])
        found["shards"] = tuple(Shard(**entry) for entry in raw["shards"])
        return found
    except FormatError:
        raise
    except InputError as e:
        raise FormatError(f"{path}: {e}") from e
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        raise FormatError(f"{path} is not a usable manifest", got=type(e).__name__) from e


def regular_size(path: Path) -> int:
    """The size of an ordinary file; a link in a folder from outside could lead anywhere."""
    try:
        status = path.lstat()
    except OSError as e:
        raise FormatError(f"{path} is missing", got=e.strerror or str(e), hint=HINT) from e
    if not stat.S_ISREG(status.st_mode):
        raise FormatError(f"{path} is a link, a folder or a device", expected="an ordinary file")
    return status.st_size
