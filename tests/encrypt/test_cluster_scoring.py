"""Encrypted search of clusters that a query names openly, against dense search of their rows."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from command_line import refused, run
from indexed import SPACE, index_of, made_keys

import linalign_lite as la
from linalign_lite.commands.found import shown_ids
from linalign_lite.encrypt.packing import Layout
from linalign_lite.encrypt.parameters import PRIVATE
from linalign_lite.encrypt.planner import choose_layout
from linalign_lite.encrypt.precision import rounding_step
from linalign_lite.encrypt.scorers import _MAX_SETS
from linalign_lite.errors import FormatError, InputError, MismatchError
from linalign_lite.retrieval.index.card import card_digest
from linalign_lite.retrieval.index.clusters import MAX_ASKED, NearestClusters, row_numbers


@pytest.fixture(scope="module")
def keys():
    return made_keys(PRIVATE)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    rng = np.random.default_rng(3)
    vectors = rng.normal(size=(60, 24))[rng.integers(60, size=3000)]
    vectors += 0.4 * rng.normal(size=vectors.shape)
    names = [f"doc {i}" for i in range(3000)]
    return index_of(
        tmp_path_factory.mktemp("i") / "docs", vectors, space=SPACE, ids=names, clusters=40
    )


def asked_of(documents, n, seed=1):
    rng = np.random.default_rng(seed)
    some = documents.rows(0, 3000)[rng.integers(3000, size=n)]
    return la.HiddenStates((some + 0.05 * rng.normal(size=some.shape)).astype("f4"), space=SPACE)


@pytest.mark.parametrize(("n", "count", "chunks"), [(1, 1, 0), (1, 5, 6), (4, 3, 3)])
def test_scores_are_those_of_the_rows_of_the_nearest_clusters(documents, keys, n, count, chunks):
    client = la.Client(keys[0], proven=True)
    provider = la.Provider(documents, keys=[keys[2]])
    states = asked_of(documents, n)
    asked = NearestClusters(documents.centroids, count)
    layout = Layout(4096, 24, chunks, n, many=True) if chunks else None
    query = client.encrypt(states, index=asked, layout=layout)
    unit = states.states / np.linalg.norm(states.states, axis=1, keepdims=True)
    close = np.argsort(-(unit @ documents.centroids.values.T), axis=1)[:, :count]
    assert query.info.clusters == tuple(np.unique(close).tolist())  # of all states together
    assert query.info.index == card_digest(documents.card)
    response = la.Response.load(provider.score(la.Query.load(query.to_bytes())).to_bytes())
    found = client.decrypt(response, query)
    rows = row_numbers(documents.card, found.clusters)
    assert found.values.shape == (n, len(rows))
    assert len(rows) < 3000
    exact = unit.astype(float) @ documents.rows(0, 3000)[rows].astype(float).T
    step = rounding_step(found.error)[0]
    assert np.abs(found.values - exact).max() <= found.error + step
    clear, _ = documents.search(states, 1, clusters=count)
    best = rows[found.top(1)]
    values = np.take_along_axis(exact, found.top(1), axis=1)
    assert (exact.max(axis=1, keepdims=True) - values).max() <= 2 * found.error
    assert (best == clear).mean() >= 0.5  # ties within the error may go either way


def test_processes_score_clusters(documents, keys, tmp_path):
    client = la.Client(keys[0], proven=True)
    states = asked_of(documents, 2)
    asked = NearestClusters(documents.centroids, 2)
    info = client.encrypt_to(tmp_path / "q", states, index=asked, layout=Layout(4096, 24, 3))
    assert info.layout.blocks(2) == 2
    provider = la.Provider(documents, keys=[keys[2]], cache_bytes=0)
    provider.score_file(tmp_path / "q", tmp_path / "r", workers=2)
    found = client.decrypt_from(tmp_path / "r", tmp_path / "q")
    rows = row_numbers(documents.card, found.clusters)
    exact = documents.search(states, 1)[1][:, 0]
    assert np.abs(found.values.max(axis=1) - exact).max() <= found.error + 1e-3
    assert found.values.shape[1] == len(rows)


def test_a_budget_counts_the_rows_that_are_shown(documents, tmp_path):
    account = la.SigningKey.generate()
    secret, public = la.keygen(PRIVATE, account)
    budget = la.Budget(tmp_path / "b.sqlite", 5)
    provider = la.Provider(documents, keys=[public], budget=budget)
    client = la.Client(secret, account=account)
    query = client.encrypt(asked_of(documents, 2), index=NearestClusters(documents.centroids, 1))
    response = provider.score(query)
    (usage,) = budget.usage()
    shown = len(row_numbers(documents.card, query.info.clusters))
    assert shown == response.info.n_outputs < 300
    assert usage.bits == 2 * shown * min(24, 90 - response.info.flood_bits)


def test_a_query_of_clusters_is_refused_by_another_provider(documents, keys, tmp_path):
    client = la.Client(keys[0], proven=True)
    query = client.encrypt(asked_of(documents, 1), index=NearestClusters(documents.centroids, 1))
    vectors = documents.rows(0, 3000).astype(float)
    for number, scored in enumerate((
        la.Head(vectors[:90], np.zeros(90), space=SPACE),
        index_of(tmp_path / "a", vectors, space=SPACE),
        index_of(tmp_path / "b", vectors, space=SPACE, clusters=40, seed=1),
    )):  # fmt: skip
        provider = la.Provider(scored, keys=[keys[2]])
        with pytest.raises(MismatchError, match="clusters of this query are of another index"):
            provider.score(query)
        assert not provider._scorers._some, number


def altered(query, **fields):
    info = replace(query.info, **fields)
    return la.Query(info, query.payloads)


def test_hostile_clusters_of_a_query_are_refused(documents, keys):
    client = la.Client(keys[0], proven=True)
    query = client.encrypt(asked_of(documents, 1), index=NearestClusters(documents.centroids, 2))
    provider = la.Provider(documents, keys=[keys[2]])
    first, second = query.info.clusters
    for fields, word in (
        ({"clusters": (second, first)}, "not in order"),
        ({"clusters": (first, first)}, "named twice"),
        ({"clusters": (-1,)}, "clusters"),
        ({"clusters": (1 << 40,)}, "clusters"),
        ({"clusters": (1.0,)}, "clusters"),
        ({"clusters": tuple(range(MAX_ASKED + 1))}, "clusters"),
        ({"clusters": ()}, "an index without clusters"),
        ({"index": ""}, "without their index"),
        ({"index": "x" * 64}, "index"),
    ):
        with pytest.raises(FormatError, match=word):
            la.Query.load(altered(query, **fields).to_bytes())
    with pytest.raises(MismatchError, match="no such cluster"):
        provider.score(la.Query.load(altered(query, clusters=(first, 2000)).to_bytes()))
    # more rows than the query's coefficients serve
    narrow = client.encrypt(
        asked_of(documents, 1), index=NearestClusters(documents.centroids, 1),
        layout=Layout(4096, 24, 2, many=True))  # fmt: skip
    assert narrow.info.n_outputs is not None
    more = altered(narrow, clusters=tuple(range(12)))
    with pytest.raises(MismatchError, match="serves fewer scores"):
        provider.score(la.Query.load(more.to_bytes()))


def test_a_response_of_other_clusters_is_refused(documents, keys):
    client = la.Client(keys[0], proven=True)
    provider = la.Provider(documents, keys=[keys[2]])
    query = client.encrypt(asked_of(documents, 1), index=NearestClusters(documents.centroids, 1))
    response = provider.score(query)
    for clusters in ((), ((query.info.clusters[0] + 1) % 40,)):
        info = replace(response.info, clusters=clusters)
        with pytest.raises(MismatchError, match="answers another query"):
            client.decrypt(la.Response(info, response.payloads), query)
    with pytest.raises(FormatError, match="without their index"):
        la.Response.load(la.Response(replace(response.info, ids=""), response.payloads).to_bytes())


def test_columns_are_never_taken_for_other_rows(documents, keys):
    """Scores decrypted without the query: the card has as many rows in these clusters, or not."""
    client = la.Client(keys[0], proven=True)
    query = client.encrypt(asked_of(documents, 1), index=NearestClusters(documents.centroids, 1))
    found = client.decrypt(la.Provider(documents, keys=[keys[2]]).score(query))
    card, rows = documents.card, row_numbers(documents.card, found.clusters)
    ids = shown_ids(found, card, documents.ids, "it")
    assert [ids[i] for i in range(len(ids))] == [documents.ids[i] for i in rows.tolist()]
    for clusters in ((), (4000,), (*found.clusters, 39)):
        with pytest.raises(MismatchError, match=r"not of the index|no such cluster"):
            shown_ids(replace(found, clusters=clusters), card, documents.ids, "it")
    with pytest.raises(MismatchError, match="not of the index"):
        shown_ids(replace(found, ids=card.ids), card, documents.ids, "it")


def test_few_scorers_are_kept_whatever_sets_are_asked(documents, keys):
    client = la.Client(keys[0], proven=True)
    provider = la.Provider(documents, keys=[keys[2]])
    for seed in range(_MAX_SETS + 4):
        query = client.encrypt(
            asked_of(documents, 1, seed), index=NearestClusters(documents.centroids, 2)
        )
        provider._answer(query.info, query.digest)
    assert len(provider._scorers._some) <= _MAX_SETS


def test_queries_ask_at_most_as_many_clusters_as_a_header_holds(keys, tmp_path):
    vectors = np.random.default_rng(1).normal(size=(900, 4))
    index = index_of(tmp_path / "a", vectors, clusters=MAX_ASKED + 60)
    client = la.Client(keys[0], proven=True)
    with pytest.raises(InputError, match=r"too many clusters together.*fewer of them at once"):
        client.encrypt(np.ones((1, 4)), index=NearestClusters(index.centroids, MAX_ASKED + 50))
    query = client.encrypt(np.ones((1, 4)), index=NearestClusters(index.centroids, MAX_ASKED))
    assert len(la.Query.load(query.to_bytes()).info.clusters) == MAX_ASKED
    with pytest.raises(InputError, match="clusters are not usable"):
        NearestClusters(index.centroids, 0)


@pytest.mark.parametrize("count", [2, 16, 256])
def test_hidden_clusters_would_cost_what_a_narrower_packing_costs(count):
    """One selected block of count·d coefficients, n/count rows: docs/DESIGN.md has the formula."""
    rows, dim = 100_000, 384
    exact = choose_layout(PRIVATE, dim, rows, 1, proven=True)
    hidden = choose_layout(PRIVATE, count * dim, -(-rows // count), 1, proven=True)
    sent = [p.query_bytes + p.response_bytes for p in (exact, hidden)]
    assert sent[1] > 0.9 * sent[0]
    assert hidden.score_ms > 0.95 * exact.score_ms
    assert exact.response_bytes < 3e6


def test_commands(here, capsys, documents):
    vectors, names = documents.rows(0, 1000), [f"d{i}" for i in range(1000)]
    index_of(here / "docs.index", vectors, ids=names, clusters=9)
    index_of(here / "plain.index", vectors, ids=names)
    np.save(here / "q.npy", vectors[[400]])
    run("keygen", "keys")
    (here / "client").mkdir()
    for name in ("index.json", "ids.txt", "centroids.rows"):  # all that a client gets
        (here / "client" / name).write_bytes((here / "docs.index" / name).read_bytes())
    card, asked = "client/index.json", ("encrypt", "q.npy", "q.query", "--key", "keys")
    text = run(*asked, "--index", card, "--clusters", 2).stdout
    assert re.search(r"for 2 of 9 clusters \(\d+ rows; the provider learns which\)", text)
    text = run("score", "q.query", "q.response", "--index", "docs.index", "--public", "keys").stdout
    assert re.search(r"1 queries scored for \d{1,3} rows", text)
    shown = run("decrypt", "q.response", "--key", "keys", "--query", "q.query", "--index", card,
                "--top", "3").stdout.split("\n")  # fmt: skip
    assert shown[0].split()[:4] == ["0", "Q0", "d400", "1"]
    clear = run("index", "search", "q.npy", "--index", "docs.index", "-k", 3, "--clusters", 2)
    assert {line.split()[2] for line in shown[:3]} == {
        line.split()[2] for line in clear.stdout.splitlines()
    }
    facts = json.loads(run("inspect", "q.response", "--json").stdout)
    assert len(facts["clusters"]) == 2
    for args, word in (
        (("decrypt", "q.response", "--key", "keys"), "whose rows only their index tells"),
        (("decrypt", "q.response", "--key", "keys", "--index", "plain.index"), "not of the index"),
        (("encrypt", "q.npy", "r", "--key", "keys", "--clusters", 2), "are of an index"),
        (("encrypt", "q.npy", "r", "--key", "keys", "--index", "plain.index",
          "--clusters", "auto"), "has no clusters"),
        (("encrypt", "q.npy", "r", "--key", "keys", "--index", card, "--clusters", "-1"),
         "a number, or auto"),
        (("score", "q.query", "r", "--index", "plain.index", "--public", "keys"), "another index"),
    ):  # fmt: skip
        assert re.search(word, refused(capsys, *args)), args
    (here / "client" / "centroids.rows").write_bytes(b"x" * 2 * 9 * 24)
    said = refused(capsys, *(*asked[:2], "r", *asked[3:]), "--index", card, "--clusters", "auto")
    assert "digest in the index's card" in said
