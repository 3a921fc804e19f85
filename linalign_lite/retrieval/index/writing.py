"""Write the shards and the ids of an index, and write them again in another order."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from linalign_lite.core.space import usable_label
from linalign_lite.errors import InputError
from linalign_lite.retrieval.index.card import (
    FRACTION,
    IDS,
    IndexShard,
    OwnIds,
    RowMetric,
    RowNumbers,
    Stored,
    shard_name,
)
from linalign_lite.retrieval.search import comparable
from linalign_lite.storage.arrays import drop_pages
from linalign_lite.storage.hashing import hash_file
from linalign_lite.vectors.source import Batch

SHARD_BYTES = 256 << 20
_COPIED = 1 << 20  # bytes of rows that are ordered at once, each from another page


@dataclass
class RowWriter:
    """Writes shards of fixed-point rows and their ids. sharded: else all rows are one file."""

    folder: Path
    metric: RowMetric
    exponent: int
    dim: int
    ids: bool
    sharded: bool = True
    rows: int = 0
    shards: list[IndexShard] = field(default_factory=list)

    def __post_init__(self) -> None:
        most = SHARD_BYTES if self.sharded else 1 << 62
        self._per_shard = max(1, most // (Stored.itemsize * self.dim))
        self._in_shard = 0
        self._digest, self._seen = hashlib.sha256(), bytearray()  # digests of ids

    def add(self, batch: Batch) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Write a batch. Returns its vectors as they are compared, and as they were rounded."""
        vectors = comparable(batch.vectors, self.metric)
        scaled = np.rint(vectors * np.float32(2.0 ** (FRACTION - self.exponent)))
        self.write(scaled.astype(Stored), batch.ids)
        return vectors, scaled

    def write(self, rounded: npt.NDArray[np.int16], ids: tuple[str, ...]) -> None:
        """Write rows that are rounded already."""
        if self.ids:
            self._write_ids(ids)
        at = 0
        while at < len(rounded):
            some = rounded[at : at + self._per_shard - self._in_shard]
            with (self.folder / shard_name(len(self.shards))).open("ab") as f:
                some.tofile(f)
            at, self._in_shard = at + len(some), self._in_shard + len(some)
            if self._in_shard == self._per_shard:
                self._end_shard()
        self.rows += len(rounded)

    def finish(self) -> tuple[tuple[IndexShard, ...], str | None]:
        """Return the shards, and the digest of the ids."""
        if self._in_shard:
            self._end_shard()
        seen = np.frombuffer(self._seen, np.uint64).reshape(-1, 2)
        order = np.lexsort(seen.T)
        same = np.flatnonzero((seen[order[1:]] == seen[order[:-1]]).all(axis=1))
        if same.size:
            first, second = sorted(order[same[0] : same[0] + 2].tolist())
            raise InputError("two vectors have one id", got=f"numbers {first} and {second}")
        return tuple(self.shards), self._digest.hexdigest() if self.ids else None

    def in_order(
        self, order: npt.NDArray[np.intp], folder: Path
    ) -> tuple[tuple[IndexShard, ...], str | None]:
        """Write the rows again in ``folder``, row order[i] as row i, and remove what was written.

        For a writer that is not sharded and is finished. Where there were no ids, the numbers that
        the rows had become ids. Returns what `finish` returns.
        """
        out = RowWriter(folder, self.metric, self.exponent, self.dim, ids=True)
        shape = self.rows, self.dim
        rows = np.memmap(self.folder / shard_name(0), Stored, "r", shape=shape)
        names = OwnIds(IDS, (self.folder / IDS).read_bytes()) if self.ids else RowNumbers(self.rows)
        step = max(1, _COPIED // (Stored.itemsize * self.dim))
        for start in range(0, self.rows, step):
            some = order[start : start + step]
            out.write(rows[some], tuple(names[i] for i in some.tolist()))
            drop_pages(rows)
        shutil.rmtree(self.folder)
        return out.finish()

    def _end_shard(self) -> None:
        name = shard_name(len(self.shards))
        digest = hash_file(self.folder / name) if self.sharded else ""
        self.shards.append(IndexShard(name, digest, self._in_shard))
        self._in_shard = 0

    def _write_ids(self, ids: tuple[str, ...]) -> None:
        for own in ids:
            if not usable_label(own):
                raise InputError(
                    "an id is not usable", got=repr(own[:60]), expected="256 printable characters"
                )
            self._seen += hashlib.blake2b(own.encode(), digest_size=16).digest()
        lines = "".join(f"{own}\n" for own in ids).encode()
        self._digest.update(lines)
        with (self.folder / IDS).open("ab") as f:
            f.write(lines)
