"""Import a graph that somebody else exported: the same steps and checks as `export_model`.

Needs `onnx`, onnxruntime and NumPy; neither torch nor transformers.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from linalign_lite.errors import InputError, import_extra, quote_errors
from linalign_lite.extraction.model_card import CARD_FILE, MODEL_FILE, TOKENIZER_FILE, ModelCard
from linalign_lite.onnx import export_pipeline, float16, graph_edit, parity
from linalign_lite.onnx.cut_token_head import LOGITS, final_output, past_inputs
from linalign_lite.onnx.export_pipeline import Settings, Source
from linalign_lite.onnx.model_config import ModelConfig
from linalign_lite.onnx.tokenizer_file import read_tokenizer
from linalign_lite.storage.atomic import check_free


def split_exported(
    source: Path,
    out: Path,
    *,
    name: str | None = None,
    dtype: str = "fp32",
    progress: Callable[[str], None] | None = None,
    one_file_limit: int = export_pipeline.EXPORT_FILE_LIMIT,
    quantize: Sequence[str] | None = None,
) -> ModelCard:
    """Make an exported model folder from an ONNX folder that somebody else exported.

    source: has `model.onnx` or `onnx/model.onnx`, `tokenizer.json` and `config.json`. The graph of
    a causal LM has an output `logits`, and its token head is cut off; any other graph has an output
    `last_hidden_state`. Original and result are compared on the same texts (see `parity`). With
    dtype fp16 both are compared after their weights are rounded.
    one_file_limit: bytes of weights above which they go to `model.onnx_data`. quantize: as in
    `export_model`.

    Raises InputError when the folder is not usable, OutputExistsError when ``out`` exists,
    ParityError when the result gives other outputs. Nothing is left behind then.
    """
    source, out = Path(source), Path(out)
    settings = Settings(dtype, one_file_limit, quantize, progress)
    check_free(out)
    path = _find_graph(source)
    config = ModelConfig.read(source, name)
    tokenizer = read_tokenizer(source / TOKENIZER_FILE)
    import_extra("onnx", extra="export", purpose="reading an ONNX model")

    def load(scratch: Path) -> Source:
        model, compared = _load(path), path
        if dtype == "fp16":
            float16.round_weights(model)
            compared = graph_edit.save(model, scratch, one_file_limit)
            model = _load(compared)  # saving may have moved the weights out of it
        reference = _reference(compared, model, config)
        return Source(model, tokenizer.to_str(), lambda t: tokenizer.encode(t).ids, reference)

    return export_pipeline.export(out, config, settings, load)


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
        expected=f"{MODEL_FILE} or onnx/{MODEL_FILE}, not a merged, split or quantised decoder",
        hint="export it with Optimum for the task text-generation-with-past, or feature-extraction",
    )


def _load(path: Path) -> Any:
    import onnx

    with quote_errors(f"{path} is not a readable ONNX model"):
        return onnx.load(str(path))


def _reference(path: Path, model: Any, config: ModelConfig) -> parity.Reference:
    """Outputs of the original graph, through onnxruntime."""
    name = final_output(model.graph)
    graph_edit.require_known_inputs(model)
    original = parity.open_graph(path, past_inputs(model.graph, config.raw))

    def run(ids: parity.Int64, mask: parity.Int64) -> tuple[Any, Any]:
        result = original.run(ids, mask)[name]
        return (None, result) if name == LOGITS else (result, None)

    return run
