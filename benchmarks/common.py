"""Shared by all benchmarks: paths of the data, description of the machine, paths of results."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

# as the commands do; where NumPy is loaded before this, say it in the environment
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(os.environ.get("LINALIGN_RESULTS", ROOT / "benchmarks" / "results"))
SHARED = Path(os.environ.get("LINALIGN_SHARED", ROOT.parent / "shared"))
REAL = Path(os.environ.get("LINALIGN_REAL", ROOT.parent / "real"))  # larger published models
CACHE = Path(os.environ.get("LINALIGN_CACHE", ROOT / "benchmarks" / ".cache"))
PACKAGES = ("numpy", "scipy", "onnxruntime", "tokenizers", "tenseal", "sentence-transformers",
            "torch", "transformers", "optimum")  # fmt: skip
PUBLISHED = {"SmolLM2": "smollm2-135m-instruct", "Gemma": "gemma-3-270m",
             "EmbeddingGemma": "embeddinggemma-300m", "MiniLM": "all-minilm-l6-v2"}  # fmt: skip
PROMPTS = {"EmbeddingGemma": "Classification"}  # of a published model, where a task has one
T = TypeVar("T")


def data(name: str) -> str:
    """Path of a data file; stops with a word when the real data is absent."""
    if not (SHARED / "data").is_dir():
        sys.exit("real models and data are absent: set LINALIGN_SHARED to their folder")
    return str(SHARED / "data" / name)


def exported(name: str) -> Path:
    """The exported folder of a real model, made once and kept in the cache."""
    from linalign_lite.onnx.model_export import export_model

    folder = CACHE / name
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        print(f"exporting {name}", file=sys.stderr)
        found = [f for f in (SHARED / "models" / name, REAL / name) if f.is_dir()]
        if not found:
            sys.exit(f"{name} is absent: set LINALIGN_SHARED and LINALIGN_REAL to their folders")
        export_model(str(found[0]), folder)
    return folder


def cached(name: str, make: Callable[[], T]) -> T:
    """States, a map or a head in the cache, made once; ``name`` is that of its file."""
    from linalign_lite.heads.serialization import load, save

    path = CACHE / name
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        save(path, make())  # type: ignore[arg-type]
    return cast(T, load(path))


def product_session(weight: Any, rows: int, threads: int = 0) -> Any:
    """An onnxruntime session of products x (rows, k) weight (k, n); threads: 0 for all cores."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    sizes = {"x": [rows, weight.shape[0]], "y": [rows, weight.shape[1]]}
    x, y = (helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in sizes.items())
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "gemm", [x], [y],
                              [numpy_helper.from_array(weight, "w")])  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])


def machine() -> dict[str, Any]:
    """Describe the machine of the measurements."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            x.split(":")[1].strip() for x in info.read_text().splitlines() if "model name" in x
        ]
        model = names[0] if names else model
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
    }


def evict(path: Path) -> None:
    """Take a file out of the page cache: what is read next comes from the disk."""
    with path.open("rb") as f:
        os.fsync(f.fileno())  # pages that are not on the disk yet stay
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def timed(call: Callable[[], Any], number: int = 1) -> float:
    """Seconds that one call takes, the mean of ``number`` one after the other."""
    started = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - started) / number


def side_by_side(
    calls: dict[str, Callable[[], Any]], rounds: int, number: dict[str, int] | None = None
) -> dict[str, list[float]]:
    """Seconds of each call, taken in turn, so that what else the machine does hits all alike.

    ``number``: how often a call is made in each round (as timeit does), for calls of a few
    milliseconds, which would otherwise be timed with another library's work in the caches.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(timed(call, (number or {}).get(name, 1)))
    return found


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """Median of the rounds' ratios, and the smallest and largest."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def publish(name: str, figures: dict[str, Any], *, quiet: bool = False) -> None:
    """Write benchmarks/results/NAME.json, and print the figures."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = {"machine": machine(), **figures}
    text = json.dumps(result, indent=2)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    if not quiet:
        print(text)
