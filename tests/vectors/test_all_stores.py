"""One collection moved through all stores by the command, and mapped within each."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from command_line import run
from vectors.contract import made, read, write
from vectors.postgresql import Server

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
