"""Checks that every source and sink of vectors passes, whatever its back end."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from linalign_lite.errors import FormatError, InputError, LinalignError, MismatchError
from linalign_lite.storage.arrays import count_nonfinite
from linalign_lite.vectors.source import ROWS, Batch, VectorInfo, VectorSink, VectorSource

Hashes = npt.NDArray[np.int64]


class DuplicateIdError(InputError):
    """Two vectors of a collection have the same id."""


class ChangedError(LinalignError):
    """A collection was changed while it was read."""


class CheckedSource(VectorSource):
    """A source whose batches were checked.

    `batches` raises FormatError for parts that do not fit one another, MismatchError for another
    dimension, InputError for values that are not finite, DuplicateIdError, and at its end
    ChangedError when the number of vectors or the version is another than at the beginning.
    """

    def __init__(self, source: VectorSource, name: str) -> None:
        self.source = source
        self.name = name
        self.info = source.info

    def batches(self, rows: int = ROWS, after: str = "") -> Iterator[Batch]:
        if rows < 1:
            raise InputError(
                "the rows of a batch are not usable", got=str(rows), expected="1 or more"
            )
        found, seen = 0, DistinctIds(self.name)
        for batch in self.source.batches(rows, after):
            require_batch(batch, self.info, self.name)
            if self.info.ids != "rows":
                seen.add(batch.ids)
            found += len(batch)
            yield batch
        seen.check()
        self._require_unchanged(None if after else found)

    def current(self) -> VectorInfo:
        return self.source.current()

    def close(self) -> None:
        self.source.close()

    def _require_unchanged(self, found: int | None) -> None:
        """found: number of vectors read, None if not all were to be read."""
        before, now = self.info, self.current()
        counts = {before.count, now.count, found} - {None}
        if len(counts) > 1 or before.version != now.version:
            raise ChangedError(
                f"{self.name} was changed while it was read",
                got=f"{now.count if found is None else found} vectors at the end",
                expected=f"{before.count}" if len(counts) > 1 else "the same version throughout",
                hint="start again when nobody writes to it",
            )


class CheckedSink(VectorSink):
    """A sink that refuses what does not fit its info, with the errors of `CheckedSource`."""

    def __init__(self, sink: VectorSink, name: str) -> None:
        self.sink = sink
        self.name = name
        self.info = sink.info
        self.cursor = sink.cursor
        self._seen = DistinctIds(name)

    def write(self, batch: Batch) -> None:
        require_batch(batch, self.info, self.name)
        self._seen.add(batch.ids)
        self.sink.write(batch)
        self.cursor = self.sink.cursor

    def finish(self) -> None:
        self._seen.check()
        self.sink.finish()

    def abort(self) -> None:
        self.sink.abort()

    def suspend(self) -> None:
        self.sink.suspend()


class DistinctIds:
    """Finds ids that come twice. Holds eight bytes an id, so that a large collection fits."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._hashes: list[Hashes] = []

    def add(self, ids: tuple[str, ...]) -> None:
        """Add ids; those that are twice among them are found at once. Raises DuplicateIdError."""
        if len(set(ids)) < len(ids):
            raise self._error()
        self._hashes.append(np.fromiter(map(hash, ids), np.int64, len(ids)))

    def check(self) -> None:
        """Raise DuplicateIdError if an id came twice.

        Equal hashes of 64 bits stand for equal ids: of a hundred million distinct ids two have
        the same with a probability of 3·10⁻⁴.
        """
        if len(self._hashes) > 1:
            ordered = np.sort(np.concatenate(self._hashes))
            if (ordered[1:] == ordered[:-1]).any():
                raise self._error()

    def _error(self) -> DuplicateIdError:
        return DuplicateIdError(
            f"{self._name} has an id twice", expected="distinct ids", hint="remove one of the two"
        )


def dimension_error(name: object, got: int, expected: int) -> MismatchError:
    """Return the error for a vector of another dimension than the rest; name: of the collection."""
    problem = f"{name} holds vectors of another dimension"
    return MismatchError(problem, got=str(got), expected=str(expected))


def require_batch(batch: Batch, info: VectorInfo, name: str) -> None:
    """Raise unless the parts of a batch fit one another and the info; name: of the collection."""
    vectors, n = batch.vectors, len(batch.ids)
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not len(vectors) == n > 0:
        raise FormatError(
            f"{name}: a batch is not usable",
            got=f"{n} ids, vectors {vectors.dtype} {vectors.shape}",
            expected="as many ids as vectors, (n, d) float32",
        )
    if batch.payload is not None and len(batch.payload) != n:
        raise FormatError(
            f"{name}: a batch is not usable", got=f"{len(batch.payload)} payloads", expected=str(n)
        )
    if vectors.shape[1] != info.dim:
        raise dimension_error(name, vectors.shape[1], info.dim)
    if bad := count_nonfinite(vectors):
        raise InputError(
            f"{name} holds vectors that are not finite",
            got=f"{bad} values NaN or infinite",
            expected="finite numbers only",
            hint="remove these rows; often the text was empty or the request failed",
        )
    if not all(batch.ids):
        raise InputError(f"{name} has an empty id", expected="1 character or more")
    if info.ids == "integers" and not all(map(is_integer, batch.ids)):
        raise InputError(
            f"{name} has ids of two kinds, or numbers too large for an id",
            got=next(own for own in batch.ids if not is_integer(own))[:40],
            expected="integers of 64 bits, as the first one",
            hint="make all of them text",
        )


def is_integer(text: str) -> bool:
    """Return True for an integer of 64 bits, written as "7" and not as "007", another id."""
    if len(text) > 20 or not (text.isascii() and text.removeprefix("-").isdecimal()):
        return False
    return str(int(text)) == text and -(1 << 63) <= int(text) < 1 << 64
