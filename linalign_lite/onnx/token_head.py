"""Read the operations between a causal LM's final hidden states and its logits as one head.

They are collected from the logits back to the projection, then folded, in order, into
softcap · tanh((weight·z + bias) / softcap), or weight·z + bias without a soft cap.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.head import Head
from linalign_lite.errors import InputError
from linalign_lite.onnx.graph_edit import AnyArray, GraphIndex, Weights, attribute

Floats = npt.NDArray[np.floating[Any]]

_PASS = ("Cast", "Identity")  # keep all values
_VIEW = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")  # only around a Gemm, which is 2-D
_PICK = ("Gather", "Slice")  # select positions
_ARITHMETIC = ("Add", "Sub", "Mul", "Div")
_LEFT_FIRST = ("Sub", "Div")
_HINT = "the token head must be a projection with bias, scaling or soft cap at most"


def read_token_head(
    graph: Any, logits: str = "logits", weights: Weights | None = None
) -> tuple[str, Head]:
    """Fold the projection and all operations up to ``logits`` into one head.

    Returns the name of the projected tensor and the head, (vocab, hidden) float32. Raises
    InputError, which names the operation, when one cannot be folded.
    """
    index = GraphIndex(graph, weights)
    after, projection = _walk_back(index, logits)
    weight, bias, fed = _projection(index, projection)
    views = [n for n in after if n.op_type in _VIEW]
    if projection.op_type == "MatMul" and views:
        raise _unknown(views[0])
    state = _state(index, fed, flat=projection.op_type == "Gemm")
    weight, bias, softcap = _fold(index, weight, bias, after)
    weight = np.ascontiguousarray(weight, dtype=np.float32)
    card = {"method": "token head"}
    return state, Head(weight, bias.astype(np.float32), softcap=softcap, card=card)


def _unknown(node: Any) -> InputError:
    return InputError(
        "an operation between the final hidden states and the logits is not supported",
        got=f"{node.op_type} ({node.name or 'unnamed'})",
        expected="MatMul or Gemm, then Add, Mul, Div, Tanh or Cast",
        hint=_HINT,
    )


def _walk_back(index: GraphIndex, logits: str) -> tuple[list[Any], Any]:
    """The nodes after the projection, in the order of the graph, and the projection."""
    after: list[Any] = []
    name = logits
    while (node := index.producers.get(name)) is not None:
        if node.op_type in ("MatMul", "Gemm"):
            return after[::-1], node
        name = _data_input(index, node)
        after.append(node)
    raise InputError("no projection leads to the logits", got=f"{name!r}, which no node computes")


def _data_input(index: GraphIndex, node: Any) -> str:
    """The input that carries the scores: the only one, or the one that is not a constant."""
    one_input = node.op_type in (*_PASS, *_VIEW, "Tanh")
    if one_input or (node.op_type in _PICK and _picks_positions(index, node)):
        return str(node.input[0])
    if node.op_type in _ARITHMETIC:
        left, right = (index.constant(name) is not None for name in node.input)
        if right and not left:
            return str(node.input[0])
        if left and not right and node.op_type not in _LEFT_FIRST:
            return str(node.input[1])
    raise _unknown(node)


def _picks_positions(index: GraphIndex, node: Any) -> bool:
    if node.op_type == "Gather":
        return int(attribute(node, "axis", 0)) in (1, -2)
    axes = index.constant(node.input[3]) if len(node.input) > 3 and node.input[3] else None
    return axes is not None and {int(a) for a in axes.reshape(-1)} <= {1, -2}


def _projection(index: GraphIndex, node: Any) -> tuple[Floats, Floats, str]:
    """Weight (vocab, hidden), bias (vocab,) and the name of the projected tensor."""
    stored = index.constant(node.input[1])
    if stored is None or stored.ndim != 2:
        raise InputError(
            "the projection's weight is not stored in the graph",
            got=f"{node.op_type} ({node.name or 'unnamed'}) of {', '.join(node.input)}",
            hint=_HINT + "; quantised heads are not read",
        )
    if node.op_type == "MatMul":
        weight = stored.T
        return weight, np.zeros(weight.shape[0]), str(node.input[0])
    if attribute(node, "transA", 0):
        raise _unknown(node)
    weight = stored if attribute(node, "transB", 0) else stored.T
    alpha = float(attribute(node, "alpha", 1.0))
    bias = np.zeros(weight.shape[0])
    if len(node.input) > 2 and node.input[2]:
        found = index.constant(node.input[2])
        if found is None:
            raise _unknown(node)
        bias += _row(found, len(bias), node) * float(attribute(node, "beta", 1.0))
    return (weight if alpha == 1 else weight * np.float64(alpha)), bias, str(node.input[0])


def _state(index: GraphIndex, name: str, *, flat: bool) -> str:
    """Step back over casts and selections of positions, since all positions are exported."""
    while (node := index.producers.get(name)) is not None:
        if node.op_type in _PASS or (node.op_type in _PICK and _picks_positions(index, node)):
            flat = flat and node.op_type != "Gather"
        elif node.op_type in _VIEW and flat:
            flat = False
        else:
            break
        name = str(node.input[0])
    if flat:
        raise InputError(
            "the final hidden states are not batch × length × d",
            got=f"{name!r}, projected by a Gemm",
            hint=_HINT,
        )
    return name


def _fold(
    index: GraphIndex, weight: Floats, bias: Floats, after: list[Any]
) -> tuple[Floats, Floats, float | None]:
    """Fold the nodes after the projection, in order: scale·(W z) + bias, then perhaps tanh."""
    scale, cap = 1.0, 0.0
    for node in after:
        if node.op_type in (*_PASS, *_VIEW, *_PICK):
            continue
        if node.op_type == "Tanh":
            if cap:
                raise _unknown(node)
            cap = 1.0
            continue
        left, right = (index.constant(name) for name in node.input)
        value = right if right is not None else left
        assert value is not None
        if node.op_type in ("Add", "Sub"):
            if cap:
                raise _unknown(node)
            bias = bias + _row(value, len(bias), node) * (1 if node.op_type == "Add" else -1)
            continue
        if value.size != 1 or not float(value.reshape(-1)[0]):
            raise _unknown(node)
        factor = float(value.reshape(-1)[0])
        factor = factor if node.op_type == "Mul" else 1 / factor
        if cap:
            cap *= factor
        else:
            scale, bias = scale * factor, bias * factor
    if cap < 0 or not math.isfinite(cap):
        raise InputError("the soft cap is not usable", got=repr(cap), expected="above 0")
    if cap:  # cap·tanh(x) = cap·tanh((cap·x) / cap)
        scale, bias = scale * cap, bias * cap
    if abs(scale - 1) > 1e-9:
        weight = _scaled(weight, scale)
    return weight, bias, cap or None


def _scaled(weight: Floats, scale: float) -> Floats:
    """The product, rounded once, without a copy of all weights in float64."""
    result = np.empty(weight.shape, dtype=np.float32)
    for row, scaled in zip(weight, result, strict=True):
        scaled[:] = row * np.float64(scale)
    return result


def _row(value: AnyArray, n: int, node: Any) -> Floats:
    """An added constant, (n,) or one number."""
    if value.size not in (1, n) or (value.size == n and value.shape[-1:] != (n,) and n > 1):
        raise _unknown(node)
    return value.reshape(-1).astype(np.float64)
