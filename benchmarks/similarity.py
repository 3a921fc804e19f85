"""Measure the similarity of three real models on generic sentences, with p, and dense peers.

    python benchmarks/similarity.py [--quick] [--permutations 199] [--peer FOLDER]

States: the first 20,000 generic sentences, mean pooling, made once and kept in the cache. Peers, on
2,000 rows of one pair: NumPy with n × n kernel matrices, scikit-learn's neighbours, SciPy's angles
between subspaces, and with --peer the unbiased HSIC of cka-pytorch (FOLDER: its wheel, unpacked; of
its requirements that part needs torch alone).
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import cached, data, exported, publish, ratio, side_by_side

from linalign_lite import (
    HiddenStates,
    Similarity,
    compare,
    compare_all,
    extract,
    load_model,
    read_texts,
)

MODELS = {"260k": "stories260k", "656k": "tinystories-656k", "minilm": "all-minilm-l6-v2"}
TEXTS = 20_000
DENSE_ROWS = 2_000
PAIR = ("656k", "minilm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2,000 rows, 19 permutations")
    parser.add_argument("--permutations", type=int, default=199)
    parser.add_argument("--peer", type=Path, help="cka-pytorch's wheel, unpacked")
    args = parser.parse_args()
    states = {name: generic(name) for name in MODELS}
    permutations = args.permutations
    if args.quick:
        some = np.arange(DENSE_ROWS)
        states, permutations = {n: s.rows(some) for n, s in states.items()}, 19
    began = time.perf_counter()
    bare = compare_all(states, permutations=0)
    middle = time.perf_counter()
    found = compare_all(states, permutations=permutations)
    seconds = {"values": middle - began, "with_null": time.perf_counter() - middle}
    assert [p.measures["cka"].value for p in bare] == [p.measures["cka"].value for p in found]
    publish("similarity", {
        "texts": len(next(iter(states.values()))), "permutations": permutations,
        "dims": {name: s.space.dim for name, s in states.items()},
        "pairs": [pair.as_dict() for pair in found], "seconds": seconds,
        "peers": peers(*(states[name] for name in PAIR), args.peer),
    })  # fmt: skip


def generic(name: str) -> HiddenStates:
    """States of the first 20,000 generic sentences."""

    def make() -> HiddenStates:
        texts = read_texts(data("generic_sentences.jsonl"), limit=TEXTS)
        return extract(load_model(exported(MODELS[name])), texts, pooling="mean")

    return cached(f"{name}.generic{TEXTS}.states.npz", make)


def peers(x: HiddenStates, y: HiddenStates, folder: Path | None) -> list[dict[str, Any]]:
    """Values and times of others beside ours, in turn, on the same rows."""
    some = np.arange(DENSE_ROWS)
    a, b = x.rows(some), y.rows(some)
    raw = a.states.astype(np.float64), b.states.astype(np.float64)
    calls: list[tuple[str, str, Callable[[], float]]] = [
        ("cka", "NumPy, n × n kernels", lambda: dense_cka(*raw)),
        ("cka_debiased", "NumPy, n × n kernels", lambda: dense_debiased(*raw)),
        ("svcca", "scipy.linalg.subspace_angles", lambda: dense_svcca(*raw)),
        ("mutual_knn", "sklearn.neighbors", lambda: dense_knn(*raw)),
    ]
    if folder is not None:
        calls.append(("cka_debiased", "cka-pytorch 1.1.3", peer_debiased(folder, *raw)))
    rows = []
    for measure, name, call in calls:
        ours: dict[str, Similarity] = {}

        def mine(measure: str = measure, ours: dict[str, Similarity] = ours) -> None:
            ours["last"] = compare(a, b, measures=[measure], permutations=0)

        theirs = call()
        times = side_by_side({"ours": mine, "theirs": call}, rounds=5)
        value = ours["last"][measure].value
        rows.append({
            "measure": measure, "peer": name, "rows": DENSE_ROWS, "ours": value,
            "theirs": theirs, "difference": abs(value - theirs),
            "times_faster": ratio(times["theirs"], times["ours"]),
        })  # fmt: skip
        print(rows[-1], file=sys.stderr)
    return rows


def dense_cka(x: np.ndarray, y: np.ndarray) -> float:
    k, m = (a @ a.T for a in (x - x.mean(axis=0), y - y.mean(axis=0)))
    return float((k * m).sum() / np.sqrt((k * k).sum() * (m * m).sum()))


def dense_debiased(x: np.ndarray, y: np.ndarray) -> float:
    kernels = [a @ a.T for a in (x - x.mean(axis=0), y - y.mean(axis=0))]
    for kernel in kernels:
        np.fill_diagonal(kernel, 0)

    def unbiased(k: np.ndarray, m: np.ndarray) -> float:
        n = len(k)
        ends = k.sum() * m.sum() / ((n - 1) * (n - 2))
        return float((k * m).sum() + ends - 2 / (n - 2) * (k.sum(axis=0) @ m.sum(axis=0)))

    k, m = kernels
    return unbiased(k, m) / np.sqrt(unbiased(k, k) * unbiased(m, m))


def dense_svcca(x: np.ndarray, y: np.ndarray) -> float:
    from scipy.linalg import subspace_angles

    sides = []
    for a in (x - x.mean(axis=0), y - y.mean(axis=0)):
        u, s, _ = np.linalg.svd(a, full_matrices=False)
        held = np.cumsum(s**2) / (s**2).sum()
        sides.append(u[:, : int((held < 0.99).sum()) + 1])
    return float(np.cos(subspace_angles(*sides)).mean())


def dense_knn(x: np.ndarray, y: np.ndarray, k: int = 10) -> float:
    from sklearn.neighbors import NearestNeighbors

    near = [
        NearestNeighbors(n_neighbors=k, metric="cosine").fit(a).kneighbors(return_distance=False)
        for a in (x, y)
    ]
    return float(np.mean([len({*a} & {*b}) / k for a, b in zip(*near, strict=True)]))


def peer_debiased(folder: Path, x: np.ndarray, y: np.ndarray) -> Callable[[], float]:
    import torch

    spec = importlib.util.spec_from_file_location("peer", folder / "cka_pytorch" / "hsic.py")
    assert spec is not None
    assert spec.loader is not None
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    torch.set_num_threads(1)

    def call() -> float:
        a, b = (torch.from_numpy(v - v.mean(axis=0)) for v in (x, y))
        k, m = (v @ v.T for v in (a, b))
        cross, own_x, own_y = (peer.hsic1(p[None], q[None]) for p, q in ((k, m), (k, k), (m, m)))
        return float(cross / (own_x * own_y).sqrt())

    return call


if __name__ == "__main__":
    main()
