"""Pieces of graphs: an affine map, a soft cap, pooling, and inputs that a model can do without.

Only operators of the standard set, as of opset 13, so that every onnxruntime has them, that of a
browser included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from linalign_lite.onnx.float16 import SMALLEST, round_to_float16
from linalign_lite.onnx.graph_edit import AnyArray

OPSET, IR = 17, 8  # of what is made here from nothing
LEAST_OPSET = 13
PREFIX = "linalign."


@dataclass(frozen=True, eq=False)
class Affine:
    """What a Gemm holds, as it is computed with: float32, already rounded for fp16.

    ``weight`` is (in, out) here and nowhere else: one row is then a product of a vector with a
    matrix as BLAS likes it, 2 times faster in onnxruntime than a transposed one.
    """

    weight: AnyArray  # shape: (in, out)
    bias: AnyArray  # shape: (out,)

    @classmethod
    def of(cls, weight: AnyArray, bias: AnyArray, dtype: str) -> Affine:
        """From a map's or head's weight (out, in), for an artefact of this dtype."""
        narrow = round_to_float16 if dtype == "fp16" else np.asarray
        parts = [np.ascontiguousarray(weight.T, dtype=np.float32), bias.astype(np.float32)]
        return cls(*(narrow(p) if p.size >= SMALLEST else p for p in parts))

    def apply(self, states: AnyArray) -> AnyArray:
        """The same in NumPy: (n, in) → (n, out), float32."""
        result: AnyArray = states @ self.weight + self.bias
        return result


class Builder:
    """Appends nodes and constants to a graph under names of our own."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self._made: list[Any] = []
        self._count = 0

    def constant(self, name: str, value: AnyArray) -> str:
        from onnx import numpy_helper

        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def ints(self, *values: int) -> str:
        """A constant of whole numbers, (n,)."""
        self._count += 1
        return self.constant(f"{PREFIX}{self._count}", np.array(values, dtype=np.int64))

    def whole(self, value: int) -> str:
        """A constant whole number."""
        self._count += 1
        return self.constant(f"{PREFIX}{self._count}", np.array(value, dtype=np.int64))

    def real(self, value: float) -> str:
        """A constant number."""
        self._count += 1
        return self.constant(f"{PREFIX}{self._count}", np.array(value, dtype=np.float32))

    def node(self, kind: str, *inputs: str, to: str = "", **attributes: Any) -> str:
        """Append a node; the name of its output."""
        from onnx import helper

        self._count += 1
        output = to or f"{PREFIX}{self._count}"
        if "to_type" in attributes:  # a Cast's own attribute is called `to`
            attributes["to"] = attributes.pop("to_type")
        self._made.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def finish(self, *, first: bool = False) -> None:
        """Put what was made after the graph's nodes, or before them."""
        old = list(self.graph.node)
        del self.graph.node[:]
        self.graph.node.extend([*self._made, *old] if first else [*old, *self._made])
        self._made = []


def add_affine(build: Builder, affine: Affine, read: str, write: str, name: str = "") -> str:
    """``write`` = ``read``·weight + bias, one Gemm."""
    weight = build.constant(f"{name}weight", affine.weight)
    bias = build.constant(f"{name}bias", affine.bias)
    return build.node("Gemm", read, weight, bias, to=write)


def add_softcap(build: Builder, cap: float, read: str, write: str) -> str:
    """c·tanh(x / c)."""
    c = build.real(cap)
    return build.node("Mul", build.node("Tanh", build.node("Div", read, c)), c, to=write)


def add_pooling(build: Builder, pooling: str, states: str, mask: str, write: str) -> str:
    """One state a row of (batch, length, d), as `batching.pool` does; padding on the right."""
    from onnx import TensorProto

    if pooling == "cls":
        return build.node("Gather", states, build.whole(0), axis=1, to=write)
    lengths = build.node("ReduceSum", mask, build.ints(1), keepdims=1)
    if pooling == "last":
        last = build.node("Sub", lengths, build.ints(1))
        return build.node("GatherND", states, last, batch_dims=1, to=write)
    inside = build.node("Cast", mask, to_type=TensorProto.FLOAT)
    count = build.node(
        "Max", build.node("Cast", lengths, to_type=TensorProto.FLOAT), build.real(1.0)
    )
    rows = build.node("Unsqueeze", build.node("Div", inside, count), build.ints(1))
    return build.node("Squeeze", build.node("MatMul", rows, states), build.ints(1), to=write)


def add_normalize(build: Builder, read: str, write: str) -> str:
    """Each row to length 1; a row of zeros stays."""
    squares = build.node("ReduceSum", build.node("Mul", read, read), build.ints(1), keepdims=1)
    norms = build.node("Max", build.node("Sqrt", squares), build.real(1e-12))
    return build.node("Div", read, norms, to=write)
