"""Moments of folders are those of the rows, however cut and by whomever measured."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from moment_cases import digest, folder, pooled, rows, token_folder

from linalign_lite.alignment.least_squares import fit
from linalign_lite.alignment.moments import FoldedMoments, assign_folds, fold_index, folded, measure
from linalign_lite.alignment.paired_moments import PairedMoments, fit_paired
from linalign_lite.alignment.streaming.measure import FAN, MomentTree, measure_pair, measure_shards
from linalign_lite.core.shards.states_folder import open_folder
from linalign_lite.core.token_alignment import pair_states
from linalign_lite.errors import FormatError, InputError, LinalignError, MismatchError

PARTS = ("mean_x", "mean_y", "xx", "xy", "yy")


def same(a: PairedMoments, b: PairedMoments, *, rtol: float = 0.0) -> None:
    assert (a.source, a.target, a.seed, a.pairing) == (b.source, b.target, b.seed, b.pairing)
    assert a.n == b.n
    close(a.moments, b.moments, rtol)


def close(a: FoldedMoments, b: FoldedMoments, rtol: float) -> None:
    for one, other in zip(a.folds, b.folds, strict=True):
        assert one.n == other.n
        for name in PARTS:
            x, y = getattr(one, name), getattr(other, name)
            if rtol:
                np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * max(1, np.abs(y).max()))
            else:
                assert x.tobytes() == y.tobytes(), name


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """300 texts in shards of 13 to 40."""
    at = tmp_path_factory.mktemp("states")
    sizes = [13, 40, 27, 20, 35, 40, 25, 40, 40, 20]
    return folder(at / "x", "x", sizes), folder(at / "y", "y", sizes)


# --- the numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 17, 1000])
@pytest.mark.parametrize("folds", [2, 5, 300])
def test_texts_are_dealt_as_fit_deals_them(n, folds):
    if folds <= n:
        assert (assign_folds(n, folds, 3) == fold_index(np.arange(n), folds, 3)).all()
        assert (
            np.bincount(assign_folds(n, folds)).max() - np.bincount(assign_folds(n, folds)).min()
            <= 1
        )


def test_a_folder_has_the_moments_and_the_map_of_its_rows(folders):
    x, y = (f.load() for f in folders)
    found = measure_shards(*folders, leaf_rows=60)
    close(found.moments, folded(x.states, y.states, 5, x.groups), rtol=1e-12)
    affine, report = fit_paired(found)
    theirs, expected = fit(x, y)
    np.testing.assert_allclose(affine.weight, theirs.weight, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(affine.bias, theirs.bias, rtol=1e-5, atol=1e-5)
    assert report.penalty == expected.penalty
    assert report.held_out_r2 == pytest.approx(expected.held_out_r2, rel=1e-10)
    assert (affine.source, affine.target) == (theirs.source, theirs.target)
    assert affine.card == {**theirs.card, **report.as_card()}
    turned, _ = fit_paired(found, method="procrustes")
    np.testing.assert_allclose(turned.weight, fit(x, y, method="procrustes")[0].weight, atol=1e-5)


sizes = st.lists(st.integers(1, 30), min_size=1, max_size=6)


@given(mine=sizes, cuts=st.sets(st.integers(1, 60), max_size=5), leaf=st.integers(1, 80),
       half=st.booleans())  # fmt: skip
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_cut_into_shards_changes_the_moments(tmp_path_factory, mine, cuts, leaf, half):
    at, n = tmp_path_factory.mktemp("cuts"), sum(mine)
    edges = [0, *sorted(c for c in cuts if c < n), n]
    dtype = np.float16 if half else np.float32
    x = folder(at / "x", "x", mine, dtype=dtype)
    y = folder(at / "y", "y", np.diff(edges).tolist(), dtype=dtype)
    if n < 2:
        with pytest.raises(InputError, match="number of folds does not fit"):
            measure_shards(x, y, folds=2)
        return
    found = measure_shards(x, y, folds=2, seed=4, leaf_rows=leaf)
    a, b = (rows(name, 0, n).astype(dtype) for name in "xy")
    index = fold_index(np.arange(n), 2, 4)
    expected = FoldedMoments(tuple(measure(a[index == k], b[index == k]) for k in range(2)))
    close(found.moments, expected, rtol=1e-10)


@pytest.mark.parametrize("rule", ["exact", "after"])
def test_token_states_pair_as_in_memory(tmp_path, rule):
    x = token_folder(tmp_path / "x", "x", [5, 9, 3, 8], cuts=(2, 4, 6, 9))
    y = token_folder(tmp_path / "y", "y", [9, 5, 11], cuts=(3, 6, 7, 9))
    found = measure_shards(x, y, folds=3, pairing=rule, leaf_rows=20)
    a, b = pair_states(x.load(), y.load(), rule)
    expected = measure_pair(a, b, folds=3, pairing=rule)
    same(found, expected, rtol=1e-12)
    # every text has a pair here, so these are the very folds of fit
    close(found.moments, folded(a.states, b.states, 3, a.groups), rtol=1e-12)


def test_a_leaf_without_pairs_changes_nothing(tmp_path):
    x = token_folder(tmp_path / "x", "x", [3, 3, 3], cuts=(2, 4))
    y = token_folder(tmp_path / "y", "y", [3, 3, 3], cuts=(3, 5))
    with pytest.raises(InputError, match="no token position of the source matches"):
        measure_shards(x, y, folds=2, leaf_rows=1)


def test_the_tree_is_the_same_for_leaves_and_for_subtrees():
    rng = np.random.default_rng(0)
    leaves = [
        FoldedMoments((measure(rng.normal(size=(3, 2)), rng.normal(size=(3, 2))),))
        for _ in range(2 * FAN * FAN + FAN + 5)
    ]

    def total(of, level=0):
        tree = MomentTree()
        for leaf in of:
            tree.add(leaf, level)
        return tree.total()

    for count in (1, 2, FAN, FAN + 1, 3 * FAN, FAN * FAN - 1, FAN * FAN, len(leaves)):
        flat = total(leaves[:count])
        for level in (1, 2):
            size = FAN**level
            runs = [leaves[:count][i : i + size] for i in range(0, count, size)]
            close(flat, total(map(total, runs), level), rtol=0)


# --- who does the work ----------------------------------------------------------------------------


class Backwards(Executor):
    """Does all of its tasks when the last comes, the newest first."""

    def __init__(self, tasks=1):
        self.tasks, self.waiting = tasks, []

    def submit(self, function, /, *args, **kwargs):
        future: Future = Future()
        self.waiting.append((future, function, args, kwargs))
        if len(self.waiting) == self.tasks:
            for one, f, a, k in reversed(self.waiting):
                one.set_result(f(*a, **k))
        return future


def test_threads_and_processes_give_the_same_bits(folders):
    alone = measure_shards(*folders, leaf_rows=50)
    with ThreadPoolExecutor(4) as executor:
        same(measure_shards(*folders, leaf_rows=50, executor=executor), alone)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as executor:
        found = measure_shards(*folders, leaf_rows=50, executor=executor, in_flight=3)
    same(found, alone)
    assert found.parts == alone.parts
    assert len(alone.parts[0].shards) == 10


def test_completion_order_changes_no_bit(folders):
    alone = measure_shards(*folders, leaf_rows=50)  # five leaves
    same(measure_shards(*folders, leaf_rows=50, executor=Backwards(5), in_flight=5), alone)


def test_many_leaves_become_few_tasks_and_no_bit_changes(folders, monkeypatch):
    import linalign_lite.alignment.streaming.measure as measuring

    monkeypatch.setattr(measuring, "MOST_TASKS", 4)
    monkeypatch.setattr(measuring, "FAN", 3)
    alone = measure_shards(*folders, leaf_rows=1)  # ten leaves, so four tasks
    seen = []
    with ThreadPoolExecutor(2) as executor:
        found = measure_shards(*folders, leaf_rows=1, executor=executor, progress=seen.append)
    same(found, alone)
    assert len(seen) == 4
    assert sum(seen) == 300


def test_a_broken_pool_is_named(folders, monkeypatch):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        pid = executor.submit(os.getpid).result()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(LinalignError, match="a worker process ended before its task did"):
            measure_shards(*folders, executor=executor)


# --- memory -------------------------------------------------------------------------------------

PEAK = """
import resource, sys
import numpy as np
from pathlib import Path
from linalign_lite import HiddenStates
from linalign_lite.core.affine_map import Space
from linalign_lite.core.shards.states_folder import open_folder, write_shards
from linalign_lite.alignment.streaming.measure import measure_shards
at, shards = Path(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(0)
block = rng.normal(size=(4096, 256)).astype("f4")
names = {"x": "ab", "y": "cd"}
folders = []
for name, model in names.items():
    parts = (HiddenStates(block, Space(256, model * 32, name, "mean"), "%064x" % i)
             for i in range(shards))
    folders.append(write_shards(at / name, parts, text_digest="0" * 64))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
measure_shards(*folders, leaf_rows=8192)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_folder(tmp_path):
    """160 MB of states on each side, in shards of 4 MB; moments of five folds are 5 MB."""
    grown = []
    for shards in (4, 40):
        at = tmp_path / str(shards)
        at.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", PEAK, str(at), str(shards)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        grown.append(int(done.stdout) / 1024)
    assert grown[1] < 100  # MiB above what writing the folders took
    assert grown[1] < grown[0] + 40


# --- refusals -----------------------------------------------------------------------------------


def test_what_does_not_belong_together_is_refused(folders, tmp_path):
    x, y = folders
    with pytest.raises(
        MismatchError, match=r"different texts: got .*short: text digest .* .299 texts"
    ):
        measure_shards(x, folder(tmp_path / "short", "y", [299]))
    tokens = token_folder(tmp_path / "tokens", "y", [300], cuts=(1,))
    with pytest.raises(MismatchError, match="token states and states of whole texts"):
        measure_shards(x, tokens)
    with pytest.raises(InputError, match="unknown rule for pairing: got near"):
        measure_shards(x, y, pairing="near")
    with pytest.raises(InputError, match="rows in a task is not usable: got 0"):
        measure_shards(x, y, leaf_rows=0)
    with pytest.raises(InputError, match="tasks in flight is not usable: got 0"):
        measure_shards(x, y, executor=Backwards(), in_flight=0)
    with pytest.raises(InputError, match="folds does not fit the data: got 301"):
        measure_shards(x, y, folds=301)


def test_shards_of_other_texts_are_refused(folders, tmp_path, monkeypatch):
    """The whole is said to be of the same texts, and a shard's own digest says it is not."""
    x, y = folders
    first = [s.n_texts for s in y.shards]

    other = folder(tmp_path / "other", "y", first, first=1)
    object.__setattr__(other, "text_digest", x.text_digest)
    with pytest.raises(MismatchError, match=r"shards 00000.states.npz were made from different"):
        measure_shards(x, other)
    assert digest(0, 13) != digest(1, 14)


def test_an_altered_shard_is_refused_unless_only_its_crc_is_asked_for(folders, tmp_path):
    x, y = folder(tmp_path / "x", "x", [20, 20]), folder(tmp_path / "y", "y", [20, 20])
    path = tmp_path / "y" / y.shards[1].file
    raw = bytearray(path.read_bytes())
    raw[-10] ^= 1  # of the end record: no CRC covers it
    path.write_bytes(raw)
    with pytest.raises(FormatError, match="does not have the digest"):
        measure_shards(x, y)
    raw[-10] ^= 1
    raw[200] ^= 1  # of a state
    path.write_bytes(raw)
    for verify in (True, False):
        with pytest.raises(FormatError, match=r"00001.states.npz"):
            measure_shards(x, y, verify=verify)


def test_states_of_other_texts_are_refused_in_memory():
    with pytest.raises(MismatchError, match="different texts"):
        measure_pair(pooled("x", 20), pooled("y", 20, first=1))


@pytest.mark.parametrize("side", [0, 1], ids=["source", "target"])
@pytest.mark.parametrize("harm", ["altered", "gone", "a pipe"])
def test_what_is_wrong_with_a_file_is_said_whichever_thread_reads_it(folders, tmp_path, side, harm):
    """Warming has read it by then, or not: it says nothing, and does not wait for a pipe."""
    copies = [shutil.copytree(f.folder, tmp_path / str(i)) for i, f in enumerate(folders)]
    both = [open_folder(copy) for copy in copies]
    bad = copies[side] / both[side].shards[2].file
    if harm == "altered":
        raw = bytearray(bad.read_bytes())
        raw[len(raw) // 2] ^= 1
        bad.write_bytes(raw)
    else:
        bad.unlink()
        if harm == "a pipe":
            os.mkfifo(bad)
    both[side].warm(both[side].shards[2])
    with pytest.raises(LinalignError, match=bad.name):
        measure_shards(*both)
