"""Measure extraction and moments at several sizes: the points beside the formula of SCALE.md.

    python benchmarks/points.py [--quick] [--folder DIR]

extraction: generic sentences to a folder of shards, by the demo's two models and three real ones,
each number of texts in a process of its own, which reports its peak memory. moments: rows of two
folders of 128 dimensions, likewise. The formula's terms come from `extract.py` and `fit.py`; these
points are compared with it. Needs the real models and data (LINALIGN_SHARED).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import data, exported, publish

from linalign_lite import demo, load_model, measure_shards
from linalign_lite.alignment.least_squares import fit_moments
from linalign_lite.core.shards.states_folder import open_folder
from linalign_lite.extraction.corpus import read_corpus
from linalign_lite.extraction.model_card import MODEL_FILE, load_card
from linalign_lite.extraction.pipeline import extract_to

REAL = ("stories260k", "tinystories-656k", "all-minilm-l6-v2")
TEXTS = (1_000, 4_000, 16_000)
ROWS = (1 << 15, 1 << 17, 1 << 19)
WIDTH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few of each; not published")
    parser.add_argument("--folder", type=Path, help="where to write states; default: temporary")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        kind, what, out, n = args.child
        print(
            json.dumps({"extract": extraction, "moments": moments}[kind](what, Path(out), int(n)))
        )
        return
    texts, rows = ((100, 400), (1 << 12, 1 << 13)) if args.quick else (TEXTS, ROWS)
    models = {name: demo.model_folder(name) for name in ("ash", "birch")}
    models |= {name: exported(name) for name in REAL}
    figures: dict[str, Any] = {
        "extraction": [
            {"model": name, **child(args.folder, "extract", str(folder), n)}
            for name, folder in models.items()
            for n in texts
        ],
        "moments": [child(args.folder, "moments", "made", n) for n in rows],
    }
    if args.quick:
        print(json.dumps(figures, indent=2))
    else:
        publish("points", figures)


def child(parent: Path | None, kind: str, what: str, n: int) -> dict[str, Any]:
    """One measurement in a process of its own, in a folder that goes again."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        if kind == "moments":
            from fit import made

            made(Path(folder), n, WIDTH)
        done = subprocess.run(
            [sys.executable, __file__, "--child", kind, what, folder, str(n)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    found: dict[str, Any] = json.loads(done.stdout)
    print(json.dumps({"kind": kind, "what": what, **found}), file=sys.stderr)
    return found


def extraction(model: str, out: Path, n: int) -> dict[str, Any]:
    """From texts on the disk to states on the disk; loading the model is timed apart."""
    begun = time.perf_counter()
    loaded = load_model(model)
    ready = time.perf_counter()
    corpus = read_corpus(data("generic_sentences.jsonl"), limit=n)
    made = extract_to(out / "states", loaded, corpus)
    seconds = time.perf_counter() - ready
    files = load_card(Path(model)).files
    return {
        "texts": n, "d": made.space.dim, "graph_bytes": int(files[MODEL_FILE]["size"]),
        "load_seconds": ready - begun, "seconds": seconds, "disk_bytes": size_of(out / "states"),
        "peak_bytes": peak(), "threads": loaded.threads,
    }  # fmt: skip


def moments(_what: str, folder: Path, n: int) -> dict[str, Any]:
    """Moments of two folders, and the solution."""
    begun = time.perf_counter()
    found = measure_shards(open_folder(folder / "x"), open_folder(folder / "y"))
    middle = time.perf_counter()
    fit_moments(found.moments)
    return {
        "rows": n, "d": WIDTH, "seconds": middle - begun,
        "solve_seconds": time.perf_counter() - middle, "peak_bytes": peak(),
        "disk_bytes": size_of(folder / "x") + size_of(folder / "y"),
    }  # fmt: skip


def size_of(folder: Path) -> int:
    def sizes() -> Iterator[int]:
        for path in folder.iterdir():
            yield path.stat().st_size

    return sum(sizes())


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
