"""Store weights as 8-bit integers, with a scale for each block. Needs only `onnx` and NumPy.

BLOCK neighbours w of a row become round(w / s), with s = max |w| / 127. Products are onnxruntime's
`MatMulNBits` (1.22 or later), which rounds its inputs in blocks too and sums products of integers
inside a block. Token embeddings are taken from their table as stored, then multiplied by scales;
onnxruntime's `GatherBlockQuantized` does not refuse ids beyond the table. See Dettmers et al.,
8-bit Optimizers via Block-wise Quantization (2022).
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from linalign_lite.errors import InputError
from linalign_lite.onnx import graph_edit
from linalign_lite.onnx.float16 import MIN_SIZE
from linalign_lite.onnx.graph_edit import AnyArray, Weights

BLOCK = 32
_ZERO = 128  # stands for 0 in a product
_DOMAIN = "com.microsoft"
_INT8_PRODUCTS = 4  # level of accuracy; with float32 products one token takes 10 times as long


def store_int8(model: Any, weights: Weights) -> Weights:
    """Quantise the weights of a graph's products, and its table of token embeddings, in place.

    weights: values of those that the graph only declares. Returns these and the new ones; a new one
    is computed each time that it is read. Raises InputError when there is nothing to quantise.
    """
    from onnx import helper

    graph = model.graph
    index = graph_edit.GraphIndex(graph, weights)
    computed: dict[str, Callable[[], AnyArray]] = {}
    nodes: list[Any] = []
    for node in graph.node:
        nodes += _quantized(node, graph, index, computed) or [node]
    if not computed:
        raise InputError("the graph has no weight that could be quantised")
    del graph.node[:]
    graph.node.extend(nodes)
    if all(o.domain != _DOMAIN for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    graph_edit.prune(model)
    return _Computed(weights, computed)


class _Computed(Mapping[str, AnyArray]):
    """Arrays by name, some of them computed when they are read."""

    def __init__(self, known: Weights, computed: Mapping[str, Callable[[], AnyArray]]) -> None:
        self._known, self._computed = known, computed

    def __getitem__(self, name: str) -> AnyArray:
        return self._computed[name]() if name in self._computed else self._known[name]

    def __iter__(self) -> Iterator[str]:
        yield from {**self._known, **self._computed}

    def __len__(self) -> int:
        return len(self._known.keys() | self._computed.keys())


def _quantized(
    node: Any, graph: Any, index: graph_edit.GraphIndex, computed: dict[str, Callable[[], AnyArray]]
) -> list[Any]:
    """Nodes in place of ``node``, their weights declared; none if it stays as it is."""
    from onnx import helper

    gather = node.op_type == "Gather"
    get = partial(graph_edit.attribute, node)
    if node.op_type == "Gemm":
        usable = not get("transA", 0) and get("alpha", 1.0) == get("beta", 1.0) == 1.0
    else:
        usable = node.op_type == "MatMul" or (gather and get("axis", 0) == 0)
    name = node.input[0 if gather else 1] if usable else ""
    found = index.constant(name) if name else None
    if found is None or found.ndim != 2 or found.dtype != np.float32 or found.size < MIN_SIZE:
        return []
    turned = not gather and not get("transB", 0)
    n, width = found.shape[::-1] if turned else found.shape
    block = width if gather and width % BLOCK else BLOCK  # a table's blocks are all of one length
    blocks = -(-width // block)
    values, scales = (f"{name}.{node.op_type}.{part}" for part in ("int8", "scales"))
    if values not in computed:

        def rows() -> AnyArray:
            array = index.constant(name)
            assert array is not None
            return array.T if turned else array

        kind = np.int8 if gather else np.uint8
        graph_edit.declare_weight(graph, values, (n, blocks, block), kind)
        shape = (n, blocks, 1) if gather else (n, blocks)
        graph_edit.declare_weight(graph, scales, shape, np.float32)
        computed[scales] = lambda: block_scales(rows(), block).reshape(shape)
        if gather:
            computed[values] = lambda: quantize(rows(), block)
        else:  # 128 more, as uint8
            computed[values] = lambda: quantize(rows(), block).view(np.uint8) ^ np.uint8(_ZERO)
    result = node.output[0]
    if gather:
        return _dequantized(graph, values, scales, node.input[1], width, result)
    product, bias = f"{result}.product", node.input[2] if len(node.input) > 2 else ""
    made = helper.make_node(
        "MatMulNBits",
        [node.input[0], values, scales],
        [product if bias else result],
        domain=_DOMAIN,
        K=width,
        N=n,
        bits=8,
        block_size=BLOCK,
        accuracy_level=_INT8_PRODUCTS,
    )
    return [made, *([helper.make_node("Add", [product, bias], [result])] if bias else [])]


def _dequantized(
    graph: Any, values: str, scales: str, ids: str, width: int, result: str
) -> list[Any]:
    """Nodes that take rows from a table in blocks (n, blocks, block) and its scales."""
    from onnx import TensorProto, helper

    taken, wide, scale, product, size, shape, last = (f"{result}.{i}" for i in range(7))
    graph.initializer.append(helper.make_tensor(last, TensorProto.INT64, [1], [width]))
    return [
        helper.make_node("Gather", [values, ids], [taken]),
        helper.make_node("Cast", [taken], [wide], to=TensorProto.FLOAT),
        helper.make_node("Gather", [scales, ids], [scale]),
        helper.make_node("Mul", [wide, scale], [product]),
        helper.make_node("Shape", [ids], [size]),
        helper.make_node("Concat", [size, last], [shape], axis=0),
        helper.make_node("Reshape", [product, shape], [result]),
    ]


def block_scales(rows: AnyArray, block: int = BLOCK) -> AnyArray:
    """The scale of each block: (n, width) → (n, blocks), float32."""
    found = np.empty((len(rows), -(-rows.shape[1] // block)), np.float32)
    for where, blocks in _parts(rows, block):
        found[where] = _scales(blocks)
    return found


def quantize(rows: AnyArray, block: int = BLOCK) -> AnyArray:
    """Integers of each block, the last one filled up with zeros: (n, blocks, block), int8."""
    found = np.empty((len(rows), -(-rows.shape[1] // block), block), np.int8)
    for where, blocks in _parts(rows, block):
        scales = _scales(blocks)[..., None]
        found[where] = np.rint(blocks / np.where(scales > 0, scales, 1))
    return found


def _scales(blocks: AnyArray) -> AnyArray:
    """max |w| / 127 of each block: (rows, blocks, block) → (rows, blocks)."""
    scales: AnyArray = np.abs(blocks).max(axis=2) / np.float32(127)
    return scales


def _parts(rows: AnyArray, block: int) -> Iterator[tuple[slice, AnyArray]]:
    """Some rows at a time, in blocks: (rows, blocks, block)."""
    start = 0
    for part in graph_edit.row_blocks(rows):
        short = -part.shape[1] % block
        filled = np.pad(part, ((0, 0), (0, short))) if short else np.ascontiguousarray(part)
        yield slice(start, start + len(part)), filled.reshape(len(part), -1, block)
        start += len(part)
