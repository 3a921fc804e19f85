"""Weights as 8-bit integers, and products computed with them: `export --quantize`.

Dynamic: activations are rounded to 8 bits as they come, by the largest and smallest of a batch.
What keeps the states near the float32 ones is a scale for each output channel of a weight: one
outlier then spoils its own channel and no other. (all-MiniLM-L6-v2, 300 CLINC150 queries: smallest
cosine .85 with one scale a weight, .97 with one a channel.) Attention scores stay float32.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.errors import InputError, ParityError, import_extra
from linalign_lite.extraction.batching import plan_batches, pool
from linalign_lite.extraction.model_card import DATA_FILE, LAST_HIDDEN_STATE, MODEL_FILE, PastTensor
from linalign_lite.onnx import graph_edit, parity

LEAST = {"min": 0.90, "p01": 0.93, "median": 0.98}  # cosines below which an export is refused
OPERATORS = ("MatMul", "Gather")  # Gather: the table of token embeddings
FEWEST = 20  # texts
_INT8 = "int8"  # a folder inside the temporary one
_TOKENS = 1024


def quantize(
    folder: Path,
    past: tuple[PastTensor, ...],
    encoded: Sequence[Sequence[int]],
    pooling: str,
    one_file_limit: int = graph_edit.ONE_FILE_LIMIT,
) -> dict[str, float | int]:
    """Replace the float32 graph in ``folder`` by its int8 one; how near their states are.

    encoded: token ids of the texts that both are compared on, at least FEWEST. pooling: of the
    states that are compared. Returns cosines: `min`, `p01` (1 % of the texts are below), `median`,
    and `texts`.

    Raises ParityError when one is below LEAST, InputError for too few texts, MissingExtraError
    without the extra `export`.
    """
    if len(encoded) < FEWEST:
        raise InputError(
            "there are too few texts to see what quantising does",
            got=str(len(encoded)),
            expected=f"{FEWEST} or more",
        )
    for module in ("onnx", "onnxruntime.quantization"):
        import_extra(module, extra="export", purpose="quantising a model")
    import onnx

    before = _states(parity.open_graph(folder / MODEL_FILE, past), encoded, pooling)
    (folder / _INT8).mkdir()
    path = folder / _INT8 / MODEL_FILE
    _convert(folder / MODEL_FILE, path, large=(folder / DATA_FILE).exists())
    model = onnx.load(str(path))
    if not any(node.op_type == "MatMulInteger" for node in model.graph.node):
        raise InputError("the graph has no product with a weight that could be quantised")
    (folder / DATA_FILE).unlink(missing_ok=True)
    graph_edit.check(graph_edit.save(model, folder, one_file_limit))
    shutil.rmtree(folder / _INT8)
    found = cosines(before, _states(parity.open_graph(folder / MODEL_FILE, past), encoded, pooling))
    for name, least in LEAST.items():
        if not found[name] >= least:
            raise ParityError(
                "the int8 states are too far from the float32 ones",
                got=f"cosine {found[name]:.3f} ({name})",
                expected=f"{least} or more",
                hint="this model is better kept as fp32 or fp16",
            )
    return found


def cosines(a: parity.Floats, b: parity.Floats) -> dict[str, float | int]:
    """How near the rows of two (n, d) are: smallest, 1 % quantile and median of their cosines."""
    size = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found = np.einsum("ij,ij->i", a, b, dtype=np.float64) / np.maximum(size, 1e-12)
    return {
        "min": round(float(found.min()), 5),
        "p01": round(float(np.quantile(found, 0.01)), 5),
        "median": round(float(np.median(found)), 5),
        "texts": len(found),
    }


def _convert(source: Path, out: Path, *, large: bool) -> None:
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    log = logging.getLogger()  # the library advises on the root logger
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        quantize_dynamic(
            str(source),
            str(out),
            op_types_to_quantize=list(OPERATORS),
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=large,
            # of tensors that shape inference does not reach
            extra_options={"DefaultTensorType": TensorProto.FLOAT},
        )
    except Exception as e:  # the library has no error type of its own
        raise InputError(
            "onnxruntime does not quantise this graph", got=f"{type(e).__name__}: {str(e)[:200]}"
        ) from e
    finally:
        log.setLevel(level)


def _states(graph: parity.Graph, encoded: Sequence[Sequence[int]], pooling: str) -> parity.Floats:
    """A state a text, (texts, d), in batches as `extract` makes them."""
    rows: dict[int, Any] = {}
    how = "mean" if pooling == "tokens" else pooling
    for batch in plan_batches([len(ids) for ids in encoded], _TOKENS):
        ids, mask = parity.pad([encoded[i] for i in batch.rows])
        found = pool(graph.run(ids, mask)[LAST_HIDDEN_STATE], mask.sum(axis=1), how)
        rows.update(zip(batch.rows, found, strict=True))
    return np.stack([rows[i] for i in range(len(encoded))])
