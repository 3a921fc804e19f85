"""Compute each dimension of a graph once, from its inputs.

Exporters compute the batch size and the lengths anew in every layer: in one step of decoding these
small nodes are half of all. onnxruntime merges nodes with the same inputs when it opens a graph,
so it is enough that all of them start from the same tensors.
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from linalign_lite.onnx import graph_edit

logger = logging.getLogger("linalign_lite.export")
_PREFIX = "/dimensions"
_SMALL = 1024  # bytes of constants that shapes may depend on
Shape = list[int | str | None]  # a size, the name of an unknown one, or nothing known


def share_dimensions(model: Any) -> int:
    """Replace dimensions read from inner tensors by those of the graph's inputs, and constants.

    Returns how many nodes were replaced. The outputs stay the same, bit for bit. Shapes are those
    that onnxruntime's symbolic inference finds; a graph that it does not understand, that has
    branches or loops, or that was treated so before, stays as it is.
    """
    graph = model.graph
    branches = any(True for node in graph.node for _ in graph_edit.subgraphs(node))
    if branches or any(node.output[0].startswith(_PREFIX) for node in graph.node):
        return 0
    shapes = _inferred(model)
    known = {
        dim: (value.name, axis)
        for value in reversed(graph.input)
        for axis, dim in enumerate(shapes.get(value.name, ()))
        if isinstance(dim, str)
    }
    shared = _Shared(known)
    index = graph_edit.GraphIndex(graph)
    replaced: dict[str, str] = {}
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        if not outputs.isdisjoint(node.output):
            continue
        inner = _read_dimension(index, shapes, node)
        if isinstance(inner, int) or inner in known:
            replaced[node.output[0]] = shared.dimension(inner)
        elif node.op_type == "Shape" and not node.attribute:
            sizes = shapes.get(node.input[0], [None])
            if all(isinstance(size, int) for size in sizes):
                replaced[node.output[0]] = shared.constant(sizes)
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = replaced.get(name, name)
    kept = [node for node in graph.node if node.output[0] not in replaced]
    del graph.node[:]
    graph.node.extend([*shared.nodes, *kept])
    graph_edit.prune(model)
    return len(replaced)


class _Shared:
    """Constants and dimensions of inputs, each made when it is first asked for."""

    def __init__(self, known: Mapping[Any, tuple[str, int]]) -> None:
        self.known = known
        self.nodes: list[Any] = []
        self._made: set[str] = set()

    def constant(self, value: Any) -> str:
        """A constant of int64 with this value."""
        from onnx import helper, numpy_helper

        name = f"{_PREFIX}/{np.array(value).tolist()}"
        if name not in self._made:
            self._made.add(name)
            tensor = numpy_helper.from_array(np.array(value, dtype=np.int64))
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    def dimension(self, dim: Any) -> str:
        """A scalar of int64: a size, or the dimension of an input."""
        from onnx import helper

        if isinstance(dim, int):
            return self.constant(dim)
        tensor, axis = self.known[dim]
        name = f"{_PREFIX}/{tensor}/{axis}"
        if name not in self._made:
            self._made.add(name)
            shape, where = f"{name}/shape", self.constant(axis)
            self.nodes.append(helper.make_node("Shape", [tensor], [shape]))
            self.nodes.append(helper.make_node("Gather", [shape, where], [name]))
        return name


def _inferred(model: Any) -> dict[str, Shape]:
    """Shapes of all tensors as far as they can be found; nothing when the inference fails."""
    try:
        from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

        # its public function saves a file in the working directory when shapes stay unknown
        inference = SymbolicShapeInference(2**31 - 1, False, False, 0)
        inference._preprocess(_without_weights(model))
        while inference.run_:
            inference._infer_impl()
        inference._update_output_from_vi()
        found = inference.out_mp_.graph
    except Exception as e:  # noqa: BLE001 (it raises anything; needs sympy, which torch brings)
        logger.debug("no shapes inferred: %s", e)
        return {}
    return {
        value.name: [
            dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else None)
            for dim in value.type.tensor_type.shape.dim
        ]
        for value in (*found.value_info, *found.input, *found.output)
        if value.type.tensor_type.HasField("shape")
    }


def _without_weights(model: Any) -> Any:
    """A copy of the model in which all but the smallest weights are inputs."""
    from onnx import ModelProto, TensorProto, helper

    graph = model.graph
    copy = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    for field in ("node", "input", "output"):
        getattr(copy.graph, field).extend(getattr(graph, field))
    inputs = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL and tensor.ByteSize() < _SMALL:
            copy.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            copy.graph.input.append(value)
    return copy


def _read_dimension(
    index: graph_edit.GraphIndex, shapes: Mapping[str, Shape], node: Any
) -> int | str | None:
    """The dimension that a Gather takes from a Shape, or None for another node."""
    source = index.producers.get(node.input[0]) if node.op_type == "Gather" else None
    if source is None or source.op_type != "Shape" or source.attribute:
        return None
    axis, shape = index.constant(node.input[1]), shapes.get(source.input[0])
    if axis is None or axis.ndim or shape is None or not -len(shape) <= int(axis) < len(shape):
        return None
    return shape[int(axis)]
