"""Time of a fit beside its bare products, beside scikit-learn, and from disk.

    python benchmarks/fit.py [--quick] [--folder DIR] [--rows N] [--only PART]

memory: n rows in memory: `fit` (61 penalties, 5 folds) against float64 XᵀX and XᵀY alone, against
RidgeCV with 20 penalties (exact leave-one-out) and against Ridge with one. disk: rows of two
folders of shards, read from the disk (evicted from the page cache first, where possible),
against reading alone and against the products alone; peak memory of a process of its own.
precision: float64 moments, and float32 products summed in float64, against QR on the rows
(scipy.linalg.lstsq in float64), on hidden states and on ill-conditioned data. estimator:
processor time of `AffineAligner.fit` on arrays over that of `fit`, in turns. Each part is written
when it is done: an interrupted run keeps what it has, and ``--only`` keeps the other parts.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import CACHE, RESULTS, evict, publish, ratio, side_by_side

from linalign_lite import HiddenStates, Space, fit, load_states, measure_shards
from linalign_lite.alignment.least_squares import fit_moments
from linalign_lite.alignment.moments import FoldedMoments, Moments, folded
from linalign_lite.core.metrics import r2
from linalign_lite.core.shards.states_folder import StatesFolder, open_folder, write_shards

PARTS = ("memory", "precision", "disk", "estimator")
PENALTIES = 20
SHARD = 4096
ESTIMATED = ((300, 32, 100), (2_000, 128, 40), (10_000, 384, 15))  # rows, dimensions, rounds
DISTINCT = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes, for correctness alone")
    parser.add_argument("--folder", type=Path, help="where to write states; default: temporary")
    parser.add_argument("--rows", type=int, default=5_000_000, help="rows on disk")
    parser.add_argument("--only", choices=PARTS, help="keep the other parts' figures")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--no-verify", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, verify=not args.no_verify)
        return
    n, d, rows, width = (4_000, 64, 20_000, 64) if args.quick else (200_000, 1024, args.rows, 512)
    parts: dict[str, Callable[[], Any]] = {
        "memory": lambda: in_memory(n, d, 1 if args.quick else 3),
        "precision": lambda: precision(args.quick),
        "disk": lambda: on_disk(args.folder, rows, width),
        "estimator": lambda: [estimator(*size) for size in ESTIMATED[: 1 if args.quick else None]],
    }
    path = RESULTS / "fit.json"
    before = json.loads(path.read_text("utf-8")) if args.only and path.exists() else {}
    found = {part: before[part] for part in PARTS if part in before and not args.quick}
    for part, measure in parts.items():
        if args.only in {None, part}:
            found[part] = measure()
            if not args.quick:
                publish("fit", found)
    if args.quick:
        print(json.dumps(found, indent=2))


def views(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two views of d/4 hidden causes with a falling spectrum, float32."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(1)
    causes = rng.standard_normal((n, d // 4), dtype=np.float32)
    scale = (np.arange(1, d // 4 + 1) ** -0.5).astype("f4")
    sides = []
    for _ in range(2):
        loading = mix.standard_normal((d // 4, d)).astype("f4") * scale[:, None]
        side = causes @ loading + 0.3 * rng.standard_normal((n, d), dtype=np.float32)
        sides.append(side + mix.standard_normal(d).astype("f4"))
    return sides[0], sides[1]


def in_memory(n: int, d: int, rounds: int) -> dict[str, Any]:
    from sklearn.linear_model import Ridge, RidgeCV

    x, y = views(n + n // 10, d)
    (x, test_x), (y, test_y) = np.split(x, [n]), np.split(y, [n])
    x64, y64 = x.astype("f8"), y.astype("f8")
    source, target = HiddenStates(x), HiddenStates(y)  # as loading makes them
    alphas = np.logspace(-8, 2, PENALTIES) * float(x.var(axis=0).sum()) * n / d
    kept: dict[str, Any] = {}

    def bare() -> None:
        kept["bare"] = x64.T @ x64, x64.T @ y64

    def ours() -> None:
        kept["ours"] = fit(source, target)

    def one() -> None:
        kept["one"] = fit(source, target, penalty=1e-3)

    def plain() -> None:
        kept["plain"] = Ridge(alpha=alphas[10]).fit(x64, y64)

    times = side_by_side({"bare": bare, "ours": ours, "one": one, "ridge": plain}, rounds)
    begun = time.perf_counter()
    peer = RidgeCV(alphas=alphas).fit(x64, y64)  # minutes: once
    seconds = time.perf_counter() - begun
    affine, report = kept["ours"]
    return {
        "n": n, "d": d, "penalties": len(report.curve), "folds": report.folds, "seconds": times,
        "over_bare": ratio(times["ours"], times["bare"]),
        "gemm_gflops": n * d * d * 4 / min(times["bare"]) / 1e9,
        "ridge_over_one": ratio(times["ridge"], times["one"]),
        "ridgecv": {"penalties": PENALTIES, "seconds": seconds,
                    "times_slower": seconds / sorted(times["ours"])[len(times["ours"]) // 2]},
        "r2": {"ours": r2(test_y, affine(test_x)),
               "ridgecv": r2(test_y, peer.predict(test_x).astype("f4"))},
    }  # fmt: skip


def estimator(n: int, d: int, rounds: int) -> dict[str, Any]:
    """Processor time of the scikit-learn estimator's fit over that of the library's."""
    from linalign_lite.sklearn import AffineAligner

    x, y = (side.astype("f8") for side in views(n, d))
    ways: tuple[Callable[[], Any], ...] = lambda: fit(x, y), lambda: AffineAligner().fit(x, y)
    times: list[list[float]] = []
    for i in range(rounds + 1):
        pair = [0.0, 0.0]
        for way in (0, 1) if i % 2 else (1, 0):
            begun = time.process_time()
            ways[way]()
            pair[way] = time.process_time() - begun
        times.append(pair)
    warm = np.array(times[1:])
    medians = np.median(warm, axis=0)
    return {"n": n, "d": d, "cpu_seconds": medians.tolist(),
            "over_fit": float(np.median(warm[:, 1] / warm[:, 0]))}  # fmt: skip


def made(folder: Path, rows: int, width: int) -> None:
    """Two folders of states; rows repeat after DISTINCT shards, the shards' digests do not."""
    kept = functools.cache(lambda n, seed: views(n, width, seed))

    def parts(side: int) -> Iterator[HiddenStates]:
        for i, start in enumerate(range(0, rows, SHARD)):
            block = kept(min(SHARD, rows - start), i % DISTINCT)[side]
            yield HiddenStates(block, Space(width, f"{side:064x}", "made", "mean"), f"{i:064x}")

    for side, name in enumerate("xy"):
        write_shards(folder / name, parts(side), text_digest="0" * 64)


