"""Recognise the kinds of files that go into a bundle by their content, never by their name."""

import struct
import zipfile
import zlib
from pathlib import Path

from linalign_lite.bundle import file_format
from linalign_lite.core import signing
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.encrypt.keys import PublicKey
from linalign_lite.encrypt.wire import Kind
from linalign_lite.errors import FormatError, InputError
from linalign_lite.extraction.model_card import CARD_FILE, HEAD_FILE, load_card
from linalign_lite.heads.ood.detector import Detector
from linalign_lite.heads.serialization import load
from linalign_lite.storage import MAGIC
from linalign_lite.storage.atomic import is_secret, open_regular

START = 128  # bytes of a file that its kind is told by
_ZIP = b"PK\3\4"
_TYPES = {"map": AffineMap, "head": Head, "detector": Detector}
_FRAMED = {"public-key": int(Kind.PUBLIC_KEY), "signer": signing.PUBLIC}
_REFUSED = {
    Kind.QUERY: "a query",
    Kind.RESPONSE: "a response",
    Kind.OFFER: "an offer",
    Kind.ANSWER: "an answer",
    file_format.KIND: "a bundle",
}


def detect_kind(path: Path) -> str:
    """The kind of a file that may go into a bundle; the file is read whole and checked.

    Raises InputError naming the kind of a file that may not, FormatError when it is damaged.
    """
    with open_regular(path) as f:
        start = f.read(START)
    if _begins_as_secret(start):
        raise InputError(f"{path} is a secret key, and no secret goes into a bundle")
    if start.startswith(MAGIC):
        number = int.from_bytes(start[10:12], "little")
        for kind, framed in _FRAMED.items():
            if number == framed:
                require_kind(path, kind)
                return kind
        _refuse(path, _REFUSED.get(number, f"kind {number}"))
    if start.startswith(b"SQLite"):
        _refuse(path, "a database")
    if start.startswith(_ZIP) and path.suffix == ".whl":
        raise InputError(f"{path} is a wheel", hint="give its folder as --wheelhouse")
    if start.startswith(_ZIP):
        loaded = load(path)
        for kind, expected in _TYPES.items():
            if isinstance(loaded, expected):
                return kind
        _refuse(path, "hidden states, which reveal something of their texts")
    raise FormatError(
        f"{path} is not a file of linalign-lite",
        expected="a map, a head, a detector, a model folder or a public key",
    )


def require_kind(path: Path, kind: str) -> None:
    """Read a file whole. Raises FormatError when it is not an intact file of this kind."""
    if kind in _TYPES:
        loaded = load(path)
        if not isinstance(loaded, _TYPES[kind]):
            raise FormatError(f"{path} is not a {kind}", got=type(loaded).__name__)
    elif kind == "public-key":
        PublicKey.load(path)
    elif kind == "signer":
        signing.VerifyingKey.load(path)


def require_model(folder: Path, names: set[str], *, verify: bool = True) -> dict[str, str]:
    """Read a model's card; returns the SHA-256 that it states of each other file of the folder.

    names: the files of the folder. verify: hash them too. Raises FormatError when ``names`` are not
    those of the card.
    """
    card = load_card(folder, verify=verify)
    expected = {CARD_FILE, *card.files}
    for name in sorted(names ^ expected):
        problem = "does not belong to the model" if name in names else "is missing"
        raise FormatError(f"{folder}: {name[:60]} {problem}", hint="export it again")
    if HEAD_FILE in names:
        require_kind(folder / HEAD_FILE, "head")
    return {name: str(entry["sha256"]) for name, entry in card.files.items()}


def require_wheel(path: Path) -> None:
    """Raise FormatError when a wheel is not a ZIP archive, InputError when it has a secret key."""
    with open_regular(path) as f:
        try:
            with zipfile.ZipFile(f) as archive:
                for info in archive.infolist():
                    with archive.open(info) as member:
                        if is_secret(member.read(12)):
                            raise InputError(
                                f"{path} holds a secret key", hint="no secret goes into a bundle"
                            )
        except (zipfile.BadZipFile, EOFError, ValueError, OSError, struct.error, zlib.error,
                NotImplementedError, RuntimeError, OverflowError) as e:  # fmt: skip
            raise FormatError(
                f"{path} is not a wheel", got=type(e).__name__, hint="download it again"
            ) from e


def require_magic(file: file_format.File, start: bytes, name: str) -> None:
    """Raise FormatError unless a file of the bundle ``name`` begins as files of its kind do."""
    if file.kind in _FRAMED:
        kind = _FRAMED[file.kind].to_bytes(2, "little")
        fits = start.startswith(MAGIC) and start[10:12] == kind
    elif file.kind == "model":
        magic = {".json": b"{", ".npz": _ZIP}.get(Path(file.path).suffix, b"")
        fits = start.startswith(magic) and not _begins_as_secret(start)
    else:
        fits = start.startswith(_ZIP)
    if not fits:
        raise FormatError(f"{name}: {file.path} is not a {file.kind}")


def _begins_as_secret(start: bytes) -> bool:
    """Return True for a secret key of linalign-lite or a private key in PEM form."""
    pem = start.startswith(b"-----BEGIN ") and b"PRIVATE KEY-----" in start[:100]
    return pem or is_secret(start[:12])


def _refuse(path: Path, found: str) -> None:
    kinds = ", ".join(file_format.FOLDERS)
    raise InputError(f"{path} does not go into a bundle", got=found, expected=kinds)
