"""Moments of states that are too many for memory: shard by shard, by one process or many workers.

The work is cut into leaves, runs of shards, and the moments of leaves are added up in a tree. Both
depend on the folders alone. So the result is the same bit for bit whoever does the work, wherever
products come out the same: on processors of one kind, with the same number of BLAS threads. On
others it agrees to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor

from linalign_lite.alignment.moments import FoldAccumulator, FoldedMoments, assign_folds
from linalign_lite.alignment.paired_moments import MomentsPart, PairedMoments
from linalign_lite.alignment.streaming.merge_tree import FAN, MomentTree
from linalign_lite.alignment.streaming.pairs import LeafTask, paired_shards
from linalign_lite.core.executor import IN_FLIGHT, map_in_order
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.shards.states_folder import StatesFolder
from linalign_lite.core.token_alignment import RULES
from linalign_lite.errors import InputError, MismatchError

LEAF_ROWS = 1 << 16  # rows of a leaf, at least
LEAF_ROWS_A_DIMENSION = 64  # so that moments stay small beside the states they are of
MOST_TASKS = 1024

Progress = Callable[[int], None]


def measure_pair(
    source: HiddenStates, target: HiddenStates, *, folds: int = 5, seed: int = 0, pairing: str = ""
) -> PairedMoments:
    """Moments of states in memory, row i of both the same text or, paired before, token position.

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


def measure_shards(
    source: StatesFolder,
    target: StatesFolder,
    *,
    folds: int = 5,
    seed: int = 0,
    pairing: str = "exact",
    executor: Executor | None = None,
    in_flight: int = IN_FLIGHT,
    leaf_rows: int | None = None,
    verify: bool = True,
    progress: Progress | None = None,
) -> PairedMoments:
    """Moments of two folders of states of the same texts, a shard of each in memory at a time.

    Text i has the fold that `fit` gives it; folds take one byte per text. Where both folders have
    the same cuts, each shard is read once. pairing: rule that pairs token states (`pair_states`).
    executor: runs the tasks, any `concurrent.futures.Executor`; its workers must find the folders
    under the same paths or URLs. Without one the work is done here.
    in_flight: tasks handed out and not yet added up, each of whose results is moments of all folds.
    leaf_rows: rows of a task; part of what the last bits depend on.
    verify: compare each shard with its SHA-256, or only with its CRC. progress: called with the
    number of texts done since the last call.

    Raises MismatchError when the folders are not of the same texts, FormatError when a shard was
    altered, InputError for options that do not fit, LinalignError when the executor breaks down.
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
    """Rows of a task: 65,536, or 64 for each dimension where that is more."""
    return max(LEAF_ROWS, LEAF_ROWS_A_DIMENSION * max(d_source, d_target))


def _spread(
    whole: LeafTask, executor: Executor, in_flight: int, tally: Progress
) -> tuple[MomentTree, tuple[str, ...]]:
    """As _run, by the workers of the executor. A task is a leaf, or a subtree of many."""
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
    """What a worker sends back: moments, the shards' text digests, the number of texts."""
    tree, digests = _run(task, lambda _: None)
    return tree.total(), digests, len(task.fold_of_text)


def _run(task: LeafTask, tally: Progress) -> tuple[MomentTree, tuple[str, ...]]:
    tree = MomentTree()
    digests: list[str] = []
    totals = _totals(task)
    for read in paired_shards(task):
        for x, y, folds in read.pairs:
            totals.add(x, y, folds)
        digests.append(read.text_digest)
        tally(read.n_texts)
        if read.ends:
            tree.add(totals.moments())
            totals = _totals(task)
    return tree, tuple(digests)


def _totals(task: LeafTask) -> FoldAccumulator:
    return FoldAccumulator(task.folds, task.source.space.dim, task.target.space.dim)


def _leaves(source: StatesFolder, rows: int) -> tuple[tuple[int, int], ...]:
    """Runs of shards with at least ``rows`` rows each, but for the last."""
    found, first, count = [], 0, 0
    for i, shard in enumerate(source.shards, 1):
        count += shard.rows
        if count >= rows or i == len(source.shards):
            found.append((first, i))
            first, count = i, 0
    return tuple(found)


def _require_alike(source: StatesFolder, target: StatesFolder, pairing: str) -> None:
    """Both folders are of the same texts, in the same form."""
    if (source.text_digest, source.n_texts) != (target.text_digest, target.n_texts):
        raise MismatchError(
            "these states were made from different texts",
            got=f"text digest {target.text_digest[:8]} ({target.n_texts} texts)",
            expected=f"{source.text_digest[:8]} ({source.n_texts} texts)",
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
