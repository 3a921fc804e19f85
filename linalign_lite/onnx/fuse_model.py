"""Fuse a text model, its pooling, a map and a head: token ids in, states and scores out."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.choices import TextPooling
from linalign_lite.core.head import Head
from linalign_lite.core.space import Space
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.extraction.batching import pool
from linalign_lite.extraction.embedder import Embedder
from linalign_lite.extraction.model_card import (
    LAST_HIDDEN_STATE,
    MODEL_FILE,
    TOKENIZER_FILE,
    ModelCard,
)
from linalign_lite.extraction.session import Model, load_model
from linalign_lite.onnx import artefact, float16, graph_edit, parity
from linalign_lite.onnx.artefact import Artefact, Expected
from linalign_lite.onnx.export_linear import MAPPED, SCORES, STATES, scores_card
from linalign_lite.onnx.float16 import round_to_float16
from linalign_lite.onnx.graph_builder import (
    MIN_OPSET,
    GraphBuilder,
    LinearLayer,
    add_embedder,
    add_linear,
    add_normalize,
    add_pooling,
    set_values,
)
from linalign_lite.onnx.graph_edit import AnyArray
from linalign_lite.onnx.tokenizer_file import TEXTS
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.schema import plain

IDS, MASK = "input_ids", "attention_mask"


@dataclass(frozen=True, eq=False)
class _Parts:
    """The parts of a fused graph. A map that is folded into the head is no part of it."""

    model: Model
    space: Space  # of the output `states`
    map: AffineMap | None
    head: Head | None
    folded: bool
    dtype: str

    @cached_property
    def layers(self) -> dict[str, LinearLayer]:
        """The layers after pooling by their outputs, in order."""
        found = {MAPPED: self.map, SCORES: self.head}
        return {name: LinearLayer.of(p, self.dtype) for name, p in found.items() if p is not None}

    @cached_property
    def embedder(self) -> Embedder | None:
        """The model's own modules if the pooling is theirs, rounded for fp16."""
        found = self.model.embedder if self.space.pooling == "embedding" else None
        return found.rounded(round_to_float16) if found and self.dtype == "fp16" else found

    @cached_property
    def prompt_tokens(self) -> int:
        """Number of tokens of the prompt, which poolings may leave out."""
        return self.model.prompt_tokens(self.space.prompt) if self.embedder else 0

    def expected(self, last_hidden_state: AnyArray, mask: AnyArray) -> dict[str, AnyArray]:
        """Compute all outputs in NumPy. last_hidden_state: (batch, length, d)."""
        lengths = mask.sum(axis=1)
        if self.embedder is None:
            states = pool(last_hidden_state, lengths, self.space.pooling)
        else:
            states = self.embedder.apply(last_hidden_state, lengths, self.prompt_tokens)
        if self.space.normalize:
            norms = np.linalg.norm(states, axis=1, keepdims=True)
            states = states / np.maximum(norms, 1e-12)
        outputs = {STATES: states}
        for name, layer in self.layers.items():
            states = outputs[name] = layer.apply(states)
        return outputs


def fuse(
    out: PathLike,
    model: Model | PathLike,
    *,
    map: AffineMap | None = None,  # noqa: A002 (the field's word)
    head: Head | None = None,
    pooling: str | None = None,
    normalize: bool | None = None,
    prompt: str | None = None,
    dtype: str = "fp32",
    fold: bool = False,
    limit: float | None = None,
    progress: Callable[[str], None] | None = None,
    one_file_limit: int = graph_edit.ONE_FILE_LIMIT,
) -> Artefact:
    """Write an exported model with pooling, a map and a head as one ONNX graph.

    Inputs `input_ids` and `attention_mask` (batch, length), int64, padded on the right. Outputs
    `states` (batch, d), pooled and optionally scaled to length 1; `mapped` if there is a map;
    `scores` if there is a head, of mapped states if there is a map (docs/FORMAT.md, section 8).

    pooling, normalize, prompt: as in `extract`; they default to those of the space that the map, or
    else the head, reads, then to the model's. The graph takes tokens of the prompt and the text;
    the card has the prompt in the space of `states`. fold: with a map and a head, one Gemm for
    both: smaller, the map is not disclosed, and there is no `mapped`. dtype: fp32 leaves the
    model's weights as they are stored; fp16 stores all as float16 and computes in float32; int8 as
    in `to_onnx`. limit: as in `to_onnx`. progress: called with a description of each step.

    The graph is compared with the model's own folder, pooling and NumPy on texts before it is
    written. Raises MismatchError when the parts do not belong together, ParityError when the graph
    gives other outputs, MissingExtraError without `onnx`. Nothing is left behind then.
    """
    say = progress or (lambda _: None)
    limit = artefact.check_options(dtype, limit, "fusing a model")
    if fold and (map is None or head is None):
        raise InputError("only a map and a head are folded into one", expected="both of them")
    loaded = model if isinstance(model, Model) else load_model(model)
    space = _space(loaded, map, head, pooling, normalize, prompt)
    folded = head @ map if fold and head is not None and map is not None else None
    parts = _Parts(loaded, space, None if folded else map, folded or head, fold, dtype)
    with tempfile.TemporaryDirectory() as folder:
        say("running the model")
        graph, expected = _load(parts, limit, Path(folder), one_file_limit)
        say("fusing")
        _fuse(graph, parts)
        if dtype == "int8":
            say("quantising")
        graph = artefact.store_as(graph, dtype, one_file_limit)
        say("comparing")
        return artefact.write_artefact(Path(out), graph, _card(parts), expected, one_file_limit)


