"""ONNX artefacts against NumPy: one row and many, their sizes, and what int8 costs in accuracy.

python benchmarks/artefacts.py [--quick]     the first table needs nothing; the second, the real
                                             models and data (LINALIGN_SHARED)
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import SHARED, data, exported, publish, side_by_side

from linalign_lite import AffineMap, Head, extract, fuse, load_model, read_texts, to_onnx
from linalign_lite import train_head as train
from linalign_lite.onnx.parity import open_session

DIM, BETWEEN, OUTPUTS = 384, 128, 150
ROWS = {1: 2000, 8: 1000, 64: 200, 1024: 20}


def speed(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """head∘map, 384 → 128 → 150, folded into one Gemm: median of each, taken in turn."""
    rng = np.random.default_rng(0)
    first = AffineMap(rng.normal(size=(BETWEEN, DIM)), rng.normal(size=BETWEEN))
    head = Head(rng.normal(size=(OUTPUTS, BETWEEN)), rng.normal(size=OUTPUTS)) @ first
    head = Head(head.weight.astype(np.float32), head.bias.astype(np.float32))
    found = []
    for dtype in ("fp32", "fp16", "int8"):
        made = to_onnx(folder / "x.onnx", head, dtype=dtype)
        session = open_session((folder / "x.onnx").read_bytes(), threads=1)
        for n, number in ROWS.items():
            x = rng.normal(size=(n, DIM)).astype(np.float32)
            feeds = {"states": x}
            weight, bias = head.weight, head.bias
            calls = {
                "onnxruntime": lambda s=session, f=feeds: s.run(None, f),
                "onnxruntime, bound": bound(session, x),
                "numpy": lambda x=x, w=weight, b=bias: x @ w.T + b,
                "head.apply": lambda x=x: head.apply(x),
            }
            times = side_by_side(calls, 3 if quick else 15, dict.fromkeys(calls, number))
            micro = {name: 1e6 * float(np.median(t)) for name, t in times.items()}
            found.append({"dtype": dtype, "rows": n, "bytes": made.size, **micro})
    return found


def bound(session: Any, x: np.ndarray) -> Callable[[], None]:
    """A run with input and output bound once, as a program that asks often has it."""
    from onnxruntime import OrtValue

    binding = session.io_binding()
    binding.bind_ortvalue_input("states", OrtValue.ortvalue_from_numpy(x))
    out = OrtValue.ortvalue_from_shape_and_type([len(x), OUTPUTS], np.float32)
    binding.bind_ortvalue_output(session.get_outputs()[0].name, out)
    return lambda: session.run_with_iobinding(binding)


def accuracy(folder: Path, quick: bool) -> list[dict[str, Any]]:
    """CLINC150 with all-MiniLM-L6-v2 and a logistic head, fused, at each dtype."""
    model = load_model(exported("all-minilm-l6-v2"))
    few = 1500 if quick else None
    train_texts = read_texts(data("clinc150_train.jsonl"), limit=few)
    test = read_texts(data("clinc150_test.jsonl"), limit=few)
    head, _ = train(extract(model, train_texts))
    encoded = [e.ids for e in model.encode(test.texts)]
    truth = np.array(
        [head.labels.index(label) if label in head.labels else -1 for label in test.labels]
    )
    found = []
    for dtype in ("fp32", "fp16", "int8"):
        made = fuse(folder / "m.onnx", model, head=head, dtype=dtype)
        session = open_session((folder / "m.onnx").read_bytes())
        right = 0
        for i, ids in enumerate(encoded):  # one text at a time, as a client asks
            row = np.array([ids], dtype=np.int64)
            feeds = {"input_ids": row, "attention_mask": np.ones_like(row)}
            right += int(session.run(["scores"], feeds)[0].argmax() == truth[i])
        found.append({"dtype": dtype, "bytes": made.size, "accuracy": right / len(encoded),
                      "differences": dict(made.differences)})  # fmt: skip
    return found


def main() -> None:
    quick = "--quick" in sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results: dict[str, Any] = {"speed": speed(folder, quick)}
        if (SHARED / "data").is_dir():
            results["accuracy"] = accuracy(folder, quick)
    if quick:
        print(json.dumps(results, indent=1))
    else:
        publish("artefacts", results)


if __name__ == "__main__":
    main()
