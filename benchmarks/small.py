"""Measure commands on a small machine: peak memory, time, processor time.

    python benchmarks/small.py [--texts 500] [--rounds 3] [--quick]

Each command runs as a user runs it, in a process of its own that is held to one core; memory is
its peak resident memory as the kernel counts it (`ru_maxrss`), the largest of the rounds, times are
medians. AG News texts (`--quick`: the bundled models and texts). The client's part alone, keys,
encryption of states that are there and decryption, is done by the commands, and once in Python.
Needs the real models and data (LINALIGN_SHARED), and the extra `export` where the exported models
are not in the cache.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import CACHE, data, publish

from linalign_lite import demo

COMMAND = str(Path(sys.executable).with_name("linalign-lite"))
ONE_CORE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
MODELS = ("stories260k", "tinystories-656k", "all-minilm-l6-v2", "all-minilm-l6-v2-int8")
HEAVY = ("onnxruntime", "tokenizers", "scipy", "torch")
DIM, CLASSES = 384, 20  # of the states and the head that the client's part is measured with
# What each of the client's two visits to its machine does in Python, and what was loaded for it.
ASK = """
import numpy as np
from linalign_lite import Client, keygen, load_states
secret, public = keygen()
secret.save("in-python.key")
public.save("in-python-public.key")
Client(secret).encrypt_to("in-python.query", load_states("one.states.npz"))
"""
READ = """
from linalign_lite import Client, SecretKey
client = Client(SecretKey.load("in-python.key"))
print(client.decrypt_from("in-python.response", "in-python.query").values.shape)
"""
SAY = f"import json, sys; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="bundled models; not published")
    args = parser.parse_args()
    n, rounds = (50, 1) if args.quick else (args.texts, args.rounds)
    texts = str(demo.HERE / "public.txt") if args.quick else data("agnews_test2000.jsonl")
    folders = models(() if args.quick else MODELS)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        prepare(work)
        figures = {
            "texts": n,
            "rounds": rounds,
            "bare": run(["--version"], work, rounds),
            "models": [
                reading(name, path, texts, n, work, rounds) for name, path in folders.items()
            ],
            "client": client(work, rounds),
        }
    if args.quick:
        print(json.dumps(figures, indent=2))
    else:
        publish("small", figures)


def models(real: Sequence[str]) -> dict[str, Path]:
    """Bundled and real ones. What is not in the cache is exported by a process of its own: a large
    parent would count in its children's peak."""
    for name in real:
        if not (CACHE / name).is_dir():
            plain = name.removesuffix("-int8")
            code = f"from common import exported; exported({plain!r})"
            if name != plain:
                code = "from extract import quantised; quantised()"
            subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
    bundled = {name: demo.model_folder(name) for name in ("ash", "birch")}
    return bundled | {name: CACHE / name for name in real}


def prepare(work: Path) -> None:
    """One state, a head for it, and the keys of the client's commands."""
    code = f"""
import numpy as np
from linalign_lite import Head, HiddenStates, save
rng = np.random.default_rng(0)
save("one.states.npz", HiddenStates(rng.normal(size=(1, {DIM})).astype(np.float32)))
save("head.npz", Head(rng.normal(size=({CLASSES}, {DIM})), np.zeros({CLASSES})))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=work)
    run(["keygen", "keys", "-q"], work, 1)


def measured(command: Sequence[str], work: Path) -> dict[str, Any]:
    """One process from start to end. ``said``: its standard output."""
    with (work / "said").open("wb") as said:
        started = time.perf_counter()
        process = subprocess.Popen(
            command,
            stdout=said,
            stderr=subprocess.DEVNULL,
            cwd=work,
            env={**os.environ, **ONE_CORE},
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    return {
        "peak_mb": used.ru_maxrss * 1024 / 1e6,
        "seconds": seconds,
        "processor_seconds": used.ru_utime + used.ru_stime,
        "said": (work / "said").read_text(),
    }


def run(words: Sequence[Any], work: Path, rounds: int, made: Sequence[str] = ()) -> dict[str, Any]:
    """Run one linalign-lite command; its output is removed before each round."""
    found = []
    for _ in range(rounds):
        for name in made:
            path = work / name
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        found.append(measured([COMMAND, *map(str, words)], work))
    return summary(found)


def summary(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "peak_mb": max(f["peak_mb"] for f in found),
        **{k: statistics.median(f[k] for f in found) for k in ("seconds", "processor_seconds")},
    }


def reading(name: str, model: Path, texts: str, n: int, work: Path, rounds: int) -> dict[str, Any]:
    """A model that reads: some hundreds of texts to states, and one text to a query."""
    (work / "one.txt").write_text("Which of the two should I take on a rainy day?\n")
    extracting = ["extract", model, texts, "x.states.npz", "--limit", n, "--threads", "1", "-q"]
    encrypting = ["encrypt", "one.txt", "x.query", "--model", model, "--key", "keys", "-q"]
    return {
        "model": name,
        "disk_mb": sum(p.stat().st_size for p in model.iterdir()) / 1e6,
        "extract": run(extracting, work, rounds, ["x.states.npz"]),
        "encrypt": run(encrypting, work, rounds, ["x.query"]),
    }


def client(work: Path, rounds: int) -> dict[str, Any]:
    """A client whose states are there, by commands and in Python, and the provider between."""
    encrypting = ["encrypt", "one.states.npz", "c.query", "--key", "keys", "-q"]
    decrypting = ["decrypt", "c.response", "--key", "keys", "--query", "c.query", "-q"]
    found = {
        "keygen": run(["keygen", "others", "-q"], work, rounds, ["others"]),
        "encrypt": run(encrypting, work, rounds, ["c.query"]),
    }
    scoring = ["--head", "head.npz", "-q", "--public"]
    answering = ["score", "c.query", "c.response", *scoring, "keys/public.key"]
    found["score"] = run(answering, work, rounds, ["c.response"])
    found["decrypt"] = run(decrypting, work, rounds)
    asked = in_python(ASK, work)
    run(
        ["score", "in-python.query", "in-python.response", *scoring, "in-python-public.key"],
        work,
        1,
    )
    return {**found, "dim": DIM, "classes": CLASSES,
            "python": {"ask": asked, "read": in_python(READ, work)}}  # fmt: skip


def in_python(code: str, work: Path) -> dict[str, Any]:
    found = measured([sys.executable, "-c", f"{code}\n{SAY}"], work)
    return {**summary([found]), "loaded": json.loads(found["said"].splitlines()[-1])}


if __name__ == "__main__":
    main()
