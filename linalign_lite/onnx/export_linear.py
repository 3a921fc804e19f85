"""Export maps and heads as ONNX: one Gemm, and a Tanh if the head has a soft cap."""

from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import InputError
from linalign_lite.onnx import artefact, graph_edit
from linalign_lite.onnx.artefact import Artefact, Expected
from linalign_lite.onnx.graph_builder import (
    IR_VERSION,
    OPSET,
    GraphBuilder,
    LinearLayer,
    add_linear,
    set_values,
)
from linalign_lite.onnx.graph_edit import AnyArray
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.schema import plain

STATES, MAPPED, SCORES = "states", "mapped", "scores"
_BATCHES = (1, 7, 64)  # rows of the random inputs of a comparison
_MAX_ROWS = 256  # of given states in a comparison


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

    dtype: of the stored weight. fp32; fp16, computed in float32; int8, quantised per output, with
    states quantised by the range of each batch. The result is run with onnxruntime and compared
    with NumPy on random states, or on ``states``, before it is written. limit: on the error of
    int8, ‖int8 − fp32‖ / ‖fp32‖ over all outputs; default artefact.INT8_LIMIT.

    Raises ParityError beyond the limit (1e-4 for fp32 and fp16), MissingExtraError without `onnx`,
    MismatchError when ``states`` are of another space. Nothing is left behind then.
    """
    limit = artefact.check_options(dtype, limit, "writing ONNX")
    output = MAPPED if isinstance(thing, AffineMap) else SCORES
    layer = LinearLayer.of(thing, dtype)
    model = artefact.store_as(_graph(layer, output), dtype, one_file_limit)
    batches = _batches(thing, states)
    expected = Expected(
        [{STATES: x} for x in batches],
        [{output: layer.apply(x)} for x in batches],
        limit,
        mean_square=dtype == "int8",
    )
    return artefact.write_artefact(Path(out), model, _card(thing, dtype), expected, one_file_limit)


def _graph(layer: LinearLayer, output: str) -> Any:
    from onnx import helper

    graph = helper.make_graph([], "linalign", [], [])
    set_values(graph.input, {STATES: layer.weight.shape[0]})
    set_values(graph.output, {output: layer.weight.shape[1]})
    build = GraphBuilder(graph)
    add_linear(build, layer, STATES, output)
    build.finish()
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)


def _card(thing: AffineMap | Head, dtype: str) -> dict[str, Any]:
    if isinstance(thing, AffineMap):
        kind, source, output = "map", thing.source, {MAPPED: plain(thing.target)}
    else:
        kind, source, output = "head", thing.space, {SCORES: scores_card(thing)}
    states = plain(source)
    return {"kind": kind, "dtype": dtype, STATES: states, **output, "info": thing.card}


def scores_card(head: Head) -> dict[str, Any]:
    """The entry of a card for the output `scores`."""
    return {"n": head.n_outputs, "labels": list(head.labels), "softcap": head.softcap}


def _batches(thing: AffineMap | Head, states: HiddenStates | None) -> list[AnyArray]:
    """Inputs of the comparison, float32: one row alone, and several."""
    space = thing.source if isinstance(thing, AffineMap) else thing.space
    if states is None:
        rng = np.random.default_rng(0)
        return [rng.standard_normal((n, space.dim)).astype(np.float32) for n in _BATCHES]
    space.require(states.space, "these states do not belong to it")
    if not len(states):
        raise InputError("there are no states to compare on")
    rows = states.states[:_MAX_ROWS].astype(np.float32)
    return [rows[:1], rows]
