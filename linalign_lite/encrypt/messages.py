"""Queries and responses: their descriptions, and the checks on them.

A query holds n encrypted states, ``batch`` per record. A response holds their encrypted scores;
each of its records carries the digest of the query record that it answers. docs/FORMAT.md,
section 3.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from operator import attrgetter
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar, cast

from linalign_lite.core.space import MAX_DIM, Space, require_labels
from linalign_lite.encrypt import wire
from linalign_lite.encrypt.modular import require_size, seeded_size
from linalign_lite.encrypt.noise_flooding import most_flood_bits
from linalign_lite.encrypt.packing import MAX_RETURNED, Layout
from linalign_lite.encrypt.parameters import MODULUS_BITS, Parameters
from linalign_lite.encrypt.precision import (
    MAX_NORM_BITS,
    MIN_NORM_BITS,
    MIN_SCORE,
    relative_noise,
    score_error,
    score_room,
)
from linalign_lite.encrypt.response_encoding import WORD_BITS, product_size
from linalign_lite.encrypt.wire import DIGEST, MAX_RECORDS, Header, Kind, Record
from linalign_lite.errors import InputError
from linalign_lite.retrieval.index.card import MAX_CLUSTERS
from linalign_lite.retrieval.index.clusters import MAX_ASKED
from linalign_lite.storage.atomic import PathLike, write_atomic
from linalign_lite.storage.schema import (
    LEFT_OUT,
    Range,
    Sha256,
    Size,
    Text,
    format_errors,
    parse,
    plain,
)

Progress = Callable[[int], None]  # called with the number of states done since the last call
MAX_OUTPUTS = 1 << 24
MAX_DEGREE = max(MODULUS_BITS)
ID_BYTES = 16


@dataclass(frozen=True)
class _PositiveFloat:
    """A finite number above 0, written with a decimal point: an integer is another JSON."""

    expected: str = "a float above 0"

    def allows(self, value: Any) -> bool:
        return type(value) is float and 0 < value < math.inf


@dataclass(frozen=True, kw_only=True)
class _Packing:
    """Fields of both descriptions. Every state's norm is at most 2^``norm_bits``.

    clusters: of an index, whose rows are scored, ascending; none for all rows.
    """

    n: Annotated[int, Range(1, MAX_RECORDS * MAX_DEGREE)]
    chunks: Annotated[int, Range(1, MAX_DIM)]
    batch: Annotated[int, Range(1, MAX_DEGREE)]
    many: bool = field(default=False, metadata=LEFT_OUT)  # packing.Layout
    norm_bits: Annotated[int, Range(MIN_NORM_BITS, MAX_NORM_BITS)]
    clusters: Annotated[tuple[Annotated[int, Range(0, MAX_CLUSTERS - 1)], ...], Size(MAX_ASKED)] = (
        field(default=(), metadata=LEFT_OUT)
    )


@dataclass(frozen=True, kw_only=True)
class QueryDescription(_Packing):
    """JSON fields of a query's header. ``identity``: random, so that no two digests are equal.

    n_outputs: scores that the query serves, where it has only the coefficients that reach them.
    index: where it names clusters, `card_digest` of the index that they are of.
    """

    space: Space
    n_outputs: Annotated[int, Range(1, MAX_OUTPUTS)] | None
    identity: Annotated[str, Text(2 * ID_BYTES, 2 * ID_BYTES, "[0-9a-f]*")]
    index: Annotated[str, Text(64, 0, "[0-9a-f]{64}|")] = field(default="", metadata=LEFT_OUT)


@dataclass(frozen=True, kw_only=True)
class ResponseDescription(_Packing):
    """JSON fields of a response's header."""

    query: Sha256  # digest of the query's header
    dim: Annotated[int, Range(1, MAX_DIM)]
    head_scale: Annotated[int, Range(0, max(MODULUS_BITS.values()))]  # b of precision.head_scale
    rounding_bits: Annotated[int, Range(0, max(MODULUS_BITS.values()))]  # precision.Scales
    # k of noise_flooding.flood_bits
    flood_bits: Annotated[int, Range(0, max(MODULUS_BITS.values()))]
    word_bits: Annotated[int, Range(min(WORD_BITS), max(WORD_BITS))]
    n_outputs: Annotated[int, Range(1, MAX_OUTPUTS)]
    labels: tuple[str, ...]
    softcap: Annotated[float, _PositiveFloat()] | None
    # of an index, whose rows have ids in place of labels: `ids_digest`
    ids: Annotated[str, Text(64, 0, "[0-9a-f]{64}|")] = field(default="", metadata=LEFT_OUT)


