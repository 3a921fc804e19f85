"""The card of an index, and its ids: what a client may have. docs/FORMAT.md, section 12."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from linalign_lite.core.space import MAX_DIM, Space, usable_label
from linalign_lite.errors import FormatError, InputError, MismatchError
from linalign_lite.storage.atomic import PathLike, open_regular
from linalign_lite.storage.hashing import seal_of
from linalign_lite.storage.schema import (
    LEFT_OUT,
    Range,
    Sha256,
    Size,
    Text,
    format_errors,
    parse,
    plain,
    read_document,
)

FORMAT, VERSION = "linalign-index", 1
CARD, IDS, CENTROIDS = "index.json", "ids.txt", "centroids.rows"
FRACTION = 14  # bits of a stored value below the exponent: 2^14·(1 + NORM_SLACK) fits in 16
LEAST_BITS = 9  # of fewer, scores err too much
NORM_SLACK = 2.0**-6  # by which norms may exceed 2^exponent: unit vectors are never exactly that
MAX_ROWS = 1 << 24  # scores of an encrypted response
MAX_SHARDS, MAX_CARD = 1 << 14, 4 << 20
MAX_CLUSTERS = 1 << 12
MAX_ID = 1024  # bytes of an id in UTF-8: 256 characters
HINT = "the index may be altered or incomplete; build or copy it again"
RowMetric = Literal["cosine", "dot"]
Stored = np.dtype("<i2")


@dataclass(frozen=True)
class IndexShard:
    """One file of rows, of 16-bit integers."""

    file: Annotated[str, Text(most=64)]
    sha256: Sha256
    rows: Annotated[int, Range(1, MAX_ROWS)]


@dataclass(frozen=True)
class Overlap:
    """Share of the first 10 rows that rows of ``row_bits`` keep, mean over sample queries."""

    row_bits: Annotated[int, Range(1, FRACTION)]
    overlap: Annotated[float, Range(0.0, 1.0)]


@dataclass(frozen=True)
class Recall:
    """Share of the first 10 rows that the ``clusters`` nearest clusters hold, mean over queries."""

    clusters: Annotated[int, Range(1, MAX_CLUSTERS)]
    recall: Annotated[float, Range(0.0, 1.0)]


@dataclass(frozen=True)
class Clusters:
    """Clusters of the rows: the first ``sizes[0]`` rows are cluster 0, the next are cluster 1.

    sha256: of the file of the centroids.
    """

    sha256: Sha256
    sizes: Annotated[tuple[Annotated[int, Range(1, MAX_ROWS)], ...], Size(MAX_CLUSTERS, least=1)]
    recalls: Annotated[tuple[Recall, ...], Size(2 * MAX_CLUSTERS.bit_length())]


@dataclass(frozen=True)
class IndexCard:
    """Description of an index: all that a client needs to ask it.

    metric: "cosine", rows were scaled to length 1, or "dot". Row values are integers times
    2^(exponent − 14); before they were rounded, no row was longer than ``largest_norm``, at most
    2^exponent·(1 + NORM_SLACK). row_bits: an encrypted search rounds rows to multiples of
    2^(exponent − row_bits). sample: queries over which ``overlaps`` were measured; 0 for none. ids:
    digest of the ids' file; None where the numbers of the rows stand for ids. clusters: where rows
    are in order of cluster. Raises InputError when the fields do not agree.
    """

    space: Space
    metric: RowMetric
    rows: Annotated[int, Range(1, MAX_ROWS)]
    exponent: Annotated[int, Range(-60, 60)]
    largest_norm: Annotated[float, Range(0.0, 2.0**60)]
    row_bits: Annotated[int, Range(LEAST_BITS, FRACTION)]
    sample: Annotated[int, Range(0, MAX_ROWS)]
    overlaps: Annotated[tuple[Overlap, ...], Size(FRACTION)]
    ids: Sha256 | None
    shards: Annotated[tuple[IndexShard, ...], Size(MAX_SHARDS, least=1)]
    library: str
    clusters: Clusters | None = field(default=None, metadata=LEFT_OUT)

    def __post_init__(self) -> None:
        most = 2.0**self.exponent * (1 + NORM_SLACK)
        if not 1 <= self.space.dim <= MAX_DIM or not self.largest_norm <= most:
            raise InputError("its dimension or its exponent does not fit its rows")
        if sum(shard.rows for shard in self.shards) != self.rows:
            raise InputError("its shards do not add up to its rows")
        if self.clusters is not None and sum(self.clusters.sizes) != self.rows:
            raise InputError("its clusters do not add up to its rows")
        for i, shard in enumerate(self.shards):  # so no path leads elsewhere, and none repeats
            if shard.file != shard_name(i):
                raise InputError("a shard does not have the name of its place", got=shard.file)

    def to_bytes(self) -> bytes:
        """Return the content of `index.json`. InputError when it is too large."""
        raw = {**plain(self), "format": FORMAT, "version": VERSION}
        text = json.dumps({**raw, "seal": seal_of(raw)}, sort_keys=True) + "\n"
        if len(text) > MAX_CARD:
            raise InputError("the shards are too many for one index")
        return text.encode()

    @functools.cached_property
    def _digest(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()


def shard_name(i: int) -> str:
    return f"{i:05d}.rows"


def read_card(path: PathLike) -> IndexCard:
    """Read the card of an index: of its folder, or `index.json` alone.

    Raises InputError when it is not there, FormatError when it was altered.
    """
    path = beside(Path(path), CARD)
    with open_regular(path) as f:
        return parse_card(str(path), f.read(MAX_CARD + 1))


def parse_card(name: str, content: bytes) -> IndexCard:
    """Parse the content of `index.json`; name: of it, for the FormatError when it was altered."""
    with format_errors(name, "index", hint=HINT):
        if len(content) > MAX_CARD:
            raise FormatError(f"{name} is too large", expected=f"at most {MAX_CARD} bytes")
        fields = read_document(content, name, "index", kind=FORMAT, version=VERSION, sealed=True)
        return cast(IndexCard, parse(IndexCard, fields, "its card"))


class RowIds(Protocol):
    """Ids of rows, by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> str: ...


