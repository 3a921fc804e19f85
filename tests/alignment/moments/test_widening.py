"""Rows in float64 near their mean: against the plain way, and what they cost in digits at most."""

from __future__ import annotations

import numpy as np
import pytest

from linalign_lite.alignment import float64_blocks
from linalign_lite.alignment.float64_blocks import BlockReader
from linalign_lite.alignment.moments import measure


def plain(states, rows):
    """The rows about the mean of the first strip, made at once."""
    wide = states[rows].astype(np.float64)
    return wide - wide[: float64_blocks.STRIP // states.shape[1]].mean(axis=0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 5, 37, 200])
@pytest.mark.parametrize("alone", [0, 1 << 30], ids=["a thread beside", "one thread"])
def test_blocks_are_the_rows_about_their_shift(rng, monkeypatch, dtype, n, alone):
    monkeypatch.setattr(float64_blocks, "STRIP", 48)
    monkeypatch.setattr(float64_blocks, "BLOCK", 37)
    monkeypatch.setattr(float64_blocks, "ALONE", alone)
    x = (rng.normal(size=(300, 6)) + 3).astype(dtype)
    y = np.asfortranarray(rng.normal(size=(300, 4)).astype(dtype))
    rows = rng.permutation(300)[:n]
    sizes, at = [], 0
    for _, a, b in BlockReader(6, 4).blocks(x, y, [rows]):
        these = rows[at : at + len(a.rows)]
        for wide, states in ((a, x), (b, y)):
            np.testing.assert_allclose(wide.rows, plain(states, these), rtol=0, atol=1e-14)
            whole = states[these].astype(np.float64)
            np.testing.assert_allclose(wide.rows + wide.shift, whole, rtol=0, atol=1e-14)
            np.testing.assert_allclose(wide.sums, wide.rows.sum(axis=0), rtol=0, atol=1e-12)
        np.testing.assert_allclose(b.squares, (b.rows**2).sum(axis=0), rtol=1e-12)
        sizes.append(len(these))
        at += len(these)
    assert at == n
    assert max(sizes) <= 37


def test_large_states_take_fewer_rows_at_a_time(monkeypatch):
    monkeypatch.setattr(float64_blocks, "BLOCK_BYTES", 8 * 600 * 50)
    monkeypatch.setattr(float64_blocks, "LEAST", 10)
    x, y = np.ones((120, 600), np.float32), np.ones((120, 2), np.float32)
    sizes = [len(a.rows) for _, a, _ in BlockReader(600, 2).blocks(x, y, [np.arange(120)])]
    assert sizes == [50, 50, 20]


def test_short_runs_are_widened_together_and_never_mixed(rng, monkeypatch):
    monkeypatch.setattr(float64_blocks, "BLOCK", 10)
    x, y = rng.normal(size=(30, 2)), rng.normal(size=(30, 3))
    order = rng.permutation(30)
    runs = [order[:4], order[4:4], order[4:7], order[7:29]]
    got = [
        (run, a.rows + a.shift, b.rows + b.shift)
        for run, a, b in BlockReader(2, 3).blocks(x, y, runs)
    ]
    assert [(run, len(a)) for run, a, _ in got] == [(0, 4), (2, 3), (3, 3), (3, 10), (3, 9)]
    for run, rows in enumerate(runs):
        for side, states in ((1, x), (2, y)):
            mine = [block[side] for block in got if block[0] == run]
            np.testing.assert_allclose(np.vstack([*mine, states[:0]]), states[rows], atol=1e-14)


def test_a_desk_is_used_again_and_grows(rng):
    desk = BlockReader(3, 2)
    x, y = rng.normal(size=(9000, 3)), rng.normal(size=(9000, 2))
    for n in (2, 9000, 5):
        got = [a.rows + a.shift for _, a, _ in desk.blocks(x, y, [np.arange(n)])]
        np.testing.assert_allclose(got[-1], x[:n][-len(got[-1]) :], rtol=0, atol=1e-14)


def test_a_start_far_from_the_rest_costs_two_digits_at_most(rng, monkeypatch):
    """The shift is then far from the mean: the first strip at 1e6, the others at 0."""
    monkeypatch.setattr(float64_blocks, "STRIP", 3 * 128)  # the ratio that large states have
    x = rng.normal(size=(float64_blocks.BLOCK, 3))
    x[:128] += 1e6
    found = measure(x, x[:, :2])
    about = x - x.mean(axis=0, dtype=np.longdouble)
    exact = np.asarray(about.T @ about, dtype=float)
    np.testing.assert_allclose(found.xx, exact, rtol=1e-13)
    np.testing.assert_allclose(found.xy, exact[:, :2], rtol=1e-13)
    np.testing.assert_allclose(found.yy, np.diag(exact)[:2], rtol=1e-13)


def test_what_never_changes_has_no_spread():
    x = np.full((500, 3), 0.1, np.float32)
    found = measure(x, x)
    assert not found.xx.any()
    assert not found.xy.any()
    assert not found.yy.any()
    odd = np.full((101, 2), 0.1)  # 0.1 · 101 / 101 need not be 0.1
    assert (measure(odd, odd).yy >= 0).all()