@dataclass(frozen=True, kw_only=True)
class _Info(_Packing):
    """Header of a message: profile, digest of the public key, bytes of a record, description."""

    KIND: ClassVar[Kind]
    DESCRIPTION: ClassVar[type]
    DIM: ClassVar[attrgetter[int]]  # dimension of the states
    OWN: ClassVar[dict[str, Any]]  # the field that no two messages share, and a value of its form
    parameters: Parameters
    key: bytes
    record_size: int
    signed: bool = False

    @functools.cached_property
    def layout(self) -> Layout:
        """Layout of the states in ciphertexts."""
        return Layout(self.parameters.degree, self.DIM(self), self.chunks, self.batch, self.many)

    def header(self) -> Header:
        return self._header

    @functools.cached_property
    def _header(self) -> Header:
        blocks = self.layout.blocks(self.n)
        values = [(f, getattr(self, f.name)) for f in fields(self.DESCRIPTION)]
        meta = {f.name: _as_json(v) for f, v in values if v or f.metadata != LEFT_OUT}
        shape = blocks, self.record_size
        return Header(self.KIND, self.parameters, self.key, *shape, meta, self.signed)

    @classmethod
    def from_header(cls, header: Header, name: str) -> Self:
        """Parse the description of the file ``name``. Raises FormatError for an unusable field."""
        with format_errors(name, cls.KIND.title):
            described = vars(parse(cls.DESCRIPTION, header.meta, "its description"))
            names = ("parameters", "key", "record_size", "signed")
            common = {k: getattr(header, k) for k in names}
            info = cls(**common, **described)
            if info.header().meta != header.meta:  # it would have another digest
                raise InputError("it has an empty field that is left out when it is empty")
            if info.layout.blocks(info.n) != header.n_records:
                raise InputError("its number of states does not fit its records")
            info._require_consistent()
        return info

    def require_readable(self) -> None:
        """Raise FormatError for what `from_header` would refuse. Called before writing."""
        _require_readable(replace(self, **self.OWN), _types(self))  # looked at once for all alike

    def _require_consistent(self) -> None:
        """Raise InputError when fields do not agree with one another."""
        if any(a >= b for a, b in itertools.pairwise(self.clusters)):
            raise InputError("its clusters are not in order, or one is named twice")


@dataclass(frozen=True, kw_only=True)
class QueryInfo(QueryDescription, _Info):
    """Header of a query."""

    KIND = Kind.QUERY
    DESCRIPTION = QueryDescription
    DIM = attrgetter("space.dim")
    OWN: ClassVar = {"identity": "0" * 2 * ID_BYTES}

    @property
    def window(self) -> tuple[int, int]:
        """The coefficients that its first components have: see Layout.window."""
        return self.layout.window(self.n_outputs)

    @property
    def needs_proof(self) -> bool:
        """True if a product returns more coefficients than an unproven key may ask for."""
        return self.parameters.private and self.layout.rows * self.batch > MAX_RETURNED

    @property
    def chunk_size(self) -> int:
        """Bytes of one chunk: a seeded pair."""
        return seeded_size(self.window[1], self.parameters.data_primes)

    def _require_consistent(self) -> None:
        super()._require_consistent()
        if bool(self.clusters) != bool(self.index):
            raise InputError("it names clusters without their index, or an index without clusters")
        if self.n_outputs is not None and self.window[1] == self.parameters.degree:
            raise InputError("it names a number of scores, but has all coefficients")
        require_size("a record of it", self.record_size, self.chunks * self.chunk_size)


