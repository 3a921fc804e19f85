"""Sources and sinks of vectors: the interface that every kind of file and store implements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from linalign_lite.core.space import Space

Vectors = npt.NDArray[np.float32]
Payload = Sequence[Mapping[str, Any]]
Metric = Literal["", "cosine", "dot", "euclidean"]  # "" is unknown
Ids = Literal["rows", "integers", "texts"]
ROWS = 4096  # default of a batch


@dataclass(frozen=True)
class VectorInfo:
    """Properties of a collection of vectors before it is read.

    space: its dimension and, where known, the model: by digest, or by name alone (`named_space`).
    count: number of vectors, or None. metric: of its search. ids: "rows", it has none of its own
    and the number of a row stands for one; "integers", all decimal numbers of 64 bits; "texts".
    version: differs when the collection was changed; "" where the store has nothing of the kind.
    """

    space: Space
    count: int | None = None
    metric: Metric = ""
    ids: Ids = "texts"
    version: str = ""

    @property
    def dim(self) -> int:
        """The number of dimensions."""
        return self.space.dim

    @property
    def model(self) -> str:
        """The name of the model, "" when unknown."""
        return self.space.name


@dataclass(frozen=True, eq=False)
class Batch:
    """Consecutive vectors of a source.

    payload: the other columns, one mapping per vector, of what JSON can hold; or None.
    cursor: the position after the last vector, from which `VectorSource.batches` continues.
    """

    ids: tuple[str, ...]
    vectors: Vectors  # shape: (n, d), finite
    payload: Payload | None = None
    cursor: str = ""

    def __len__(self) -> int:
        return len(self.ids)


class VectorSource(ABC):
    """Vectors to read. A back end reads; `checks.CheckedSource` around it finds what is wrong."""

    info: VectorInfo

    @abstractmethod
    def batches(self, rows: int = ROWS, after: str = "") -> Iterator[Batch]:
        """Yield the vectors in an order that does not change, at most ``rows`` at a time.

        after: the cursor of an earlier batch, "" for the beginning.
        """

    @abstractmethod
    def current(self) -> VectorInfo:
        """Return the info as it is now: it differs from ``info`` if the collection was changed."""

    def close(self) -> None:  # noqa: B027 (most back ends hold nothing open)
        """Release files and connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class VectorSink(ABC):
    """Vectors to write. Nothing is visible before `finish`; without it, leaving the block aborts.

    cursor: of the last batch that an interrupted run kept, for a sink that can be resumed; "".
    """

    info: VectorInfo
    cursor: str = ""

    @abstractmethod
    def write(self, batch: Batch) -> None:
        """Add vectors."""

    @abstractmethod
    def finish(self) -> None:
        """Make everything visible at once."""

    @abstractmethod
    def abort(self) -> None:
        """Remove what was written. Does nothing after `finish`."""

    def suspend(self) -> None:
        """Stop, and keep what a later run can resume from; by default nothing."""
        self.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.abort()


def named_space(dim: int, model: str = "") -> Space:
    """Return the space of vectors of a model that is known by name alone, or not at all."""
    return Space(dim, name=model)


def row_ids(first: int, n: int) -> tuple[str, ...]:
    """Return ids for n vectors without ids of their own: the number of each one's row."""
    return tuple(map(str, range(first, first + n)))
