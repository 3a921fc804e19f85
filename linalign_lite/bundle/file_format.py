"""The manifest of a bundle, and the files and paths that it may list. docs/FORMAT.md, section 7."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, pairwise
from typing import Annotated

from linalign_lite.bundle.wheels import Platform, Wheel, require_fit
from linalign_lite.errors import InputError
from linalign_lite.extraction.model_card import CARD_FILE, DIGESTED, OPTIONAL
from linalign_lite.storage import MAGIC, schema

FORMAT = "linalign-bundle"
VERSION = 1
KIND = 7  # beside those of encrypt.wire.Kind
HEADER = struct.Struct("<8sHHI32s")  # magic, version, kind, size of the manifest, public key
SIGNATURE = 64
MAX_MANIFEST = 4 << 20
MAX_FILES = 4096
MAX_FILE, MAX_TOTAL = 1 << 40, 1 << 41
MAX_NOTE = 256
FOLDERS = {
    "map": "maps",
    "head": "heads",
    "detector": "detectors",
    "model": "models",
    "public-key": "keys",
    "signer": "signers",
    "wheel": "wheelhouse",
}
UNKNOWN_DIGEST = "0" * 64  # before the file is hashed
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}(?<!\.)")
_DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9]|conin|conout|clock)(\.|$)", re.IGNORECASE)
_MODEL_FILES = {CARD_FILE, *DIGESTED, *OPTIONAL}


@dataclass(frozen=True)
class File:
    """One file of a bundle. Raises InputError for a path that its kind may not have."""

    kind: Annotated[str, schema.Choice(tuple(FOLDERS))]
    path: str
    sha256: schema.Sha256
    size: Annotated[int, schema.Range(0, MAX_FILE)]

    def __post_init__(self) -> None:
        _require_path(self.kind, self.path)


@dataclass(frozen=True)
class Manifest:
    """Files of a bundle in the order of their paths, a note, and the platform of its wheels.

    Raises InputError when paths, models or wheels contradict each other.
    """

    files: Annotated[tuple[File, ...], schema.Size(MAX_FILES, 1)]
    note: Annotated[str, schema.Text(MAX_NOTE)]
    platform: Platform | None

    def __post_init__(self) -> None:
        if self.size > MAX_TOTAL:
            raise InputError("the files are too large together", expected=f"at most {MAX_TOTAL}")
        _require_order([file.path for file in self.files])
        _require_cards(self.files)
        self._require_wheels()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def wheels(self) -> Iterator[tuple[File, Wheel]]:
        """The files that are wheels, each with its parsed name."""
        for file in self.files:
            if file.kind == "wheel":
                yield file, Wheel.parse(file.path.rpartition("/")[2])

    def with_digests(self, digests: list[str]) -> Manifest:
        """The same manifest with each file's SHA-256, in order."""
        pairs = zip(self.files, digests, strict=True)
        return replace(self, files=tuple(replace(f, sha256=d) for f, d in pairs))

    def encode(self) -> bytes:
        """The canonical bytes. Raises InputError when there are more than MAX_MANIFEST."""
        fields = {**asdict(self), "format": FORMAT, "version": VERSION}
        text = json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False)
        if len(text) > MAX_MANIFEST:
            raise InputError("the manifest is too large", expected=f"at most {MAX_MANIFEST} bytes")
        return text.encode("ascii")

    def _require_wheels(self) -> None:
        projects: set[str] = set()
        for file, wheel in self.wheels():
            if self.platform is None:
                raise InputError("there are wheels, but no platform for them")
            require_fit(wheel, self.platform)
            if wheel.project in projects:
                raise InputError(f"there is more than one wheel of {wheel.project}", got=file.path)
            projects.add(wheel.project)
        if self.platform is not None and not projects:
            raise InputError("there is a platform, but no wheel for it")


def parse_manifest(raw: bytes, name: str) -> Manifest:
    """A manifest from the bytes of the bundle ``name``. Raises FormatError."""
    fields = schema.read_document(raw, name, "bundle", kind=FORMAT, version=VERSION)
    with schema.format_errors(name, "bundle"):
        manifest: Manifest = schema.parse(Manifest, fields, "manifest")
        if manifest.encode() != raw:
            raise InputError("the manifest is not in canonical form")
        return manifest


def signed_part(manifest: bytes, public: bytes) -> bytes:
    """The bytes that are signed: the header and the manifest."""
    return HEADER.pack(MAGIC, VERSION, KIND, len(manifest), public) + manifest


def require_name(name: str, what: str = "name") -> None:
    """Raise InputError unless ``name`` names the same ordinary file on every system."""
    if not _NAME.fullmatch(name) or _DEVICE.match(name):
        raise InputError(
            f"a {what} is not one that a bundle may have",
            got=ascii(name)[:80],
            expected="at most 200 letters, digits and . _ + -, not a Windows device",
            hint="rename the file",
        )


def _require_path(kind: str, path: str) -> None:
    """Raise InputError unless ``path`` is one that a file of this kind may have."""
    parts = path.split("/")
    depth = 3 if kind == "model" else 2
    if len(parts) != depth or parts[0] != FOLDERS[kind]:
        raise InputError(
            f"a {kind} has a path outside its folder",
            got=ascii(path)[:80],
            expected="/".join([FOLDERS[kind], *["NAME"] * (depth - 1)]),
        )
    for part in parts[1:]:
        require_name(part)
    if kind == "model" and parts[2] not in _MODEL_FILES:
        expected = ", ".join(_MODEL_FILES)
        raise InputError("a file does not belong to a model", got=path, expected=expected)
    if kind == "wheel":
        Wheel.parse(parts[1])


def _require_order(paths: list[str]) -> None:
    """Raise InputError unless paths increase and none differ only in case, nor do folders."""
    for a, b in pairwise(paths):
        if a >= b:
            problem = "is there twice" if a == b else "is not in its place"
            raise InputError(f"{b} {problem}", expected="paths in increasing order")
    seen: dict[str, str] = {}
    for path in paths:
        for whole in accumulate(path.split("/"), "{}/{}".format):
            if seen.setdefault(whole.lower(), whole) != whole:
                raise InputError(f"{whole} and {seen[whole.lower()]} differ only in case")


def _require_cards(files: tuple[File, ...]) -> None:
    """Raise InputError unless every model folder has its card."""
    paths = [file.path for file in files if file.kind == "model"]
    for folder in sorted({path.rpartition("/")[0] for path in paths}):
        if f"{folder}/{CARD_FILE}" not in paths:
            raise InputError(f"the model {folder.rpartition('/')[2]} has no {CARD_FILE}")
