"""Weights as 8-bit numbers: dynamic quantisation, one scale for each output of a matrix."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from linalign_lite.errors import import_extra
from linalign_lite.onnx import graph_edit


def quantise(model: Any, one_file_limit: int = graph_edit.ONE_FILE_LIMIT) -> Any:
    """The model with 8-bit weights in its matrix products and embeddings; ``model`` is used up.

    What is multiplied with them is quantised as it comes, by its own range. Weights are unsigned:
    products of unsigned with signed numbers overflow quietly on processors without VNNI, and the
    same file would say different things there.
    """
    import_extra("onnxruntime.quantization", extra="onnx", purpose="quantising")
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    widen(model)
    large = graph_edit.weight_bytes(model) > one_file_limit
    root = logging.getLogger()
    before = root.level
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source: Any = str(graph_edit.save(model, folder, one_file_limit)) if large else model
        result = folder / "int8.onnx"
        root.setLevel(logging.ERROR)  # it advises on what does not matter here
        try:
            quantize_dynamic(
                source,
                result,
                op_types_to_quantize=["MatMul", "Gather"],  # a Gemm becomes a MatMul first
                per_channel=True,
                weight_type=QuantType.QUInt8,
                use_external_data_format=large,
            )
        finally:
            root.setLevel(before)
        return onnx.load(str(result))


def widen(model: Any) -> None:
    """Store as float32 what is stored as float16 and cast: a quantiser does not see through it."""
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
