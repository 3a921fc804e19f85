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
        self._current: Future[HiddenStates] | None = None

    def needed(self, shard: Shard) -> list[Shard]:
        """List the shards that a source shard needs, without the current one."""
        return [self._task.target.shards[at] for at in self._covering(shard) if at != self._at]

    def begin(self, shard: Shard) -> None:
        """Start to read the first shard that a source shard needs, unless it is the current one."""
        for at in self._covering(shard)[:1]:
            self._read(at)

    def beside(self, shard: Shard, x: HiddenStates) -> Iterator[PairedRows]:
        """Yield the rows of a source shard with the matching rows of the target."""
        task, first, stop = self._task, shard.first_text, shard.first_text + shard.n_texts
        for at in self._covering(shard):
            there = task.target.shards[at]
            y = self._read(at).result()
            same_cut = (there.first_text, there.n_texts) == (first, shard.n_texts)
            if same_cut and x.text_digest != y.text_digest:
                raise MismatchError(
                    f"the shards {shard.file} were made from different texts",
                    got=f"text digest {y.text_digest[:8]}",
                    expected=x.text_digest[:8],
                    hint="extract both models on the same file",
                )
            low = max(first, there.first_text)
            high = min(stop, there.first_text + there.n_texts)
            a, b = _rows(x, first, low, high), _rows(y, there.first_text, low, high)
            if task.pairing:
                mine, theirs = _positions(x, a), _positions(y, b)
                i, j = pair_positions(mine, theirs, task.pairing)
                folds = task.fold_of_text[mine[0][i] - task.first_text]
                yield x.states[a][i], y.states[b][j], folds
            else:
                folds = task.fold_of_text[low - task.first_text : high - task.first_text]
                yield x.states[a], y.states[b], folds

    def _covering(self, shard: Shard) -> range:
        first, stop = shard.first_text, shard.first_text + shard.n_texts
        return range(bisect_right(self._starts, first) - 1, bisect_left(self._starts, stop))

    def _read(self, at: int) -> Future[HiddenStates]:
        if self._current is None or at != self._at:
            self._at, self._current = at, None  # free memory before the next one is read
            target, verify = self._task.target, self._task.verify
            self._current = self._thread.submit(target.read, target.shards[at], verify=verify)
        return self._current


def _rows(states: HiddenStates, first: int, low: int, high: int) -> slice:
    """Return the rows of the texts from ``low`` to ``high`` in a shard whose first is ``first``."""
    if states.text_index is None:
        return slice(low - first, high - first)
    start, stop = np.searchsorted(states.text_index, [low, high])
    return slice(int(start), int(stop))


def _positions(states: HiddenStates, rows: slice) -> Positions:
    # the manifest has pooling "tokens", and its shards were checked against it
    assert states.text_index is not None
    assert states.char_end is not None
    return states.text_index[rows], states.char_end[rows]
