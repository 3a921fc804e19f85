"""A map or head out of ONNX: what `carry` wrote, or anybody's single Gemm or MatMul and Add."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
from linalign_lite.onnx.metadata import check_card, read_metadata
from linalign_lite.onnx.safe_parse import parse_model, read_tensor
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.npz import DEFAULT_CAP

_SHAPE = "one Gemm, or MatMul and Add, of the input; after it x / c, Tanh, · c for a soft cap"


def from_onnx(
    path: PathLike, kind: str | None = None, *, cap: int = DEFAULT_CAP
) -> AffineMap | Head:
    """Read a map or head that `to_onnx` wrote, or somebody else's as plain.

    kind: "map" or "head"; needed when the file has no card of ours to say it. Weights keep the
    dtype they are stored in. cap: the most bytes of one weight.

    Raises FormatError when the file is altered, not of this form, or its weights are outside of
    its folder; InputError when it is not there, is a whole model, is int8 (rounded too much to
    be a map again), or ``kind`` is missing or another; MissingExtraError without `onnx`.
    """
    path = Path(path)
    metadata = read_metadata(path)
    card = check_card(path, metadata) if metadata.has_card else None
    kind = _kind(path, card, kind)
    import_extra("onnx", extra="onnx", purpose="reading ONNX")
    model = parse_model(path)
    read = _Reading(path, model, cap)
    weight, bias, softcap = read.all()
    with _named(path):
        return _map(weight, bias, card) if kind == "map" else _head(weight, bias, softcap, card)


def _kind(path: Path, card: Mapping[str, Any] | None, kind: str | None) -> str:
    if kind not in {None, "map", "head"}:
        raise InputError("the kind is not known", got=repr(kind), expected="map or head")
    if card is None:
        if kind is None:
            raise InputError(
                f"{path} does not say whether it is a map or a head",
                hint="say it: --kind map or --kind head",
            )
        return kind
    said = str(card["kind"])
    if said == "model":
        raise InputError(
            f"{path} is a whole model, which is not read back",
            hint="keep the .npz files that it was made from",
        )
    if card.get("dtype") == "int8":
        raise InputError(
            f"{path} is int8, which is not read back",
            hint="keep the .npz file that it was made from",
        )
    if kind not in {None, said}:
        raise InputError(f"{path} is of another kind", got=said, expected=kind or "")
    return said


@dataclass
class _Reading:
    """Follows the one path from input to output; whatever stands beside it is an error."""

    path: Path
    model: Any
    cap: int

    def all(self) -> tuple[AnyArray, AnyArray, float | None]:
        """weight (out, in), bias (out,), soft cap."""
        graph = self.model.graph
        self.stored = {t.name: t for t in graph.initializer}
        inputs = [v.name for v in graph.input if v.name not in self.stored]
        plain = all(n.domain in ("", "ai.onnx") for n in graph.node)
        extra = len(self.model.functions) + len(graph.sparse_initializer)
        if len(inputs) != 1 or len(graph.output) != 1 or not plain or extra:
            raise self.wrong("other inputs, outputs or operators")
        nodes = [n for n in graph.node if not self._is_cast(n)]
        if any(len(n.output) != 1 for n in nodes):
            raise self.wrong("a node of several outputs")
        self.nodes, self.at = nodes, inputs[0]
        weight, bias = self._affine()
        softcap = self._softcap() if self.nodes else None
        if self.nodes or self.at != graph.output[0].name:
            raise self.wrong("nodes beside the one path from input to output")
        return weight, bias, softcap

    def _is_cast(self, node: Any) -> bool:
        """float16 weights: from now on the cast's name stands for them."""
        if node.op_type != "Cast" or len(node.input) != 1 or node.input[0] not in self.stored:
            return False
        self.stored[node.output[0]] = self.stored[node.input[0]]
        return True

    def _affine(self) -> tuple[AnyArray, AnyArray]:
        node = self._next("Gemm", "MatMul")
        if len(node.input) not in {2, 3} or node.input[0] != self.at:
            raise self.wrong("a product of something else than input and weight")
        weight = self._number(node.input[1], 2)
        if node.op_type == "Gemm":
            usual = {"alpha": 1.0, "beta": 1.0, "transA": 0}
            if any(graph_edit.attribute(node, k, v) != v for k, v in usual.items()):
                raise self.wrong("a Gemm that scales or transposes")
            across = graph_edit.attribute(node, "transB", 0) == 0
            weight = weight.T if across else weight
            bias = self._number(node.input[2], 1) if len(node.input) == 3 else None
        else:
            weight, bias = weight.T, None
        self.at = node.output[0]
        if bias is None and self.nodes and self.nodes[0].op_type == "Add":
            bias = self._number(self._other(self._next("Add")), 1)
        if max(weight.shape) > 1 << 24 or weight.shape[1] > MAX_DIM:
            raise self.wrong("more dimensions than are read")
        none = np.zeros(len(weight), weight.dtype)
        return np.ascontiguousarray(weight), none if bias is None else bias

    def _softcap(self) -> float:
        before = float(self._number(self._other(self._next("Div"), ordered=True), 0))
        node = self._next("Tanh")
        if list(node.input) != [self.at]:
            raise self.wrong("a Tanh of something else")
        self.at = node.output[0]
        if before != float(self._number(self._other(self._next("Mul")), 0)):
            raise self.wrong("a soft cap that divides and multiplies by different numbers")
        return before

    def _next(self, *kinds: str) -> Any:
        if not self.nodes or self.nodes[0].op_type not in kinds:
            raise self.wrong(self.nodes[0].op_type[:40] if self.nodes else "too few nodes")
        return self.nodes.pop(0)

    def _other(self, node: Any, *, ordered: bool = False) -> str:
        """Of a node of two inputs the one that is not the path; the path goes on behind it."""
        names = list(node.input)
        if len(names) != 2 or self.at not in (names[:1] if ordered else names):
            raise self.wrong(f"a {node.op_type} of something else")
        names.remove(self.at)
        self.at = node.output[0]
        return str(names[0])

    def _number(self, name: str, rank: int) -> AnyArray:
        if name not in self.stored:
            raise self.wrong("a weight that is computed")
        array = read_tensor(self.path, self.stored[name], self.cap)
        if array.ndim != rank and not (rank == 0 and array.shape == (1,)):
            raise self.wrong(f"a weight of shape {array.shape}")
        return array.reshape(()) if rank == 0 else array

    def wrong(self, what: str) -> FormatError:
        return FormatError(f"{self.path} is not a map or a head as ONNX", got=what, expected=_SHAPE)


