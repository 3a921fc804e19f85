"""Compute SHA-256 digests of files and of JSON documents. docs/FORMAT.md."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def hash_file(path: Path) -> str:
    """Compute the SHA-256 digest of a file, in hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def seal_of(raw: Mapping[str, Any]) -> str:
    """Compute the digest of all fields but "seal". It detects damage, not forgery."""
    rest = {key: value for key, value in raw.items() if key != "seal"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
