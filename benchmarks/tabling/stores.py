"""Vectors of files and stores: a map applied to a million, and stores beside their own clients."""

from __future__ import annotations

from statistics import median

from tabling.base import load, table

NAMES = {
    "faiss": "FAISS",
    "lancedb": "LanceDB",
    "pgvector": "pgvector",
    "qdrant": "Qdrant, embedded",
}


def applied() -> str:
    """`apply` beside the slower of disk and product, medians over rounds."""
    found = load("vectors")
    rounds, (source, target) = found["rounds"], found["dimensions"]

    def seconds(name: str) -> str:
        return f"{median(r[name] for r in rounds):.1f} s"

    shares = [100 * r["share"] for r in rounds]
    row = [
        f"{found['rows']:,}", f"{source} to {target}", seconds("apply"), seconds("disk"),
        seconds("product"), f"{median(shares):.0f} % ({min(shares):.0f} to {max(shares):.0f})",
        f"{max(r['memory_mb'] for r in rounds):.0f} MB",
    ]  # fmt: skip
    head = ["vectors", "dimensions", "`apply`", "disk alone", "product alone",
            "slower of both over `apply`", "memory"]  # fmt: skip
    return table(head, [row])


def stores_read() -> str:
    """Reading of stores beside the loop of each client's documentation; writing."""
    found = load("stores")
    rows = [
        [NAMES[name], f"{r['rows']:,}", f"{r['read_mb_per_s']:.0f} MB/s",
         f"{r['own_mb_per_s']:.0f} MB/s", f"{r['share']['median']:.2f}",
         f"{r['write_mb_per_s']:.0f} MB/s"]
        for name, r in found["stores"].items()
    ]  # fmt: skip
    head = ["store", "vectors", "read, checked", "its client's own loop", "own seconds over ours",
            "written"]  # fmt: skip
    return table(head, rows)


TABLES = (applied, stores_read)
