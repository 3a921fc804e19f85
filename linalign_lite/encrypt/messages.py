"""Queries and responses, and the checks on what their headers say.

A query is n encrypted states, ``batch`` to a record, with the space they live in; a response is as
many sets of encrypted scores, each record bound to the query record that it answers.
"""

from __future__ import annotations

import functools
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Generic, Protocol, TypeVar

from linalign_lite.core.space import MAX_DIM, Space, usable_label
from linalign_lite.encrypt.packing import Layout, layout_of
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.precision import MAX_NORM_BITS, MIN_NORM_BITS, MIN_SCORE
from linalign_lite.encrypt.response_encoding import product_size
from linalign_lite.encrypt.wire import (
    DIGEST,
    Header,
    Kind,
    Record,
    Writer,
    digest_record,
    open_framed,
)
from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.atomic import PathLike, atomic

MAX_OUTPUTS = 1 << 24
_INTEGERS = ("n", "dim", "chunks", "batch", "norm_bits", "head_scale", "flood_bits", "n_outputs")
ID_BYTES = 16
_COMMON = ("parameters", "n", "record_size")
_QUERY_SHAPE = attrgetter(
    *_COMMON, "chunks", "batch", "norm_bits",
    "space.dim", "space.model", "space.name", "space.pooling", "space.normalize",
)  # fmt: skip
_RESPONSE_SHAPE = attrgetter(*_COMMON, *_INTEGERS[1:], "labels", "softcap")


@dataclass(frozen=True)
class QueryInfo:
    """What a query's header says. ``norm_bits`` is B: every state's norm is at most 2^B.

    ``identity`` is 32 random hexadecimal digits, so that no two queries have the same digest.
    """

    parameters: Parameters
    key: bytes
    n: int
    record_size: int
    space: Space
    chunks: int
    batch: int
    norm_bits: int
    identity: str

    @property
    def layout(self) -> Layout:
        return layout_of(self.parameters.degree, self.space.dim, self.chunks, self.batch)

    def require_readable(self) -> None:
        """Raise FormatError where what is about to be written could not be read back."""
        _require_readable_query(*_QUERY_SHAPE(self))

    def header(self) -> Header:
        return self._header

    @functools.cached_property
    def _header(self) -> Header:
        meta = {
            "space": dict(vars(self.space)),
            "n": self.n,
            "chunks": self.chunks,
            "batch": self.batch,
            "norm_bits": self.norm_bits,
            "identity": self.identity,
        }
        blocks = self.layout.blocks(self.n)
        return Header(Kind.QUERY, self.parameters, self.key, blocks, self.record_size, meta)

    @classmethod
    def from_header(cls, header: Header, name: str) -> QueryInfo:
        """Checked. Raises FormatError when a field is missing, unknown or out of range."""
        meta = header.meta
        integers = ("n", "chunks", "batch", "norm_bits")
        _fields(name, meta, {"space": dict, "identity": str} | dict.fromkeys(integers, int))
        space = _space(name, meta["space"])
        _within(name, "norm_bits", meta["norm_bits"], MIN_NORM_BITS, MAX_NORM_BITS)
        _hex(name, "identity", meta["identity"], ID_BYTES)
        _layout(name, header, space.dim, meta)
        return cls(
            header.parameters,
            header.key,
            meta["n"],
            header.record_size,
            space,
            meta["chunks"],
            meta["batch"],
            meta["norm_bits"],
            meta["identity"],
        )


