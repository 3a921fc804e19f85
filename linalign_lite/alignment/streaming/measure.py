"""Compute moments of states larger than memory: shard by shard, in one process or many workers.

The work is cut into leaves, runs of shards, and the moments of leaves are merged in a tree. Both
depend on the folders alone. So any number of workers gives the same bits, on processors of one kind
with the same number of BLAS threads. On others the result agrees up to rounding.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import Executor

from linalign_lite.alignment.moments import FoldAccumulator, FoldedMoments, assign_folds
from linalign_lite.alignment.paired_moments import MomentsPart, PairedMoments
from linalign_lite.alignment.streaming.pairs import LeafTask, paired_shards
from linalign_lite.core.affine_map import Array
from linalign_lite.core.choices import MAP_FOLDS
from linalign_lite.core.executor import IN_FLIGHT, map_in_order
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.shards.states_folder import StatesFolder
from linalign_lite.core.space import Space
from linalign_lite.core.token_alignment import RULES
from linalign_lite.errors import InputError, MismatchError

LEAF_ROWS = 1 << 16  # minimum rows of a leaf
LEAF_ROWS_A_DIMENSION = 64  # so that moments are small relative to their states
MOST_TASKS = 1024
FAN = 32  # moments merged in sequence at one level of the tree

Progress = Callable[[int], None]


class MomentTree:
    """Merges moments in an order that depends on their number alone.

    FAN of a level are merged in sequence, and the sum moves up a level. A subtree computed
    elsewhere and added at its own level gives the same bits as its leaves.
    """

    def __init__(self) -> None:
        self._levels: list[tuple[int, FoldedMoments | None]] = []

    def add(self, moments: FoldedMoments, level: int = 0) -> None:
        while len(self._levels) <= level:
            self._levels.append((0, None))
        count, there = self._levels[level]
        summed = moments if there is None else there + moments
        self._levels[level] = (count + 1, summed)
        if count + 1 == FAN:
            self._levels[level] = (0, None)
            self.add(summed, level + 1)

    def total(self) -> FoldedMoments:
        """Return the sum. Remainders of each level move up, so that the top has all."""
        for level in range(len(self._levels) - 1):
            _, left = self._levels[level]
            if left is not None:
                self._levels[level] = (0, None)
                self.add(left, level + 1)
        last = [moments for _, moments in self._levels if moments is not None]
        assert len(last) == 1  # there is at least one leaf
        return last[0]


def measure_pair(
    source: HiddenStates,
    target: HiddenStates,
    *,
    folds: int = MAP_FOLDS,
    seed: int = 0,
    pairing: str = "",
) -> PairedMoments:
    """Compute moments of states in memory, row i of both the same text or paired token position.

    pairing: the rule by which token states were paired. Raises MismatchError when they were made
    from different texts, InputError for folds that do not fit.
    """
    source.require_same_texts(target)
    groups = source.groups
    fold_of_text = assign_folds(max(source.n_texts, int(groups.max()) + 1), folds, seed)
    totals = FoldAccumulator(folds, source.space.dim, target.space.dim)
    totals.add(source.states, target.states, fold_of_text[groups])
    part = MomentsPart(source.text_digest or target.text_digest, len(source))
    return PairedMoments(totals.moments(), source.space, target.space, seed, (part,), pairing)


def measure_batches(
    batches: Iterable[tuple[Array, Array]],
    n: int,
    source: Space,
    target: Space,
    *,
    folds: int = MAP_FOLDS,
    seed: int = 0,
    progress: Progress | None = None,
) -> PairedMoments:
    """Compute moments of n pairs of rows, a batch (m, d_source), (m, d_target) at a time.

    Row i has the fold that `fit` gives it. Raises InputError for another number of rows.
    """
    fold_of_text, at = assign_folds(n, folds, seed), 0
    totals = FoldAccumulator(folds, source.dim, target.dim)
    for x, y in batches:
        if at + len(x) > n:
            break
        totals.add(x, y, fold_of_text[at : at + len(x)])
        at += len(x)
        if progress is not None:
            progress(len(x))
    else:
        if at == n:
            return PairedMoments(totals.moments(), source, target, seed, (MomentsPart("", n),), "")
    raise InputError("another number of rows came", got=f"{at} or more", expected=str(n))


def measure_shards(
    source: StatesFolder,
    target: StatesFolder,
    *,
    folds: int = MAP_FOLDS,
    seed: int = 0,
    pairing: str = "exact",
    executor: Executor | None = None,
    in_flight: int = IN_FLIGHT,
    leaf_rows: int | None = None,
    verify: bool = True,
    progress: Progress | None = None,
) -> PairedMoments:
    """Compute moments of two folders of states of the same texts, one shard of each in memory.

    Text i has the fold that `fit` gives it; folds take one byte per text. Where both folders have
    the same cuts, each shard is read once. pairing: rule that pairs token states (`pair_states`).
    executor: runs the tasks, any `concurrent.futures.Executor`; its workers must find the folders
    under the same paths or URLs. Without one this process does the work.
    in_flight: tasks submitted and not yet merged; the result of each is moments of all folds.
    leaf_rows: rows of a task; the last bits of the result depend on it.
    verify: compare each shard with its SHA-256, or only with its CRC. progress: called with the
    number of texts done since the last call.

    Raises MismatchError when the folders are not of the same texts, FormatError when a shard was
    altered, InputError for options that do not fit, LinalignError when a worker process ends.
    """
    _require_alike(source, target, pairing)
    if leaf_rows is not None and leaf_rows < 1:
        raise InputError("the number of rows in a task is not usable", got=str(leaf_rows))
    fold_of_text = assign_folds(source.n_texts, folds, seed)
    leaves = _leaves(source, leaf_rows or default_leaf_rows(source.space.dim, target.space.dim))
    tally = progress or (lambda _: None)
    tokens = source.space.pooling == "tokens"
    whole = LeafTask(
        source, target, fold_of_text, 0, folds, pairing if tokens else "", verify, leaves
    )
    if executor is None:
        tree, digests = _run(whole, tally)
    else:
        tree, digests = _spread(whole, executor, in_flight, tally)
    moments = tree.total()
    if not moments.n:
        raise InputError("no token position of the source matches one of the target")
    part = MomentsPart(source.text_digest, moments.n, digests)
    return PairedMoments(moments, source.space, target.space, seed, (part,), whole.pairing)


def default_leaf_rows(d_source: int, d_target: int) -> int:
    """Return the rows of a task: 65,536, or 64 per dimension where that is more."""
    return max(LEAF_ROWS, LEAF_ROWS_A_DIMENSION * max(d_source, d_target))


def _spread(
    whole: LeafTask, executor: Executor, in_flight: int, tally: Progress
) -> tuple[MomentTree, tuple[str, ...]]:
    """Run the task by an executor. A subtask is one leaf, or a subtree of many."""
    level, size = 0, 1
    while len(whole.leaves) > MOST_TASKS * size:
        level, size = level + 1, size * FAN
    runs = (whole.leaves[i : i + size] for i in range(0, len(whole.leaves), size))
    tree = MomentTree()
    digests: list[str] = []
    for moments, found, texts in map_in_order(
        executor, _measured, map(whole.of, runs), in_flight=in_flight
    ):
        tree.add(moments, level)
        digests += found
        tally(texts)
    return tree, tuple(digests)


def _measured(task: LeafTask) -> tuple[FoldedMoments, tuple[str, ...], int]:
    """Return moments, the text digests of the shards and the number of texts."""
    tree, digests = _run(task, lambda _: None)
    return tree.total(), digests, len(task.fold_of_text)


def _run(task: LeafTask, tally: Progress) -> tuple[MomentTree, tuple[str, ...]]:
    tree = MomentTree()
    digests: list[str] = []
    totals: FoldAccumulator | None = None
    for read in paired_shards(task):
        if totals is None:
            totals = FoldAccumulator(task.folds, task.source.space.dim, task.target.space.dim)
        for x, y, folds in read.pairs:
            totals.add(x, y, folds)
        digests.append(read.text_digest)
        tally(read.n_texts)
        if read.ends:
            tree.add(totals.moments())
            totals = None
    return tree, tuple(digests)


def _leaves(source: StatesFolder, rows: int) -> tuple[tuple[int, int], ...]:
    """Cut shards into runs of at least ``rows`` rows, except the last."""
    found, first, count = [], 0, 0
    for i, shard in enumerate(source.shards, 1):
        count += shard.rows
        if count >= rows or i == len(source.shards):
            found.append((first, i))
            first, count = i, 0
    return tuple(found)


def _require_alike(source: StatesFolder, target: StatesFolder, pairing: str) -> None:
    """Require that both folders have the same texts and the same kind of pooling."""
    if (source.text_digest, source.n_texts) != (target.text_digest, target.n_texts):
        raise MismatchError(
            "these states were made from different texts",
            got=f"{target.folder}: text digest {target.text_digest[:8]} ({target.n_texts} texts)",
            expected=f"{source.folder}: {source.text_digest[:8]} ({source.n_texts} texts)",
            hint="extract both models on the same file",
        )
    if (source.space.pooling == "tokens") != (target.space.pooling == "tokens"):
        raise MismatchError(
            "token states and states of whole texts do not go together",
            got=f"pooling {target.space.pooling}",
            expected=source.space.pooling,
        )
    if pairing not in RULES:
        raise InputError("unknown rule for pairing", got=pairing[:20], expected=", ".join(RULES))
