"""Clusters of an index: a permutation of its rows, recall against dense search, hostile files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from command_line import refused, run
from hypothesis import given, settings
from hypothesis import strategies as st
from indexed import Made, index_of

import linalign_lite as la
from linalign_lite.errors import FormatError, InputError, MismatchError
from linalign_lite.retrieval.index import building, clusters, grouping
from linalign_lite.retrieval.index.card import OwnIds, ids_digest, read_card
from linalign_lite.retrieval.index.k_means import Assignment, nearest, train_centroids
from linalign_lite.retrieval.index.reading import open_index
from linalign_lite.retrieval.search import search
from linalign_lite.storage.hashing import seal_of


def around_centres(n, d, centres, seed=0, noise=0.5):
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(centres, d))
    return (means[rng.integers(centres, size=n)] + noise * rng.normal(size=(n, d))).astype("f4")


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 120),
    d=st.integers(1, 12),
    count=st.integers(1, 30),
    metric=st.sampled_from(["cosine", "dot"]),
    scale=st.sampled_from([1e-5, 1.0, 1e5]),
    copies=st.booleans(),
    ids=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_clusters_are_a_permutation_of_the_rows(
    tmp_path_factory, n, d, count, metric, scale, copies, ids, seed
):
    """The same rows as without clusters, in order of cluster, with their ids."""
    folder = tmp_path_factory.mktemp("c")
    vectors = np.random.default_rng(seed).normal(size=(n, d)) * scale
    if copies:
        vectors[:] = vectors[:1]
    names = [f"döc {i}" for i in range(n)] if ids else None
    options = {"metric": metric, "ids": names}
    if count > n:
        with pytest.raises(InputError, match="fewer vectors than clusters"):
            index_of(folder / "a", vectors, clusters=count, **options)
        assert not list(folder.iterdir())
        return
    index = index_of(folder / "a", vectors, clusters=count, seed=seed % 1000, **options)
    plain = index_of(folder / "b", vectors, **options)
    sizes = index.card.clusters.sizes
    assert isinstance(index.ids, OwnIds)
    order = [int(index.ids[i].removeprefix("döc ")) for i in range(n)]
    assert sorted(order) == list(range(n))
    assert np.array_equal(index.stored(0, n), plain.stored(0, n)[order])
    assert sum(sizes) == n
    assert max(sizes) <= -(-2 * n // count)
    assert len(sizes) <= count
    whole = clusters.intervals(index.card, range(len(sizes)))
    assert [i for a, b in whole for i in range(a, b)] == list(range(n))
    for a, b in whole:
        assert order[a:b] == sorted(order[a:b])
    centroids = index.centroids.values
    assert np.isfinite(centroids).all()
    if metric == "cosine":
        norms = np.linalg.norm(centroids, axis=1)
        assert np.abs(norms - 1).max() < 1e-2
    asked = np.random.default_rng(1).normal(size=(2, d))
    every = index.search(asked, 4, clusters=len(sizes))
    np.testing.assert_allclose(every[1], index.search(asked, 4)[1], rtol=1e-5, atol=1e-6 * scale)


def test_recall_is_that_of_dense_search(tmp_path):
    vectors, asked = around_centres(3000, 16, 40), around_centres(200, 16, 40)
    queries = la.HiddenStates(asked)
    index = index_of(tmp_path / "a", vectors, clusters="auto", queries=queries, metric="dot")
    sizes = index.card.clusters.sizes
    assert 40 <= len(sizes) <= 54  # √3000
    measured = {r.clusters: r.recall for r in index.card.clusters.recalls}
    assert set(measured) == {1, 2, 3, 4, 6, 8, 12, 16, 24, 32} | (
        {48} if len(sizes) > 48 else set()
    )
    truth, _ = search(asked, index.rows(0, 3000), 10, metric="dot", library="numpy")
    for count in (1, 4, 16):
        # the dense oracle: scores with every centroid, the rows of the best ones
        best = np.argsort(-(asked.astype(float) @ index.centroids.values.T), axis=1)[:, :count]
        label = np.repeat(np.arange(len(sizes)), sizes)
        share = np.mean([np.isin(label[t], b).mean() for t, b in zip(truth, best, strict=True)])
        assert measured[count] == pytest.approx(share, abs=5e-3)  # of rows before they are rounded
        found, scores = index.search(asked, 10, clusters=count)
        for row, b, t in zip(found, best, truth, strict=True):
            own = np.flatnonzero(np.isin(label, b))
            if len(own) >= 10:
                assert np.isin(row, own).all()
                assert set(t.tolist()) & set(own.tolist()) <= set(row.tolist())
        assert np.abs(scores[0] - index.rows(0, 3000)[found[0]] @ asked[0]).max() < 1e-4
    assert measured[1] < measured[4] <= measured[16]
    assert measured[16] > 0.9
    enough = clusters.enough_clusters(index.card)
    assert measured[enough] >= 0.95
    assert all(share < 0.95 for count, share in measured.items() if count < enough)


def test_small_clusters_are_joined_by_others_until_they_hold_k_rows(tmp_path):
    index = index_of(tmp_path / "a", around_centres(60, 6, 5), clusters=20)
    rows, _ = index.search(np.ones((3, 6)), 50, clusters=1)
    assert rows.shape == (3, 50)
    assert all(len(set(r)) == 50 for r in rows.tolist())
    for bad in (0, -1):
        with pytest.raises(InputError, match="clusters are not usable"):
            index.search(np.ones((1, 6)), clusters=bad)
    with pytest.raises(InputError, match="has no clusters"):
        index_of(tmp_path / "b", around_centres(60, 6, 5)).search(np.ones((1, 6)), clusters=1)


def test_centroids_find_clusters_that_are_far_apart():
    rng = np.random.default_rng(3)
    vectors = around_centres(2000, 8, 10, noise=0.01)
    found = train_centroids(vectors, 10, rng, unit=False)
    assert np.square(vectors - found[nearest(vectors, found)]).sum(axis=1).mean() < 8 * 0.02**2
    unbalanced = np.concatenate([vectors[:50], np.tile(vectors[:1], (1950, 1))])
    unbalanced = (unbalanced + 1e-3 * rng.normal(size=unbalanced.shape)).astype("f4")
    assignment = Assignment(train_centroids(unbalanced, 10, rng, unit=False), 2000)
    assignment.add(unbalanced)
    assert np.bincount(assignment.labels()).max() <= 400
    with pytest.raises(MismatchError, match="changed while"):
        assignment.add(np.tile(unbalanced, (2, 1)))


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    """Rows are assigned and ordered a batch at a time; only labels and ids are held."""
    for module, name in ((building, "_BATCH"), (grouping, "TRAINING")):
        monkeypatch.setattr(module, name, 1 << 18)
    monkeypatch.setattr("linalign_lite.retrieval.index.writing._COPIED", 1 << 18)
    monkeypatch.setattr("linalign_lite.retrieval.index.k_means.BLOCK", 1 << 18)
    monkeypatch.setattr("linalign_lite.retrieval.index.rankings.BLOCK", 1 << 18)
    vectors = np.random.default_rng(0).normal(size=(20_000, 256)).astype("f4")  # 20 MB
    source = Made(vectors)
    tracemalloc.start()
    building.build_index(source, tmp_path / "a", clusters=16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < vectors.nbytes / 2
    assert not (tmp_path / "a" / "unordered").exists()


def rewritten(folder, **changes):
    """The folder with another card, its seal made anew: as an attacker writes it."""
    path = folder / "index.json"
    fields = json.loads(path.read_text())
    del fields["seal"]
    fields["clusters"] = changes.pop("clusters", {**fields["clusters"], **changes})
    path.write_text(json.dumps({**fields, "seal": seal_of(fields)}))


def centroids(change):
    def damage(folder):
        path = folder / "centroids.rows"
        path.write_bytes(change(path.read_bytes()))

    return damage


DAMAGE = {
    "sum": (lambda f: rewritten(f, sizes=[30, 29]), "do not add up"),
    "zero": (lambda f: rewritten(f, sizes=[60, 0]), "sizes"),
    "negative": (lambda f: rewritten(f, sizes=[70, -10]), "sizes"),
    "huge": (lambda f: rewritten(f, sizes=[1 << 60]), "sizes"),
    "fraction": (lambda f: rewritten(f, sizes=[30.5, 29.5]), "sizes"),
    "many": (lambda f: rewritten(f, sizes=[1] * 5000), "sizes"),
    "none": (lambda f: rewritten(f, sizes=[]), "sizes"),
    "fewer": (lambda f: rewritten(f, sizes=[60]), "size that its clusters need"),
    "nan": (lambda f: rewritten(f, recalls=[{"clusters": 1, "recall": float("nan")}]), "index"),
    "recall": (lambda f: rewritten(f, recalls=[{"clusters": 1, "recall": 1.5}]), "recall"),
    "unknown": (lambda f: rewritten(f, more=1), "unknown fields"),
    "digest": (lambda f: rewritten(f, sha256="0" * 64), "digest in the index's card"),
    "no clusters": (lambda f: rewritten(f, clusters=None), "centroids.rows does not belong"),
    "altered": (centroids(lambda raw: raw[::-1]), "digest in the index's card"),
    "longer": (centroids(lambda raw: raw + b"xx"), "size that its clusters need"),
    "cut": (lambda f: os.truncate(f / "centroids.rows", 5), "size that its clusters need"),
    "gone": (lambda f: (f / "centroids.rows").unlink(), "centroids.rows is missing"),
    "link": (lambda f: ((f / "centroids.rows").rename(f.parent / "r"),
                        (f / "centroids.rows").symlink_to(f.parent / "r")), "a link"),
}  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two") / "i"
    index_of(folder, around_centres(60, 6, 2), clusters=2)
    return folder


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_and_hostile_clusters_are_refused_by_name(tmp_path, two, name):
    folder = tmp_path / "i"
    shutil.copytree(two, folder)
    change, word = DAMAGE[name]
    change(folder)
    with pytest.raises((FormatError, MismatchError), match=word) as caught:
        open_index(folder)
    assert str(tmp_path) in str(caught.value)


def test_any_bytes_are_finite_centroids(two):
    """Centroids are integers: what an attacker writes has no NaN, and changes no row."""
    card = read_card(two)
    raw = b"\xff\x7f\x00\x80" * (2 * 6 // 2)
    sealed = replace(card.clusters, sha256=hashlib.sha256(raw).hexdigest())
    other = replace(card, clusters=sealed)
    found = clusters.checked_centroids("it", raw, other)
    assert np.isfinite(found.values).all()
    assert found.nearest(np.ones((1, 6)), 1).shape == (1, 1)
    assert found.content() == raw


@pytest.mark.parametrize("count", [0, -1, 5000])
def test_numbers_of_clusters_that_are_refused(tmp_path, count):
    with pytest.raises(InputError, match="clusters are not usable"):
        index_of(tmp_path / "a", np.ones((9, 2)), clusters=count)


def test_a_digest_of_ids_tells_clusters_apart(tmp_path):
    """Rows and ids in the same order, and other clusters: columns would be other rows."""
    vectors = np.repeat(np.eye(4), [3, 4, 5, 6], axis=0)
    found = {index_of(tmp_path / str(c), vectors, clusters=c).card for c in (1, 4)}
    assert len({ids_digest(card) for card in found}) == 2


def test_commands(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vectors = around_centres(400, 6, 8)
    np.save("docs.npy", vectors)
    np.save("q.npy", vectors[[7, 3]])
    text = run("index", "build", "docs.npy", "docs.index", "--clusters", "auto").stdout
    assert "of the first 10, in clusters: 1 nearest" in text
    assert "20 of" in text
    made = run("index", "build", "docs.npy", "b.index", "--clusters", 8, "--json").stdout
    assert set(json.loads(made)["recalls"]) == {"1", "2", "3", "4", "6"}
    shown = run("index", "search", "q.npy", "--index", "docs.index", "--clusters", 2).stdout
    assert [line.split()[2] for line in shown.splitlines()[::10]] == ["7", "3"]
    index_of(tmp_path / "plain.index", vectors)
    for args, word in (
        (("index", "build", "docs.npy", "x", "--clusters", "some"), "a number, or auto"),
        (("index", "build", "docs.npy", "x", "--clusters", "401"), "fewer vectors"),
        (("index", "search", "q.npy", "--index", "plain.index", "--clusters", 1), "no clusters"),
    ):
        assert word in refused(capsys, *args), args