@dataclass(frozen=True)
class ResponseInfo:
    """What a response's header says. ``query`` is the digest of the query's header.

    ``head_scale`` is b of precision.head_scale, ``flood_bits`` k of precision.flood_bits.
    """

    parameters: Parameters
    key: bytes
    n: int
    record_size: int
    query: str
    dim: int
    chunks: int
    batch: int
    norm_bits: int
    head_scale: int
    flood_bits: int
    n_outputs: int
    labels: tuple[str, ...] = ()
    softcap: float | None = None

    @property
    def layout(self) -> Layout:
        return layout_of(self.parameters.degree, self.dim, self.chunks, self.batch)

    def require_readable(self) -> None:
        """Raise FormatError where what is about to be written could not be read back."""
        _require_readable_response(*_RESPONSE_SHAPE(self))

    def header(self) -> Header:
        return self._header

    @functools.cached_property
    def _header(self) -> Header:
        meta: dict[str, Any] = {name: getattr(self, name) for name in _INTEGERS}
        meta |= {"query": self.query, "labels": list(self.labels), "softcap": self.softcap}
        blocks = self.layout.blocks(self.n)
        return Header(Kind.RESPONSE, self.parameters, self.key, blocks, self.record_size, meta)

    @classmethod
    def from_header(cls, header: Header, name: str) -> ResponseInfo:
        """Checked. Raises FormatError when a field is missing, unknown or out of range."""
        meta = dict(header.meta)
        kinds: dict[str, Any] = dict.fromkeys(_INTEGERS, int)
        kinds |= {"query": str, "labels": list, "softcap": (float, type(None))}
        _fields(name, meta, kinds)
        _hex(name, "query", meta["query"], DIGEST)
        _within(name, "dim", meta["dim"], 1, MAX_DIM)
        _within(name, "n_outputs", meta["n_outputs"], 1, MAX_OUTPUTS)
        _within(name, "norm_bits", meta["norm_bits"], MIN_NORM_BITS, MAX_NORM_BITS)
        _layout(name, header, meta["dim"], meta)
        room = int(header.parameters.data_bits) - 2
        _within(name, "flood_bits", meta["flood_bits"], 0, room)
        used = header.parameters.query_bits - meta["norm_bits"] + meta["head_scale"]
        if not (0 <= meta["head_scale"] <= room and 0 <= used <= room - math.log2(MIN_SCORE)):
            raise FormatError(f"{name}: its scale is not usable")
        labels = _labels(name, meta.pop("labels"), meta["n_outputs"])
        if meta["softcap"] is not None and not 0 < meta["softcap"] < float("inf"):
            raise FormatError(f"{name}: its soft cap is not usable")
        return cls(
            parameters=header.parameters,
            key=header.key,
            record_size=header.record_size,
            labels=labels,
            **meta,
        )


# Once for each shape: keys, identities and digests are made here and always fit. ``typed``, because
# to a cache 1 is 1.0 and True, to a reader not.
@functools.lru_cache(maxsize=256, typed=True)
def _require_readable_query(parameters: Parameters, n: int, size: int, *rest: Any) -> None:
    shape = (size, Space(*rest[3:]), *rest[:3], "0" * 2 * ID_BYTES)
    info = QueryInfo(parameters, bytes(DIGEST), n, *shape)
    QueryInfo.from_header(info.header(), "this query")


@functools.lru_cache(maxsize=256, typed=True)
def _require_readable_response(parameters: Parameters, n: int, size: int, *rest: Any) -> None:
    info = ResponseInfo(parameters, bytes(DIGEST), n, size, "0" * 2 * DIGEST, *rest)
    ResponseInfo.from_header(info.header(), "this response")


class _Info(Protocol):
    """What descriptions of messages have in common."""

    @property
    def n(self) -> int: ...
    @property
    def key(self) -> bytes: ...

    def header(self) -> Header: ...


InfoT = TypeVar("InfoT", bound=_Info)


@dataclass(frozen=True)
class _Message(Generic[InfoT]):
    """A description and a payload for each state."""

    info: InfoT
    payloads: tuple[bytes, ...] = field(repr=False)

    def __len__(self) -> int:
        return self.info.n

    def to_bytes(self) -> bytes:
        """The file's bytes, docs/FORMAT.md section 3."""
        return _to_bytes(self.info.header(), self.payloads)

    def save(self, path: PathLike) -> None:
        """Write ``path``, whole or not at all."""
        with atomic(path) as f:
            f.write(self.to_bytes())


