"""Dynamic quantisation: 8-bit weights, and activations rounded by the range of each batch.

Every output channel of a weight has a scale of its own, so that an outlier affects no other
channel. (all-MiniLM-L6-v2, 300 CLINC150 queries: smallest cosine to the float32 states .85 with one
scale per weight, .97 with one per channel.) Attention scores stay float32.
"""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.errors import InputError, ParityError, import_extra, quote_errors
from linalign_lite.extraction.batching import plan_batches, pool
from linalign_lite.extraction.embedder import Embedder
from linalign_lite.extraction.model_card import DATA_FILE, LAST_HIDDEN_STATE, MODEL_FILE, PastTensor
from linalign_lite.onnx import graph_edit, parity

MIN_COSINE = {"min": 0.90, "p01": 0.93, "median": 0.98}  # below these an export is refused
MIN_TEXTS = 20
_OPERATORS = ["MatMul", "Gather"]  # Gather: the table of token embeddings; a Gemm becomes a MatMul
_TOKENS = 1024  # per batch


def quantize_artefact(model: Any, one_file_limit: int = graph_edit.ONE_FILE_LIMIT) -> Any:
    """Return the model with 8-bit weights; ``model`` itself is used up.

    Weights are unsigned: products of unsigned and signed numbers overflow on processors without
    VNNI, where the same file would give other outputs.
    """
    import_extra("onnxruntime.quantization", extra="onnx", purpose="quantising")
    widen(model)
    large = graph_edit.weight_bytes(model) > one_file_limit
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source: Any = str(graph_edit.save(model, folder, one_file_limit)) if large else model
        return _quantize(source, folder / "int8.onnx", "QUInt8", large=large)


def quantize_folder(
    folder: Path,
    past: tuple[PastTensor, ...],
    encoded: Sequence[Sequence[int]],
    pooling: str | Embedder,
    one_file_limit: int = graph_edit.ONE_FILE_LIMIT,
) -> dict[str, float | int]:
    """Replace the float32 graph in ``folder`` by an int8 one, and compare their states.

    encoded: token ids of the texts to compare on, at least MIN_TEXTS. pooling: of the states
    that are compared. Returns `cosines` of the states.

    Raises ParityError when one is below MIN_COSINE, InputError for too few texts or a graph that
    cannot be quantised, MissingExtraError without the extra `export`.
    """
    if len(encoded) < MIN_TEXTS:
        raise InputError(
            "there are too few texts to measure the effect of quantising",
            got=str(len(encoded)),
            expected=f"{MIN_TEXTS} or more",
        )
    for module in ("onnx", "onnxruntime.quantization"):
        import_extra(module, extra="export", purpose="quantising a model")
    before = _states(folder, past, encoded, pooling)
    large = (folder / DATA_FILE).exists()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        out = Path(scratch) / MODEL_FILE
        model = _quantize(str(folder / MODEL_FILE), out, "QInt8", large=large)
    if not any(node.op_type == "MatMulInteger" for node in model.graph.node):
        raise InputError("the graph has no product with a weight that could be quantised")
    (folder / DATA_FILE).unlink(missing_ok=True)
    graph_edit.check(graph_edit.save(model, folder, one_file_limit))
    found = cosines(before, _states(folder, past, encoded, pooling))
    for name, least in MIN_COSINE.items():
        if not found[name] >= least:
            raise ParityError(
                "the int8 states are too far from the float32 ones",
                got=f"cosine {found[name]:.3f} ({name})",
                expected=f"{least} or more",
                hint="this model is better kept as fp32 or fp16",
            )
    return found


def cosines(a: parity.Floats, b: parity.Floats) -> dict[str, float | int]:
    """Cosines between the rows of two arrays (n, d): `min`, `p01` (1 % quantile), `median`.

    `texts` is the number of rows.
    """
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found = np.einsum("ij,ij->i", a, b, dtype=np.float64) / np.maximum(norms, 1e-12)
    return {
        "min": round(float(found.min()), 5),
        "p01": round(float(np.quantile(found, 0.01)), 5),
        "median": round(float(np.median(found)), 5),
        "texts": len(found),
    }


def widen(model: Any) -> None:
    """Replace weights stored as float16 and cast by float32 ones, which can be quantised."""
    from onnx import TensorProto, numpy_helper

    graph = model.graph
    stored = {t.name: t for t in graph.initializer if t.data_type == TensorProto.FLOAT16}
    for i in range(len(graph.node) - 1, -1, -1):
        node = graph.node[i]
        if node.op_type != "Cast" or node.input[0] not in stored:
            continue
        if graph_edit.attribute(node, "to") == TensorProto.FLOAT:
            wide = numpy_helper.to_array(stored[node.input[0]]).astype("float32")
            graph.initializer.append(numpy_helper.from_array(wide, node.output[0]))
            del graph.node[i]
    graph_edit.prune(model)


def _quantize(source: Any, out: Path, weight_type: str, *, large: bool) -> Any:
    """Quantise ``source``, a model or the path of one, by way of the file ``out``.

    weight_type: a name in onnxruntime's QuantType. large: store weights beside the graph.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    log = logging.getLogger()  # the library logs advice on the root logger
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with quote_errors("onnxruntime does not quantise this graph"):
            quantize_dynamic(
                source,
                out,
                op_types_to_quantize=_OPERATORS,
                per_channel=True,
                weight_type=QuantType[weight_type],
                use_external_data_format=large,
                # of tensors that shape inference does not reach
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
    finally:
        log.setLevel(level)
    return onnx.load(str(out))


def _states(
    folder: Path,
    past: tuple[PastTensor, ...],
    encoded: Sequence[Sequence[int]],
    pooling: str | Embedder,
) -> parity.Floats:
    """Pooled states of the graph in ``folder``, (texts, d), in batches as `extract` makes them."""
    graph = parity.open_graph(folder / MODEL_FILE, past)
    rows: dict[int, Any] = {}
    for batch in plan_batches([len(ids) for ids in encoded], _TOKENS):
        ids, mask = parity.pad([encoded[i] for i in batch.rows])
        states = graph.run(ids, mask)[LAST_HIDDEN_STATE]
        lengths = mask.sum(axis=1)
        if isinstance(pooling, Embedder):
            pooled = pooling.apply(states, lengths)
        else:
            pooled = pool(states, lengths, "mean" if pooling == "tokens" else pooling)
        rows.update(zip(batch.rows, pooled, strict=True))
    return np.stack([rows[i] for i in range(len(encoded))])
