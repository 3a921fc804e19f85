"""One collection moved through all stores by the command, and mapped within each."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from command_line import run
from vectors.contract import made, read, write
from vectors.postgresql import Server

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.space import Space
from linalign_lite.errors import MismatchError
from linalign_lite.vectors.locations import create_vectors, open_vectors
from linalign_lite.vectors.mapping import apply_map
from linalign_lite.vectors.source import Batch, named_space
from linalign_lite.vectors.switching import switch_vectors

for name in ("faiss", "lancedb", "psycopg", "qdrant_client"):
    pytest.importorskip(name)


@pytest.fixture(scope="module")
def server():
    with Server() as started:
        yield started


def test_a_collection_that_passes_through_all_stores(server, tmp_path, here):
    """Ids, payload and the bits of the vectors arrive, whichever way they went."""
    batch = made(n=60, d=7)
    write("start.parquet", batch, metric="dot")
    way = ["start.parquet", "qdrant:store#docs", server.location("docs"), "lancedb:lance#docs",
           "end.jsonl", server.location("again"), "qdrant:store#again", "end.parquet"]  # fmt: skip
    for source, target in pairwise(way):
        done = json.loads(run("vectors", "export", source, target, "--json").stdout)
        assert (done["vectors"], done["dim"], done["model"]) == (60, 7, "maker/model-1")
        found, info, _ = read(target)
        order = [found.ids.index(i) for i in batch.ids]
        assert found.vectors[order].tobytes() == batch.vectors.tobytes(), target
        assert [found.payload[i] for i in order] == list(batch.payload), target
        assert info.metric == "dot"
    run("vectors", "export", "end.parquet", "end.faiss")
    found, info, _ = read("end.faiss")
    in_order, _, _ = read("end.parquet")
    assert found.vectors.tobytes() == in_order.vectors.tobytes()
    assert (info.ids, info.metric) == ("rows", "dot")


@pytest.mark.parametrize("kind", ["qdrant", "lancedb", "pgvector"])
def test_a_map_into_a_store(server, tmp_path, kind):
    """A migration by hand: map the documents, in two runs, switch, and undo."""
    store = {"qdrant": f"qdrant:{tmp_path}/q#", "lancedb": f"lancedb:{tmp_path}/l#",
             "pgvector": server.location("")}[kind]  # fmt: skip
    old, new, batch = f"{store}mapped_old", f"{store}mapped_new", made(n=60, d=7)
    write(old, batch, metric="dot")
    rng = np.random.default_rng(0)
    spaces = {"source": named_space(7, "maker/model-1"), "target": Space(4, name="maker/model-2")}
    one, other = (
        AffineMap(rng.normal(size=(4, 7)), rng.normal(size=4), card={}, **spaces) for _ in range(2)
    )

    class Stopped(KeyboardInterrupt):
        """Stands for Ctrl-C."""

    def stop(_):
        raise Stopped

    with open_vectors(old) as source:
        with pytest.raises(Stopped):
            apply_map(one, source, new, progress=stop)
        with pytest.raises(MismatchError, match="interrupted run"):
            apply_map(other, source, new)
        info = apply_map(one, source, new)
    assert (info.dim, info.model, info.metric) == (4, "maker/model-2", "dot")
    done = run("vectors", "switch", old, new, "--json")
    former = json.loads(done.stdout)["former"]
    if "…" in former:  # a URL without its secrets
        former = f"{old.partition('#')[0]}#{former.partition('#')[2]}"
    found, about, _ = read(old)
    order = [found.ids.index(i) for i in batch.ids]
    expected = batch.vectors @ one.weight.T.astype(np.float32) + one.bias.astype(np.float32)
    np.testing.assert_allclose(found.vectors[order], expected, rtol=1e-4, atol=1e-5)
    assert [found.payload[i] for i in order] == list(batch.payload)
    assert (about.model, about.count) == ("maker/model-2", 60)
    switch_vectors(old, former)
    assert read(old)[1].model == "maker/model-1"
    with open_vectors(old) as source, create_vectors(new + "2", source.info):
        pass


@pytest.mark.parametrize("kind", ["faiss", "pgvector"])
def test_migrate(server, here, kind):
    """`migrate` in the stores that its own tests leave out; ids are integers, as FAISS has them."""
    live = "docs.faiss" if kind == "faiss" else server.location("migrated")
    rng = np.random.default_rng(0)
    causes = rng.normal(size=(400, 5))
    old, new = (
        (causes @ rng.normal(size=(5, d)) + 0.05 * rng.normal(size=(400, d))).astype(np.float32)
        for d in (12, 8)
    )
    old, new = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (old, new))
    ids = tuple(map(str, range(1000, 1400)))
    payload = None if kind == "faiss" else tuple({"n": i} for i in range(400))
    write(live, Batch(ids, old, payload), metric="cosine", ids="integers")
    write("sample.jsonl", Batch(ids[:300], new[:300]))
    run("migrate", "plan", "m", live, "sample.jsonl", "--gate", "0.5")
    run("migrate", "fit", "m", "--way", "documents")
    run("migrate", "verify", "m")
    state = json.loads(run("migrate", "apply", "m", "--json").stdout)
    found, info, _ = read(live)
    assert (info.dim, info.count, sorted(found.ids)) == (8, 400, sorted(ids))
    if payload is not None:
        assert [row["n"] for row in found.payload] == list(range(400))
    assert read(state["former"])[1].dim == 12
    run("migrate", "rollback", "m")
    np.testing.assert_array_equal(read(live)[0].vectors, old)