class Query(_Message[QueryInfo]):
    """n encrypted states (`*.query`). Holds no secret and no state in clear."""

    @property
    def digest(self) -> str:
        """Of the header; responses carry it."""
        return self.info.header().digest.hex()

    def records(self) -> list[Record]:
        """The records, with the digests that responses carry."""
        return self._records

    @functools.cached_property
    def _records(self) -> list[Record]:
        digest = self.info.header().digest
        return [digest_record(digest, i, p) for i, p in enumerate(self.payloads)]

    @classmethod
    def load(cls, source: PathLike | bytes) -> Query:
        """From a file or from bytes. Raises FormatError, or InputError when it is not there."""
        with open_framed(source, Kind.QUERY) as reader:
            info = QueryInfo.from_header(reader.header, reader.name)
            return cls(info, tuple(record.payload for record in reader))


class Response(_Message[ResponseInfo]):
    """Encrypted scores of the n states of one query (`*.response`)."""

    @classmethod
    def load(cls, source: PathLike | bytes) -> Response:
        """From a file or from bytes. Raises FormatError, or InputError when it is not there."""
        with open_framed(source, Kind.RESPONSE) as reader:
            info = ResponseInfo.from_header(reader.header, reader.name)
            return cls(info, tuple(record.payload for record in reader))


def response_size(layout: Layout, n_outputs: int) -> int:
    """Bytes of a record of a response."""
    products = layout.products(n_outputs)
    return DIGEST + products * product_size(layout.degree, 0) + 4 * n_outputs * layout.batch


def new_identity() -> str:
    return os.urandom(ID_BYTES).hex()


def require_size(name: str, size: int, expected: int) -> None:
    """Raise FormatError unless a record has exactly the bytes that its shape needs."""
    if size != expected:
        raise FormatError(
            f"{name}: its records do not have the size that their shape needs",
            got=f"{size} bytes",
            expected=str(expected),
        )


def _to_bytes(header: Header, payloads: tuple[bytes, ...]) -> bytes:
    buffer = io.BytesIO()
    writer = Writer(buffer, header)
    for payload in payloads:
        writer.write(payload)
    writer.finish()
    return buffer.getvalue()


def _fields(name: str, meta: Any, kinds: dict[str, Any]) -> None:
    if set(meta) != set(kinds):
        raise FormatError(f"{name}: its description has unknown or missing fields")
    for key, kind in kinds.items():
        if type(meta[key]) is not kind and not (
            isinstance(kind, tuple) and type(meta[key]) in kind
        ):
            raise FormatError(f"{name}: its field {key!r} has the wrong type")


def _within(name: str, key: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise FormatError(f"{name}: its field {key!r} is out of range", expected=f"{low} to {high}")


def _hex(name: str, key: str, value: str, size: int) -> None:
    if len(value) != 2 * size or not set(value) <= set("0123456789abcdef"):
        raise FormatError(f"{name}: its field {key!r} is not {size} bytes in hexadecimal")


def _layout(name: str, header: Header, dim: int, meta: Mapping[str, Any]) -> None:
    """Chunks and batch must make a layout, and n states as many records as there are."""
    if not 1 <= meta["n"] <= header.n_records * header.parameters.degree:
        raise FormatError(f"{name}: its number of states does not fit its records")
    _within(name, "chunks", meta["chunks"], 1, MAX_DIM)
    _within(name, "batch", meta["batch"], 1, header.parameters.degree)
    try:
        layout = Layout(header.parameters.degree, dim, meta["chunks"], meta["batch"])
    except InputError as e:
        raise FormatError(f"{name}: {e}") from e
    if layout.blocks(meta["n"]) != header.n_records:
        raise FormatError(f"{name}: its number of states does not fit its records")


def _labels(name: str, labels: list[Any], n_outputs: int) -> tuple[str, ...]:
    if not all(isinstance(x, str) for x in labels) or len(labels) not in {0, n_outputs}:
        raise FormatError(f"{name}: its labels do not fit its classes")
    if len(set(labels)) != len(labels) or not all(map(usable_label, labels)):
        raise FormatError(f"{name}: its labels are not distinct and printable")
    return tuple(labels)


def _space(name: str, raw: dict[str, Any]) -> Space:
    try:
        return Space.parse(raw)
    except InputError as e:
        raise FormatError(f"{name}: {e}") from e
