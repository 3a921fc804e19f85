"""Indexes: rankings against exact search, precision, and damaged, hostile and killed files."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from command_line import refused, run
from hypothesis import given, settings
from hypothesis import strategies as st

import linalign_lite as la
from linalign_lite.core.space import Space
from linalign_lite.errors import FormatError, InputError, MismatchError, OutputExistsError
from linalign_lite.retrieval.index import building, card, writing
from linalign_lite.retrieval.index.building import build_index
from linalign_lite.retrieval.index.reading import open_index
from linalign_lite.retrieval.search import search
from linalign_lite.storage.hashing import seal_of
from linalign_lite.vectors.source import Batch, VectorInfo, VectorSource

SPACE = Space(8, "ab" * 32, "model", "mean")


class Made(VectorSource):
    """Vectors in memory, with ids."""

    def __init__(self, vectors, ids=None, *, metric="", space=None, change=None):
        self.vectors, self.ids = np.asarray(vectors, np.float32), ids
        dim = self.vectors.shape[1]
        self.info = VectorInfo(
            space or Space(dim), len(vectors), metric, "texts" if ids else "rows"
        )
        self.passes, self.change = 0, change

    def batches(self, rows=4096, after=""):
        self.passes += 1
        if self.change and self.passes == 2:
            self.vectors = self.change(self.vectors)
        ids = self.ids or tuple(map(str, range(len(self.vectors))))
        for start in range(0, len(self.vectors), 17):
            some = slice(start, start + 17)
            yield Batch(tuple(ids[some]), self.vectors[some])

    def current(self):
        return self.info


def made(tmp_path, n=60, d=8, name="index", **options):
    vectors = np.random.default_rng(n).normal(size=(n, d)) * 3
    ids = tuple(f"döc {i}" for i in range(n))
    build_index(Made(vectors, ids, space=replace(SPACE, dim=d)), tmp_path / name, **options)
    return tmp_path / name, vectors


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 90),
    d=st.integers(1, 12),
    scale=st.floats(1e-6, 1e6),
    metric=st.sampled_from(["cosine", "dot"]),
    shard=st.integers(1, 200),
    seed=st.integers(0, 2**32 - 1),
)
def test_rows_and_rankings_are_those_of_the_vectors(
    tmp_path_factory, n, d, scale, metric, shard, seed
):
    out = tmp_path_factory.mktemp("index") / "i"
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(n, d)) * scale).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "SHARD_BYTES", shard)
        build_index(Made(vectors), out, metric=metric)
    index = open_index(out)
    assert len(index) == n
    assert len(index.card.shards) == -(-n // max(1, shard // (2 * d)))
    true = vectors.astype(np.float64)
    if metric == "cosine":
        true /= np.linalg.norm(true, axis=1, keepdims=True)
    largest = np.linalg.norm(true, axis=1).max()
    most = 2.0**index.card.exponent * (1 + card.NORM_SLACK)
    assert largest <= index.card.largest_norm * (1 + 1e-6) <= most * (1 + 1e-6)
    step = 2.0 ** (index.card.exponent - card.FRACTION)
    assert step <= 2 * largest * 2.0**-card.FRACTION  # no bits are given away
    start, stop = sorted(rng.integers(0, n + 1, 2))
    if start < stop:
        assert np.abs(index.rows(start, stop) - true[start:stop]).max() <= 0.51 * step
    queries = rng.normal(size=(3, d)).astype(np.float32)
    rows, scores = index.search(queries, 5)
    expected, exact = search(queries, index.rows(0, n), 5, metric="dot", library="numpy")
    if metric == "cosine":
        exact = exact / np.linalg.norm(queries, axis=1, keepdims=True)
    np.testing.assert_allclose(scores, exact, rtol=1e-4, atol=1e-5 * scale)
    kept = np.ptp(exact, axis=1) > 0
    assert (rows[kept] == expected[kept]).mean() > 0.9 if kept.any() else True


def test_ids_spaces_and_maps(tmp_path):
    folder, vectors = made(tmp_path)
    index = la.open_index(folder)
    assert (index.ids[0], index.ids[59], len(index.ids)) == ("döc 0", "döc 59", 60)
    states = la.HiddenStates(vectors[:3].astype(np.float32), space=SPACE)
    assert index.search(states, 1)[0].ravel().tolist() == [0, 1, 2]
    asked = replace(states, space=replace(SPACE, prompt="query: "))  # documents have none
    assert index.search(asked, 1)[0].ravel().tolist() == [0, 1, 2]
    turned = la.AffineMap(np.eye(8)[::-1], np.zeros(8), target=SPACE)
    assert index.search(vectors[:3, ::-1], 1, turned)[0].ravel().tolist() == [0, 1, 2]
    with pytest.raises(MismatchError, match=r"do not belong in the index's space"):
        index.search(la.HiddenStates(vectors[:3], space=replace(SPACE, model="cd" * 32)))
    with pytest.raises(InputError, match="k is not usable"):
        index.search(states, 0)
    again = pickle.loads(pickle.dumps(index))  # as processes get it: by name, without its rows
    assert len(pickle.dumps(index)) < 4000
    assert np.array_equal(again.rows(7, 20), index.rows(7, 20))


def test_a_ranking_loses_what_its_bits_leave_out(tmp_path):
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(3000, 64)).astype(np.float32)
    asked = la.HiddenStates(rng.normal(size=(40, 64)).astype(np.float32))
    found = build_index(Made(vectors), tmp_path / "a", queries=asked)
    assert found.sample == 40
    shares = {o.row_bits: o.overlap for o in found.overlaps}
    truth, _ = search(asked.states, vectors, 10, library="numpy")
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for bits in (9, 10, 14):
        coarse, _ = search(asked.states, np.rint(unit * 2.0**bits), 10, metric="dot")
        same = np.mean([len({*a} & {*b}) / 10 for a, b in zip(truth, coarse, strict=True)])
        assert shares[bits] == pytest.approx(same, abs=0.02)
    assert 0.9 < shares[9] < 1 == shares[14]
    assert shares[found.row_bits] >= 0.99
    assert all(shares[b] < 0.99 for b in shares if b < found.row_bits)
    own = build_index(Made(vectors), tmp_path / "b", seed=1)
    assert own.sample == 64
    assert build_index(Made(vectors), tmp_path / "c", row_bits=11).row_bits == 11


@pytest.mark.parametrize(
    ("source", "options", "word"),
    [
        (Made(np.zeros((3, 2))), {}, "length 0 has no direction"),
        (Made(np.ones((0, 2))), {}, "there are no vectors"),
        (Made(np.ones((3, 2)), ("a", "b\nc", "d")), {}, "an id is not usable"),
        (Made(np.ones((3, 2)), metric="euclidean"), {}, "for distances"),
        (Made(np.ones((3, 2))), {"metric": "euclidean"}, "unknown metric"),
        (Made(np.ones((3, 2))), {"row_bits": 15}, "bits of rows"),
        (Made(np.ones((40, 2)), ("a", *map(str, range(38)), "a")), {}, "one id.* 0 and 39"),
        (Made(np.ones((3, 2))), {"row_bits": 8}, "bits of rows"),
        (Made(np.ones((3, 2))), {"queries": la.HiddenStates(np.ones((1, 3)))}, "vectors' space"),
        (Made(np.ones((3, 2)), change=lambda v: v[:2]), {}, "changed while"),
    ],
)
def test_vectors_that_are_no_index_leave_nothing(tmp_path, source, options, word):
    with pytest.raises((InputError, MismatchError), match=word):
        build_index(source, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length", [1e-37, 1e-25, 1e21, 1e35])
def test_directions_of_very_long_and_short_vectors_are_kept(tmp_path, length):
    vectors = np.random.default_rng(1).normal(size=(50, 8)).astype(np.float32)
    build_index(Made(vectors), tmp_path / "a")
    build_index(Made(vectors * np.float32(length)), tmp_path / "b")
    rows = [open_index(tmp_path / name).stored(0, 50).astype(int) for name in "ab"]
    assert np.abs(rows[0] - rows[1]).max() <= 1
    found = open_index(tmp_path / "a").search(vectors[:3] * np.float32(length), 1)
    assert found[0].ravel().tolist() == [0, 1, 2]
    assert found[1].min() > 0.99


def test_whitespace_in_ids_does_not_break_lines(tmp_path):
    folder, vectors = made(tmp_path, n=3)
    np.save(tmp_path / "q.npy", vectors[:1].astype(np.float32))
    lines = run("index", "search", tmp_path / "q.npy", "--index", folder).stdout.splitlines()
    assert [len(line.split()) for line in lines] == [6, 6, 6]
    assert lines[0].split()[2] == "döc%200"
    shown = run("index", "search", tmp_path / "q.npy", "--index", folder, "--json").stdout
    assert json.loads(shown)["found"][0]["documents"][0]["id"] == "döc 0"


def test_of_many_queries_some_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "MOST_QUERIES", 5)
    rng = np.random.default_rng(1)
    asked = la.HiddenStates(rng.normal(size=(40, 8)).astype(np.float32))
    found = build_index(Made(rng.normal(size=(50, 8))), tmp_path / "a", queries=asked)
    assert found.sample == 5


def test_an_index_is_never_overwritten(tmp_path):
    folder, _ = made(tmp_path)
    with pytest.raises(OutputExistsError):
        build_index(Made(np.ones((3, 2))), folder)
    open_index(folder)


def rewritten(folder, **changes):
    """The folder with another card, its seal made anew: as an attacker writes it."""
    path = folder / card.CARD
    fields = json.loads(path.read_text())
    del fields["seal"]
    fields |= changes
    path.write_text(json.dumps({**fields, "seal": seal_of(fields)}))


def shard(**changes):
    return lambda f: rewritten(
        f, shards=[{"file": "00000.rows", "rows": 60, "sha256": "0" * 64, **changes}]
    )


def replaced(folder, content):
    """The folder with other rows, of which the card has the digest."""
    (folder / "00000.rows").write_bytes(content)
    shard(sha256=hashlib.sha256(content).hexdigest())(folder)


DAMAGE = {
    "truncated": (lambda f: os.truncate(f / "00000.rows", 900), "size that its rows need"),
    "longer": (lambda f: (f / "00000.rows").open("ab").write(b"xx"), "size that its rows need"),
    "altered": (lambda f: (f / "00000.rows").write_bytes(b"\1" * 960), "digest in index.json"),
    "gone": (lambda f: (f / "00000.rows").unlink(), "00000.rows is missing"),
    "added": (lambda f: (f / "x").touch(), "x does not belong"),
    "link": (lambda f: ((f / "00000.rows").rename(f.parent / "r"),
                        (f / "00000.rows").symlink_to(f.parent / "r")), "a link"),
    "card cut": (lambda f: os.truncate(f / "index.json", 200), "not a usable index"),
    "card altered": (lambda f: (f / "index.json").write_text(
        (f / "index.json").read_text().replace('"row_bits": 1', '"row_bits": 2', 1)), "digest|14"),
    "card huge": (lambda f: (f / "index.json").write_bytes(b" " * (5 << 20)), "too large"),
    "path": (shard(file="../../etc/passwd"), "name of its place"),
    "sum": (shard(rows=61), "do not add up"),
    "digest": (shard(), "digest in index.json"),
    "exponent": (lambda f: rewritten(f, exponent=-3), "does not fit its rows"),
    "rows": (lambda f: rewritten(f, rows=1 << 40), "rows"),
    "field": (lambda f: rewritten(f, more=1), "unknown fields"),
    "ids": (lambda f: (f / "ids.txt").write_text("a\n" * 60), "does not hold the ids"),
    "norm": (lambda f: rewritten(f, metric="dot", largest_norm=2.0**-9), "longer than index.json"),
    "large rows": (lambda f: replaced(f, np.full((60, 8), 32767, "<i2").tobytes()), "longer than"),
    "ids link": (lambda f: ((f / "ids.txt").rename(f.parent / "r"),
                            (f / "ids.txt").symlink_to(f.parent / "r")), "a link"),
    "ids huge": (lambda f: os.truncate(f / "ids.txt", 60 * 1025 + 1), "too large"),
    "ids gone": (lambda f: (f / "ids.txt").unlink(), "ids.txt is missing"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_and_hostile_files_are_refused_by_name(tmp_path, name):
    folder, _ = made(tmp_path)
    change, word = DAMAGE[name]
    change(folder)
    with pytest.raises((FormatError, MismatchError), match=word) as caught:
        open_index(folder)
    assert str(tmp_path) in str(caught.value)


def test_an_index_that_is_open_reads_what_was_verified(tmp_path):
    """A folder or a file that gets the name later, even before the first row is read."""
    folder, _ = made(tmp_path)
    before = open_index(folder).rows(0, 60)
    index = open_index(folder)
    (folder / "00000.rows").rename(tmp_path / "old")
    (folder / "00000.rows").write_bytes(bytes(960))
    assert np.array_equal(index.rows(0, 60), before)
    again = pickle.loads(pickle.dumps(index))
    os.truncate(folder / "00000.rows", 10)
    with pytest.raises(FormatError, match="size that its rows need"):
        again.rows(0, 60)


def test_ids_that_would_move_the_cursor_are_not_shown(tmp_path):
    folder, _ = made(tmp_path, n=2)
    content = b"\x1b[2Jx\nb\n"
    (folder / "ids.txt").write_bytes(content)
    rewritten(folder, ids=hashlib.sha256(content).hexdigest())
    index = open_index(folder)
    assert index.ids[1] == "b"
    with pytest.raises(FormatError, match="not printable"):
        index.ids[0]


def test_a_folder_that_is_no_index(tmp_path):
    with pytest.raises(InputError, match="is not an index"):
        open_index(tmp_path)


KILLED = """
import os, signal, sys
import numpy as np
from linalign_lite.retrieval.index import building
from linalign_lite.retrieval.index.writing import RowWriter
from linalign_lite.vectors.locations import open_vectors
add = RowWriter.add
def dying(self, batch):
    out = add(self, batch)
    os.kill(os.getpid(), signal.SIGKILL)
