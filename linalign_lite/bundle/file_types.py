"""What a file is by what it holds, never by its name. Only kinds that go into a bundle."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

from linalign_lite.bundle import file_format, signing
from linalign_lite.bundle.hashing_copy import is_ours, is_secret
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.encrypt.keys import PublicKey
from linalign_lite.encrypt.wire import MAGIC, Kind
from linalign_lite.errors import FormatError, InputError
from linalign_lite.extraction.model_card import CARD_FILE, HEAD_FILE, load_card
from linalign_lite.heads.ood.detector import Detector
from linalign_lite.heads.serialization import load
from linalign_lite.storage.atomic import open_regular

_ZIP = b"PK\3\4"
_TYPES = {"map": AffineMap, "head": Head, "detector": Detector}
_FRAMED = {"public-key": Kind.PUBLIC_KEY, "signer": signing.PUBLIC}
_REFUSED = {
    int(Kind.QUERY): "a query",
    int(Kind.RESPONSE): "a response",
    file_format.KIND: "a bundle",
}


def recognise(path: Path) -> str:
    """The kind of a file that may go into a bundle, read whole and checked.

    Raises InputError naming what it is when it may not, FormatError when it is damaged.
    """
    with open_regular(path) as f:
        start = f.read(128)
    if is_secret(start):
        raise InputError(f"{path} is a secret key, and no secret goes into a bundle")
    if start.startswith(MAGIC):
        number = int.from_bytes(start[10:12], "little")
        for kind, framed in _FRAMED.items():
            if number == framed:
                examine(path, kind)
                return kind
        _refuse(path, _REFUSED.get(number, f"kind {number}"))
    if start.startswith(b"SQLite"):
        _refuse(path, "a database")
    if start.startswith(_ZIP) and path.suffix == ".whl":
        raise InputError(f"{path} is a wheel", hint="give the folder it is in as --wheelhouse")
    if start.startswith(_ZIP):
        thing = load(path)
        for kind, wanted in _TYPES.items():
            if isinstance(thing, wanted):
                return kind
        _refuse(path, "hidden states, which say something of their texts")
    raise FormatError(
        f"{path} is not a file of linalign-lite",
        expected="a map, a head, a detector, a model folder or a public key",
    )


def examine(path: Path, kind: str) -> None:
    """Read a file whole as what it is said to be. Raises FormatError when it is not that."""
    if kind in _TYPES:
        thing = load(path)
        if not isinstance(thing, _TYPES[kind]):
            raise FormatError(f"{path} is not a {kind}", got=type(thing).__name__)
    elif kind == "public-key":
        PublicKey.load(path)
    elif kind == "signer":
        signing.VerifyingKey.load(path)


def examine_model(folder: Path, names: set[str], *, verify: bool = True) -> dict[str, str]:
    """Read a model's card; returns the SHA-256 that it gives each file of the folder but itself.

    ``names``: what is in the folder, which must be what the card says. ``verify``: hash it too.
    """
    card = load_card(folder, verify=verify)
    expected = {CARD_FILE, *card.files}
    for name in sorted(names ^ expected):
        problem = "does not belong to the model" if name in names else "is missing"
        raise FormatError(f"{folder}: {name[:60]} {problem}", hint="export it again")
    if HEAD_FILE in names:
        examine(folder / HEAD_FILE, "head")
    return {name: str(entry["sha256"]) for name, entry in card.files.items()}


def require_wheel(path: Path) -> None:
    """Raise FormatError when a wheel is no archive, InputError when a secret of ours is in it."""
    with open_regular(path) as f:
        try:
            with zipfile.ZipFile(f) as archive:
                for info in archive.infolist():
                    with archive.open(info) as member:
                        if is_ours(member.read(12)):
                            raise InputError(
                                f"{path} holds a secret key", hint="no secret goes into a bundle"
                            )
        except (zipfile.BadZipFile, EOFError, ValueError, OSError, struct.error, zlib.error,
                NotImplementedError, RuntimeError, OverflowError) as e:  # fmt: skip
            raise FormatError(
                f"{path} is not a wheel", got=type(e).__name__, hint="download it again"
            ) from e


def require_start(file: file_format.File, start: bytes, name: str) -> None:
    """Raise FormatError when a file of a bundle does not begin as its kind does."""
    if file.kind in _FRAMED:
        kind = _FRAMED[file.kind].to_bytes(2, "little")
        right = start.startswith(MAGIC) and start[10:12] == kind
    elif file.kind == "model":
        ending = {".json": b"{", ".npz": _ZIP}.get(Path(file.path).suffix, b"")
        right = start.startswith(ending) and not is_secret(start)
    else:
        right = start.startswith(_ZIP)
    if not right:
        raise FormatError(f"{name}: {file.path} is not a {file.kind}")


def _refuse(path: Path, what: str) -> None:
    raise InputError(
        f"{path} is not for a bundle", got=what, expected=", ".join(file_format.FOLDERS)
    )
