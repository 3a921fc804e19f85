"""Cut the token head off the graph of a causal LM. Needs only `onnx` and NumPy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from linalign_lite.core.head import Head
from linalign_lite.errors import InputError
from linalign_lite.extraction.model_card import LAST_HIDDEN_STATE, PAST, PRESENT, PastTensor
from linalign_lite.onnx import graph_edit
from linalign_lite.onnx.token_head import read_token_head

LOGITS = "logits"
_SYNONYMS = ("token_embeddings",)  # of last_hidden_state, in sentence-transformers


@dataclass(frozen=True)
class CutResult:
    """The token head (causal LM only), cache inputs and hidden size of a graph."""

    head: Head | None
    past: tuple[PastTensor, ...]
    hidden_size: int


def cut_graph(
    model: Any, config: Mapping[str, Any], weights: graph_edit.Weights | None = None
) -> CutResult:
    """Reduce a graph to docs/FORMAT.md section 2, in place, and return its token head.

    weights: those that are not in the graph; the head may share their memory.
    Raises InputError, which names the obstacle, when the graph is of another kind.
    """
    from onnx import TensorProto, helper

    graph = model.graph
    outputs = {value.name: value for value in graph.output}
    result = final_output(graph)
    kept, head = [], None
    if result == LOGITS:
        state, head = read_token_head(graph, LOGITS, weights)
        kind, width = TensorProto.FLOAT, head.weight.shape[1]
        kept = [value for value in graph.output if value.name.startswith(PRESENT)]
    else:
        state, kind = result, outputs[result].type.tensor_type.elem_type
        width = (graph_edit.shape(outputs[result]) or [None])[-1] or _hidden_size(config)
    _expose(graph, state, cast=head is not None and graph_edit.has_other_floats(model))
    dims = ["batch_size", "sequence_length", width]
    kept.insert(0, helper.make_tensor_value_info(LAST_HIDDEN_STATE, kind, dims))
    del graph.output[:]
    graph.output.extend(kept)
    graph_edit.prune(model)
    graph_edit.require_known_inputs(model)
    past = past_inputs(graph, config)
    if past and head is None:
        raise InputError(
            "the graph has a KV cache but no logits", got=f"outputs {', '.join(outputs)[:200]}"
        )
    return CutResult(head, past, width)


def final_output(graph: Any) -> str:
    """`logits` for a causal LM, else the output that holds the final hidden states."""
    names = [value.name for value in graph.output]
    for name in (LOGITS, LAST_HIDDEN_STATE, *_SYNONYMS):
        if name in names:
            return name
    raise InputError(
        "the graph has neither final hidden states nor logits",
        got=f"outputs {', '.join(names)[:200]}",
        expected=f"{LAST_HIDDEN_STATE} or {LOGITS}",
        hint="export it again with Optimum: `linalign-lite export MODEL OUT`",
    )


def past_inputs(graph: Any, config: Mapping[str, Any]) -> tuple[PastTensor, ...]:
    """The KV-cache inputs of a graph, in order; none for an encoder."""
    return tuple(_past(v, config) for v in graph.input if v.name.startswith(PAST))


def _hidden_size(config: Mapping[str, Any]) -> int:
    for key in ("hidden_size", "n_embd", "d_model", "dim"):
        if type(config.get(key)) is int:
            return int(config[key])
    raise InputError("neither the graph nor config.json states the hidden size")


def _expose(graph: Any, state: str, *, cast: bool) -> None:
    """Name the tensor ``state`` last_hidden_state, through a Cast or Identity where needed."""
    from onnx import TensorProto, helper

    computed = any(state in node.output for node in graph.node)
    if state == LAST_HIDDEN_STATE and computed and not cast:
        return
    if any(LAST_HIDDEN_STATE in node.output for node in graph.node):
        graph_edit.rename(graph, LAST_HIDDEN_STATE, f"{LAST_HIDDEN_STATE}__inner")
        state = f"{LAST_HIDDEN_STATE}__inner" if state == LAST_HIDDEN_STATE else state
    if cast:
        graph.node.append(
            helper.make_node("Cast", [state], [LAST_HIDDEN_STATE], to=TensorProto.FLOAT)
        )
    elif computed:
        graph_edit.rename(graph, state, LAST_HIDDEN_STATE)
    else:
        graph.node.append(helper.make_node("Identity", [state], [LAST_HIDDEN_STATE]))


def _past(value: Any, config: Mapping[str, Any]) -> PastTensor:
    dims = graph_edit.shape(value)
    heads = config.get("num_key_value_heads") or config.get("num_attention_heads")
    width = config.get("head_dim")
    if len(dims) == 4:
        heads, width = dims[1] or heads, dims[3] or width
    if len(dims) != 4 or not heads or not width or dims[2] is not None:
        raise InputError(
            f"the cache input {value.name} has an unknown layout",
            got=str(dims),
            expected="(batch, heads, past length, head_dim)",
        )
    return PastTensor(value.name, int(heads), int(width))
