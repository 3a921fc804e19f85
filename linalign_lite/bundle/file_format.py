"""What may be in a bundle, and under which name. docs/FORMAT.md, section 7."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

from linalign_lite.bundle.wheels import Platform, Wheel, require_fit
from linalign_lite.encrypt.wire import MAGIC
from linalign_lite.errors import FormatError, InputError
from linalign_lite.extraction.model_card import CARD_FILE, DIGESTED, HEAD_FILE
from linalign_lite.storage.schema import strict_json

FORMAT = "linalign-bundle"
VERSION = 1
KIND = 7  # beside those of encrypt.wire.Kind
HEAD = struct.Struct("<8sHHI32s")  # magic, version, kind, size of the manifest, public key
SIGNATURE = 64
MAX_MANIFEST = 4 << 20
MAX_FILES = 4096
MAX_FILE, MAX_TOTAL = 1 << 40, 1 << 41
MAX_NOTE = 256
FOLDERS = {
    "map": "maps", "head": "heads", "detector": "detectors", "model": "models",
    "public-key": "keys", "signer": "signers", "wheel": "wheelhouse",
}  # fmt: skip
UNSET = "0" * 64  # a digest that is not known yet
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}(?<!\.)")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9]|conin|conout|clock)(\.|$)", re.IGNORECASE)
_DIGEST = re.compile("[0-9a-f]{64}")
_MODEL = {CARD_FILE, *DIGESTED, HEAD_FILE}


@dataclass(frozen=True)
class File:
    """One file of a bundle. Raises InputError when its kind, path, digest or size is not usable."""

    kind: str
    path: str
    sha256: str
    size: int

    def __post_init__(self) -> None:
        if type(self.kind) is not str or self.kind not in FOLDERS:
            raise InputError(
                "a file has a kind that does not go into a bundle",
                got=str(self.kind)[:40],
                expected=", ".join(FOLDERS),
            )
        _require_path(self.kind, self.path)
        if type(self.sha256) is not str or not _DIGEST.fullmatch(self.sha256):
            raise InputError(f"the digest of {self.path} is not usable")
        if type(self.size) is not int or not 0 <= self.size <= MAX_FILE:
            raise InputError(f"the size of {self.path} is not usable", expected=f"0 to {MAX_FILE}")


@dataclass(frozen=True)
class Manifest:
    """What is in a bundle, in the order of its paths. Raises InputError when it does not hold."""

    files: tuple[File, ...]
    note: str = ""
    platform: Platform | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.files) <= MAX_FILES:
            raise InputError(
                "the number of files is not one that a bundle may have",
                got=str(len(self.files)),
                expected=f"1 to {MAX_FILES}",
            )
        if type(self.note) is not str or len(self.note) > MAX_NOTE or not self.note.isprintable():
            raise InputError(f"the note is not printable text of at most {MAX_NOTE} characters")
        if self.size > MAX_TOTAL:
            raise InputError("the files are too large together", expected=f"at most {MAX_TOTAL}")
        _require_order([file.path for file in self.files])
        _require_models(self.files)
        self._require_wheels()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def wheels(self) -> Iterator[tuple[File, Wheel]]:
        for file in self.files:
            if file.kind == "wheel":
                yield file, Wheel.parse(name_of(file.path))

    def with_digests(self, digests: list[str]) -> Manifest:
        """The same with each file's SHA-256, in order."""
        pairs = zip(self.files, digests, strict=True)
        return replace(self, files=tuple(replace(f, sha256=d) for f, d in pairs))

    def encode(self) -> bytes:
        """The one form that a manifest is written in. InputError when it is too large."""
        raw = {**asdict(self), "format": FORMAT, "version": VERSION}
        text = _canonical(raw)
        if len(text) > MAX_MANIFEST:
            raise InputError("the manifest is too large", expected=f"at most {MAX_MANIFEST} bytes")
        return text

    def _require_wheels(self) -> None:
        found: set[str] = set()
        for file, wheel in self.wheels():
            if self.platform is None:
                raise InputError("there are wheels, and no platform that they are for")
            require_fit(wheel, self.platform)
            if wheel.project in found:
                raise InputError(f"there is more than one wheel of {wheel.project}", got=file.path)
            found.add(wheel.project)
        if self.platform is not None and not found:
            raise InputError("there is a platform, and no wheel for it")


