"""Taking in graphs that others exported: the same cut, the same checks, the same folder.

Needs `onnx`, onnxruntime and NumPy; neither torch nor transformers.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from linalign_lite.errors import InputError, import_extra
from linalign_lite.extraction.model_card import CARD_FILE, MODEL_FILE, TOKENIZER_FILE, ModelCard
from linalign_lite.onnx import float16, graph_edit, model_folder, parity, pooling
from linalign_lite.onnx.cut_token_head import LOGITS, cut_graph, final_output, past_inputs
from linalign_lite.onnx.tokens import TEXTS, check_tokenizer, read_tokenizer, write_tokenizer
from linalign_lite.storage.atomic import check_free, whole_folder

_ROUNDED = "rounded"


def split_exported(
    source: Path,
    out: Path,
    *,
    name: str | None = None,
    dtype: str = "fp32",
    progress: Callable[[str], None] | None = None,
    one_file_limit: int = graph_edit.ONE_FILE_LIMIT,
    quantize: Sequence[str] | None = None,
) -> ModelCard:
    """Make an exported model folder from an ONNX folder that somebody else exported.

    source: has `model.onnx` or `onnx/model.onnx`, `tokenizer.json` and `config.json`. A causal
    LM's graph has an output `logits`, and its token head is cut off; any other has an output
    `last_hidden_state`. Original and result are compared on the same texts (see `parity`). With
    dtype fp16 both are compared after their weights are rounded.
    one_file_limit: bytes of weights above which they go to `model.onnx_data`. quantize: as
    `export_model` does it.

    Raises InputError when the folder is not usable, OutputExistsError when ``out`` is there,
    ParityError when the result says something else. Nothing is left behind then.
    """
    source, out = Path(source), Path(out)
    say = progress or (lambda _: None)
    model_folder.check_dtype(dtype, quantize)
    check_free(out)
    path = _find_graph(source)
    origin = model_folder.Origin(name or source.resolve().name, source, pooling.read_config(source))
    if origin.config.get("is_encoder_decoder"):
        raise InputError(
            "encoder-decoder models are not taken", got=pooling.architecture(origin.config)
        )
    original = read_tokenizer(source / TOKENIZER_FILE)
    import_extra("onnx", extra="export", purpose="reading an ONNX model")
    with whole_folder(out) as folder:
        say("loading")
        model = _load(path)
        if dtype == "fp16":
            float16.round_stored(model)
            (folder / _ROUNDED).mkdir()
            path = graph_edit.save(model, folder / _ROUNDED, one_file_limit)
            model = _load(path)  # saving may have moved the weights out of it
        reference = _reference(path, model, origin)
        if final_output(model.graph) == LOGITS:
            say("cutting off the token head")
        cut = cut_graph(model, origin.config)
        graph_edit.set_standard_types(model)
        if dtype == "fp16":
            float16.store_half(model)
        graph_edit.check(graph_edit.save(model, folder, one_file_limit))
        tokenizer = write_tokenizer(original.to_str(), folder)
        check_tokenizer(
            tokenizer,
            lambda text: original.encode(text).ids,
            model_folder.vocab_size(cut, origin.config),
        )
        say(f"checking {len(TEXTS)} texts")
        data = parity.batches([tokenizer.encode(t).ids for t in TEXTS], origin.max_length)
        graph = parity.open_graph(folder / MODEL_FILE, cut.past)
        numbers = parity.measure(graph, reference, data, cut.head)
        shutil.rmtree(folder / _ROUNDED, ignore_errors=True)
        if quantize is not None:
            numbers, dtype = model_folder.quantize(
                folder, cut, origin, tokenizer, quantize, numbers, one_file_limit, say
            )
        remark = pooling.read_pooling(source).remark
        if remark:
            say(f"note: {remark}")
        return model_folder.seal(folder, model, cut, origin, tokenizer, dtype, numbers)


def _find_graph(source: Path) -> Path:
    if not source.is_dir():
        raise InputError(f"{source} is not a folder", expected="one with model.onnx in it")
    if (source / CARD_FILE).is_file():
        raise InputError(f"{source} is an exported model already", hint="use it as it is")
    for path in (source / MODEL_FILE, source / "onnx" / MODEL_FILE):
        if path.is_file():
            return path
    found = sorted(p.relative_to(source).as_posix() for p in source.rglob("*.onnx"))
    raise InputError(
        f"{source} has no {MODEL_FILE}",
        got=", ".join(found)[:200] or "no .onnx file",
        expected=f"{MODEL_FILE} or onnx/{MODEL_FILE}; merged, split or quantised decoders are "
        "not needed",
        hint="export it with Optimum for the task text-generation-with-past, or feature-extraction",
    )


def _load(path: Path) -> Any:
    import onnx

    try:
        return onnx.load(str(path))
    except Exception as e:  # protobuf's and onnx's own types, and the system's
        raise InputError(
            f"{path} is not a readable ONNX model", got=f"{type(e).__name__}: {str(e)[:160]}"
        ) from e


def _reference(path: Path, model: Any, origin: model_folder.Origin) -> parity.Reference:
    """The original graph through onnxruntime."""
    name = final_output(model.graph)
    graph_edit.require_known_inputs(model)
    original = parity.open_graph(path, past_inputs(model.graph, origin.config))

    def run(ids: parity.Int64, mask: parity.Int64) -> tuple[Any, Any]:
        result = original.run(ids, mask)[name]
        return (None, result) if name == LOGITS else (result, None)

    return run
