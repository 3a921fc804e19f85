"""Export a Hugging Face model, through torch and Optimum, to a folder for onnxruntime alone."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from linalign_lite.core.choices import ExportTask
from linalign_lite.errors import InputError, import_extra
from linalign_lite.extraction.model_card import PAST, ModelCard
from linalign_lite.onnx import export_pipeline, torch_model
from linalign_lite.onnx.export_pipeline import Settings, Source
from linalign_lite.onnx.model_config import ModelConfig
from linalign_lite.storage.atomic import check_free


def export_model(
    model: str,
    out: Path,
    *,
    task: str = "auto",
    dtype: str = "fp32",
    opset: int | None = None,
    progress: Callable[[str], None] | None = None,
    one_file_limit: int = export_pipeline.EXPORT_FILE_LIMIT,
    quantize: Sequence[str] | None = None,
) -> ModelCard:
    """Export ``model`` to the folder ``out`` (docs/FORMAT.md, section 2).

    model: a local folder, or a hub id when there is no such folder. Custom code never runs.
    task: `embed` (final hidden states), `generate` (with a KV cache; the token head becomes a
        file of its own), or `auto`: generate for a causal LM that is not a sentence encoder.
    dtype: `fp16` stores weights as float16 and computes in float32; the torch model that it is
        compared with then has its weights rounded the same way. `int8` stores them in blocks (see
        `block_quantization`), within the limits `parity.INT8`, and a token head as float16.
    opset: of ONNX; Optimum chooses when None. progress: called with a description of each step.
    one_file_limit: bytes of weights above which they go to `model.onnx_data`.
    quantize: texts; the weights are then stored as int8 and multiplied as such, and the card has
        the cosines between the states of these texts and those of the float32 graph.

    The graph is compared with the torch model (see `parity`). Raises InputError when the model is
    not usable, OutputExistsError when ``out`` exists, MissingExtraError without the `export` extra,
    ParityError when the exported graph gives other outputs. Nothing is left behind then.
    """
    out = Path(out)
    settings = Settings(dtype, one_file_limit, quantize, progress)
    if task not in list(ExportTask):
        raise InputError("the task is not known", got=repr(task), expected=", ".join(ExportTask))
    folder = torch_model.find_model(model)
    check_free(out)
    for module in ("torch", "transformers", "onnx", "optimum.exporters.onnx"):
        import_extra(module, extra="export", purpose="exporting a model")
    if folder is None:
        settings.say(f"downloading {model}")
        config = ModelConfig.read(torch_model.download(model), model)
    else:
        config = ModelConfig.read(folder)
    chosen = config.task if task == "auto" else task
    return export_pipeline.export(
        out, config, settings, lambda scratch: _load(config, settings, chosen, opset, scratch)
    )


def _load(
    config: ModelConfig, settings: Settings, task: str, opset: int | None, scratch: Path
) -> Source:
    """Load the torch model and make its graph."""
    tokenizer = torch_model.load_tokenizer(config.folder)
    model = torch_model.load(config.folder, task)
    if settings.dtype == "fp16":
        torch_model.round_parameters(model)
    settings.say("exporting")
    graph, weights = torch_model.export_graph(model, scratch / "traced.onnx", task, opset)
    if task == "generate" and not any(v.name.startswith(PAST) for v in graph.graph.input):
        raise InputError("the exported graph has no KV cache", hint="export it with --task embed")

    def encode(text: str) -> Any:
        with torch_model.quiet():
            return tokenizer(text)["input_ids"]

    reference = torch_model.reference(model, task)
    return Source(graph, tokenizer.backend_tokenizer.to_str(), encode, reference, weights)
