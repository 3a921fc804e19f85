"""Build parts of ONNX graphs: linear layers, soft caps, pooling and normalization.

Only operators of the standard set as of opset 13, so that every onnxruntime, that of a browser
included, has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head, soft_capped
from linalign_lite.extraction.embedder import NORM_EPSILON, Embedder, Layer
from linalign_lite.onnx.float16 import round_to_float16
from linalign_lite.onnx.graph_edit import AnyArray

OPSET, IR_VERSION = 17, 8  # of graphs that are built from nothing
MIN_OPSET = 13
PREFIX = "linalign."


@dataclass(frozen=True, eq=False)
class LinearLayer:
    """A map or a head as its graph computes it: float32 values, already rounded for fp16.

    The weight is transposed: onnxruntime multiplies one row by it 2 times faster.
    """

    weight: AnyArray  # shape: (in, out)
    bias: AnyArray  # shape: (out,)
    softcap: float | None

    @classmethod
    def of(cls, thing: AffineMap | Head, dtype: str) -> LinearLayer:
        """The layer of a map or a head in an artefact of this dtype."""
        weight = np.ascontiguousarray(thing.weight.T, dtype=np.float32)
        bias = thing.bias.astype(np.float32)
        if dtype == "fp16":
            weight, bias = round_to_float16(weight), round_to_float16(bias)
        return cls(weight, bias, thing.softcap if isinstance(thing, Head) else None)

    def apply(self, states: AnyArray) -> AnyArray:
        """Compute the layer in NumPy: (n, in) → (n, out), float32."""
        return soft_capped(states @ self.weight + self.bias, self.softcap)


class GraphBuilder:
    """Append nodes and constants with names of their own to a graph."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self._nodes: list[Any] = []
        self._count = 0

    def constant(self, value: Any, dtype: Any = np.int64, name: str = "") -> str:
        """Add a constant and return its name."""
        from onnx import numpy_helper

        name = name or self._new_name()
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append a node and return the name of its output."""
        from onnx import helper

        unused = self._new_name()
        output = output or unused
        self._nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def finish(self, *, first: bool = False) -> None:
        """Put the new nodes after those of the graph, or before them."""
        old = list(self.graph.node)
        del self.graph.node[:]
        self.graph.node.extend([*self._nodes, *old] if first else [*old, *self._nodes])
        self._nodes = []

    def _new_name(self) -> str:
        self._count += 1
        return f"{PREFIX}{self._count}"


def set_values(values: Any, widths: Mapping[str, int | str], kind: str = "FLOAT") -> None:
    """Replace a graph's inputs or outputs by tensors (batch, width) of a type in TensorProto."""
    from onnx import TensorProto, helper

    del values[:]
    for name, width in widths.items():
        dtype = TensorProto.DataType.Value(kind)
        values.append(helper.make_tensor_value_info(name, dtype, ["batch", width]))


def add_linear(
    build: GraphBuilder, layer: LinearLayer, states: str, output: str, prefix: str = ""
) -> None:
    """Add ``states``·weight + bias as one Gemm, and c·tanh(x / c) if there is a soft cap c."""
    weight = build.constant(layer.weight, np.float32, f"{prefix}weight")
    bias = build.constant(layer.bias, np.float32, f"{prefix}bias")
    if layer.softcap is None:
        build.node("Gemm", states, weight, bias, output=output)
        return
    scores = build.node("Gemm", states, weight, bias)
    cap = build.constant(layer.softcap, np.float32)
    build.node("Mul", build.node("Tanh", build.node("Div", scores, cap)), cap, output=output)