def evict_shards(found: StatesFolder) -> None:
    for shard in found.shards:
        evict(found.folder / shard.file)


def on_disk(parent: Path | None, rows: int, width: int) -> dict[str, Any]:
    """``rows`` rows of both sides, written below ``parent`` and removed again."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        return _on_disk(Path(folder), rows, width)


def _on_disk(folder: Path, rows: int, width: int) -> dict[str, Any]:
    free = shutil.disk_usage(folder).free
    if free < rows * width * 8 * 1.1:
        sys.exit(f"{folder} has {free / 1e9:.0f} GB free; --folder or --rows")
    made(folder, rows, width)
    sides = [open_folder(folder / name) for name in "xy"]
    for side in sides:
        evict_shards(side)
    begun, size = time.perf_counter(), 0
    for side in sides:
        for shard in side.shards:
            size += len((side.folder / shard.file).read_bytes())
    reading = time.perf_counter() - begun
    x, y = (np.random.default_rng(side).normal(size=(SHARD * 8, width)) for side in range(2))
    begun = time.perf_counter()
    for _ in range(8):
        _ = x.T @ x, x.T @ y
    products = (time.perf_counter() - begun) / (8 * len(x)) * rows
    runs = {}
    for name, flag in (("verified", []), ("crc_alone", ["--no-verify"])):
        for side in sides:
            evict_shards(side)
        done = subprocess.run(
            [sys.executable, __file__, "--child", str(folder), *flag],
            capture_output=True,
            text=True,
            check=True,
        )
        runs[name] = json.loads(done.stdout)
        runs[name]["share_of_slower"] = max(reading, products) / runs[name]["measure_seconds"]
    return {
        "rows": rows, "d": width, "bytes": size, "read_seconds": reading,
        "read_mb_per_second": size / reading / 1e6, "product_seconds": products, **runs,
    }  # fmt: skip


def child(folder: Path, *, verify: bool) -> None:
    """Fit from the folders in a process of its own, and say how much memory that took."""
    import resource

    begun = time.perf_counter()
    found = measure_shards(open_folder(folder / "x"), open_folder(folder / "y"), verify=verify)
    middle = time.perf_counter()
    _, _, report = fit_moments(found.moments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({
        "measure_seconds": middle - begun, "solve_seconds": time.perf_counter() - middle,
        "peak_bytes": peak, "held_out_r2": report.held_out_r2,
    }))  # fmt: skip


def mixed(x: np.ndarray, y: np.ndarray, folds: int = 5) -> FoldedMoments:
    """Moments by float32 products of centred blocks, summed in float64: twice as fast."""
    index = np.random.default_rng(0).permutation(np.arange(len(x)) % folds)
    parts = []
    for k in range(folds):
        whole = folded(x[index == k], y[index == k], 2).total  # means and yy
        a = (x[index == k] - whole.mean_x).astype("f4")
        b = (y[index == k] - whole.mean_y).astype("f4")
        xx, xy = np.zeros(whole.xx.shape), np.zeros(whole.xy.shape)
        for at in range(0, len(a), 2048):
            p, q = a[at : at + 2048], b[at : at + 2048]
            xx += p.T @ p
            xy += p.T @ q
        parts.append(Moments(len(a), whole.mean_x, whole.mean_y, xx, xy, whole.yy))
    return FoldedMoments(tuple(parts))


def precision(quick: bool) -> list[dict[str, Any]]:
    """Weights of three penalties against QR on the rows, augmented by the penalty."""
    from scipy.linalg import lstsq

    sets: list[tuple[str, np.ndarray, np.ndarray]] = []
    paths = [CACHE / f"{m}.generic20000.states.npz" for m in ("minilm", "656k", "260k")]
    if all(p.exists() for p in paths):
        minilm, big, small = (load_states(p).states for p in paths)
        sets += [("MiniLM to 656K", minilm, big), ("656K to 260K", big, small)]
    rng = np.random.default_rng(0)
    n, d = (2_000, 32) if quick else (20_000, 256)
    base, turn = rng.normal(size=(n, d)), np.linalg.qr(rng.normal(size=(d, d)))[0]
    for power in (2, 4, 6):
        x = (base * np.logspace(0, -power, d)) @ turn.T
        y = base @ rng.normal(size=(d, 16)) * np.sqrt(1 / d) + 0.1 * rng.normal(size=(n, 16))
        sets.append((f"made, condition of X 1e{power}", x.astype("f4"), y.astype("f4")))
    rows = []
    for name, x, y in sets:
        stop = 2_000 if quick else len(x)
        half = stop // 2
        train, test = (x[:half], y[:half]), (x[half:stop], y[half:stop])
        a, b = (v.astype("f8") - v.astype("f8").mean(axis=0) for v in train)
        for penalty in (0.0, 1e-8, 1e-4):
            root = np.sqrt(penalty * (a**2).sum() / a.shape[1])
            tall = np.vstack([a, root * np.eye(a.shape[1])])
            wide = np.vstack([b, np.zeros((a.shape[1], b.shape[1]))])
            truth = lstsq(tall, wide)[0].T
            row: dict[str, Any] = {"set": name, "penalty": penalty}
            for kind, moments in (("float64", folded(*train, 5)), ("mixed", mixed(*train))):
                weight, bias, report = fit_moments(moments, penalty=penalty)
                row[kind] = {
                    "weight_error": float(np.linalg.norm(weight - truth) / np.linalg.norm(truth)),
                    "test_r2": r2(test[1], test[0].astype("f8") @ weight.T + bias),
                    "condition": report.condition if np.isfinite(report.condition) else None,
                }
            offset = train[1].astype("f8").mean(axis=0) - truth @ train[0].astype("f8").mean(axis=0)
            row["qr_test_r2"] = r2(test[1], test[0].astype("f8") @ truth.T + offset)
            rows.append(row)
    return rows


if __name__ == "__main__":
    main()
