"""apply: vectors mapped from source to sink, whatever goes wrong meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import refused
from support import aligned_states
from vectors.contract import made, parts, read, write, write_all

import linalign_lite as la
from linalign_lite.commands import main
from linalign_lite.vectors import mapping
from linalign_lite.vectors.files import parquet
from linalign_lite.vectors.source import Batch, VectorInfo, named_space

N = 2000


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A map of 5 to 3 dimensions, into a space of unit vectors; vectors with payload."""
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    target = la.Space(3, "ab" * 32, "new", "mean", normalize=True)
    la.save("m.map.npz", la.AffineMap(rng.normal(size=(3, 5)), rng.normal(size=3), target=target))
    write("x.parquet", made(N))
    return tmp_path


def expected(normalize=True):
    affine = la.load_map("m.map.npz")
    want = affine(made(N).vectors)
    return want / np.linalg.norm(want, axis=1, keepdims=True) if normalize else want


@pytest.mark.parametrize("out", ["y.parquet", "y.jsonl", "y.arrow", "y.npy", "y.npz#v"])
def test_vectors_are_mapped(folder, capsys, monkeypatch, out):
    monkeypatch.setattr(mapping, "BATCH", 10_000)
    assert main(["apply", "m.map.npz", "x.parquet", out, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["vectors"], data["dim"]) == (N, 3)
    found, info, _ = read(out)
    np.testing.assert_allclose(found.vectors, expected(), atol=1e-6)
    if "np" not in out:
        assert info.space.name == "new"
        assert info.space.normalize
        assert found.ids == made(N).ids
        assert found.payload == made(N).payload
    assert main(["apply", "m.map.npz", "x.parquet", out, "--no-normalize"]) == 0
    np.testing.assert_allclose(read(out)[0].vectors, expected(False), rtol=1e-5, atol=1e-6)


def test_states_are_mapped_with_their_labels(folder):
    a, b = aligned_states(np.random.default_rng(1), 50, 5, 3)
    states = la.HiddenStates(a.states, labels=tuple("xy" * 25))
    la.save("a.states.npz", states)
    affine, _ = la.fit(a, b)
    la.save("ab.map.npz", affine)
    assert main(["apply", "ab.map.npz", "a.states.npz", "b.states.npz"]) == 0
    found = la.load_states("b.states.npz")
    np.testing.assert_allclose(found.states, affine(a.states), rtol=1e-5)
    assert found.labels == ("x", "y")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["m.map.npz", "x.parquet", "x.parquet"], "is an input"),
        (["m.map.npz", "x.parquet", "m.map.npz"], "is an input"),
        (["m.map.npz", "z.npy", "y.npy"], "the map does not fit"),
        (["m.map.npz", "nan.npy", "y.npy"], "not finite"),
        (["m.map.npz", "nan.npy", "y.parquet"], "not finite"),
        (["m.map.npz", "huge.npy", "y.parquet"], "beyond float32"),
        (["m.map.npz", "x.parquet", "y.txt"], "no file or store"),
        (["x.parquet", "x.parquet", "y.npy"], "x.parquet"),
        (["absent.map.npz", "x.parquet", "y.npy"], "cannot read"),
    ],
)
def test_bad_input(folder, capsys, monkeypatch, args, text):
    monkeypatch.setattr(parquet, "SEGMENT", 1)
    np.save("z.npy", np.ones((3, 4), np.float32))
    wrong = np.ones((N, 5), np.float32)
    wrong[-1, 2] = np.nan
    np.save("nan.npy", wrong)
    np.save("huge.npy", np.full((9, 5), 3e38, np.float32))
    assert text in refused(capsys, "apply", *args)


def lines():
    """Number of lines in the journal of y.parquet."""
    path = Path("y.parquet.unfinished/journal.jsonl")
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def killed(args, more, pause):
    """Run a command; kill it when the journal has so many lines more, and a moment later.

    Returns whether it had finished.
    """
    before = lines()
    run = subprocess.Popen(args, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while run.poll() is None and lines() < before + more:
        time.sleep(0.002)
    time.sleep(pause)
    run.send_signal(signal.SIGKILL)
    assert "Traceback" not in run.communicate()[1]
    return run.returncode == 0


def test_a_run_killed_at_any_point_resumes(tmp_path, monkeypatch):
    """SIGKILL again and again; what comes out is what one run gives."""
    pytest.importorskip("pyarrow")
    monkeypatch.chdir(tmp_path)
    rng, n, d = np.random.default_rng(0), 20_000, 96
    la.save("m.map.npz", la.AffineMap(rng.normal(size=(64, d)).astype("f4"), np.zeros(64, "f4")))
    vectors = rng.standard_normal((n, d), dtype=np.float32)
    whole = Batch(tuple(f"d{i}" for i in range(n)), vectors)
    write_all("x.parquet", VectorInfo(named_space(d), n), parts(whole, 5000))
    code = (
        "import os, sys, time; from linalign_lite.vectors import mapping\n"
        "from linalign_lite.vectors.files import parquet\n"
        "mapping.BATCH, parquet.SEGMENT, fsync = 1 << 18, 1 << 18, os.fsync\n"
        "os.fsync = lambda f: (time.sleep(.02), fsync(f), time.sleep(.02))\n"
        "from linalign_lite.commands import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "apply", "m.map.npz", "x.parquet", "y.parquet"]
    for i in range(5):
        before = lines()
        done = killed(command, int(rng.integers(1, 5)), rng.random() * 0.05)
        assert not done, "it was to be killed before its end"
        assert not os.path.lexists("y.parquet")
        assert lines() > before or not i
    assert not killed(command, 1, 0)
    assert main(["apply", "m.map.npz", "x.parquet", "z.parquet"]) == 0
    assert main(["apply", "m.map.npz", "x.parquet", "y.parquet"]) == 0
    found, want = read("y.parquet", 9999)[0], read("z.parquet", 9999)[0]
    assert found.ids == whole.ids
    np.testing.assert_allclose(found.vectors, want.vectors, rtol=1e-4, atol=1e-5)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["m.map.npz", "x.parquet", "y.parquet", "z.parquet"]


def test_ctrl_c_keeps_what_is_done(folder, capsys, monkeypatch):
    monkeypatch.setattr(mapping, "BATCH", 10_000)
    monkeypatch.setattr(parquet, "SEGMENT", 1)
    real, calls = mapping.mapped, []

    def interrupted(*args, **kw):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*args, **kw)

    monkeypatch.setattr(mapping, "mapped", interrupted)
    assert main(["apply", "m.map.npz", "x.parquet", "y.parquet"]) == 130
    assert "the same command continues" in capsys.readouterr().err
    assert not os.path.lexists("y.parquet")
    assert main(["apply", "m.map.npz", "x.parquet", "y.parquet", "--normalize", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["vectors"] == N
    assert len(calls) < 2 + N * 20 // 10_000 + 2
    np.testing.assert_allclose(read("y.parquet")[0].vectors, expected(), atol=1e-6)


def test_another_map_does_not_continue_it(folder, capsys, monkeypatch):
    monkeypatch.setattr(parquet, "SEGMENT", 1)
    info = VectorInfo(la.load_map("m.map.npz").target, N, version="another job")
    sink = la.create_vectors("y.parquet", info, resume=True)
    sink.write(Batch(("a",), np.ones((1, 3), np.float32), cursor="1"))
    sink.suspend()
    assert "left by another command" in refused(
        capsys, "apply", "m.map.npz", "x.parquet", "y.parquet"
    )
