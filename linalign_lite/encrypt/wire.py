"""The framed binary form of keys, queries and responses. docs/FORMAT.md, section 3.

A header with a digest, then records of one size, each with a digest that binds it to the header and
to its place; a signed query ends with a signature of its fingerprint, which is the digest of all of
these. No length is used before it agrees with the size of the file.
"""

import contextlib
import functools
import hashlib
import io
import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import IO, Any

from linalign_lite.encrypt.parameters import Parameters, by_id
from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage import MAGIC
from linalign_lite.storage.atomic import PathLike, open_regular

VERSION = 3  # 1 did not hide the head, 2 held ciphertexts in another form; neither was released
DIGEST = 32
MAX_RECORD = 1 << 30
MAX_RECORDS = 1 << 32
SIGNATURE = 64
# magic, version, kind, parameter id, signature size, records, record size, meta size, reserved, key
_HEADER = struct.Struct("<8sHHHHQQII32s")
_DAMAGED = "the file may be truncated or altered; make or copy it again"
_IDENTITY = re.compile(rb'"identity":"[0-9a-f]{32}"')
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


class Kind(IntEnum):
    """Kind of a framed file."""

    SECRET_KEY = 1
    PUBLIC_KEY = 2
    QUERY = 3
    RESPONSE = 4
    PROOF = 8  # 5 to 7 are of signing keys and bundles
    OFFER = 9
    ANSWER = 10

    @property
    def title(self) -> str:
        return self.name.lower().replace("_", " ")


# largest description of each kind, in bytes
_MAX_META = {
    Kind.SECRET_KEY: 64,
    Kind.PUBLIC_KEY: 1 << 9,
    Kind.PROOF: 64,
    Kind.QUERY: 1 << 13,
    Kind.RESPONSE: 4 << 20,
    Kind.OFFER: 1 << 10,
    Kind.ANSWER: 1 << 13,
}
_SIGNED = (Kind.QUERY, Kind.OFFER)  # kinds that an account may sign


@dataclass(frozen=True)
class Header:
    """The part before the records. ``key``: digest of the public key of the file's key pair."""

    kind: Kind
    parameters: Parameters
    key: bytes
    n_records: int
    record_size: int
    meta: Mapping[str, Any] = field(default_factory=dict)
    signed: bool = False

    @functools.cached_property
    def encoded(self) -> bytes:
        """The header's bytes with its digest; the same for equal headers."""
        meta = _json({**self.meta, "profile": self.parameters.name})
        most = _MAX_META[self.kind]
        if len(meta) > most or not 0 < self.record_size <= MAX_RECORD:
            raise InputError(
                f"this {self.kind.title} is too large for one file",
                got=f"{self.record_size} bytes per record, {len(meta)} bytes of description",
                expected=f"at most {MAX_RECORD} and {most}",
                hint="score fewer classes at once",
            )
        counts = self.n_records, self.record_size, len(meta)
        start = MAGIC, VERSION, self.kind, self.parameters.id, SIGNATURE * self.signed
        head = _HEADER.pack(*start, *counts, 0, self.key)
        return head + meta + hashlib.sha256(head + meta).digest()

    @property
    def digest(self) -> bytes:
        return self.encoded[-DIGEST:]


@dataclass(frozen=True)
class Record:
    """One record: its payload, and the digest that binds it to its file."""

    payload: bytes = field(repr=False)
    digest: bytes


def _json(meta: Mapping[str, Any]) -> bytes:
    return _ENCODER.encode(meta).encode("ascii")


def digest_record(header_digest: bytes, index: int, payload: bytes) -> Record:
    """Make a record. Its digest: SHA-256 of header digest, index (8 bytes) and payload."""
    sha = hashlib.sha256(header_digest)
    sha.update(index.to_bytes(8, "little"))
    sha.update(payload)
    return Record(payload, sha.digest())


def fingerprint(header_digest: bytes, digests: Iterable[bytes]) -> bytes:
    """SHA-256 of the digests of the header and of every record: of the whole file."""
    sha = hashlib.sha256(header_digest)
    for digest in digests:
        sha.update(digest)
    return sha.digest()


def write_framed(
    file: IO[bytes],
    header: Header,
    payloads: Iterable[bytes],
    sign: Callable[[bytes], bytes] | None = None,
) -> None:
    """Write a header and its records. Raises InputError unless number and sizes fit the header.

    sign: makes the signature of the fingerprint that ends a signed file.
    """
    file.write(header.encoded)
    written, digests = 0, []
    for payload in payloads:
        if len(payload) != header.record_size or written >= header.n_records:
            raise InputError(
                f"a record does not fit this {header.kind.title}",
                got=f"{len(payload)} bytes, record {written + 1}",
                expected=f"{header.record_size}, {header.n_records} records",
            )
        digests.append(digest_record(header.digest, written, payload).digest)
        file.write(payload)
        file.write(digests[-1])
        written += 1
    if written != header.n_records:
        problem = f"this {header.kind.title} is not complete"
        raise InputError(problem, got=f"{written} records", expected=str(header.n_records))
    signature = sign(fingerprint(header.digest, digests)) if sign else b""
    if len(signature) != SIGNATURE * header.signed:
        raise InputError(f"the signature does not fit this {header.kind.title}")
    file.write(signature)


