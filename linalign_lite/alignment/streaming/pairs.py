"""Read matching rows of two folders, with one shard of each in memory at a time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array
from linalign_lite.core.executor import prefetch
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.shards.manifest import Shard
from linalign_lite.core.shards.states_folder import StatesFolder
from linalign_lite.core.token_alignment import Positions, pair_positions
from linalign_lite.errors import MismatchError

Folds = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True, eq=False)
class LeafTask:
    """Leaves to measure in sequence. Picklable."""

    source: StatesFolder
    target: StatesFolder
    fold_of_text: Folds  # the folds of the texts from first_text on
    first_text: int
    folds: int
    pairing: str
    verify: bool
    leaves: tuple[tuple[int, int], ...]  # first source shard of each, and the end

    def of(self, leaves: tuple[tuple[int, int], ...]) -> LeafTask:
        """Return the task of some of the leaves, with the folds of their texts alone."""
        shards = self.source.shards
        first = shards[leaves[0][0]].first_text
        last = shards[leaves[-1][1] - 1]
        fold_of_text = self.fold_of_text[first - self.first_text : last.first_text + last.n_texts]
        return replace(self, fold_of_text=fold_of_text, first_text=first, leaves=leaves)


PairedRows = tuple[Array, Array, Folds]  # matching rows, and the fold of each


@dataclass(frozen=True, eq=False)
class PairedShard:
    """A source shard with the matching rows of the target."""

    text_digest: str
    n_texts: int
    ends: bool  # whether it is a leaf's last
    pairs: tuple[PairedRows, ...]


def paired_shards(task: LeafTask) -> Iterator[PairedShard]:
    """Yield the source's shards in order, with the matching rows of the target.

    Both sides are read at once, a thread each, but not while products are computed: hashing would
    take a core from those. Meanwhile a thread asks the system to read the next files from disk.
    Shards under a URL are fetched ahead instead.
    """
    if isinstance(task.source.folder, Path) and isinstance(task.target.folder, Path):
        return _read_shards(task)
    return prefetch(_read_shards(task))


def _read_shards(task: LeafTask) -> Iterator[PairedShard]:
    numbers = [(i, i == end - 1) for first, end in task.leaves for i in range(first, end)]
    with ThreadPoolExecutor(1) as beside, ThreadPoolExecutor(1) as warmer:
        theirs = _TargetReader(task, beside)
        for (i, ends), after in zip_longest(numbers, numbers[1:]):
            shard = task.source.shards[i]
            theirs.begin(shard)
            x = task.source.read(shard, verify=task.verify)
            pairs = tuple(theirs.beside(shard, x))
            if after is not None:
                coming = task.source.shards[after[0]]
                warmer.submit(task.source.warm, coming)
                for there in theirs.needed(coming):
                    warmer.submit(task.target.warm, there)
            yield PairedShard(x.text_digest, shard.n_texts, ends, pairs)
            del x, pairs  # free memory before the next ones are read


class _TargetReader:
    """Reads the target's shards that match the source's. Keeps the last one: cuts may differ."""

    def __init__(self, task: LeafTask, thread: ThreadPoolExecutor) -> None:
        self._task = task
        self._thread = thread
        self._starts = [s.first_text for s in task.target.shards]
        self._at = -1
        self._states: HiddenStates | None = None
        self._coming: Future[HiddenStates] | None = None  # the current shard, being read

    def needed(self, shard: Shard) -> list[Shard]:
        """List the shards that a source shard needs, without the current one."""
        return [self._task.target.shards[at] for at in self._covering(shard) if at != self._at]

    def begin(self, shard: Shard) -> None:
        """Start to read the first shard that a source shard needs, unless it is the current one."""
        for at in self._covering(shard)[:1]:
            if at != self._at:
                self._states = None  # before the next one is read
                self._at, self._coming = at, self._thread.submit(self._load, at)

    def beside(self, shard: Shard, x: HiddenStates) -> Iterator[PairedRows]:
        """Yield the rows of a source shard with the matching rows of the target."""
        first, stop = shard.first_text, shard.first_text + shard.n_texts
        for at in self._covering(shard):
            there = self._task.target.shards[at]
            y = self._read(at)
            if (there.first_text, there.n_texts) == (first, shard.n_texts):
                _require_same(shard.file, x, y)
            low = max(first, there.first_text)
            high = min(stop, there.first_text + there.n_texts)
            yield self._pairs(
                _NumberedShard(x, first), _NumberedShard(y, there.first_text), low, high
            )

    def _covering(self, shard: Shard) -> range:
        first, stop = shard.first_text, shard.first_text + shard.n_texts
        return range(bisect_right(self._starts, first) - 1, bisect_left(self._starts, stop))

    def _read(self, at: int) -> HiddenStates:
        if at == self._at and self._coming is not None:
            self._states, self._coming = self._coming.result(), None
        if at != self._at or self._states is None:
            self._states = None  # before the next one is read
            self._states, self._at = self._load(at), at
        return self._states

    def _load(self, at: int) -> HiddenStates:
        target = self._task.target
        return target.read(target.shards[at], verify=self._task.verify)

    def _pairs(self, x: _NumberedShard, y: _NumberedShard, low: int, high: int) -> PairedRows:
        """Return the pairs of the texts from ``low`` to ``high``."""
        task = self._task
        a, b = x.rows(low, high), y.rows(low, high)
        if not task.pairing:
            folds = task.fold_of_text[low - task.first_text : high - task.first_text]
            return x.states.states[a], y.states.states[b], folds
        mine, theirs = pair_positions(x.positions(a), y.positions(b), task.pairing)
        texts = x.positions(a)[0][mine]
        return (
            x.states.states[a][mine],
            y.states.states[b][theirs],
            task.fold_of_text[texts - task.first_text],
        )


@dataclass(frozen=True, eq=False)
class _NumberedShard:
    """States of a shard; ``first`` is the number of its first text."""

    states: HiddenStates
    first: int

    def rows(self, low: int, high: int) -> slice:
        """Return the rows of the texts from ``low`` to ``high``."""
        index = self.states.text_index
        if index is None:
            return slice(low - self.first, high - self.first)
        start, stop = np.searchsorted(index, [low, high])
        return slice(int(start), int(stop))

    def positions(self, rows: slice) -> Positions:
        index, ends = self.states.text_index, self.states.char_end
        assert (
            index is not None
        )  # the manifest has pooling "tokens", and its shards were checked against it
        assert ends is not None
        return index[rows], ends[rows]


def _require_same(file: str, x: HiddenStates, y: HiddenStates) -> None:
    if x.text_digest != y.text_digest:
        raise MismatchError(
            f"the shards {file} were made from different texts",
            got=f"text digest {y.text_digest[:8]}",
            expected=x.text_digest[:8],
            hint="extract both models on the same file",
        )
