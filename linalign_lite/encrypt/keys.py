"""Secret and public keys: separate types, separate kinds of file.

A `secret.key` has mode 0600 and is never overwritten. No code of the provider takes a SecretKey.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import numpy as np

from linalign_lite.core.signing import SigningKey, VerifyingKey
from linalign_lite.encrypt.modular import SEED_SIZE, Residues, seeded_size, unpack_seeded
from linalign_lite.encrypt.parameters import PRIVATE, Parameters
from linalign_lite.encrypt.wire import Header, Kind, framed_bytes, open_framed
from linalign_lite.errors import FormatError, SignatureError
from linalign_lite.storage.atomic import PathLike, require_private, write_new
from linalign_lite.storage.schema import Text, format_errors, parse

if TYPE_CHECKING:
    from linalign_lite.encrypt.seal.context import SealContext


_REGISTRATION = b"linalign-lite registers the public key "


def seal_context(parameters: Parameters) -> SealContext:
    """Return SEAL's context of a parameter set. This first loads the encryption library."""
    from linalign_lite.encrypt.seal.context import SealContext

    return SealContext(parameters)


@dataclass(frozen=True)
class PublicKey:
    """The public half of a key pair, and the account that it belongs to, if any.

    ``account``: the Ed25519 key that signs its queries, by whose ``signature`` it is registered.
    ``proof``: that it is well formed (module key_proof), in a file of its own.
    """

    parameters: Parameters
    payload: bytes = field(repr=False)
    account: bytes = b""
    signature: bytes = field(default=b"", repr=False)
    proof: bytes = field(default=b"", repr=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of payload and account: the key's name in queries and responses."""
        return hashlib.sha256(self.payload + self.account).digest()

    def signed_by(self, signer: SigningKey) -> PublicKey:
        """The key as one of the signer's account."""
        mine = replace(self, account=signer.public)
        return replace(mine, signature=signer.sign(_REGISTRATION + mine.digest))

    def require_registered(self) -> None:
        """Raise SignatureError unless its account signed it. Needs the extra `bundle`."""
        signed = _REGISTRATION + self.digest
        with format_errors("a public key", "account"):
            account = VerifyingKey(self.account) if self.account else None
        if account and not account.accepts(self.signature, signed):
            raise SignatureError("a public key is not signed by the account that it names")

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
        meta = {"account": self.account.hex(), "signature": self.signature.hex()}
        shape = Kind.PUBLIC_KEY, self.parameters, self.digest, self.payload
        return _to_file(*shape, meta if self.account else {})

    def save(self, path: PathLike) -> None:
        """Create ``path`` (`public.key`). Raises OutputExistsError when it exists."""
        write_new(path, self.to_bytes())

    @classmethod
    def load(cls, source: PathLike | bytes) -> PublicKey:
        """Read a file or bytes. Raises FormatError unless it is an intact public key."""
        header, payload, name = _from_file(source, Kind.PUBLIC_KEY)
        parameters, digest = header.parameters, header.key
        unpack_seeded(payload, parameters.degree, parameters.data_primes)  # checks residues
        key = cls(parameters, payload)
        if header.meta:
            with format_errors(name, "public key"):
                owner = parse(_Owner, header.meta, "its description")
            owned = bytes.fromhex(owner.account), bytes.fromhex(owner.signature)
            key = cls(parameters, payload, *owned)
            key.require_registered()
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
        write_new(path, self.to_bytes(), private=True)

    def to_bytes(self) -> bytes:
        """Return the bytes of `secret.key`: docs/FORMAT.md, section 3."""
        return _to_file(Kind.SECRET_KEY, self.parameters, self.digest, self.material)

    @classmethod
    def load(cls, path: PathLike) -> SecretKey:
        """Read a `secret.key`. Raises FormatError unless it is an intact secret key.

        Raises InputError when it is missing or when others may read or write it.
        """
        header, material, _ = _from_file(path, Kind.SECRET_KEY)
        require_private(Path(path))
        return cls(header.parameters, header.key, material)

    @classmethod
    def from_bytes(cls, raw: bytes) -> SecretKey:
        """Read the bytes of a `secret.key`. Raises FormatError unless it is intact."""
        header, material, _ = _from_file(raw, Kind.SECRET_KEY)
        return cls(header.parameters, header.key, material)


@dataclass(frozen=True, kw_only=True)
class _Owner:
    """Description of a public key that belongs to an account, hexadecimal."""

    account: Annotated[str, Text(64, 64, "[0-9a-f]*")]
    signature: Annotated[str, Text(128, 128, "[0-9a-f]*")]


def keygen(
    parameters: Parameters = PRIVATE, account: SigningKey | None = None
) -> tuple[SecretKey, PublicKey]:
    """Make a fresh pair of keys, of an account if its signing key is given."""
    secret, public = seal_context(parameters).keygen()
    key = PublicKey(parameters, public)
    if account is not None:
        key = key.signed_by(account)
    return SecretKey(parameters, key.digest, secret), key


def _to_file(
    kind: Kind,
    parameters: Parameters,
    digest: bytes,
    payload: bytes,
    meta: Mapping[str, str] | None = None,
) -> bytes:
    return framed_bytes(Header(kind, parameters, digest, 1, len(payload), meta or {}), [payload])


def _from_file(source: PathLike | bytes, kind: Kind) -> tuple[Header, bytes, str]:
    with open_framed(source, kind) as reader:
        header, name = reader.header, reader.name
        primes = header.parameters.data_primes, header.parameters.primes
        public = seeded_size(header.parameters.degree, primes[0])
        secret = seeded_size(header.parameters.degree, primes[1]) - SEED_SIZE
        expected = secret if kind is Kind.SECRET_KEY else public
        unexpected = header.meta and kind is Kind.SECRET_KEY
        if header.n_records != 1 or header.record_size != expected or unexpected:
            raise FormatError(f"{name} does not have the shape of a {kind.title}")
        (record,) = reader
        return header, record.payload, name
