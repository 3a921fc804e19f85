"""An interrupted fit resumes from its checkpoint, and no file changes its result."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kl_cases import blind_spot

from linalign_lite.alignment.kl import checkpoint as checkpoint_module
from linalign_lite.alignment.kl import divergence_fit
from linalign_lite.alignment.kl.checkpoint import (
    KIND,
    VERSION,
    Checkpoint,
    PenaltyTrial,
    digest_of,
    fingerprint,
)
from linalign_lite.alignment.kl.divergence_fit import fit_kl
from linalign_lite.alignment.kl.objective import Teaching
from linalign_lite.alignment.kl.optimizer import ReducedMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import FormatError, InputError
from linalign_lite.storage.npz import save_npz

SHAPE = (2, 3)


@pytest.fixture
def many_parts(monkeypatch):
    """A search_penalties on few rows, so that settling has several parts."""
    for name, value in {"FEWEST_ROWS": 30, "WORK": 1, "GROWTH": 2}.items():
        monkeypatch.setattr(divergence_fit, name, value)


def stopping(limit: int | None):
    """A watch that counts, and presses Ctrl-C at step ``limit``."""
    steps = []

    def watch(step):
        steps.append(step)
        if len(steps) == limit:
            raise KeyboardInterrupt

    return watch, steps


def filled(path: Path, key: str = "job", shape=SHAPE, count: int = 2) -> Checkpoint:
    found = Checkpoint(path)
    found.open(key, shape)
    rng = np.random.default_rng(0)
    for i in range(count):
        affine = ReducedMap(rng.normal(size=shape), rng.normal(size=shape[0]))
        found.remember(PenaltyTrial(10.0**-i, 0.5 + i, 7 + i, affine))
    return found


# --- going on -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("many_parts")
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95, 1.0])
def test_a_stopped_fit_goes_on_to_the_same_bits(share, tmp_path):
    head, x, y = blind_spot(30, n=260)
    watch, whole = stopping(None)
    wanted, report = fit_kl(x, y, head, watch=watch)
    assert len({s.stage for s in whole if s.stage.endswith("rows")}) >= 3
    path, limit = tmp_path / "job.npz", max(1, int(share * len(whole)))
    watch, before = stopping(limit)
    with pytest.raises(KeyboardInterrupt):
        fit_kl(x, y, head, watch=watch, checkpoint=Checkpoint(path))
    assert str(before) == str(whole[:limit])  # nan is nan
    ended = len({s.stage for s in before}) - 1
    assert path.exists() == (ended > 0)
    watch, after = stopping(None)
    found, again = fit_kl(x, y, head, watch=watch, checkpoint=Checkpoint(path))
    np.testing.assert_array_equal(found.weight, wanted.weight)
    np.testing.assert_array_equal(found.bias, wanted.bias)
    assert again == report
    # what is done again is no more than the stage that was cut off
    last = [s for s in before if s.stage == before[-1].stage]
    assert len(after) == len(whole) - (limit - len(last))
    assert [p.name for p in tmp_path.iterdir()] == []


def test_stopped_again_and_again_it_still_ends(tmp_path):
    head, x, y = blind_spot(10, n=200)
    wanted, report = fit_kl(x, y, head)
    path = tmp_path / "job.npz"
    longest = report.iterations
    for _ in range(2 * len(report.curve) + 2):
        watch, _steps = stopping(longest // 2)
        try:
            found, again = fit_kl(x, y, head, watch=watch, checkpoint=Checkpoint(path))
        except KeyboardInterrupt:
            continue
        break
    assert again == report
    np.testing.assert_array_equal(found.weight, wanted.weight)


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    head, x, y = blind_spot(10, n=100)
    fit_kl(x, y, head, penalty=1.0, iterations=3, checkpoint=Checkpoint(None))
    assert not list(tmp_path.iterdir())


def test_what_was_remembered_is_found_again(tmp_path):
    path = tmp_path / "c.npz"
    made = filled(path)
    affine = ReducedMap(np.full(SHAPE, 1 / 3), np.full(2, -1e-300))
    made.remember_subset(40, affine, 11)
    found = Checkpoint(path)
    found.open("job", SHAPE)
    for penalty in (1.0, 0.1):
        a, b = made.trial(penalty), found.trial(penalty)
        assert (a.penalty, a.divergence, a.iterations) == (b.penalty, b.divergence, b.iterations)
        np.testing.assert_array_equal(a.affine.weight, b.affine.weight)
        np.testing.assert_array_equal(a.affine.bias, b.affine.bias)
    part, count = found.subset(40)
    assert count == 11
    np.testing.assert_array_equal(part.weight, affine.weight)
    np.testing.assert_array_equal(part.bias, affine.bias)
    # a penalty of 40 is no part of 40 rows, nor the other way round
    assert found.trial(40) is None
    assert found.subset(1) is None
    found.close()
    assert not path.exists()
    found.close()


# --- which job it is ----------------------------------------------------------------------------


def job(n=200):
    head, x, y = blind_spot(6, n=n)
    return {
        "x": HiddenStates(x), "y": HiddenStates(y), "head": head,
        "mass": np.ones(n, np.float32), "settings": "a",
    }  # fmt: skip


def changed_row(states: HiddenStates, row: int) -> HiddenStates:
    values = states.states.copy()
    values[row, 0] += 1
    return HiddenStates(values)


def test_the_same_job_has_the_same_fingerprint_and_no_other_has_it():
    made = job()
    mass = made["mass"].copy()
    mass[77] = 2
    weight = made["head"].weight.copy()
    weight[5, 11] += 0.5
    others = {
        "a row of the source": {"x": changed_row(made["x"], 123)},
        "a row of the target": {"y": changed_row(made["y"], 199)},
        "a weight": {"mass": mass},
        "the head": {"head": Head(weight, made["head"].bias)},
        "the head's bias": {"head": Head(made["head"].weight, made["head"].bias + 1)},
        "the head's cap": {"head": dataclasses.replace(made["head"], softcap=3.0)},
        "the texts": {"x": dataclasses.replace(made["x"], text_digest="e" * 64)},
        "the settings": {"settings": "b"},
        "the other way round": {"x": made["y"], "y": made["x"]},
        "what follows": {
            "y": dataclasses.replace(made["y"], next_token=np.arange(200, dtype=np.int32) % 6)
        },
    }
    names = {name: fingerprint(**{**made, **change}) for name, change in others.items()}
    assert fingerprint(**job()) == fingerprint(**made)
    assert len({fingerprint(**made), *names.values()}) == len(others) + 1


def test_states_too_large_to_hash_whole_are_hashed_in_part(monkeypatch):
    monkeypatch.setattr(checkpoint_module, "_SAMPLE", 1000)
    made = job()
    assert fingerprint(**made) != fingerprint(**{**made, "x": changed_row(made["x"], 0)})
    assert fingerprint(**made) == fingerprint(**{**made, "x": changed_row(made["x"], 1)})


def test_a_heads_digest_is_of_its_numbers_whatever_holds_them(rng):
    weight = rng.normal(size=(9000, 3)).astype(np.float16)
    bias = rng.normal(size=9000).astype(np.float32)
    halves = Head(weight, bias)
    assert digest_of(halves) == digest_of(Head(weight.astype(np.float64), bias))
    other = weight.copy()
    other[8500, 2] += 1
    assert digest_of(halves) != digest_of(Head(other, bias))


CHANGES = {
    "seed": {"seed": 1},
    "iterations": {"iterations": 7},
    "penalty": {"penalty": 0.1},
    "weights": {"weights": np.r_[2.0, np.ones(199)]},
    "teaching": {"teaching": Teaching(0.9)},
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_of_another_job_is_refused_and_left(name, tmp_path):
    head, x, y = blind_spot(10, n=200)
    path = tmp_path / "job.npz"
    options = {"penalty": 1.0, "iterations": 5, "checkpoint": Checkpoint(path)}

    def stop_at_the_end(step):
        if step.stage.endswith("rows"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_kl(x, y, head, watch=stop_at_the_end, **options)
    content = path.read_bytes()
    with pytest.raises(FormatError, match=r"job.npz belongs to another fit \(hint: remove it"):
        fit_kl(x, y, head, **{**options, **CHANGES[name]})
    assert path.read_bytes() == content
    fit_kl(x, y, head, **{**options, "penalty": "1.0"})  # the same in other words
    assert not path.exists()


# --- files that are not what they should be -----------------------------------------------------


def test_every_truncation_and_every_flipped_byte_is_named(tmp_path):
    path = tmp_path / "c.npz"
    filled(path)
    whole = path.read_bytes()
    broken = [whole[:size] for size in range(0, len(whole), 11)]
    for place in range(0, len(whole), 3):
        flipped = bytearray(whole)
        flipped[place] ^= 0xFF
        broken.append(bytes(flipped))
    good = filled(tmp_path / "other.npz")
    harmless = 0
    for content in broken:
        path.write_bytes(content)
        found = Checkpoint(path)
        try:
            found.open("job", SHAPE)
        except FormatError:
            continue
        harmless += 1  # time stamps and the like
        np.testing.assert_array_equal(found.trial(0.1).affine.weight, good.trial(0.1).affine.weight)
    assert harmless < len(broken) / 4


@given(st.binary(max_size=300))
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_bytes_at_all_are_named(tmp_path, content):
    path = tmp_path / "c.npz"
    for start in (b"", b"PK\x03\x04"):
        path.write_bytes(start + content)
        with pytest.raises(FormatError):
            Checkpoint(path).open("job", SHAPE)
        assert path.read_bytes() == start + content


def members(**changes):
    made = {
        "weights": np.zeros((2, *SHAPE)),
        "biases": np.zeros((2, 2)),
        "numbers": np.ones((2, 4)),
    }
    return {name: a for name, a in {**made, **changes}.items() if a is not None}


HOSTILE = {
    "weights of another head": members(weights=np.zeros((2, 3, 3))),
    "weights of another source": members(weights=np.zeros((2, 2, 4))),
    "biases of another head": members(biases=np.zeros((2, 3))),
    "fewer biases": members(biases=np.zeros((1, 2))),
    "more weights": members(weights=np.zeros((3, 2, 3))),
    "more numbers": members(numbers=np.ones((2, 5))),
    "fewer numbers": members(numbers=np.ones((2, 3))),
    "no weights": members(weights=None),
    "no numbers": members(numbers=None),
    "nothing": {},
    "float32": members(weights=np.zeros((2, *SHAPE), np.float32)),
    "flat": members(biases=np.zeros(4)),
    "not finite": members(biases=np.full((2, 2), np.nan)),
    "something else too": members(extra=np.zeros(1)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_do_not_hold_what_they_should_are_refused(name, tmp_path):
    path = tmp_path / "c.npz"
    save_npz(path, KIND, VERSION, HOSTILE[name], {"job": "job"})
    content = path.read_bytes()
    with pytest.raises(FormatError, match=r"c\.npz"):
        Checkpoint(path).open("job", SHAPE)
    assert path.read_bytes() == content


@pytest.mark.parametrize("card", [{}, {"job": None}, {"job": ["job"]}, {"job": "other"}])
def test_files_that_name_no_job_are_of_another(card, tmp_path):
    path = tmp_path / "c.npz"
    save_npz(path, KIND, VERSION, members(), card)
    with pytest.raises(FormatError, match="belongs to another fit"):
        Checkpoint(path).open("job", SHAPE)
    save_npz(path, KIND, VERSION, members(), {"job": "job"})
    Checkpoint(path).open("job", SHAPE)


def test_a_place_that_cannot_hold_a_checkpoint_is_named_before_the_work(tmp_path, monkeypatch):
    head, x, y = blind_spot(4, n=60)
    monkeypatch.setattr(divergence_fit.objective, "distillation_data", None)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for place in ("gone/c.npz", "folder", "link"):
        with pytest.raises(InputError, match=str(tmp_path)):
            fit_kl(x, y, head, checkpoint=Checkpoint(tmp_path / place))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "link"]


def test_another_file_of_ours_is_not_written_over(tmp_path):
    head, x, y = blind_spot(4, n=60)
    save_npz(tmp_path / "x.map.npz", "linalign-map", 1, {}, {})
    content = (tmp_path / "x.map.npz").read_bytes()
    with pytest.raises(FormatError, match="got linalign-map, expected format linalign-fit"):
        fit_kl(x, y, head, checkpoint=Checkpoint(tmp_path / "x.map.npz"))
    assert (tmp_path / "x.map.npz").read_bytes() == content
