"""Exporting a published model takes little more memory than its weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.export
SCRIPT = """
import json, sys, threading
import numpy, onnx, onnxruntime, torch, transformers
import optimum.exporters.onnx.model_configs
from transformers import AutoModelForCausalLM
from linalign_lite.onnx.model_export import export_model

def kilobytes(field):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))

base = kilobytes("VmRSS")
card = export_model(sys.argv[1], sys.argv[2], dtype=sys.argv[3])
weights = sum(f["size"] for name, f in card.files.items() if name.startswith("model.onnx"))
print(json.dumps({"base": base << 10, "peak": kilobytes("VmHWM") << 10, "weights": weights}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Windows and others have no /proc")
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_peak_memory(dtype: str, tmp_path: Path) -> None:
    """At most 3 times the weights in float32, which the comparison computes in, and libraries."""
    pytest.importorskip("optimum.exporters.onnx")
    model = Path(os.environ.get("LINALIGN_REAL", "")) / "smollm2-135m-instruct"
    if not (model / "config.json").is_file():
        pytest.skip("no SmolLM2 (set LINALIGN_REAL)")
    command = [sys.executable, "-c", SCRIPT, str(model), str(tmp_path / "out"), dtype]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    wide = found["weights"] * {"fp32": 1, "fp16": 2, "int8": 3.5}[dtype]
    assert found["peak"] - found["base"] <= 3 * wide, found