def add_pooling(
    build: GraphBuilder, pooling: str, states: str, mask: str, output: str, start: int = 0
) -> None:
    """Pool (batch, length, d), padded on the right, to (batch, d) as `batching.pool` does."""
    from onnx import TensorProto

    lengths = build.node("ReduceSum", mask, build.constant([1]), keepdims=1)
    places, inside = mask, mask  # counted from 1, and which of them count
    if start or pooling == "weighted-mean":
        places = build.node("Mul", build.node("CumSum", mask, build.constant(1)), mask)
    if start:
        starts = build.node("Sub", lengths, build.constant([1]))
        starts = build.node("Min", starts, build.constant([start]))
        if pooling == "cls":
            build.node("GatherND", states, starts, batch_dims=1, output=output)
            return
        inside = build.node("Cast", build.node("Greater", places, starts), to=TensorProto.INT64)
    if pooling == "cls":
        build.node("Gather", states, build.constant(0), axis=1, output=output)
        return
    if pooling == "last":
        last = build.node("Sub", lengths, build.constant([1]))
        build.node("GatherND", states, last, batch_dims=1, output=output)
        return
    if pooling == "max":  # by GlobalMaxPool: opset 18 changed how ReduceMax takes its axes
        inside = build.node("Unsqueeze", inside, build.constant([2]))
        inside = build.node("Cast", inside, to=TensorProto.BOOL)
        least = build.constant(np.finfo(np.float32).min, np.float32)
        rows = build.node("Transpose", build.node("Where", inside, states, least), perm=[0, 2, 1])
        largest = build.node("GlobalMaxPool", rows)
        build.node("Squeeze", largest, build.constant([2]), output=output)
        return
    if pooling == "weighted-mean":
        inside = build.node("Mul", inside, places)
    inside = build.node("Cast", inside, to=TensorProto.FLOAT)
    counts = build.node("ReduceSum", inside, build.constant([1]), keepdims=1)
    counts = build.node("Max", counts, build.constant(1.0, np.float32))
    if pooling == "mean-sqrt":
        counts = build.node("Sqrt", counts)
    weights = build.node("Unsqueeze", build.node("Div", inside, counts), build.constant([1]))
    mean = build.node("MatMul", weights, states)
    build.node("Squeeze", mean, build.constant([1]), output=output)


def add_embedder(
    build: GraphBuilder, embedder: Embedder, states: str, mask: str, output: str, start: int
) -> None:
    """Add poolings and layers, as `Embedder.apply` computes them."""
    start = 0 if embedder.include_prompt else start
    pooled = [f"{output}.{p}" for p in embedder.poolings]
    for pooling, name in zip(embedder.poolings, pooled, strict=True):
        add_pooling(build, pooling, states, mask, name, start)
    last = build.node("Concat", *pooled, axis=1)
    for i, layer in enumerate(embedder.layers):
        last = _add_layer(build, layer, last, f"embedder.{i}.")
    build.node("Identity", last, output=output)


def _add_layer(build: GraphBuilder, layer: Layer, z: str, prefix: str) -> str:
    if layer.weight is None:
        normalized = f"{prefix}normalized"
        add_normalize(build, z, normalized)
        return normalized
    bias = np.zeros(len(layer.weight)) if layer.bias is None else layer.bias
    shift = build.constant(bias, np.float32, f"{prefix}bias")
    if layer.kind.kind == "dense":
        weight = np.ascontiguousarray(layer.weight.T)
        z = build.node("Gemm", z, build.constant(weight, np.float32, f"{prefix}weight"), shift)
    else:
        count = build.constant(layer.weight.size, np.float32)
        mean = build.node("Div", build.node("ReduceSum", z, build.constant([1])), count)
        z = build.node("Sub", z, mean)
        squares = build.node("ReduceSum", build.node("Mul", z, z), build.constant([1]))
        variance = build.node("Div", squares, count)
        variance = build.node("Add", variance, build.constant(NORM_EPSILON, np.float32))
        z = build.node("Div", z, build.node("Sqrt", variance))
        z = build.node("Mul", z, build.constant(layer.weight, np.float32, f"{prefix}weight"))
        z = build.node("Add", z, shift)
    if layer.kind.activation in ("tanh", "relu", "sigmoid"):
        return build.node(layer.kind.activation.title(), z)  # the operator of that name
    if layer.kind.activation == "silu":
        return build.node("Mul", z, build.node("Sigmoid", z))
    if layer.kind.activation == "gelu":  # the operator Gelu came with opset 20
        scaled = build.node("Div", z, build.constant(np.sqrt(2), np.float32))
        twice = build.node("Add", build.node("Erf", scaled), build.constant(1, np.float32))
        half = build.node("Mul", z, build.constant(0.5, np.float32))
        return build.node("Mul", half, twice)
    return z


def add_normalize(build: GraphBuilder, states: str, output: str) -> None:
    """Scale each row to length 1; a row of zeros stays."""
    products = build.node("Mul", states, states)
    squares = build.node("ReduceSum", products, build.constant([1]), keepdims=1)
    norms = build.node("Max", build.node("Sqrt", squares), build.constant(1e-12, np.float32))
    build.node("Div", states, norms, output=output)
