"""A text model, its pooling, a map and a head as one graph: token ids in, states and scores out."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head, soft_capped
from linalign_lite.core.space import Space
from linalign_lite.errors import InputError, MismatchError
from linalign_lite.extraction.batching import pool
from linalign_lite.extraction.model_card import LAST_HIDDEN_STATE, MODEL_FILE, TOKENIZER_FILE
from linalign_lite.extraction.session import Model, load_model
from linalign_lite.onnx import artefact, float16, graph_edit, parity
from linalign_lite.onnx.artefact import Artefact, Check
from linalign_lite.onnx.export_linear import MAPPED, SCORES, STATES, add_output, plain, scores_card
from linalign_lite.onnx.graph_builder import LEAST_OPSET, Affine
from linalign_lite.onnx.graph_edit import AnyArray
from linalign_lite.onnx.input_adapters import add_stem
from linalign_lite.onnx.tokenizer_file import TEXTS
from linalign_lite.storage.atomic import PathLike

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is fused. ``first`` reads the states, ``second`` what ``first`` gives, or the states."""

    model: Model
    space: Space
    map: AffineMap | None
    head: Head | None  # head ∘ map when fold
    fold: bool
    dtype: str

    def affine(self, part: AffineMap | Head) -> Affine:
        return Affine.of(part.weight, part.bias, self.dtype)

    @property
    def mapped(self) -> bool:
        return self.map is not None and not self.fold


def fuse(
    out: PathLike,
    model: Model | PathLike,
    *,
    map: AffineMap | None = None,  # noqa: A002 (the field's word)
    head: Head | None = None,
    pooling: str | None = None,
    normalize: bool | None = None,
    dtype: str = "fp32",
    fold: bool = False,
    limit: float | None = None,
    progress: Say | None = None,
    one_file_limit: int = graph_edit.ONE_FILE_LIMIT,
) -> Artefact:
    """Write an exported model with pooling, a map and a head as one ONNX graph.

    Inputs `input_ids` and `attention_mask` (batch, length), int64, padded on the right. Outputs
    `states` (batch, d), pooled and, if so asked, scaled to length 1; `mapped` when there is a map;
    `scores` when there is a head, of mapped states if there is a map (docs/FORMAT.md, section 8).

    pooling, normalize: default to those that the map's, or else the head's, space states, then to
    the model's. fold: with a map and a head, one Gemm for both: smaller, the map does not travel,
    and there is no `mapped`. dtype: fp32 leaves the model's weights as they are stored; fp16 stores
    all as float16 and computes in float32; int8 as in `to_onnx`.
    limit: as in `to_onnx`. progress: called with plain words at each step.

    The graph is compared with the model's own folder, pooling and NumPy on texts before it is left
    on disk. Raises MismatchError when the parts do not belong together, ParityError when the graph
    says something else, MissingExtraError without `onnx`. Nothing is left behind then.
    """
    say = progress or (lambda _: None)
    held_to = artefact.begin(dtype, limit, "fusing a model")
    if fold and (map is None or head is None):
        raise InputError("only a map and a head are folded into one", expected="both of them")
    loaded = model if isinstance(model, Model) else load_model(model)
    space = _space(loaded, map, head, pooling, normalize)
    folded = head @ map if fold and head is not None and map is not None else head
    plan = _Plan(loaded, space, map, folded, fold, dtype)
    with tempfile.TemporaryDirectory() as folder:
        say("checking what the model says")
        graph, check = _checked(plan, held_to, Path(folder), one_file_limit)
        say("fusing")
        _fuse(graph, plan)
        if dtype == "fp16":
            float16.store_float16(graph)
        elif dtype == "int8":
            from linalign_lite.onnx.quantization import quantize_artefact

            say("quantising")
            graph = quantize_artefact(graph, one_file_limit)
        say("comparing")
        return artefact.write(Path(out), graph, _card(plan), check, one_file_limit)


def _space(
    model: Model, first: AffineMap | None, head: Head | None, pooling: str | None,
    normalize: bool | None,
) -> Space:  # fmt: skip
    """The space of the states that come out, once everything fits together."""
    reader = first.source if first else head.space if head else None
    if reader is not None:
        pooling = reader.pooling or None if pooling is None else pooling
        known = normalize is None and bool(reader.model)
        normalize = reader.normalize if known else normalize
    space = model.card.space(pooling, normalize)
    if space.pooling not in ("mean", "last", "cls"):
        raise InputError(
            "this pooling does not make one state of a text",
            got=repr(space.pooling),
            expected="mean, last or cls",
            hint="a map of tokens' states is written by `linalign-lite onnx`",
        )
    if reader is not None:
        reader.require(space, f"this {'map' if first else 'head'} reads other states")
    if first is not None and head is not None:
        head.space.require(first.target, "this map does not lead into this head's space")
    return space


