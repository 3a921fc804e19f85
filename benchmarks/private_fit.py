"""A map fitted without showing the states: time, bytes, memory, and the map beside the clear one.

    python benchmarks/private_fit.py [--quick] [--sizes 10000,384,384]

Made states: two models are mixtures of the same causes, whose sizes fall as i^-0.7, with noise of
their own, directions of unlike size, and a mean far from zero. The map is fitted on the first
texts, and judged on 2,000 others. Each step runs in a process of its own: seconds of the clock, of
the processor (all cores together) and the peak of its memory. docs/PRIVATE_FIT.md has
what was predicted beside. The key of the offer and its proof, some seconds, are made before. The
time of TenSEAL's own products is calculated from one block of each length tried: a client's column
of so many texts, encrypted, times the provider's matrix of them.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import publish

from linalign_lite import (
    AffineMap,
    HiddenStates,
    PublicKey,
    SecretKey,
    answer_fit,
    fit,
    keygen,
    load_states,
    save,
)
from linalign_lite.core.hidden_states import text_digest
from linalign_lite.encrypt.fitting.finish import solve_fit
from linalign_lite.encrypt.fitting.offer import plan_shape, write_offer
from linalign_lite.encrypt.fitting.sources import TextStates
from linalign_lite.encrypt.key_proof import load_proof, proven, save_proof

SIZES = ((2500, 128, 192), (10_000, 384, 384), (10_000, 576, 640))
QUICK = ((600, 32, 24),)
JUDGED = 2000  # texts that no fit sees
LENGTHS = (256, 1024)  # texts of a vector of TenSEAL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small size, no TenSEAL")
    parser.add_argument("--sizes", help="one of the sizes, as 10000,384,384")
    parser.add_argument("--step", nargs=2, metavar=("STEP", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        step(args.step[0], Path(args.step[1]))
        return
    sizes = QUICK if args.quick else SIZES
    if args.sizes:
        sizes = (tuple(map(int, args.sizes.split(","))),)
    found = []
    for n, d_source, d_target in sizes:
        print(f"{n} texts, {d_source} to {d_target}", file=sys.stderr)
        with tempfile.TemporaryDirectory() as folder:
            found.append(one(Path(folder), n, d_source, d_target))
        if not args.quick:
            found[-1]["tenseal"] = tenseal_estimate(n, d_source, d_target)
    publish("private_fit", {"judged": JUDGED, "sizes": found})


def made_states(n: int, d_source: int, d_target: int) -> tuple[HiddenStates, HiddenStates]:
    """States of n texts of two made models."""
    rng = np.random.default_rng(n + d_source)
    k = max(d_source, d_target)
    causes = rng.normal(size=(n, k)) / np.arange(1, k + 1) ** 0.7
    views = []
    for dim, decades in ((d_source, 1.5), (d_target, 1.0)):
        view = causes @ rng.normal(size=(k, dim)) + 0.5 * rng.normal(size=(n, dim))
        view = view * np.logspace(0, -decades, dim) + rng.normal(size=dim)
        views.append(view.astype(np.float32))
    digest = text_digest(f"text {i}" for i in range(n))
    return HiddenStates(views[0], text_digest=digest), HiddenStates(views[1], text_digest=digest)


def one(folder: Path, n: int, d_source: int, d_target: int) -> dict[str, Any]:
    every = made_states(n + JUDGED, d_source, d_target)
    digest = text_digest(f"text {i}" for i in range(n))
    x, y = (HiddenStates(s.states[:n], text_digest=digest) for s in every)
    save(folder / "x.states.npz", x)
    save(folder / "y.states.npz", y)
    secret, public = keygen()
    public = proven(secret, public)
    secret.save(folder / "secret.key")
    public.save(folder / "public.key")
    save_proof(folder / "public.proof", public)
    shape = plan_shape(TextStates(x), secret.parameters.degree)
    steps = {name: in_process(name, folder) for name in STEPS}
    clear, report = fit(x, y, folds=shape.folds)
    private = finish(folder)
    judged = [s.states[n:].astype(np.float64) for s in every]
    r2 = {name: r2_of(m, *judged) for name, m in (("private", private), ("clear", clear))}
    usual = r2_of(fit(x, y)[0], *judged)
    found = {
        "n": n,
        "d_source": d_source,
        "d_target": d_target,
        "folds": shape.folds,
        "offer_bytes": (folder / "m.offer").stat().st_size,
        "answer_bytes": (folder / "m.answer").stat().st_size,
        "kept_bytes": (folder / "m.kept.npz").stat().st_size,
        "key_bytes": sum((folder / f"public.{e}").stat().st_size for e in ("key", "proof")),
        "steps": steps,
        "seconds": sum(s["seconds"] for s in steps.values()),
        "peak_bytes": max(s["peak_bytes"] for s in steps.values()),
        "r2": {**r2, "clear_five_folds": usual, "gap": abs(r2["private"] - r2["clear"])},
        "held_out_r2": {"private": private.card["held_out_r2"], "clear": report.held_out_r2},
        "penalty": {"private": private.card["penalty"], "clear": report.penalty},
    }
    print(json.dumps(found), file=sys.stderr)
    return found


def r2_of(m: AffineMap, x: Any, y: Any) -> float:
    """R² on texts that no fit saw."""
    gap = y - (x @ m.weight.T.astype(np.float64) + m.bias)
    return float(1 - (gap**2).sum() / ((y - y.mean(axis=0)) ** 2).sum())


def in_process(name: str, folder: Path) -> dict[str, float]:
    words = [sys.executable, __file__, "--step", name, str(folder)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def step(name: str, folder: Path) -> None:
    """Run one step here, and print what it took."""
    started = time.perf_counter()
    STEPS[name](folder)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    took = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
    }
    print(json.dumps(took))


def offer(folder: Path) -> None:
    x, secret = load_states(folder / "x.states.npz"), SecretKey.load(folder / "secret.key")
    write_offer(folder / "m.offer", folder / "m.kept.npz", x, secret)


def answer(folder: Path) -> None:
    public = load_proof(folder / "public.proof", PublicKey.load(folder / "public.key"))
    y = load_states(folder / "y.states.npz")
    answer_fit(folder / "m.offer", folder / "m.answer", y, [public])


def finish(folder: Path) -> AffineMap:
    return solve_fit(folder / "m.answer", folder / "m.kept.npz")[0]


STEPS: dict[str, Callable[[Path], Any]] = {"offer": offer, "answer": answer, "finish": finish}


def tenseal_estimate(n: int, d_source: int, d_target: int) -> dict[str, Any]:
    """Seconds and bytes of UᵀY by TenSEAL's vector-matrix products, the least of the lengths."""
    import tenseal as ts

    context = ts.context(ts.SCHEME_TYPE.CKKS, 8192, -1, [60, 40, 60])
    context.global_scale = 2**40
    context.generate_galois_keys()
    rng, found = np.random.default_rng(0), []
    for length in LENGTHS:
        column = ts.ckks_vector(context, rng.normal(size=length))
        matrix = rng.normal(size=(length, d_target)).tolist()
        started = time.process_time()
        product = column.matmul(matrix)
        took = time.process_time() - started
        vectors = d_source * math.ceil(n / length)
        size = vectors * len(column.serialize()) + d_source * len(product.serialize())
        row = {"length": length, "block_seconds": took, "cpu_seconds": took * vectors}
        found.append({**row, "bytes": size})
    return min(found, key=lambda row: row["cpu_seconds"])


if __name__ == "__main__":
    main()