def parse(raw: bytes, name: str) -> Manifest:
    """A manifest from its bytes. FormatError naming the bundle and what is wrong."""
    try:
        return _parse(raw)
    except InputError as e:
        raise FormatError(f"{name}: {e}") from e
    except (ValueError, RecursionError) as e:
        raise FormatError(f"{name}: the manifest is not JSON", got=type(e).__name__) from e


def _parse(raw: bytes) -> Manifest:
    found = strict_json(raw)
    if not isinstance(found, dict) or _canonical(found) != raw:
        raise InputError("the manifest is not in canonical form")
    version = found.pop("version", None)
    if found.pop("format", None) != FORMAT or type(version) is not int or version != VERSION:
        raise InputError("the manifest has another format or version")
    if set(found) != {"files", "note", "platform"} or not isinstance(found["files"], list):
        raise InputError("the manifest has unknown or missing fields")
    if len(found["files"]) > MAX_FILES:  # before any is looked at
        raise InputError("there are too many files", expected=f"at most {MAX_FILES}")
    files = tuple(File(**_fields(f, ("kind", "path", "sha256", "size"))) for f in found["files"])
    platform = found["platform"]
    if platform is not None:
        platform = Platform(**_fields(platform, ("python", "tag")))
    return Manifest(files, found["note"], platform)


def header(manifest: bytes, public: bytes) -> bytes:
    """All that is signed: the fixed fields and the manifest."""
    return HEAD.pack(MAGIC, VERSION, KIND, len(manifest), public) + manifest


def name_of(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def require_name(name: str, what: str = "name") -> None:
    """Raise InputError unless ``name`` is the same one harmless name on every system."""
    if type(name) is not str or not _NAME.fullmatch(name) or _DEVICE.match(name):
        raise InputError(
            f"a {what} is not one that a bundle may have",
            got=ascii(name)[:80],
            expected="letters, digits and . _ + -, no device of Windows, at most 200",
            hint="rename the file",
        )


def _require_path(kind: str, path: str) -> None:
    parts = path.split("/") if type(path) is str else []
    depth = 3 if kind == "model" else 2
    if len(parts) != depth or parts[0] != FOLDERS[kind]:
        raise InputError(
            f"a {kind} has a path that leads elsewhere",
            got=ascii(path)[:80],
            expected="/".join([FOLDERS[kind], *["NAME"] * (depth - 1)]),
        )
    for part in parts[1:]:
        require_name(part)
    if kind == "model" and parts[2] not in _MODEL:
        raise InputError("a file does not belong to a model", got=path, expected=", ".join(_MODEL))
    if kind == "wheel":
        Wheel.parse(parts[1])


def _require_order(paths: list[str]) -> None:
    for a, b in pairwise(paths):
        if a >= b:
            problem = "is there twice" if a == b else "is not in its place"
            raise InputError(f"{b} {problem}", expected="paths in increasing order")
    seen: dict[str, str] = {}
    for path in paths:
        parts = path.split("/")
        for i in range(1, len(parts) + 1):
            whole = "/".join(parts[:i])
            if seen.setdefault(whole.lower(), whole) != whole:
                raise InputError(
                    f"{whole} and {seen[whole.lower()]} are one name where case does not count"
                )


def _require_models(files: tuple[File, ...]) -> None:
    models: dict[str, set[str]] = {}
    for file in files:
        if file.kind == "model":
            _, folder, name = file.path.split("/")
            models.setdefault(folder, set()).add(name)
    for folder, names in models.items():
        if CARD_FILE not in names:
            raise InputError(f"the model {folder} has no {CARD_FILE}")


def _fields(raw: Any, names: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(raw, dict) or set(raw) != set(names):
        raise InputError("an entry has unknown or missing fields", expected=", ".join(names))
    return raw


def _canonical(raw: Any) -> bytes:
    return json.dumps(raw, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")
