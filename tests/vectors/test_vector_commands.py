"""Every command that takes states takes vectors; vectors info, import and export."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import refused
from support import aligned_states
from vectors.contract import read, write

import linalign_lite as la
from linalign_lite.commands import main
from linalign_lite.commands.moment_files import IN_MEMORY
from linalign_lite.vectors.source import Batch

N = 300


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """a and b of two models of the same rows, in several forms; b.jsonl in another order."""
    monkeypatch.chdir(tmp_path)
    a, b = aligned_states(np.random.default_rng(0), N)
    for name, states in (("a", a), ("b", b)):
        np.save(f"{name}.npy", states.states)
        np.savez(f"{name}.npz", vectors=states.states)
        la.save(f"{name}.states.npz", states)
        ids = tuple(f"doc-{i}" for i in range(N))
        labels = tuple({"label": "even" if x[0] > np.median(states.states[:, 0]) else "odd"}
                       for x in states.states)  # fmt: skip
        batch = Batch(ids, states.states, labels)
        write(f"{name}.arrow", batch, 100)
        order = np.random.default_rng(1).permutation(N) if name == "b" else np.arange(N)
        rows = tuple(labels[i] for i in order)
        shuffled = Batch(tuple(ids[i] for i in order), states.states[order], rows)
        write(f"{name}.jsonl", shuffled, 64)
    return tmp_path


def result(capsys, *args):
    assert main([*map(str, args), "--json"]) == 0, capsys.readouterr()
    return json.loads(capsys.readouterr().out)


PAIRS = [("a.npy", "b.npy"), ("a.npz#vectors", "b.npy"), ("a.jsonl", "b.jsonl"),
         ("a.arrow", "b.jsonl"), ("a.states.npz", "b.npy")]  # fmt: skip


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_fit_takes_vectors(folder, capsys, source, target):
    pytest.importorskip("pyarrow")
    want, _ = la.fit(la.load_states("a.states.npz"), la.load_states("b.states.npz"))
    found = result(capsys, "fit", source, target, "m.map.npz")
    made = la.load_map("m.map.npz")
    np.testing.assert_allclose(made.weight, want.weight, rtol=1e-4, atol=1e-6)
    assert found["n"] == N
    names = {"maker/model-1"} if source.endswith(("jsonl", "arrow")) else {""}
    assert {made.source.name} == names


@pytest.mark.parametrize("method", ["ridge", "procrustes"])
def test_many_vectors_are_measured_batch_by_batch(folder, capsys, monkeypatch, method):
    pytest.importorskip("pyarrow")
    result(capsys, "fit", "a.npy", "b.npy", "whole.map.npz", "--method", method)
    monkeypatch.setattr("linalign_lite.commands.moment_files.IN_MEMORY", 1)
    from linalign_lite.vectors import reading

    monkeypatch.setattr(reading, "gather", None)  # nothing is read as a whole
    whole = la.load_map("whole.map.npz")
    for pair in (("a.npy", "b.npy"), ("a.arrow", "b.arrow"), ("a.npy", "b.arrow")):
        result(capsys, "fit", *pair, "parts.map.npz", "--method", method)
        parts = la.load_map("parts.map.npz")
        np.testing.assert_allclose(parts.weight, whole.weight, rtol=1e-5, atol=1e-8)
        assert parts.card["penalty"] == whole.card["penalty"]
    assert IN_MEMORY > 1
    assert main(["fit", "a.arrow", "b.jsonl", "x.map.npz"]) == 2
    assert "same ids in the same order" in capsys.readouterr().err
    np.save("short.npy", np.load("b.npy")[:-1])
    for pair in (("a.npy", "short.npy"), ("short.npy", "a.npy")):
        assert main(["fit", *pair, "x.map.npz"]) == 2
        assert "vectors than the source" in capsys.readouterr().err
    assert not Path("x.map.npz").exists()


def test_every_other_command_takes_vectors(folder, capsys):
    pytest.importorskip("pyarrow")
    head = result(capsys, "head", "a.jsonl", "h.head.npz")
    assert head["out"] == "h.head.npz"
    assert la.load_head("h.head.npz").labels == ("even", "odd")
    assert result(capsys, "evaluate", "h.head.npz", "a.arrow")["accuracy"] > 0.8
    result(capsys, "ood", "fit", "a.jsonl", "d.ood.npz", "--validation", "a.npy")
    assert result(capsys, "ood", "score", "d.ood.npz", "a.npz#vectors")["n"] == N
    result(capsys, "ood", "evaluate", "d.ood.npz", "a.npy", "a.jsonl")
    result(capsys, "ood", "threshold", "d.ood.npz", "a.npy", "e.ood.npz")
    two = [result(capsys, "similarity", "a.npy", b, "--permutations", "0")["pairs"][0]
           for b in ("b.npy", "b.states.npz")]  # fmt: skip
    assert two[0]["values"] == two[1]["values"] if "values" in two[0] else two[0] != {}
    result(capsys, "moments", "a.npy", "b.jsonl", "m.moments.npz", "--reveal")
    result(capsys, "keygen", "keys")
    found = result(capsys, "encrypt", "a.npy", "q.query", "--key", "keys")
    assert found["queries"] == N


def test_similarity_pairs_by_id(folder, capsys):
    pytest.importorskip("pyarrow")
    args = ("similarity", "--permutations", "0", "--measures", "cka")
    want = result(capsys, *args, "a.npy", "b.npy")["pairs"][0]
    found = result(capsys, *args, "a.arrow", "b.jsonl")["pairs"][0]
    skip = {"first", "second"}
    text = [json.dumps({k: v for k, v in p.items() if k not in skip}) for p in (want, found)]
    assert text[0][:200] == text[1][:200]


def test_info_import_and_export(folder, capsys):
    pytest.importorskip("pyarrow")
    found = result(capsys, "vectors", "info", "a.arrow")
    assert found | {"location": ""} == {
        "location": "", "count": N, "dim": 12, "model": "maker/model-1", "digest": "",
        "metric": "", "ids": "texts", "payload": ["label"],
    }  # fmt: skip
    result(capsys, "vectors", "import", "a.npy", "x.states.npz", "--model", "text-embedding-3")
    states = la.load_states("x.states.npz")
    assert states.space.name == "text-embedding-3"
    np.testing.assert_array_equal(states.states, np.load("a.npy"))
    result(capsys, "vectors", "import", "a.arrow", "shards", "--shard-rows", "128")
    rows = [shard.rows for shard in la.open_states("shards").shards]
    assert sum(rows) == N
    assert max(rows) <= 128
    assert la.open_states("shards").labels == ("even", "odd")
    result(capsys, "vectors", "export", "a.arrow", "y.parquet")
    a, b = read("a.arrow")[0], read("y.parquet")[0]
    assert (a.ids, a.payload) == (b.ids, b.payload)
    result(capsys, "vectors", "export", "shards", "z.npy", "--model", "maker/model-1")
    np.testing.assert_array_equal(np.load("z.npy"), np.load("a.npy"))
    assert main(["vectors", "export", "a.jsonl", "w.npy"]) == 0
    assert "no place for ids" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["vectors", "export", "a.arrow", "x.npy", "--model", "other"], "of another model"),
        (["vectors", "export", "a.npy", "x.npy", "--model", "a\nb"], "not usable"),
        (["vectors", "export", "a.npy", "a.npy"], "is an input"),
        (["vectors", "export", "a.npy", "x.txt"], "no file or store"),
        (["vectors", "import", "a.npy", "a.npy"], "input"),
        (["vectors", "info", "absent.npy"], "cannot read"),
        (["fit", "a.npy", "b.txt", "m.map.npz"], "no file or store"),
        (["fit", "a.npz", "b.npy", "m.map.npz"], "not a linalign-states"),
        (["head", "a.npy", "h.head.npz"], "labels"),
        (["fit", "a.npy", "b.npy", "a.npy"], "is an input"),
    ],
)
def test_bad_usage(folder, capsys, args, text):
    assert text in refused(capsys, *args)


def test_a_model_by_name_is_checked(folder, capsys):
    for name in "ab":
        result(capsys, "vectors", "import", f"{name}.npy", f"{name}2.states.npz", "--model", name)
    result(capsys, "fit", "a2.states.npz", "b2.states.npz", "m.map.npz")
    result(capsys, "vectors", "import", "a.npy", "c.states.npz", "--model", "c")
    result(capsys, "head", "a.jsonl", "h.head.npz")
    with pytest.raises(la.MismatchError):
        la.load_head("h.head.npz") @ la.load_map("m.map.npz")  # of maker/model-1, and of b


@pytest.mark.skipif(os.name != "posix", reason="ulimit")
def test_a_disk_that_gets_full(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((5000, 4), np.float32))
    start = "import sys; from linalign_lite.commands import main; sys.exit(main())"
    done = subprocess.run(
        ["bash", "-c", 'ulimit -f 32; exec "$@"', "", sys.executable, "-c", start,
         "vectors", "export", "x.npy", "y.npy"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")
    assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]
