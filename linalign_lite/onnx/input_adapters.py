"""Adapt an exported model's graph: inputs are ids and mask alone, the output is pooled states."""

from typing import Any

import numpy as np

from linalign_lite.core.space import Space
from linalign_lite.extraction.model_card import LAST_HIDDEN_STATE, ModelCard
from linalign_lite.onnx import graph_edit
from linalign_lite.onnx.export_linear import MAPPED, SCORES, STATES
from linalign_lite.onnx.graph_builder import GraphBuilder, add_normalize, add_pooling, set_values

IDS, MASK = "input_ids", "attention_mask"


def adapt_model(model: Any, card: ModelCard, space: Space) -> GraphBuilder:
    """Change a model's graph in place so that it computes `states`, (batch, d).

    All inputs but ids and mask become constants, as `extraction.session` feeds them: token types of
    zero, positions counted by the mask, an empty cache. Returns a builder that is not finished yet;
    the outputs of the graph stay the model's.
    """
    graph = model.graph
    index = graph_edit.GraphIndex(graph)
    for name in (STATES, MAPPED, SCORES):
        if name in index.producers or name in index.initializers:
            graph_edit.rename(graph, name, f"{name}__inner")
    del graph.value_info[:]  # its lengths of the cache no longer hold
    build = _add_inputs(graph, card)
    pooled = "pooled" if space.normalize else STATES
    add_pooling(build, space.pooling, LAST_HIDDEN_STATE, MASK, pooled)
    if space.normalize:
        add_normalize(build, pooled, STATES)
    return build


def _add_inputs(graph: Any, card: ModelCard) -> GraphBuilder:
    """Compute all inputs of the model from ids and mask."""
    from onnx import numpy_helper

    names = {value.name for value in graph.input}
    build = GraphBuilder(graph)
    shape = build.node("Shape", IDS)
    zero = numpy_helper.from_array(np.zeros(1, dtype=np.int64))
    if "token_type_ids" in names:
        build.node("ConstantOfShape", shape, output="token_type_ids", value=zero)
    if "position_ids" in names:
        counted = build.node("CumSum", MASK, build.constant(1))
        positions = build.node("Sub", counted, build.constant([1]))
        build.node("Max", positions, build.constant([0]), output="position_ids")
    if card.past:
        batch = build.node("Slice", shape, build.constant([0]), build.constant([1]))
    for past in card.past:
        sizes = build.constant([past.heads, 0, past.head_dim])
        cache_shape = build.node("Concat", batch, sizes, axis=0)
        empty = numpy_helper.from_array(np.zeros(1, dtype=np.float32))
        build.node("ConstantOfShape", cache_shape, output=past.name, value=empty)
    build.finish(first=True)
    set_values(graph.input, {IDS: "length", MASK: "length"}, "INT64")
    return build