def _checked(plan: _Plan, limit: float, folder: Path, one_file_limit: int) -> tuple[Any, Check]:
    """The model's own graph, its weights rounded for fp16, and what must come out after fusing."""
    import onnx

    path = plan.model.folder / MODEL_FILE
    graph = onnx.load(str(path))
    if graph_edit.opset(graph) < LEAST_OPSET:
        raise InputError("the model's opset is too old", got=str(graph_edit.opset(graph)),
                         expected=f"{LEAST_OPSET} or later", hint="export it again")  # fmt: skip
    run = plan.model.run
    if plan.dtype == "fp16":
        float16.round_weights(graph)
        rounded = parity.open_graph(
            graph_edit.save(graph, folder, one_file_limit), plan.model.card.past
        )
        graph = onnx.load(str(folder / MODEL_FILE))

        def run(ids: AnyArray, mask: AnyArray) -> AnyArray:
            return rounded.run(ids, mask)[LAST_HIDDEN_STATE]

    feeds, wanted = [], []
    encoded = [e.ids for e in plan.model.encode(TEXTS)]
    for ids, mask in parity.batches(encoded, plan.model.card.max_length):
        feeds.append({"input_ids": ids, "attention_mask": mask})
        wanted.append(expected(run(ids, mask), mask, plan.space, *_parts(plan)))
    return graph, Check(feeds, wanted, limit, plan.dtype == "int8")


def _parts(plan: _Plan) -> tuple[Affine | None, Affine | None, float | None]:
    first = plan.affine(plan.map) if plan.map is not None and plan.mapped else None
    second = plan.affine(plan.head) if plan.head is not None else None
    return first, second, plan.head.softcap if plan.head is not None else None


def expected(
    last: AnyArray, mask: AnyArray, space: Space,
    first: Affine | None, second: Affine | None, cap: float | None,
) -> dict[str, AnyArray]:  # fmt: skip
    """All outputs of a fused graph, in NumPy. last: (batch, length, d)."""
    states = pool(last, mask.sum(axis=1), space.pooling)
    if space.normalize:
        norms = np.linalg.norm(states, axis=1, keepdims=True)
        states = states / np.maximum(norms, 1e-12)
    found = {STATES: states}
    if first is not None:
        found[MAPPED] = first.apply(states)
    if second is not None:
        found[SCORES] = soft_capped(second.apply(found.get(MAPPED, states)), cap)
    return found


def _fuse(model: Any, plan: _Plan) -> None:
    """Build it all onto the model's own graph, in place."""
    from onnx import TensorProto, helper

    first, second, cap = _parts(plan)
    build = add_stem(model, plan.model.card, plan.space)
    names = {STATES: plan.space.dim}
    if first is not None:
        add_output(build, first, None, STATES, MAPPED, "map.")
        names[MAPPED] = len(first.bias)
    if second is not None:
        add_output(build, second, cap, MAPPED if first else STATES, SCORES, "head.")
        names[SCORES] = len(second.bias)
    build.finish()
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
        for name, width in names.items()
    ]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    graph_edit.prune(model)


def _card(plan: _Plan) -> dict[str, Any]:
    card = plan.model.card
    found: dict[str, Any] = {
        "kind": "model",
        "dtype": plan.dtype,
        STATES: dataclasses.asdict(plan.space),
        "model": {
            "name": card.name,
            "architecture": card.architecture,
            "digest": card.digest,
            "max_length": card.max_length,
            "tokenizer": card.files[TOKENIZER_FILE]["sha256"],
        },
        "folded": plan.fold,
    }
    if plan.map is not None and plan.mapped:
        found[MAPPED] = dataclasses.asdict(plan.map.target)
        found["map_info"] = plain(plan.map.card)
    if plan.head is not None:
        found[SCORES] = scores_card(plan.head)
        found["head_info"] = plain(plan.head.card)
    return found


def tokenizer_beside(out: Path, model: Path) -> Path:
    """Where the tokenizer goes; raises when another one is there already."""
    target, source = out.parent / TOKENIZER_FILE, model / TOKENIZER_FILE
    if target.exists() and target.read_bytes() != source.read_bytes():
        raise MismatchError(
            f"{target} is there already and is another model's",
            hint="give each artefact a folder of its own, or leave out --with-tokenizer",
        )
    return target
