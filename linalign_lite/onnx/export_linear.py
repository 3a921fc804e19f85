"""Maps and heads as ONNX: one Gemm, and a Tanh where the head has a soft cap."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head, soft_capped
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import InputError
from linalign_lite.onnx import artefact, graph_edit
from linalign_lite.onnx.artefact import Artefact, Check
from linalign_lite.onnx.graph_builder import IR, OPSET, Affine, Builder, add_affine, add_softcap
from linalign_lite.onnx.graph_edit import AnyArray
from linalign_lite.storage.atomic import PathLike

STATES, MAPPED, SCORES = "states", "mapped", "scores"
_ROWS = (1, 7, 64)  # of the states that it is checked on
_MOST = 256  # rows of somebody's states that it is checked on


def to_onnx(
    out: PathLike,
    thing: AffineMap | Head,
    *,
    dtype: str = "fp32",
    states: HiddenStates | None = None,
    limit: float | None = None,
    one_file_limit: int = graph_edit.ONE_FILE_LIMIT,
) -> Artefact:
    """Write a map, a head, or ``head @ map`` as ONNX (FORMAT.md, section 8).

    Input `states` (batch, d) float32; output `mapped` (batch, d_target) of a map, `scores` (batch,
    n_outputs) of a head: states·weight + bias, then c·tanh(x/c) if the head has a soft cap c.

    dtype: how the weight is stored. fp32; fp16, computed with in float32; int8, quantised per
    output, states quantised as they come. The result is run with onnxruntime and compared with
    NumPy on random states, or on ``states``, before it is left on disk. limit: on the error of
    int8, ‖int8 − fp32‖ / ‖fp32‖ over all outputs; default artefact.INT8_LIMIT.

    Raises ParityError beyond the limit (1e-4 for fp32 and fp16), MissingExtraError without `onnx`,
    MismatchError when ``states`` are of another space. Nothing is left behind then.
    """
    held_to = artefact.begin(dtype, limit, "writing ONNX")
    output = MAPPED if isinstance(thing, AffineMap) else SCORES
    affine = Affine.of(thing.weight, thing.bias, dtype)
    cap = thing.softcap if isinstance(thing, Head) else None
    model = _graph(affine, cap, output)
    if dtype == "int8":
        from linalign_lite.onnx.quantization import quantize_artefact

        model = quantize_artefact(model, one_file_limit)
    elif dtype == "fp16":
        from linalign_lite.onnx.float16 import store_float16

        store_float16(model)
    rows = _rows(thing, states)
    check = Check(
        [{STATES: x} for x in rows],
        [{output: soft_capped(affine.apply(x), cap)} for x in rows],
        held_to,
        dtype == "int8",
    )
    return artefact.write(Path(out), model, _card(thing, dtype), check, one_file_limit)


def _graph(affine: Affine, cap: float | None, output: str) -> Any:
    from onnx import TensorProto, helper

    width, height = affine.weight.shape
    graph = helper.make_graph(
        [],
        "linalign",
        [helper.make_tensor_value_info(STATES, TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", height])],
    )
    build = Builder(graph)
    add_output(build, affine, cap, STATES, output)
    build.finish()
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)


def add_output(
    build: Builder, affine: Affine, cap: float | None, read: str, write: str, name: str = ""
) -> None:
    """An affine part, and the soft cap when there is one."""
    if cap is None:
        add_affine(build, affine, read, write, name)
    else:
        add_softcap(build, cap, add_affine(build, affine, read, "", name), write)


def _card(thing: AffineMap | Head, dtype: str) -> dict[str, Any]:
    if isinstance(thing, AffineMap):
        return {
            "kind": "map",
            "dtype": dtype,
            STATES: dataclasses.asdict(thing.source),
            MAPPED: dataclasses.asdict(thing.target),
            "info": plain(thing.card),
        }
    return {
        "kind": "head",
        "dtype": dtype,
        STATES: dataclasses.asdict(thing.space),
        SCORES: scores_card(thing),
        "info": plain(thing.card),
    }


def scores_card(head: Head) -> dict[str, Any]:
    """What a card says of the output `scores`."""
    return {"n": head.n_outputs, "labels": list(head.labels), "softcap": head.softcap}


def plain(card: Mapping[str, Any]) -> dict[str, Any]:
    """A copy whose nested mappings are dictionaries, for JSON."""
    return {
        key: plain(value) if isinstance(value, Mapping) else value for key, value in card.items()
    }


def _rows(thing: AffineMap | Head, states: HiddenStates | None) -> list[AnyArray]:
    """Inputs to check on: one row, and several; float32."""
    space = thing.source if isinstance(thing, AffineMap) else thing.space
    if states is None:
        rng = np.random.default_rng(0)
        return [rng.standard_normal((n, space.dim)).astype(np.float32) for n in _ROWS]
    space.require(states.space, "these states do not belong to it")
    if not len(states):
        raise InputError("there are no states to check on")
    rows = states.states[:_MOST].astype(np.float32)
    return [rows[:1], rows]
