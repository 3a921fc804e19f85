"""Secret and public keys: separate types, separate kinds of file.

`secret.key` is created with mode 0600 and never overwritten, and is refused when others can read
it. Nothing of the provider's takes a SecretKey.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from linalign_lite.encrypt.parameters import PRIVATE, Parameters
from linalign_lite.encrypt.scheme import Scheme
from linalign_lite.encrypt.wire import Header, Kind, framed_bytes, open_framed
from linalign_lite.errors import FormatError
from linalign_lite.storage.atomic import PathLike, require_private, write_new


def scheme_for(parameters: Parameters) -> Scheme:
    """The scheme of a parameter set. This is where the encryption library is first loaded."""
    if parameters.scheme == "seal":
        from linalign_lite.encrypt.seal.scheme import SealScheme

        return SealScheme(parameters)
    from linalign_lite.encrypt.noop_scheme import NoopScheme

    return NoopScheme(parameters)


@dataclass(frozen=True)
class PublicKey:
    """The half that may be given away. ``digest`` (SHA-256 of the payload) names the key pair."""

    parameters: Parameters
    payload: bytes = field(repr=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the key, by which queries and responses name it."""
        return hashlib.sha256(self.payload).digest()

    def to_bytes(self) -> bytes:
        """What `public.key` holds: docs/FORMAT.md, section 3."""
        return _to_file(Kind.PUBLIC_KEY, self.parameters, self.digest, self.payload)

    def save(self, path: PathLike) -> None:
        """Create ``path`` (`public.key`). OutputExistsError when it is there."""
        write_new(path, self.to_bytes())

    @classmethod
    def load(cls, source: PathLike | bytes) -> PublicKey:
        """From a file or bytes. FormatError when it is anything but an intact public key."""
        parameters, digest, payload, name = _from_file(source, Kind.PUBLIC_KEY)
        scheme_for(parameters).check_public(payload)
        key = cls(parameters, payload)
        if key.digest != digest:
            raise FormatError(f"{name} does not agree with the digest of its key")
        return key


@dataclass(frozen=True, eq=False)
class SecretKey:
    """The half that decrypts. ``digest`` is that of the public key it belongs to.

    Neither its text form nor an error shows the key, and it cannot be pickled or copied into
    another process by accident: ``save`` and ``load`` are the only ways.
    """

    parameters: Parameters
    digest: bytes
    material: bytes = field(repr=False)

    def __repr__(self) -> str:
        return f"SecretKey({self.parameters.name}, {self.digest.hex()[:8]})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key is not pickled; use save and load")

    def save(self, path: PathLike) -> None:
        """Create ``path`` (`secret.key`) with mode 0600. OutputExistsError when it is there."""
        data = _to_file(Kind.SECRET_KEY, self.parameters, self.digest, self.material)
        write_new(path, data, private=True)

    @classmethod
    def load(cls, path: PathLike) -> SecretKey:
        """Read a `secret.key`.

        Raises FormatError when it is anything but an intact secret key, InputError when it is not
        there or when others than its owner may read or write it.
        """
        parameters, digest, material, _ = _from_file(path, Kind.SECRET_KEY)
        require_private(Path(path))
        return cls(parameters, digest, material)


def keygen(parameters: Parameters = PRIVATE) -> tuple[SecretKey, PublicKey]:
    """A fresh pair of keys."""
    secret, public = scheme_for(parameters).keygen()
    public_key = PublicKey(parameters, public)
    return SecretKey(parameters, public_key.digest, secret), public_key


def _to_file(kind: Kind, parameters: Parameters, digest: bytes, payload: bytes) -> bytes:
    return framed_bytes(Header(kind, parameters, digest, 1, len(payload)), [payload])


def _from_file(source: PathLike | bytes, kind: Kind) -> tuple[Parameters, bytes, bytes, str]:
    with open_framed(source, kind) as reader:
        header, name = reader.header, reader.name
        scheme = scheme_for(header.parameters)
        expected = scheme.secret_size if kind is Kind.SECRET_KEY else scheme.public_size
        if header.n_records != 1 or header.record_size != expected or header.meta:
            raise FormatError(f"{name} does not have the shape of a {kind.title}")
        (record,) = reader
        return header.parameters, header.key, record.payload, name
