"""An exported model's graph, made to ask for ids and mask alone and to give pooled states."""

from __future__ import annotations

from typing import Any

import numpy as np

from linalign_lite.core.space import Space
from linalign_lite.extraction.model_card import LAST_HIDDEN_STATE, ModelCard
from linalign_lite.onnx import graph_edit
from linalign_lite.onnx.export_linear import MAPPED, SCORES, STATES
from linalign_lite.onnx.graph_builder import Builder, add_normalize, add_pooling

IDS, MASK = "input_ids", "attention_mask"


def add_stem(model: Any, card: ModelCard, space: Space) -> Builder:
    """Change a model's graph in place: output `states` is one state a text.

    What it wants beside ids and mask is made inside, as runtime.Model feeds it: token types of
    zero, positions counted by the mask, an empty cache. Returns the builder to go on with, which
    has yet to be finished; the graph's outputs are still the model's.
    """
    graph = model.graph
    for name in (STATES, MAPPED, SCORES):  # ours; whoever has them inside gets another
        if _has(graph, name):
            graph_edit.rename(graph, name, f"{name}__inner")
    del graph.value_info[:]  # says how long the cache is, in words that are no longer true
    build = _feed(graph, card)
    pooled = "pooled" if space.normalize else STATES
    add_pooling(build, space.pooling, LAST_HIDDEN_STATE, MASK, pooled)
    if space.normalize:
        add_normalize(build, pooled, STATES)
    return build


def _has(graph: Any, name: str) -> bool:
    made = any(name in node.output for node in graph.node)
    return made or any(t.name == name for t in graph.initializer)


def _feed(graph: Any, card: ModelCard) -> Builder:
    """Make inside what the graph asks for beside ids and mask."""
    from onnx import TensorProto, helper, numpy_helper

    names = {value.name for value in graph.input}
    build = Builder(graph)
    shape = build.node("Shape", IDS)
    whole = numpy_helper.from_array(np.zeros(1, dtype=np.int64))
    if "token_type_ids" in names:
        build.node("ConstantOfShape", shape, to="token_type_ids", value=whole)
    if "position_ids" in names:
        counted = build.node("CumSum", MASK, build.whole(1))
        less = build.node("Sub", counted, build.ints(1))
        build.node("Max", less, build.ints(0), to="position_ids")
    if card.past:
        batch = build.node("Slice", shape, build.ints(0), build.ints(1))
    for past in card.past:
        form = build.node("Concat", batch, build.ints(past.heads, 0, past.head_dim), axis=0)
        empty = numpy_helper.from_array(np.zeros(1, dtype=np.float32))
        build.node("ConstantOfShape", form, to=past.name, value=empty)
    build.finish(first=True)
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
        for name in (IDS, MASK)
    ]
    del graph.input[:]
    graph.input.extend(inputs)
    return build
