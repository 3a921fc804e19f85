"""Import maps and heads from ONNX: files of `to_onnx`, or any single Gemm or MatMul and Add."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.space import MAX_DIM, Space
from linalign_lite.errors import FormatError, InputError, import_extra
from linalign_lite.onnx import graph_edit
from linalign_lite.onnx.export_linear import MAPPED, SCORES, STATES
from linalign_lite.onnx.graph_edit import AnyArray
from linalign_lite.onnx.metadata import KEY, check_card, read_metadata
from linalign_lite.onnx.safe_parse import parse_model, read_tensor
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.npz import DEFAULT_CAP
from linalign_lite.storage.schema import format_errors, parse

_FORM = "one Gemm, or MatMul and Add, of the input; after it x / c, Tanh, · c for a soft cap"


def from_onnx(
    path: PathLike, kind: str | None = None, *, cap: int = DEFAULT_CAP
) -> AffineMap | Head:
    """Read a map or head that `to_onnx` wrote, or any graph of the same form.

    kind: "map" or "head"; needed if the file has no card of linalign-lite. Weights keep the dtype
    they are stored in. cap: the largest size of one weight in bytes.

    Raises FormatError when the file is altered, not of this form, or its weights are outside of
    its folder; InputError when it is absent, is a whole model, is int8 (rounded too much to be a
    map again), or ``kind`` is missing or another; MissingExtraError without `onnx`.
    """
    path = Path(path)
    metadata = read_metadata(path)
    card = check_card(path, metadata) if KEY in metadata.entries else None
    kind = _kind(path, card, kind)
    import_extra("onnx", extra="onnx", purpose="reading ONNX")
    weight, bias, softcap = _LinearGraph(path, parse_model(path), cap).read()
    with format_errors(path, kind):
        if card is None:
            found: dict[str, Any] = {"method": "from ONNX"}
            if kind == "map":
                return AffineMap(weight, bias, card=found)
            return Head(weight, bias, softcap=softcap, card=found)
        info, states = (
            parse(dict, card.get("info"), "info"),
            parse(Space, card.get(STATES), "space"),
        )
        if kind == "map":
            return AffineMap(weight, bias, states, parse(Space, card.get(MAPPED), "space"), info)
        scores = parse(dict, card.get(SCORES), SCORES)
        labels = parse(tuple[str, ...], scores.get("labels"), "labels")
        return Head(weight, bias, labels, states, softcap, info)


def _kind(path: Path, card: Mapping[str, Any] | None, kind: str | None) -> str:
    if kind not in {None, "map", "head"}:
        raise InputError("the kind is not known", got=repr(kind), expected="map or head")
    if card is None:
        if kind is None:
            raise InputError(
                f"{path} has no card that states whether it is a map or a head",
                hint="state it: --kind map or --kind head",
            )
        return kind
    found = str(card["kind"])
    if found == "model" or card.get("dtype") == "int8":
        what = "a whole model" if found == "model" else "int8"
        hint = "keep the .npz files that it was made from"
        raise InputError(f"{path} is {what}, which is not read back", hint=hint)
    if kind not in {None, found}:
        raise InputError(f"{path} is of another kind", got=found, expected=str(kind))
    return found


class _LinearGraph:
    """Follow the path from input to output; anything else in the graph is an error."""

    def __init__(self, path: Path, model: Any, cap: int) -> None:
        self.path, self.cap, graph = path, cap, model.graph
        self.initializers = {t.name: t for t in graph.initializer}
        inputs = [v.name for v in graph.input if v.name not in self.initializers]
        standard = all(n.domain in ("", "ai.onnx") for n in graph.node)
        extra = len(model.functions) + len(graph.sparse_initializer)
        if len(inputs) != 1 or len(graph.output) != 1 or not standard or extra:
            raise self.error("other inputs, outputs or operators")
        self.nodes = [n for n in graph.node if not self._is_cast(n)]  # those not read yet
        self.tensor = inputs[0]  # later the output of the last node that was read
        self.output = graph.output[0].name
        if any(len(n.output) != 1 for n in self.nodes):
            raise self.error("a node of several outputs")

    def read(self) -> tuple[AnyArray, AnyArray, float | None]:
        """Weight (out, in), bias (out,) and soft cap."""
        weight, bias = self._affine()
        softcap = self._softcap() if self.nodes else None
        if self.nodes or self.tensor != self.output:
            raise self.error("nodes beside the one path from input to output")
        return weight, bias, softcap

    def _is_cast(self, node: Any) -> bool:
        """Return True for the cast of a float16 weight, whose output then names the weight too."""
        one_input = node.op_type == "Cast" and len(node.input) == 1
        if not one_input or node.input[0] not in self.initializers:
            return False
        self.initializers[node.output[0]] = self.initializers[node.input[0]]
        return True

    def _affine(self) -> tuple[AnyArray, AnyArray]:
        node = self._next("Gemm", "MatMul")
        if len(node.input) not in {2, 3} or node.input[0] != self.tensor:
            raise self.error("a product of something else than input and weight")
        weight, bias = self._array(node.input[1], 2), None
        if node.op_type == "Gemm":
            defaults = {"alpha": 1.0, "beta": 1.0, "transA": 0}
            if any(graph_edit.attribute(node, k, v) != v for k, v in defaults.items()):
                raise self.error("a Gemm that scales or transposes")
            bias = self._array(node.input[2], 1) if len(node.input) == 3 else None
        if node.op_type == "MatMul" or graph_edit.attribute(node, "transB", 0) == 0:
            weight = weight.T
        self.tensor = node.output[0]
        if bias is None and self.nodes and self.nodes[0].op_type == "Add":
            bias = self._array(self._operand(self._next("Add")), 1)
        if max(weight.shape) > 1 << 24 or weight.shape[1] > MAX_DIM:
            raise self.error("more dimensions than are read")
        zeros = np.zeros(len(weight), weight.dtype)
        return np.ascontiguousarray(weight), zeros if bias is None else bias

    def _softcap(self) -> float:
        divisor = float(self._array(self._operand(self._next("Div"), ordered=True), 0))
        node = self._next("Tanh")
        if list(node.input) != [self.tensor]:
            raise self.error("a Tanh of something else")
        self.tensor = node.output[0]
        if divisor != float(self._array(self._operand(self._next("Mul")), 0)):
            raise self.error("a soft cap that divides and multiplies by different numbers")
        return divisor

    def _next(self, *kinds: str) -> Any:
        if not self.nodes or self.nodes[0].op_type not in kinds:
            raise self.error(self.nodes[0].op_type[:40] if self.nodes else "too few nodes")
        return self.nodes.pop(0)

    def _operand(self, node: Any, *, ordered: bool = False) -> str:
        """The input of a binary node beside the current tensor; its output becomes current.

        ordered: the current tensor must be the first input.
        """
        names = list(node.input)
        if len(names) != 2 or self.tensor not in (names[:1] if ordered else names):
            raise self.error(f"a {node.op_type} of something else")
        names.remove(self.tensor)
        self.tensor = node.output[0]
        return str(names[0])

    def _array(self, name: str, rank: int) -> AnyArray:
        if name not in self.initializers:
            raise self.error("a weight that is computed")
        array = read_tensor(self.path, self.initializers[name], self.cap)
        if array.ndim != rank and not (rank == 0 and array.shape == (1,)):
            raise self.error(f"a weight of shape {array.shape}")
        return array.reshape(()) if rank == 0 else array

    def error(self, what: str) -> FormatError:
        return FormatError(f"{self.path} is not a map or a head as ONNX", got=what, expected=_FORM)