RowWriter.add = dying
building.build_index(open_vectors(sys.argv[1]), sys.argv[2])
"""


def test_killed_while_building(tmp_path):
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(50, 4)))
    paths = str(tmp_path / "v.npy"), str(tmp_path / "out")
    done = subprocess.run([sys.executable, "-c", KILLED, *paths], check=False)
    assert done.returncode == -9
    assert not (tmp_path / "out").exists()
    run("index", "build", *paths)
    assert len(open_index(tmp_path / "out")) == 50


def test_commands(tmp_path, capsys):
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(500, 6)).astype(np.float32)
    with (tmp_path / "docs.jsonl").open("w") as f:
        for i, row in enumerate(vectors):
            f.write(json.dumps({"id": f"d{i}", "embedding": row.tolist()}) + "\n")
    with (tmp_path / "q.jsonl").open("w") as f:
        for i in (7, 3):
            f.write(json.dumps({"id": f"q{i}", "embedding": vectors[i].tolist()}) + "\n")
    docs, out, q = (str(tmp_path / name) for name in ("docs.jsonl", "docs.index", "q.jsonl"))
    text = run("index", "build", docs, out, "--queries", q).stdout
    assert "500, unnamed (6 dimensions)" in text
    assert "(2 queries)" in text
    made = json.loads(run("index", "search", q, "--index", out, "-k", "2", "--json").stdout)
    assert [(f["query"], f["documents"][0]["id"]) for f in made["found"]] == [
        ("q7", "d7"),
        ("q3", "d3"),
    ]
    lines = run("index", "search", q, "--index", out, "-k", "2").stdout.splitlines()
    assert len(lines) == 4
    assert lines[0].split()[:4] == ["q7", "Q0", "d7", "1"]
    assert "is already there" in refused(capsys, "index", "build", docs, out)
    assert "is not an index" in refused(capsys, "index", "search", q, "--index", str(tmp_path))
    planned = run("plan", "--index", out, "--proven").stdout
    assert "of the first 10: 9 bits" in planned
    assert "--index alone" in refused(capsys, "plan", "--index", out, "--dim", "6")
    assert "--index alone" in refused(capsys, "plan", "--dim", "6")
    described = run("inspect", out).stdout
    assert "index" in described
    assert "500" in described