@dataclass(frozen=True, eq=False)
class OwnIds:
    """Ids in UTF-8, a line each, taken apart when they are asked for."""

    name: str
    content: bytes = field(repr=False)

    @functools.cached_property
    def _ends(self) -> npt.NDArray[np.intp]:
        return np.flatnonzero(np.frombuffer(self.content, np.uint8) == ord("\n"))

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> str:
        start = int(self._ends[row - 1]) + 1 if row else 0
        with format_errors(self.name, "file of ids", hint=HINT):
            found = self.content[start : int(self._ends[row])].decode()
        if not usable_label(found):
            raise FormatError(f"{self.name} has an id that is not printable", hint=HINT)
        return found


@dataclass(frozen=True)
class RowNumbers:
    """Numbers of rows as ids."""

    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> str:
        return str(range(self.count)[row])


def read_ids(path: PathLike, card: IndexCard) -> OwnIds | RowNumbers:
    """Read the ids of an index: of its folder, or `ids.txt` beside its card.

    Raises InputError when it is not there, MismatchError when it is not of this index.
    """
    if card.ids is None:
        return RowNumbers(card.rows)
    path = beside(Path(path), IDS)
    with open_regular(path) as f:
        return checked_ids(str(path), f.read(card.rows * (MAX_ID + 1) + 1), card)


def checked_ids(name: str, content: bytes, card: IndexCard) -> OwnIds:
    """Return ids; name: of their file, for the MismatchError when they are not of this index."""
    found = OwnIds(name, content)
    if hashlib.sha256(content).hexdigest() != card.ids or len(found) != card.rows:
        raise MismatchError(f"{name} does not hold the ids of this index", hint=HINT)
    return found


def card_digest(card: IndexCard) -> str:
    """SHA-256 of the card, and through it of the rows."""
    return card._digest


def ids_digest(card: IndexCard) -> str:
    """Digest by which a response names its ids: of their file, or where there is none of the card.

    So numbers of rows are never taken for those of another index; nor are those of clusters, for
    which it is the card's, too.
    """
    return card.ids if card.ids and not card.clusters else card_digest(card)


def unit(card: IndexCard) -> float:
    """Value of the integer 1 in a row."""
    return math.ldexp(1.0, card.exponent - FRACTION)


def beside(path: Path, name: str) -> Path:
    """The file ``name`` beside or in ``path``."""
    return path / name if path.is_dir() else path.with_name(name)