def _map(weight: AnyArray, bias: AnyArray, card: Mapping[str, Any] | None) -> AffineMap:
    if card is None:
        return AffineMap(weight, bias, card={"method": "from ONNX"})
    spaces = (Space.parse(card.get(STATES)), Space.parse(card.get(MAPPED)))
    return AffineMap(weight, bias, *spaces, _info(card))


def _head(
    weight: AnyArray, bias: AnyArray, softcap: float | None, card: Mapping[str, Any] | None
) -> Head:
    if card is None:
        return Head(weight, bias, softcap=softcap, card={"method": "from ONNX"})
    scores = card.get(SCORES)
    labels = scores.get("labels") if isinstance(scores, dict) else None
    if not isinstance(labels, list) or not all(type(label) is str for label in labels):
        raise FormatError("its card's labels are not a list of strings")
    return Head(weight, bias, tuple(labels), Space.parse(card.get(STATES)), softcap, _info(card))


def _info(card: Mapping[str, Any]) -> dict[str, Any]:
    info = card.get("info")
    if not isinstance(info, dict):
        raise FormatError("its card's 'info' is not usable", got=type(info).__name__)
    return info


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """What the data classes find wrong becomes a FormatError that names the file."""
    try:
        yield
    except InputError as e:
        raise FormatError(f"{path}: {e}") from e