@dataclass(frozen=True, kw_only=True)
class ResponseInfo(ResponseDescription, _Info):
    """Header of a response."""

    KIND = Kind.RESPONSE
    DESCRIPTION = ResponseDescription
    DIM = attrgetter("dim")
    OWN: ClassVar = {"query": "0" * 2 * DIGEST}

    @property
    def error_bound(self) -> float:
        """Bound on the error of a score, from the header alone."""
        fold = self.layout.fold(self.n_outputs)
        scales = self.head_scale, self.rounding_bits, fold, self.flood_bits, self.word_bits
        return score_error(self.parameters, self.norm_bits, *scales)

    @property
    def imprecision(self) -> float:
        """The error, or of an index `relative_noise`: a client's ``max_error`` limits it."""
        if not self.ids:
            return self.error_bound
        numbers = self.layout.fold(self.n_outputs), self.flood_bits, self.word_bits
        return relative_noise(self.parameters, self.norm_bits, self.head_scale, *numbers)

    def _require_consistent(self) -> None:
        super()._require_consistent()
        if self.clusters and not self.ids:
            raise InputError("it names clusters without their index")
        room, most = score_room(self.parameters), most_flood_bits(self.parameters)
        used = self.parameters.query_bits - self.norm_bits + self.head_scale
        if self.head_scale > room or not 0 <= used <= room - math.log2(MIN_SCORE):
            raise InputError("its scale is not usable")
        if self.rounding_bits > self.head_scale:
            raise InputError("its weights have no bits", got=f"{self.rounding_bits} rounded off")
        if self.flood_bits > most:
            raise InputError("its flooding is not usable", expected=f"at most {most} bits")
        if self.word_bits not in WORD_BITS:
            raise InputError("its words are not usable", expected=" or ".join(map(str, WORD_BITS)))
        if len(self.labels) not in {0, self.n_outputs}:
            raise InputError("its labels do not fit its classes")
        require_labels(self.labels, "a response")
        size = response_size(self.layout, self.n_outputs, self.word_bits)
        require_size("a record of it", self.record_size, size)


def _types(value: Any) -> Any:
    """Types of a value and its fields: 1, True and 1.0 are equal, but differ in JSON."""
    if not is_dataclass(value):
        return type(value)
    return type(value), *(_types(getattr(value, f.name)) for f in fields(value))


@functools.lru_cache(maxsize=64)
def _require_readable(info: _Info, types: Any) -> None:  # noqa: ARG001 (part of the key)
    title = info.KIND.title
    with format_errors(f"this {title}", title):
        meta = info.header().meta
        labels: dict[str, Any] = {"labels": []} if "labels" in meta else {}  # faster below
        parse(info.DESCRIPTION, {**meta, **labels}, "its description")
        info._require_consistent()


def _as_json(value: Any) -> Any:
    """Return a field as `json.loads` would: parse compares types."""
    if isinstance(value, Space):
        return plain(value)
    return list(value) if isinstance(value, tuple) else value


InfoT = TypeVar("InfoT", bound=_Info)


@dataclass(frozen=True)
class _Message(Generic[InfoT]):
    """A header and the payload of each record."""

    INFO: ClassVar[type[_Info]]
    info: InfoT
    payloads: tuple[bytes, ...] = field(repr=False)
    signature: bytes = field(default=b"", repr=False)

    def __len__(self) -> int:
        return self.info.n

    def to_bytes(self) -> bytes:
        """Return the file's bytes: docs/FORMAT.md, section 3."""
        sign = (lambda _: self.signature) if self.info.signed else None
        return wire.framed_bytes(self.info.header(), self.payloads, sign)

    def save(self, path: PathLike) -> None:
        """Write ``path``, whole or not at all."""
        write_atomic(path, self.to_bytes())

    @classmethod
    def load(cls, source: PathLike | bytes) -> Self:
        """Read a file or bytes. Raises FormatError, or InputError when the file is missing."""
        with wire.open_framed(source, cls.INFO.KIND) as reader:
            info = cast(InfoT, cls.INFO.from_header(reader.header, reader.name))
            payloads = tuple(record.payload for record in reader)
            return cls(info, payloads, reader.signature)


class Query(_Message[QueryInfo]):
    """n encrypted states (`*.query`). Holds no secret and no state in clear."""

    INFO = QueryInfo

    @property
    def digest(self) -> str:
        """Digest of the header, hexadecimal. Responses carry it."""
        return self.info.header().digest.hex()

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the digests of header and records: what a signature signs."""
        return wire.fingerprint(self.info.header().digest, (r.digest for r in self.records()))

    def records(self) -> list[Record]:
        """Return the records with the digests that responses carry."""
        return self._records

    @functools.cached_property
    def _records(self) -> list[Record]:
        digest = self.info.header().digest
        return [wire.digest_record(digest, i, p) for i, p in enumerate(self.payloads)]


class Response(_Message[ResponseInfo]):
    """Encrypted scores of the n states of one query (`*.response`)."""

    INFO = ResponseInfo


def signed_bytes(fingerprint: bytes) -> bytes:
    """Return the bytes that an account signs for a query: docs/FORMAT.md, section 3."""
    return b"linalign-lite asks the query " + fingerprint


def response_size(layout: Layout, n_outputs: int, word_bits: int) -> int:
    """Bytes of a record of a response."""
    second = layout.products(n_outputs) * product_size(layout.degree, 0, word_bits)
    return DIGEST + second + product_size(0, n_outputs * layout.batch, word_bits)
