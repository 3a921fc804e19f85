"""Encrypted search of an index, against exact search of the same rows."""

from __future__ import annotations

import json
import math
import re
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from command_line import refused, run
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from indexed import SPACE, documents_in, index_of, made_keys

import linalign_lite as la
from linalign_lite.encrypt import chunk_products, scoring
from linalign_lite.encrypt.key_proof import proven
from linalign_lite.encrypt.packing import Layout
from linalign_lite.encrypt.parameters import PRIVATE, TRUSTED
from linalign_lite.encrypt.planner import choose_layout, predict_cost
from linalign_lite.encrypt.precision import rounding_step
from linalign_lite.encrypt.scored_rows import HeadRows, IndexRows
from linalign_lite.encrypt.wire import Header
from linalign_lite.errors import BudgetError, FormatError, MismatchError
from linalign_lite.retrieval.index.reading import open_index


@pytest.fixture(scope="module")
def keys():
    return made_keys(PRIVATE)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    return documents_in(tmp_path_factory.mktemp("i") / "docs")


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 700),
    d=st.integers(1, 40),
    width=st.integers(1, 40),
    batch=st.integers(1, 5),
    many=st.booleans(),
    trusted=st.booleans(),
    metric=st.sampled_from(["cosine", "dot"]),
    bits=st.integers(9, 14),
    norm=st.sampled_from([0.01, 1.0, 40.0]),
    threads=st.integers(1, 2),
    seed=st.integers(0, 2**32 - 1),
)
def test_scores_are_those_of_the_rows(
    tmp_path_factory, n, d, width, batch, many, trusted, metric, bits, norm, threads, seed
):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n, d)) * norm / math.sqrt(d)
    folder = tmp_path_factory.mktemp("i") / "i"
    index = index_of(folder, vectors, metric=metric, row_bits=bits)
    parameters = TRUSTED if trusted else PRIVATE
    secret, _, public = made_keys(parameters)
    client = la.Client(secret, max_error=1.0, proven=True)
    provider = la.Provider(index, keys=[public], accept=[parameters], max_error=1.0)
    layout = Layout(parameters.degree, d, -(-d // min(width, d)), batch, many)
    best = choose_layout(parameters, d, n, batch + 1, math.inf, proven=True).score_ms
    assume(predict_cost(parameters, layout, batch + 1, n).score_ms < 100 + 8 * best)
    queries = rng.normal(size=(batch + 1, d)) / math.sqrt(d)
    query = client.encrypt(queries, index=index.card, layout=layout)
    scorer, (info, scales) = (
        provider._scorers.whole(parameters),
        provider._answer(query.info, query.digest),
    )
    masks = provider._masks_for(query.info)
    response = la.Response(info, tuple(
        scorer.score(query.info, scales, i, record, masks, threads)
        for i, record in enumerate(query.records())
    ))  # fmt: skip
    found = client.decrypt(response, query)
    if metric == "cosine":
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    exact = queries @ index.rows(0, n).astype(np.float64).T
    step, places = rounding_step(info.error_bound)
    assert found.decimals == places
    assert np.abs(found.values - exact).max() <= found.error + step
    assert found.values.shape == (batch + 1, n)


def test_the_best_documents_are_those_of_a_search_in_the_clear(documents, keys):
    client = la.Client(keys[0], proven=True)
    provider = la.Provider(documents, keys=[keys[2]])
    states = la.HiddenStates(np.random.default_rng(1).normal(size=(6, 24)) * 9, space=SPACE)
    query = client.encrypt(states, index=documents.card)
    assert (query.info.layout.packing, query.info.norm_bits) == ("many", 0)
    found = client.decrypt(provider.score(query), query)
    rows, scores = documents.search(states, 10)
    top = found.top(10)
    same = np.mean(
        [len({*a} & {*b}) / 10 for a, b in zip(rows.tolist(), top.tolist(), strict=True)]
    )
    assert same >= 0.95
    kept = np.take_along_axis(found.values, rows, axis=1)
    step, places = rounding_step(found.error)
    assert np.abs(kept - scores).max() <= found.error + step / 2
    assert found.ids == documents.card.ids
    # values are no finer than the error, and the order of the first is: ties do not decide it
    assert np.array_equal(found.values, np.round(np.rint(found.values / step) * step, places))
    assert len(np.unique(found.values[0, top[0]])) < 10
    assert found.first.shape == (6, 1000)
    assert np.array_equal(found.ranking()[:, :1200], found.top(1200))


def test_without_a_proof_products_return_128_scores(documents, keys):
    client, bold = la.Client(keys[0]), la.Client(keys[0], proven=True)
    provider = la.Provider(documents, keys=[keys[1]])
    states = np.random.default_rng(1).normal(size=(1, 24))
    query = client.encrypt(states, index=documents.card)
    assert query.info.layout.rows <= 128
    assert not query.info.many
    found = client.decrypt(provider.score(query), query)
    assert found.top(1)[0, 0] == documents.search(states, 1)[0][0, 0]
    asked = bold.encrypt(states, index=documents.card)
    assert asked.info.needs_proof
    with pytest.raises(MismatchError, match=r"so many scores only under a proven key.*--prove"):
        provider.score(asked)


def test_flooding_under_many_is_for_all_rows_of_a_product(documents, keys):
    """The bound on W·e grows with the rows that share a product, and flooding with it."""
    provider = la.Provider(documents, keys=[keys[2]])
    scorer = provider._scorers.whole(PRIVATE)
    wide, single = Layout(4096, 24, 1, many=True), Layout(4096, 24, 24, many=True)
    assert (wide.rows, single.rows) == (170, 4096)
    rows = IndexRows(documents)
    assert rows.product_norm(4096) == pytest.approx(64 * rows.product_norm(1))
    for layout in (wide, single):
        scales = scorer.scales(layout, 0, True)
        some = documents.rows(0, layout.rows).astype(np.float64)
        true = np.linalg.norm(np.rint(some * 2.0**scales.weight_scale)) * 2.0**scales.rounding_bits
        noise = 7.63 * math.sqrt(10.5) * true
        assert 2.0**scales.flood_bits >= 2**41 * noise
        assert scales.flood_bits <= 85  # q/32: scores do not wrap around


def test_rows_are_encoded_when_they_are_used(documents, keys):
    """Without a cache the encoded rows, 16 times as large, are never in memory together."""
    client, states = la.Client(keys[0], proven=True), np.ones((1, 24))
    layout = Layout(4096, 24, 3)  # 79 products of 64 rows, 3 chunks of 32 KiB
    query = client.encrypt(states, index=documents.card, layout=layout)
    whole = layout.products(5000) * layout.chunks * 2048 * 16
    peaks = []
    for most in (0, 1 << 30):
        provider = la.Provider(documents, keys=[keys[2]], cache_bytes=most)
        tracemalloc.start()
        answers = provider.score(query)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(answers) == 1
    assert peaks[1] - peaks[0] > 0.6 * whole


def test_an_index_of_another_space_is_refused_by_both(documents, keys, tmp_path):
    other = la.HiddenStates(np.ones((1, 24)), space=replace(SPACE, model="cd" * 32))
    client = la.Client(keys[0], proven=True)
    with pytest.raises(MismatchError, match="do not belong in the index's space"):
        client.encrypt(other, index=documents.card)
    query = client.encrypt(other, n_outputs=5000)
    with pytest.raises(MismatchError, match="does not belong"):
        la.Provider(documents, keys=[keys[2]]).score(query)


def test_the_map_goes_before_the_length(documents, keys):
    """States are scaled to length 1 after the map, so that scores are cosines."""
    client = la.Client(keys[0], proven=True)
    turned = la.AffineMap(np.eye(24)[::-1] * 7, np.ones(24), target=SPACE)
    states = np.random.default_rng(1).normal(size=(2, 24))
    query = client.encrypt(states, turned, index=documents.card)
    found = client.decrypt(la.Provider(documents, keys=[keys[2]]).score(query), query)
    rows, scores = documents.search(states, 3, turned)
    step = rounding_step(found.error)[0]
    kept = np.take_along_axis(found.values, rows, axis=1)
    assert np.abs(kept - scores).max() <= found.error + step / 2


def test_a_budget_counts_the_bits_of_every_row(documents, tmp_path):
    account = la.SigningKey.generate()
    secret, public = la.keygen(PRIVATE, account)
    public = proven(secret, public)
    budget = la.Budget(tmp_path / "b.sqlite", 2)
    provider = la.Provider(documents, keys=[public], budget=budget)
    client = la.Client(secret, account=account, proven=True)
    query = client.encrypt(np.ones((2, 24)), index=documents.card)
    first = provider.score(query)
    assert provider.score(query).to_bytes() == first.to_bytes()  # kept, and not charged again
    (usage,) = budget.usage()
    assert usage.used == 2
    assert usage.bits == 2 * 5000 * min(24, 90 - first.info.flood_bits)
    with pytest.raises(BudgetError):
        provider.score(client.encrypt(np.ones((1, 24)), index=documents.card))


def test_digests_tell_indexes_apart(documents, tmp_path):
    vectors = documents.rows(0, 50).astype(np.float64)
    one = index_of(tmp_path / "a", vectors)
    other = index_of(tmp_path / "b", vectors[::-1])
    digests = {IndexRows(x).digest() for x in (documents, one, other)}
    assert len(digests) == 3
    assert IndexRows(documents).ids == documents.card.ids
    assert len({IndexRows(x).ids for x in (one, other)}) == 2  # rows of both have numbers alone
    assert IndexRows(open_index(tmp_path / "a")).digest() in digests
    assert HeadRows(la.Head(vectors, np.zeros(50))).digest() not in digests


@pytest.mark.parametrize("field", ["many", "ids"])
def test_a_field_that_is_left_out_when_empty_is_not_written_empty(documents, keys, field):
    client = la.Client(keys[0])
    query = client.encrypt(np.ones((1, 24)), n_outputs=9, layout=Layout(4096, 24, 1))
    message = query if field == "many" else la.Provider(
        la.Head(np.ones((9, 24)), np.zeros(9)), keys=[keys[1]]).score(query)  # fmt: skip
    header = message.info.header()
    assert field not in header.meta
    empty = replace(header, meta={**header.meta, field: False if field == "many" else ""})
    assert isinstance(empty, Header)
    content = empty.encoded + message.to_bytes()[len(header.encoded) :]
    with pytest.raises(FormatError, match="an empty field that is left out"):
        type(message).load(content)


def test_many_groups_of_products_and_threads_give_the_same_scores(documents, keys, monkeypatch):
    client = la.Client(keys[0], proven=True)
    query = client.encrypt(np.ones((1, 24)), index=documents.card, layout=Layout(4096, 24, 6))
    found = []
    for together, many in ((8, 16), (3, 10**9)):
        monkeypatch.setattr(scoring, "_TOGETHER", together)
        monkeypatch.setattr(chunk_products, "_MANY", many)
        provider = la.Provider(documents, keys=[keys[2]])
        found.append(client.decrypt(provider.score(query), query))
    step = rounding_step(found[0].error)[0]
    assert np.abs(found[0].values - found[1].values).max() < 1.1 * step
    assert np.array_equal(found[0].top(3), found[1].top(3))


@pytest.mark.parametrize("batch", [1, 3])
def test_processes_and_threads_score_an_index(documents, keys, tmp_path, batch):
    """Three records by processes, which open the index themselves, or one record by threads."""
    client = la.Client(keys[0], proven=True)
    states = np.random.default_rng(4).normal(size=(3, 24))
    layout = Layout(4096, 24, 3, batch, many=True)
    info = client.encrypt_to(tmp_path / "q", states, index=documents.card, layout=layout)
    assert info.layout.blocks(3) == 3 // batch
    provider = la.Provider(documents, keys=[keys[2]], cache_bytes=0)
    done = []
    provider.score_file(tmp_path / "q", tmp_path / "r", done.append, workers=2)
    assert sum(done) == 3
    found = client.decrypt_from(tmp_path / "r", tmp_path / "q")
    rows, scores = documents.search(states, 4)
    step = rounding_step(found.error)[0]
    kept = np.take_along_axis(found.values, rows, axis=1)
    assert np.abs(kept - scores).max() <= found.error + step / 2


def test_commands(here, capsys, documents):
    vectors = documents.rows(0, 1000)
    with (here / "docs.jsonl").open("w") as f:
        for i, row in enumerate(vectors):
            f.write(json.dumps({"id": f"d{i}", "embedding": row.tolist()}) + "\n")
    np.save(here / "q.npy", vectors[[7, 400]] * 3)
    run("index", "build", "docs.jsonl", "docs.index")
    run("keygen", "keys", "--prove")
    (here / "client").mkdir()
    for name in ("index.json", "ids.txt"):  # all that a client gets
        (here / "client" / name).write_bytes((here / "docs.index" / name).read_bytes())
    card = "client/index.json"
    text = run("encrypt", "q.npy", "q.query", "--key", "keys", "--index", card).stdout
    assert "for an index that reads" in text
    text = run("score", "q.query", "q.response", "--index", "docs.index", "--public", "keys").stdout
    assert "2 queries scored for 1000 rows" in text
    shown = run("decrypt", "q.response", "--key", "keys", "--query", "q.query", "--index", card,
                "--top", "2").stdout.split("\n")  # fmt: skip
    assert [line.split()[:4] for line in shown[:4:2]] == [
        ["0", "Q0", "d7", "1"],
        ["1", "Q0", "d400", "1"],
    ]
    clear = run("index", "search", "q.npy", "--index", "docs.index", "-k", "1").stdout
    assert clear.split()[2] == "d7"
    by_number = run("decrypt", "q.response", "--key", "keys", "--json").stdout
    best = json.loads(by_number)["found"][0]["documents"]
    assert (best[0]["id"], len(best)) == ("7", 1)
    assert best[0]["score"] == pytest.approx(1.0, abs=0.01)

    run("index", "build", "q.npy", "other.index")
    for args, word in (
        (("decrypt", "q.response", "--key", "keys", "--index", "other.index"), "not of the index"),
        (("decrypt", "q.response", "--key", "keys", "--ood", "energy"), "scores of a head"),
        (("score", "q.query", "r", "--public", "keys"), "--head or --index"),
        (("score", "q.query", "r", "--index", "docs.index", "--map", "q.npy"), "into a head"),
        (("encrypt", "q.npy", "r", "--key", "keys", "--index", card, "--outputs", 3), "for a head"),
    ):  # fmt: skip
        assert re.search(word, refused(capsys, *args)), args
    with (here / "client" / "ids.txt").open("a") as f:
        f.write("x\n")
    assert "does not hold the ids" in refused(
        capsys, "decrypt", "q.response", "--key", "keys", "--index", card)  # fmt: skip


def test_queries_have_a_prompt_of_their_own(keys, documents):
    """Documents have none: of heads that would be another space."""
    secret, public, _ = keys
    rows = documents.rows(0, 3)
    asked = la.HiddenStates(rows, space=replace(SPACE, prompt="query: "))
    same = la.AffineMap(np.eye(24), np.zeros(24), replace(SPACE, prompt="a: "), SPACE)
    provider, client = la.Provider(documents, keys=[public]), la.Client(secret)
    for affine in (None, same):
        query = client.encrypt(asked, affine, index=documents.card)
        scores = client.decrypt(provider.score(query), query)
        assert scores.top(1).ravel().tolist() == [0, 1, 2]
    other = replace(asked, space=replace(asked.space, model="cd" * 32))
    with pytest.raises(MismatchError, match="do not belong in the index's space"):
        client.encrypt(other, index=documents.card)
    head = la.Head(rows, np.zeros(3), space=SPACE)
    with pytest.raises(MismatchError, match="does not belong in the head's space"):
        la.Provider(head, keys=[public]).score(client.encrypt(asked))
