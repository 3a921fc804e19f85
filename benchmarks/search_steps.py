"""Steps of benchmarks/search.py, each run in a process of its own, and the vectors searched."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite import (
    Client,
    Provider,
    PublicKey,
    SecretKey,
    Space,
    VectorInfo,
    VectorSource,
    open_index,
)
from linalign_lite.encrypt.key_proof import load_proof
from linalign_lite.retrieval.index.clusters import NearestClusters, row_numbers
from linalign_lite.retrieval.measures import overlap
from linalign_lite.vectors.source import ROWS, Batch

TOP = 10
Array = npt.NDArray[np.float32]


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

    def some(self, seed: int, n: int) -> Array:
        rng = np.random.default_rng(seed + 1)
        noise = rng.standard_normal((n, self.info.dim), dtype=np.float32)
        return self.centres[rng.integers(0, len(self.centres), n)] + 0.8 * noise

    def current(self) -> VectorInfo:
        return self.info


class Given(Clustered):
    """Vectors in memory, in the same batches."""

    def __init__(self, vectors: Array, space: Space) -> None:
        self.vectors, self.info = vectors, VectorInfo(space, len(vectors), ids="rows")

    def some(self, seed: int, n: int) -> Array:
        return self.vectors[seed : seed + n]


def step(name: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run one step here, once for each query: the least it took, and the peak of memory."""
    once, more = STEPS[name](folder, args)
    took = []
    for i in range(args.rounds):
        cpu, clock = time.process_time(), time.perf_counter()
        once(i)
        took.append((time.process_time() - cpu, time.perf_counter() - clock))
    cpu, clock = min(took)
    return {"cpu_seconds": cpu, "seconds": clock, "peak_bytes": peak_bytes(), **more()}


def peak_bytes() -> int:
    """Peak of this process's memory; getrusage's is that of the parent where that had more."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) << 10


Step = tuple[Callable[[int], Any], Callable[[], dict[str, Any]]]  # of query i; what else it says


def client_of(folder: Path, args: argparse.Namespace) -> Client:
    secret, proof = SecretKey.load(folder / "secret.key"), (folder / "public.proof").exists()
    return Client(secret, mbit=args.mbit, proven=proof)


def state_of(i: int, dim: int) -> Array:
    return Clustered(1, dim).some((1 << 40) + i, 1)


def encrypt(folder: Path, args: argparse.Namespace) -> Step:
    client, index = client_of(folder, args), open_index(folder / "index", verify=False)
    asked = NearestClusters(index.centroids, args.clusters) if args.clusters else index.card
    infos = {}

    def once(i: int) -> None:
        state = state_of(i, index.space.dim)
        infos[i] = client.encrypt_to(folder / f"{i}.query", state, index=asked)

    def more() -> dict[str, Any]:
        layout = infos[0].layout
        return {"about": {"packing": layout.packing, "chunks": layout.chunks}}

    return once, more


def score(folder: Path, args: argparse.Namespace) -> Step:
    index, public = (
        open_index(folder / "index", verify=False),
        PublicKey.load(folder / "public.key"),
    )
    if (folder / "public.proof").exists():
        public = load_proof(folder / "public.proof", public)
    provider = Provider(index, keys=[public], cache_bytes=0)

    def once(i: int) -> None:
        files = folder / f"{i}.query", folder / f"{i}.response"
        provider.score_file(*files, workers=args.threads)

    return once, dict


def decrypt(folder: Path, args: argparse.Namespace) -> Step:
    client, index = client_of(folder, args), open_index(folder / "index", verify=False)
    best, shown = {}, []

    def once(i: int) -> None:
        scores = client.decrypt_from(folder / f"{i}.response", folder / f"{i}.query")
        best[i] = row_numbers(index.card, scores.clusters)[scores.top(TOP)]
        shown.append(scores.values.shape[1])

    def more() -> dict[str, Any]:
        exact = [index.search(state_of(i, index.space.dim), TOP)[0] for i in best]
        found = overlap(np.concatenate(list(best.values())), np.concatenate(exact), TOP)
        return {"overlap": float(found.mean()), "rows_scored": max(shown)}

    return once, more


STEPS: dict[str, Callable[[Path, argparse.Namespace], Step]] = {
    "encrypt": encrypt,
    "score": score,
    "decrypt": decrypt,
}