def framed_bytes(
    header: Header, payloads: Iterable[bytes], sign: Callable[[bytes], bytes] | None = None
) -> bytes:
    """Return the bytes of a file. Raises InputError as ``write_framed``."""
    buffer = io.BytesIO()
    write_framed(buffer, header, payloads, sign)
    return buffer.getvalue()


class Reader:
    """Reads a header, then records one by one. ``name`` stands in messages."""

    def __init__(self, file: IO[bytes], kind: Kind, name: str) -> None:
        self._file = file
        self.name = name
        self.size = file.seek(0, io.SEEK_END)
        file.seek(0)
        self.header, self.digest = _read_header(file, kind, name, self.size)
        self._start = file.tell()
        self.signature = b""  # known once every record was read
        size = self._start + self.header.n_records * (self.header.record_size + DIGEST)
        size += SIGNATURE * self.header.signed
        if size != self.size:
            problem, got = f"{name} does not have the size that its header states", self.size
            raise FormatError(problem, got=f"{got} bytes", expected=str(size), hint=_DAMAGED)

    def __iter__(self) -> Iterator[Record]:
        """Yield every record from the first. Raises FormatError when a digest does not agree."""
        self._file.seek(self._start)
        for index in range(self.header.n_records):
            payload = _exactly(self._file, self.header.record_size, self.name)
            digest = _exactly(self._file, DIGEST, self.name)
            record = digest_record(self.digest, index, payload)
            if record.digest != digest:
                problem = f"{self.name}: record {index} does not agree with its digest"
                raise FormatError(problem, hint=_DAMAGED)
            yield record
        self.signature = _exactly(self._file, SIGNATURE * self.header.signed, self.name)


def stated_form(raw: bytes, kind: Kind) -> tuple[bytes, bytes]:
    """Return a query's header without what differs between alike queries, and its key's digest.

    Two valid headers with the same first part differ in key and identity alone. Checks nothing.
    """
    if len(raw) < _HEADER.size:
        raise FormatError(f"this is too short to be a {kind.title}", got=f"{len(raw)} bytes")
    *_, length, _, key = _HEADER.unpack_from(raw)
    meta = raw[_HEADER.size : _HEADER.size + min(length, _MAX_META[kind])]
    return raw[: _HEADER.size - DIGEST] + _IDENTITY.sub(b"", meta), key


@contextlib.contextmanager
def open_framed(source: PathLike | bytes, kind: Kind) -> Iterator[Reader]:
    """Open a file, or bytes in memory, of one kind. Raises FormatError; InputError if missing."""
    if isinstance(source, bytes):
        yield Reader(io.BytesIO(source), kind, f"this {kind.title}")
        return
    with open_regular(source) as file:
        yield Reader(file, kind, str(source))


def _exactly(file: IO[bytes], count: int, name: str) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise FormatError(f"{name} ends early", hint=_DAMAGED)
    return data


def _read_header(file: IO[bytes], kind: Kind, name: str, size: int) -> tuple[Header, bytes]:
    if size < _HEADER.size + DIGEST:
        raise FormatError(f"{name} is too short to be a {kind.title}", got=f"{size} bytes")
    head = _exactly(file, _HEADER.size, name)
    fields = _HEADER.unpack(head)
    magic, version, number, parameter_id, signature, n, record_size, length, zeros, key = fields
    if magic != MAGIC:
        raise FormatError(f"{name} is no key, query or response of linalign-lite")
    if version != VERSION:
        raise FormatError(
            f"{name} has a version that this library does not read",
            got=str(version),
            expected=str(VERSION),
            hint="make it again; a newer version needs a newer linalign-lite",
        )
    if number != kind:
        found = Kind(number).title if number in set(Kind) else f"kind {number}"
        raise FormatError(f"{name} is another kind of file", got=found, expected=kind.title)
    signed = signature == SIGNATURE and kind in _SIGNED
    usable = 1 <= record_size <= MAX_RECORD and 1 <= n <= MAX_RECORDS and not zeros
    if not usable or (signature and not signed):
        raise FormatError(f"{name} states sizes that are not usable")
    if length > min(_MAX_META[kind], size):
        raise FormatError(f"{name} states a description that is too large", got=str(length))
    meta = _exactly(file, length, name)
    digest = _exactly(file, DIGEST, name)
    if hashlib.sha256(head + meta).digest() != digest:
        raise FormatError(f"{name}: its header does not agree with its digest", hint=_DAMAGED)
    parameters, description = by_id(parameter_id), _parsed(meta, name)
    if description.pop("profile", None) != parameters.name:
        raise FormatError(f"{name} names another profile than its parameters", hint="make it again")
    return Header(kind, parameters, key, n, record_size, description, signed), digest


def _parsed(raw: bytes, name: str) -> dict[str, Any]:
    """Parse the description, which must be JSON in the form that _json writes."""
    try:
        meta: dict[str, Any] = json.loads(raw.decode("ascii"))
        canonical = isinstance(meta, dict) and _json(meta) == raw
    except (ValueError, RecursionError) as e:
        raise FormatError(f"{name}: its description is not JSON") from e
    if not canonical:
        raise FormatError(f"{name}: its description is not in canonical form")
    return meta
