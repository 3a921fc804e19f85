"""Ed25519 keys (RFC 8032, by the package `cryptography`) that sign bundles and queries.

docs/FORMAT.md, section 7. `signing.key` is created with mode 0600 and never overwritten. Only
generating a key, signing and verifying need the extra `bundle`.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from linalign_lite.errors import FormatError, InputError, import_extra
from linalign_lite.storage import MAGIC
from linalign_lite.storage.atomic import PathLike, open_regular, require_private, write_new

VERSION = 1
SECRET, PUBLIC = 5, 6  # kinds, beside those of encrypt.wire.Kind
_HEADER = struct.Struct("<8sHHI")  # magic, version, kind, 0
_KEY = 32
# y of the points of order 1, 2, 4 and 8, and the same modulo p = 2^255 - 19: signatures of these
# verify for any data
_SMALL_ORDER = frozenset(
    (y % 2**255).to_bytes(_KEY, "little")
    for y in (
        *(0, 1, -20, -19, -18),  # 0, 1, p - 1, p, p + 1 modulo 2^255
        0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
        0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    )
)
_TITLES = {SECRET: "signing key", PUBLIC: "public signing key"}


@dataclass(frozen=True)
class VerifyingKey:
    """The public half of a key pair, which verifies signatures of the other half."""

    public: bytes  # 32

    def __post_init__(self) -> None:
        if type(self.public) is not bytes or len(self.public) != _KEY:
            raise InputError("a public signing key has 32 bytes")
        if self.public[:-1] + bytes([self.public[-1] & 0x7F]) in _SMALL_ORDER:
            raise InputError("a public signing key that anybody can sign for", hint="make another")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the key in hexadecimal, for two people to compare."""
        return hashlib.sha256(self.public).hexdigest()

    def to_bytes(self) -> bytes:
        """The contents of `signing.pub`: docs/FORMAT.md, section 7."""
        return _framed(PUBLIC, self.public)

    def save(self, path: PathLike) -> None:
        """Create ``path`` (`signing.pub`). Raises OutputExistsError when it is there."""
        write_new(path, self.to_bytes())

    @classmethod
    def load(cls, path: PathLike) -> VerifyingKey:
        """Read a `signing.pub`. Raises FormatError unless it is an intact public signing key."""
        return cls(_unframed(path, PUBLIC))

    def accepts(self, signature: bytes, data: bytes) -> bool:
        """Return True if ``signature`` is a signature of ``data`` by this key pair.

        Raises MissingExtraError without the extra `bundle`.
        """
        library = _library()
        from cryptography.exceptions import InvalidSignature

        try:
            library.Ed25519PublicKey.from_public_bytes(self.public).verify(signature, data)
        except (InvalidSignature, ValueError):  # ValueError: not a point of the curve
            return False
        return True


@dataclass(frozen=True, eq=False)
class SigningKey:
    """The private half of a key pair. It is not shown, not pickled and never put into a bundle."""

    seed: bytes = field(repr=False)  # 32
    public: bytes = field(repr=False)  # 32

    def __repr__(self) -> str:
        return f"SigningKey({self.verifying.fingerprint[:8]})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signing key is not pickled; use save and load")

    @classmethod
    def generate(cls) -> SigningKey:
        """Generate a key. Raises MissingExtraError without the extra `bundle`."""
        private = _library().Ed25519PrivateKey.generate()
        return cls(private.private_bytes_raw(), private.public_key().public_bytes_raw())

    @property
    def verifying(self) -> VerifyingKey:
        """The public half."""
        return VerifyingKey(self.public)

    def save(self, path: PathLike) -> None:
        """Create ``path`` (`signing.key`), mode 0600. Raises OutputExistsError when it is there."""
        write_new(path, _framed(SECRET, self.seed + self.public), private=True)

    @classmethod
    def load(cls, path: PathLike) -> SigningKey:
        """Read a `signing.key`.

        Raises FormatError unless it is an intact signing key, InputError when it is not there or
        others than its owner may read or write it.
        """
        raw = _unframed(path, SECRET)
        require_private(Path(path))
        key = cls(raw[:_KEY], raw[_KEY:])
        private = _library().Ed25519PrivateKey.from_private_bytes(key.seed)
        if private.public_key().public_bytes_raw() != key.public:
            raise FormatError(f"{path} holds two halves that do not belong together")
        return key

    def sign(self, data: bytes) -> bytes:
        """Signature of ``data``, 64 bytes, deterministic."""
        return bytes(_library().Ed25519PrivateKey.from_private_bytes(self.seed).sign(data))


def public_half(path: PathLike) -> VerifyingKey:
    """The public key in a file of either half; needs no extra."""
    return VerifyingKey(_unframed(path, SECRET if kind_of(path) == SECRET else PUBLIC)[-_KEY:])


def account_of(path: PathLike) -> bytes:
    """The account of a `signing.pub`: its key. Raises InputError for the secret half."""
    if kind_of(path) == SECRET:
        raise InputError(
            f"{path}: this is the secret half of a signing key; nobody else may have it",
            hint="ask the client to make a new key, and to send its signing.pub only",
        )
    return VerifyingKey.load(path).public


def kind_of(path: PathLike) -> int:
    """The kind that a file's header states, such as SECRET; the file may be damaged, or no key."""
    with open_regular(path) as f:
        return int.from_bytes(f.read(12)[10:], "little")


def _library() -> Any:
    module = "cryptography.hazmat.primitives.asymmetric.ed25519"
    return import_extra(module, extra="bundle", purpose="a signature")


def _framed(kind: int, payload: bytes) -> bytes:
    whole = _HEADER.pack(MAGIC, VERSION, kind, 0) + payload
    return whole + hashlib.sha256(whole).digest()


def _unframed(path: PathLike, kind: int) -> bytes:
    title, size = _TITLES[kind], _KEY * (2 if kind == SECRET else 1)
    with open_regular(path) as f:
        raw = f.read(_HEADER.size + size + 33)
    if len(raw) < _HEADER.size or not raw.startswith(MAGIC):
        raise FormatError(f"{path} is not a {title}")
    _, version, found, zero = _HEADER.unpack_from(raw)
    if found != kind:
        other = _TITLES.get(found, f"kind {found}")
        raise FormatError(f"{path} is another kind of file", got=other, expected=title)
    if version != VERSION:
        raise FormatError(
            f"{path} has a version that this library does not read",
            got=str(version),
            expected=str(VERSION),
        )
    payload = raw[_HEADER.size : -32]
    if zero or len(raw) != _HEADER.size + size + 32 or _framed(kind, payload) != raw:
        raise FormatError(f"{path} is damaged", hint="copy it again")
    return payload
