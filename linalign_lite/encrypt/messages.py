"""Queries and responses, and the checks on what their headers say.

A query is n encrypted states with the space they live in; a response is as many sets of encrypted
scores, each bound to the query record that it answers.
"""

from __future__ import annotations

import dataclasses
import io
import os
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from linalign_lite.encrypt.packing import Layout
from linalign_lite.encrypt.parameters import MAX_NORM_BITS, MIN_NORM_BITS, Parameters
from linalign_lite.encrypt.wire import (
    DIGEST,
    Header,
    Kind,
    Record,
    Writer,
    reading,
    seal_record,
)
from linalign_lite.errors import FormatError, InputError
from linalign_lite.files import PathLike, atomic
from linalign_lite.linear import MAX_DIM, Space

MAX_OUTPUTS = 1 << 24
ID_BYTES = 16
WHOLE = "whole"  # both components of every ciphertext, all coefficients


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
    norm_bits: int
    identity: str

    @property
    def layout(self) -> Layout:
        return Layout(self.parameters.degree, self.space.dim, self.chunks)

    def header(self) -> Header:
        meta = {
            "space": dataclasses.asdict(self.space),
            "chunks": self.chunks,
            "norm_bits": self.norm_bits,
            "identity": self.identity,
        }
        return Header(Kind.QUERY, self.parameters, self.key, self.n, self.record_size, meta)

    @classmethod
    def from_header(cls, header: Header, name: str) -> QueryInfo:
        """Checked. Raises FormatError when a field is missing, unknown or out of range."""
        meta = header.meta
        _fields(name, meta, {"space": dict, "chunks": int, "norm_bits": int, "identity": str})
        space = _space(name, meta["space"])
        _within(name, "norm_bits", meta["norm_bits"], MIN_NORM_BITS, MAX_NORM_BITS)
        _hex(name, "identity", meta["identity"], ID_BYTES)
        _layout(name, header.parameters, space.dim, meta["chunks"])
        return cls(
            header.parameters,
            header.key,
            header.n_records,
            header.record_size,
            space,
            meta["chunks"],
            meta["norm_bits"],
            meta["identity"],
        )


@dataclass(frozen=True)
class ResponseInfo:
    """What a response's header says. ``query`` is the digest of the query's header.

    ``head_scale`` is b of parameters.head_scale. ``form`` says what is left of a ciphertext.
    """

    parameters: Parameters
    key: bytes
    n: int
    record_size: int
    query: str
    dim: int
    chunks: int
    norm_bits: int
    head_scale: int
    n_outputs: int
    labels: tuple[str, ...] = ()
    softcap: float | None = None
    form: str = WHOLE

    @property
    def layout(self) -> Layout:
        return Layout(self.parameters.degree, self.dim, self.chunks)

    def header(self) -> Header:
        names = ("query", "dim", "chunks", "norm_bits", "head_scale", "n_outputs", "form")
        meta = {name: getattr(self, name) for name in names}
        meta |= {"labels": list(self.labels), "softcap": self.softcap}
        return Header(Kind.RESPONSE, self.parameters, self.key, self.n, self.record_size, meta)

    @classmethod
    def from_header(cls, header: Header, name: str) -> ResponseInfo:
        """Checked. Raises FormatError when a field is missing, unknown or out of range."""
        meta = dict(header.meta)
        integers = ("dim", "chunks", "norm_bits", "head_scale", "n_outputs")
        kinds: dict[str, Any] = dict.fromkeys(integers, int)
        kinds |= {"query": str, "form": str, "labels": list, "softcap": (float, type(None))}
        _fields(name, meta, kinds)
        _hex(name, "query", meta["query"], DIGEST)
        _within(name, "dim", meta["dim"], 1, MAX_DIM)
        _within(name, "n_outputs", meta["n_outputs"], 1, MAX_OUTPUTS)
        _within(name, "norm_bits", meta["norm_bits"], MIN_NORM_BITS, MAX_NORM_BITS)
        _layout(name, header.parameters, meta["dim"], meta["chunks"])
        room = int(header.parameters.data_bits) - 2
        used = header.parameters.query_bits - meta["norm_bits"] + meta["head_scale"]
        if meta["head_scale"] < 0 or not 0 <= used <= room:
            raise FormatError(f"{name}: its scale is not usable")
        if meta["form"] != WHOLE:
            raise FormatError(f"{name}: its form is unknown", got=meta["form"][:40], expected=WHOLE)
        labels = _labels(name, meta.pop("labels"), meta["n_outputs"])
        if meta["softcap"] is not None and not 0 < meta["softcap"] < float("inf"):
            raise FormatError(f"{name}: its soft cap is not usable")
        return cls(
            header.parameters,
            header.key,
            header.n_records,
            header.record_size,
            labels=labels,
            **meta,
        )


class _Info(Protocol):
    """What descriptions of messages have in common."""

    @property
    def n(self) -> int: ...

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
        digest = self.info.header().digest
        return [seal_record(digest, i, p) for i, p in enumerate(self.payloads)]

    @classmethod
    def load(cls, source: PathLike | bytes) -> Query:
        """From a file or from bytes. Raises FormatError, or InputError when it is not there."""
        with reading(source, Kind.QUERY) as reader:
            info = QueryInfo.from_header(reader.header, reader.name)
            return cls(info, tuple(record.payload for record in reader))


class Response(_Message[ResponseInfo]):
    """Encrypted scores of the n states of one query (`*.response`)."""

    @classmethod
    def load(cls, source: PathLike | bytes) -> Response:
        """From a file or from bytes. Raises FormatError, or InputError when it is not there."""
        with reading(source, Kind.RESPONSE) as reader:
            info = ResponseInfo.from_header(reader.header, reader.name)
            return cls(info, tuple(record.payload for record in reader))


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


def _layout(name: str, parameters: Parameters, dim: int, chunks: int) -> None:
    try:
        Layout(parameters.degree, dim, chunks)
    except InputError as e:
        raise FormatError(f"{name}: {e}") from e


def _labels(name: str, labels: list[Any], n_outputs: int) -> tuple[str, ...]:
    if not all(isinstance(x, str) for x in labels) or len(labels) not in {0, n_outputs}:
        raise FormatError(f"{name}: its labels do not fit its classes")
    try:
        "".join(labels).encode()
    except UnicodeEncodeError:
        raise FormatError(f"{name}: its labels are not text") from None
    return tuple(labels)


def _space(name: str, raw: dict[str, Any]) -> Space:
    try:
        return Space.parse(raw)
    except InputError as e:
        raise FormatError(f"{name}: {e}") from e
