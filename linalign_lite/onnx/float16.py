"""Weights stored as float16 and computed with in float32. Needs only `onnx` and NumPy.

First the weights are rounded to float16 values; then every stored float32 tensor that is float16
without loss becomes a float16 tensor and a Cast, which onnxruntime folds away when it loads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from linalign_lite.onnx.graph_edit import AnyArray

SMALLEST = 256  # elements; smaller tensors stay as they are


def round_to_float16(array: AnyArray) -> AnyArray:
    """The nearest float16 values, as float32; ``array`` itself when one of them overflows."""
    with np.errstate(over="ignore"):
        result = array.astype(np.float16).astype(np.float32)
    return result if np.isfinite(result).all() else array


def fits_float16(array: AnyArray) -> bool:
    """Whether every number is float16 without loss."""
    with np.errstate(over="ignore"):
        return bool(np.array_equal(array.astype(np.float16).astype(array.dtype), array))


def round_weights(model: Any) -> None:
    """Round the large float32 weights of a graph to float16 values, still stored as float32."""
    from onnx import TensorProto, numpy_helper

    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) >= SMALLEST:
            array = round_to_float16(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def store_float16(model: Any) -> int:
    """Store float32 weights that are float16 without loss as such; how many there were."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALLEST:
            continue
        array = numpy_helper.to_array(tensor)
        if fits_float16(array):
            name, half = tensor.name, f"{tensor.name}.float16"
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), half))
            casts.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
    return len(casts)
