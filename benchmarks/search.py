"""Measure one encrypted query of an index, without a network, at growing numbers of rows.

    python benchmarks/search.py [--rows 1000,10000,100000] [--dim 384] [--mbit 100] [--rounds 3]
                                [--unproven] [--threads 1] [--clusters 4]

Each size runs in a process of its own, on vectors around 2,000 centres: seconds of encrypting,
scoring and decrypting, the least of --rounds by processor time; bytes up and down; peak memory;
the share of the first ten of exact search that the answer has. Prints one line of JSON a size.
--clusters: groups rows into √rows clusters, and names as many nearest ones openly; 0 asks them all.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common  # noqa: F401 (sets the environment before NumPy is loaded)
import numpy as np

from linalign_lite import Client, Provider, Space, VectorInfo, VectorSource, keygen, open_index
from linalign_lite.encrypt.key_proof import proven
from linalign_lite.retrieval.index.building import build_index
from linalign_lite.retrieval.index.clusters import NearestClusters, row_numbers
from linalign_lite.vectors.source import ROWS, Batch


class Clustered(VectorSource):
    """Normal vectors around centres, made batch by batch: the same in every pass."""

    def __init__(self, rows: int, dim: int) -> None:
        self.info = VectorInfo(Space(dim), rows, ids="rows")
        self.centres = np.random.default_rng(0).normal(size=(2000, dim)).astype(np.float32)

    def batches(self, rows: int = ROWS, after: str = "") -> Iterator[Batch]:  # noqa: ARG002
        count = self.info.count or 0
        for start in range(0, count, rows):
            n = min(rows, count - start)
            yield Batch(tuple(map(str, range(start, start + n))), self.some(start, n))

    def some(self, seed: int, n: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        rng = np.random.default_rng(seed + 1)
        noise = rng.standard_normal((n, self.info.dim), dtype=np.float32)
        return self.centres[rng.integers(0, len(self.centres), n)] + 0.8 * noise

    def current(self) -> VectorInfo:
        return self.info


def measured(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Figures of one size, in this process."""
    import resource

    index = open_index(folder, verify=False)
    secret, public = keygen()
    if not args.unproven:
        public = proven(secret, public)
    state = Clustered(1, index.space.dim).some(1 << 40, 1)
    asked = NearestClusters(index.centroids, args.clusters) if args.clusters else index.card
    found: list[tuple[float, dict[str, Any]]] = []
    for _ in range(args.rounds):
        client = Client(secret, mbit=args.mbit, proven=not args.unproven)
        provider = Provider(index, keys=[public], cache_bytes=0)
        query_file, out = folder / "../q.query", folder / "../r.response"
        marks = [(time.process_time(), time.perf_counter())]
        info = client.encrypt_to(query_file, state, index=asked)
        marks.append((time.process_time(), time.perf_counter()))
        provider.score_file(query_file, out, workers=args.threads)
        marks.append((time.process_time(), time.perf_counter()))
        scores = client.decrypt_from(out, query_file)
        best = row_numbers(index.card, scores.clusters)[scores.top(10)]
        marks.append((time.process_time(), time.perf_counter()))
        cpu, wall = ([round(b[i] - a[i], 4) for a, b in itertools.pairwise(marks)] for i in (0, 1))
        rows, _ = index.search(state, 10)
        layout = info.layout
        found.append((sum(cpu), {
            "rows": len(index), "dim": layout.dim, "packing": layout.packing, "width": layout.width,
            "clusters": len(scores.clusters), "rows_shown": scores.values.shape[1],
            "row_bits": index.card.row_bits, "cpu_s": round(sum(cpu), 4),
            "encrypt_score_decrypt_cpu_s": cpu, "wall_s": round(sum(wall), 4),
            "bytes_up": query_file.stat().st_size, "bytes_down": out.stat().st_size,
            "top_10_of_exact": len({*rows[0].tolist()} & {*best[0].tolist()}) / 10,
        }))  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {**min(found, key=lambda pair: pair[0])[1], "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="1000,10000,30000,100000,300000")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--mbit", type=float, default=100.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clusters", type=int, help="nearest clusters that a query names")
    parser.add_argument("--unproven", action="store_true", help="a key without a proof")
    parser.add_argument("--index", type=Path, help=argparse.SUPPRESS)  # of a process of one size
    args = parser.parse_args()
    if args.index is not None:
        print(json.dumps(measured(args.index, args)), flush=True)
        return
    for rows in map(int, args.rows.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            made = None if args.clusters is None else "auto"
            card = build_index(Clustered(rows, args.dim), Path(folder) / "index", clusters=made)
            if card.clusters:
                print(
                    {r.clusters: round(r.recall, 3) for r in card.clusters.recalls}, file=sys.stderr
                )
            command = [sys.executable, __file__, *sys.argv[1:], "--index", f"{folder}/index"]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
