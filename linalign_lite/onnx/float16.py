"""Store weights as float16 and compute with them in float32. Needs only `onnx` and NumPy.

Weights are first rounded to float16 values. Every stored float32 tensor with such values alone then
becomes a float16 tensor and a Cast, which onnxruntime folds when it loads the graph.
"""

from collections.abc import MutableMapping
from typing import Any

import numpy as np

from linalign_lite.onnx.graph_edit import AnyArray, row_blocks

MIN_SIZE = 256  # elements; smaller tensors stay as they are


def round_to_float16(array: AnyArray) -> AnyArray:
    """The nearest float16 values, as float32.

    Returns ``array`` itself if it has fewer than MIN_SIZE elements or if one of them overflows.
    """
    if array.size < MIN_SIZE or not in_range(array):
        return array
    return array.astype(np.float16).astype(np.float32)


def in_range(array: AnyArray) -> bool:
    """Return True if no number becomes infinite as float16."""
    with np.errstate(over="ignore"):
        return all(np.isfinite(rows.astype(np.float16)).all() for rows in row_blocks(array))


def fits_float16(array: AnyArray) -> bool:
    """Return True if every number is float16 without loss."""
    with np.errstate(over="ignore"):
        return all(
            np.array_equal(rows.astype(np.float16).astype(array.dtype), rows)
            for rows in row_blocks(array)
        )


def round_weights(model: Any) -> None:
    """Round the float32 weights of a graph to float16 values, still stored as float32."""
    from onnx import TensorProto, numpy_helper

    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor)
            rounded = round_to_float16(array)
            if rounded is not array:
                tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))


def store_float16(model: Any, weights: MutableMapping[str, AnyArray] | None = None) -> None:
    """Store float32 weights that are float16 without loss as float16.

    weights: values of those that the graph only declares, by name; new names are added.
    """
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < MIN_SIZE:
            continue
        name, half = tensor.name, f"{tensor.name}.float16"
        declared = weights is not None and name in weights
        array = weights[name] if weights and declared else numpy_helper.to_array(tensor)
        if fits_float16(array):
            if weights and declared:
                weights[half] = array
                tensor.name, tensor.data_type = half, TensorProto.FLOAT16
            else:
                tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16), half))
            casts.append(helper.make_node("Cast", [half], [name], to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])