def _space(
    model: Model,
    first: AffineMap | None,
    head: Head | None,
    pooling: str | None,
    normalize: bool | None,
    prompt: str | None,
) -> Space:
    """The space of the output `states`, after checking that all parts belong together."""
    reader = first.source if first else head.space if head else None
    chosen = prompt is not None
    if reader is not None:
        pooling = reader.pooling or None if pooling is None else pooling
        known = normalize is None and bool(reader.model)
        normalize = reader.normalize if known else normalize
        prompt = reader.prompt if reader.model and prompt is None else prompt
    space = model.card.space(pooling, normalize, prompt)
    if space.pooling not in list(TextPooling):
        raise InputError(
            "this pooling does not make one state per text",
            got=repr(space.pooling),
            expected=", ".join(TextPooling),
            hint="a map of tokens' states is written by `linalign-lite onnx`",
        )
    if reader is not None:
        what = f"this {'map' if first else 'head'} reads other states"
        reader.require(space, what, any_prompt=chosen)  # queries may have another than documents
    if first is not None and head is not None:
        head.space.require(first.target, "this map does not lead into this head's space")
    return space


def _load(parts: _Parts, limit: float, folder: Path, one_file_limit: int) -> tuple[Any, Expected]:
    """The model's own graph, with weights rounded for fp16, and the outputs of the fused graph."""
    import onnx

    graph = onnx.load(str(parts.model.folder / MODEL_FILE))
    if graph_edit.opset(graph) < MIN_OPSET:
        raise InputError(
            "the model's opset is too old",
            got=str(graph_edit.opset(graph)),
            expected=f"{MIN_OPSET} or later",
            hint="export it again",
        )
    run = parts.model.run
    if parts.dtype == "fp16":
        float16.round_weights(graph)
        path = graph_edit.save(graph, folder, one_file_limit)
        rounded = parity.open_graph(path, parts.model.card.past)
        graph = onnx.load(str(path))

        def run(ids: AnyArray, mask: AnyArray) -> AnyArray:
            return rounded.run(ids, mask)[LAST_HIDDEN_STATE]

    feeds, outputs = [], []
    encoded = [e.ids for e in parts.model.encode([parts.space.prompt + t for t in TEXTS])]
    for ids, mask in parity.batches(encoded, parts.model.card.max_length):
        feeds.append({IDS: ids, MASK: mask})
        outputs.append(parts.expected(run(ids, mask), mask))
    return graph, Expected(feeds, outputs, limit, mean_square=parts.dtype == "int8")


def _fuse(model: Any, parts: _Parts) -> None:
    """Add all parts to the model's own graph, in place."""
    build = _adapt_model(model, parts)
    widths, last = {STATES: parts.space.dim}, STATES
    for name, layer in parts.layers.items():
        add_linear(build, layer, last, name, "map." if name == MAPPED else "head.")
        widths[name], last = len(layer.bias), name
    build.finish()
    set_values(model.graph.output, widths)
    graph_edit.prune(model)


def _adapt_model(model: Any, parts: _Parts) -> GraphBuilder:
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
    build = _add_inputs(graph, parts.model.card)
    pooled = "pooled" if parts.space.normalize else STATES
    if parts.embedder is None:
        add_pooling(build, parts.space.pooling, LAST_HIDDEN_STATE, MASK, pooled)
    else:
        tokens = parts.prompt_tokens
        add_embedder(build, parts.embedder, LAST_HIDDEN_STATE, MASK, pooled, tokens)
    if parts.space.normalize:
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


def _card(parts: _Parts) -> dict[str, Any]:
    card = parts.model.card
    found: dict[str, Any] = {
        "kind": "model",
        "dtype": parts.dtype,
        STATES: plain(parts.space),
        "model": {
            "name": card.name,
            "architecture": card.architecture,
            "digest": card.digest,
            "max_length": card.max_length,
            "tokenizer": card.files[TOKENIZER_FILE]["sha256"],
        },
        "folded": parts.folded,
    }
    if parts.map is not None:
        found[MAPPED] = plain(parts.map.target)
        found["map_info"] = parts.map.card
    if parts.head is not None:
        found[SCORES] = scores_card(parts.head)
        found["head_info"] = parts.head.card
    return found


def tokenizer_beside(out: Path, model: Path) -> Path:
    """The path of the tokenizer beside ``out``. Raises MismatchError if another one is there."""
    target, source = out.parent / TOKENIZER_FILE, model / TOKENIZER_FILE
    if target.exists() and target.read_bytes() != source.read_bytes():
        raise MismatchError(
            f"{target} exists already and is another model's",
            hint="give each artefact a folder of its own, or leave out --with-tokenizer",
        )
    return target
