"""Exporting a Hugging Face model to a folder that runs with onnxruntime alone.

Optimum makes the graph; a causal LM's token head is cut off it; then the result is compared with
the torch model (see `parity`) before anything is left on disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from linalign_lite.errors import InputError, import_extra
from linalign_lite.extraction.model_card import MODEL_FILE, ModelCard
from linalign_lite.onnx import float16, graph_edit, model_folder, parity, pooling, reference
from linalign_lite.onnx.cut_token_head import Cut, cut_graph
from linalign_lite.onnx.tokens import TEXTS, check_tokenizer, write_tokenizer
from linalign_lite.storage.atomic import check_free, whole_folder

TASKS = ("auto", "embed", "generate")
_RAW = "raw"  # what Optimum writes, inside the temporary folder
_MODULES = ("torch", "transformers", "onnx", "optimum.exporters.onnx")


def export_model(
    model: str,
    out: Path,
    *,
    task: str = "auto",
    dtype: str = "fp32",
    opset: int | None = None,
    progress: Callable[[str], None] | None = None,
    one_file_limit: int = graph_edit.ONE_FILE_LIMIT,
    quantize: Sequence[str] | None = None,
) -> ModelCard:
    """Export ``model`` to the folder ``out`` (docs/FORMAT.md, section 2).

    model: a local folder, or a hub id when there is no such folder. Custom code never runs.
    task: `embed` (final hidden states), `generate` (with a KV cache; the token head becomes a
        file of its own), or `auto`: generate for a causal LM that is not a sentence encoder.
    dtype: `fp16` stores weights as float16 and computes in float32; the torch model that it is
        compared with then has its weights rounded the same way.
    opset: of ONNX; Optimum chooses when None. progress: called with plain words at each step.
    one_file_limit: bytes of weights above which they go to `model.onnx_data`.
    quantize: texts; the weights are then stored as int8 and computed with as such, and the card
        says how near the states of these texts are to those of the float32 graph.

    Raises InputError when the model is not usable, OutputExistsError when ``out`` is there,
    MissingExtraError without the `export` extra, ParityError when the exported graph disagrees
    with the model. Nothing is left behind then.
    """
    out = Path(out)
    say = progress or (lambda _: None)
    model_folder.check_dtype(dtype, quantize)
    if task not in TASKS:
        raise InputError("the task is not known", got=repr(task), expected=", ".join(TASKS))
    local = reference.find_model(model)
    check_free(out)
    for module in _MODULES:
        import_extra(module, extra="export", purpose="exporting a model")
    if local is None:
        say(f"downloading {model}")
    source = reference.download(model) if local is None else local
    name = model if local is None else source.resolve().name
    origin = model_folder.Origin(name, source, pooling.read_config(source))
    if origin.config.get("is_encoder_decoder"):
        raise InputError(
            "encoder-decoder models are not exported", got=pooling.architecture(origin.config)
        )
    if task == "auto":
        task = pooling.guess_task(source, origin.config)
    with whole_folder(out) as folder:
        return _export(origin, folder, task, dtype, opset, say, one_file_limit, quantize)


def _export(
    origin: model_folder.Origin,
    folder: Path,
    task: str,
    dtype: str,
    opset: int | None,
    say: Callable[[str], None],
    one_file_limit: int,
    texts: Sequence[str] | None,
) -> ModelCard:
    import onnx

    say("loading")
    tokenizer = reference.load_tokenizer(origin.folder)
    torch_model = reference.load(origin.folder, task)
    if dtype == "fp16":
        reference.round_parameters(torch_model)
    say("exporting")
    graph = onnx.load(str(reference.export_graph(torch_model, folder / _RAW, task, opset)))
    shutil.rmtree(folder / _RAW)
    if task == "generate":
        say("cutting off the token head")
    cut = cut_graph(graph, origin.config)
    _require_task(cut, task)
    graph_edit.set_standard_types(graph)
    if dtype == "fp16":
        float16.store_half(graph)
    graph_edit.check(graph_edit.save(graph, folder, one_file_limit))
    saved = write_tokenizer(tokenizer.backend_tokenizer.to_str(), folder)
    with reference.quiet():
        size = model_folder.vocab_size(cut, origin.config)
        check_tokenizer(saved, lambda text: tokenizer(text)["input_ids"], size)
    say(f"checking {len(TEXTS)} texts")
    data = parity.batches([saved.encode(text).ids for text in TEXTS], origin.max_length)
    numbers = parity.measure(
        parity.open_graph(folder / MODEL_FILE, cut.past),
        reference.reference(torch_model, task),
        data,
        cut.head,
    )
    if texts is not None:
        numbers, dtype = model_folder.quantize(
            folder, cut, origin, saved, texts, numbers, one_file_limit, say
        )
    remark = pooling.read_pooling(origin.folder).remark
    if remark:
        say(f"note: {remark}")
    return model_folder.seal(folder, graph, cut, origin, saved, dtype, numbers)


def _require_task(cut: Cut, task: str) -> None:
    if task == "generate" and not cut.past:
        raise InputError("the exported graph has no KV cache", hint="export it with --task embed")
