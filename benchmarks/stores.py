"""Measure stores of vectors: reading and writing batches beside each client's own loop.

    python benchmarks/stores.py [--quick] [--rows N]

Vectors of 384 dimensions with text ids and two columns of payload. own: the loop of the client's
documentation (scroll, a server-side cursor with pgvector's package, record batches, reconstruct_n),
which gives the same vectors, ids and payload unchecked. share: its seconds over ours, reading.
Qdrant is embedded and has a tenth of the rows: it is made for few. Needs the extras faiss, lancedb,
pgvector and qdrant, the package pgvector, and a PostgreSQL as the tests find it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import publish, ratio, side_by_side, timed

from linalign_lite.vectors.locations import create_vectors, open_vectors
from linalign_lite.vectors.source import Batch, VectorInfo, named_space

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests/vectors"))
from postgresql import Server

ROWS, DIM, BATCH = 50_000, 384, 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2,000 vectors, one round")
    parser.add_argument("--rows", type=int, default=ROWS)
    args = parser.parse_args()
    rows, rounds = (2000, 1) if args.quick else (args.rows, 3)
    warnings.simplefilter("ignore")  # embedded Qdrant warns of 20,000 points
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        found = {
            "faiss": measure(f"{folder}/x.faiss", rows, rounds, own_faiss),
            "lancedb": measure(f"lancedb:{folder}/lance#docs", rows, rounds, own_lancedb),
            "pgvector": measure(
                server.location("docs"), rows, rounds, lambda _: own_pgvector(server)
            ),
            "qdrant": measure(f"qdrant:{folder}/qdrant#docs", rows // 10, rounds, own_qdrant),
        }
    if args.quick or rows != ROWS:
        print(found)
    else:
        publish("stores", {"dim": DIM, "batch": BATCH, "stores": found})


def measure(location: str, rows: int, rounds: int, own: Callable[[str], None]) -> dict[str, Any]:
    write(location, 1, "-warm")  # imports, connections
    took = timed(lambda: write(location, rows))
    read(location)
    seconds = side_by_side({"ours": lambda: read(location), "own": lambda: own(location)}, rounds)
    size = rows * DIM * 4 / 1e6
    return {
        "rows": rows,
        "write_mb_per_s": size / took,
        "read_mb_per_s": size / min(seconds["ours"]),
        "own_mb_per_s": size / min(seconds["own"]),
        "share": ratio(seconds["own"], seconds["ours"]),
    }


def write(location: str, rows: int, ending: str = "") -> None:
    if ending:
        location = location.replace(".faiss", f"{ending}.faiss").replace("#docs", f"#docs{ending}")
    rng, info = np.random.default_rng(0), VectorInfo(named_space(DIM), rows, "dot")
    with create_vectors(location, info) as sink:
        for first in range(0, rows, BATCH):
            n = min(BATCH, rows - first)
            ids = tuple(f"doc-{i}" for i in range(first, first + n))
            payload = tuple({"label": f"kind {i % 3}", "year": i} for i in range(n))
            sink.write(
                Batch(ids, rng.standard_normal((n, DIM), dtype=np.float32), payload, ids[-1])
            )
        sink.finish()


def read(location: str) -> None:
    with open_vectors(location) as source:
        for batch in source.batches(BATCH):
            list(batch.payload or ())


def own_faiss(location: str) -> None:
    import faiss

    index = faiss.read_index(location)
    for first in range(0, index.ntotal, BATCH):
        index.reconstruct_n(first, min(BATCH, index.ntotal - first))


def own_lancedb(location: str) -> None:
    import lancedb

    folder = location.partition(":")[2].partition("#")[0]
    for part in lancedb.connect(folder).open_table("docs").search().to_batches(BATCH):
        part.column("vector").flatten().to_numpy()
        part.drop_columns("vector").to_pylist()


def own_pgvector(server: Server) -> None:
    from pgvector.psycopg import register_vector

    with server.connect() as db:
        register_vector(db)
        with db.transaction(), db.cursor("own", binary=True) as cursor:
            cursor.execute("SELECT id, embedding, payload FROM docs ORDER BY id")
            while found := cursor.fetchmany(BATCH):
                np.stack([row[1].to_numpy() for row in found])


def own_qdrant(location: str) -> None:
    from qdrant_client import QdrantClient

    client = QdrantClient(path=location.partition(":")[2].partition("#")[0])
    offset, more = None, True
    while more:
        points, offset = client.scroll("docs", limit=BATCH, offset=offset, with_vectors=True)
        np.array([p.vector for p in points], np.float32)
        more = offset is not None
    client.close()


if __name__ == "__main__":
    main()
