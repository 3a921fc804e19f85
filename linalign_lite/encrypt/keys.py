"""Secret and public keys: separate types, separate kinds of file.

A `secret.key` has mode 0600 and is never overwritten. No code of the provider takes a SecretKey.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from linalign_lite.encrypt.modular import SEED_SIZE, Residues, seeded_size, unpack_seeded
from linalign_lite.encrypt.parameters import PRIVATE, Parameters
from linalign_lite.encrypt.wire import Header, Kind, framed_bytes, open_framed
from linalign_lite.errors import FormatError
from linalign_lite.storage.atomic import PathLike, require_private, write_new

if TYPE_CHECKING:
    from linalign_lite.encrypt.seal.context import SealContext


def seal_context(parameters: Parameters) -> SealContext:
    """Return SEAL's context of a parameter set. This first loads the encryption library."""
    from linalign_lite.encrypt.seal.context import SealContext

    return SealContext(parameters)


@dataclass(frozen=True)
class PublicKey:
    """The public half of a key pair."""

    parameters: Parameters
    payload: bytes = field(repr=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the payload: the key's name in queries and responses."""
        return hashlib.sha256(self.payload).digest()

    @property
    def seed(self) -> bytes:
        """The seed that the second component grows from, so that nobody can choose it."""
        return self.payload[-SEED_SIZE:]

    def components(self) -> Residues:
        """Both components: (2, primes, N). Raises FormatError unless it is a public key."""
        degree, primes = self.parameters.degree, self.parameters.data_primes
        first, seed = unpack_seeded(self.payload, degree, primes)
        return np.stack([first, seal_context(self.parameters).grown(seed)])

    def to_bytes(self) -> bytes:
        """Return the bytes of `public.key`: docs/FORMAT.md, section 3."""
        return _to_file(Kind.PUBLIC_KEY, self.parameters, self.digest, self.payload)

    def save(self, path: PathLike) -> None:
        """Create ``path`` (`public.key`). Raises OutputExistsError when it exists."""
        write_new(path, self.to_bytes())

    @classmethod
    def load(cls, source: PathLike | bytes) -> PublicKey:
        """Read a file or bytes. Raises FormatError unless it is an intact public key."""
        parameters, digest, payload, name = _from_file(source, Kind.PUBLIC_KEY)
        unpack_seeded(payload, parameters.degree, parameters.data_primes)  # checks residues
        key = cls(parameters, payload)
        if key.digest != digest:
            raise FormatError(f"{name} does not agree with the digest of its key")
        return key


@dataclass(frozen=True, eq=False)
class SecretKey:
    """The half of a key pair that decrypts. ``digest`` is that of its public key.

    No text form and no error shows the key, and it cannot be pickled.
    """

    parameters: Parameters
    digest: bytes
    material: bytes = field(repr=False)

    def __repr__(self) -> str:
        return f"SecretKey({self.parameters.name}, {self.digest.hex()[:8]})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key is not pickled; use save and load")

    def save(self, path: PathLike) -> None:
        """Create ``path`` (`secret.key`), mode 0600. Raises OutputExistsError when it exists."""
        data = _to_file(Kind.SECRET_KEY, self.parameters, self.digest, self.material)
        write_new(path, data, private=True)

    @classmethod
    def load(cls, path: PathLike) -> SecretKey:
        """Read a `secret.key`. Raises FormatError unless it is an intact secret key.

        Raises InputError when it is missing or when others may read or write it.
        """
        parameters, digest, material, _ = _from_file(path, Kind.SECRET_KEY)
        require_private(Path(path))
        return cls(parameters, digest, material)


def keygen(parameters: Parameters = PRIVATE) -> tuple[SecretKey, PublicKey]:
    """Make a fresh pair of keys."""
    secret, public = seal_context(parameters).keygen()
    public_key = PublicKey(parameters, public)
    return SecretKey(parameters, public_key.digest, secret), public_key


def _to_file(kind: Kind, parameters: Parameters, digest: bytes, payload: bytes) -> bytes:
    return framed_bytes(Header(kind, parameters, digest, 1, len(payload)), [payload])


def _from_file(source: PathLike | bytes, kind: Kind) -> tuple[Parameters, bytes, bytes, str]:
    with open_framed(source, kind) as reader:
        header, name = reader.header, reader.name
        primes = header.parameters.data_primes, header.parameters.primes
        public = seeded_size(header.parameters.degree, primes[0])
        secret = seeded_size(header.parameters.degree, primes[1]) - SEED_SIZE
        expected = secret if kind is Kind.SECRET_KEY else public
        if header.n_records != 1 or header.record_size != expected or header.meta:
            raise FormatError(f"{name} does not have the shape of a {kind.title}")
        (record,) = reader
        return header.parameters, header.key, record.payload, name
