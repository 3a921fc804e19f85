"""Load a model with transformers, export its graph with Optimum, and compute its outputs.

Needs the `export` extra; every heavy import is inside a function. These libraries share no error
type, so all that they raise becomes an InputError that quotes it.
"""

import contextlib
import inspect
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.errors import InputError, quote_errors
from linalign_lite.onnx import float16, graph_edit, parity
from linalign_lite.onnx.grouped_attention import grouped_attention
from linalign_lite.onnx.model_config import ModelConfig
from linalign_lite.onnx.tokenizer_file import FAST_HINT

logger = logging.getLogger("linalign_lite.export")
_NOISY = ("optimum", "transformers", "torch", "huggingface_hub")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_WANTED = ["*.json", "*.txt", "*.model", "*.safetensors", "*.jinja", "*_Dense/*.bin"]
_UNWANTED = ["onnx/*", "openvino/*", "coreml/*", "original/*", "gguf/*"]
_TASKS = {"embed": "feature-extraction", "generate": "text-generation-with-past"}


class _Forward(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        logger.debug("%s: %s", record.name, record.getMessage())


def _log_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    logger.debug("%s: %s", category.__name__, message)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Send the libraries' warnings and logs to the logger `linalign_lite.export` (debug)."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging as hf_logging

    bars = hf_logging.is_progress_bar_enabled()
    hub_bars = not are_progress_bars_disabled()
    hf_logging.disable_progress_bar()
    disable_progress_bars()
    loggers = [logging.getLogger(name) for name in _NOISY]
    before = [(log.handlers, log.propagate) for log in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.showwarning = _log_warning
        for log in loggers:
            log.handlers, log.propagate = [_Forward()], False
        try:
            yield
        finally:
            for log, (handlers, propagate) in zip(loggers, before, strict=True):
                log.handlers, log.propagate = handlers, propagate
            if bars:
                hf_logging.enable_progress_bar()
            if hub_bars:
                enable_progress_bars()


@contextlib.contextmanager
def _quoting(problem: str) -> Iterator[None]:
    hint = "export/README.md lists model families that are known to work"
    with quiet(), quote_errors(problem, hint=hint):
        yield


def find_model(model: str) -> Path | None:
    """The local folder ``model``, or None if it can only be a hub id.

    Raises InputError when it is neither.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    hint = "give a folder with config.json and weights, or a hub id such as ORGANISATION/MODEL"
    if path.exists():
        raise InputError(f"{model} is a file", expected="a model's folder", hint=hint)
    if not _HUB_ID.fullmatch(model):
        raise InputError(f"{model} is not a folder", got="nothing there", hint=hint)
    return None


def download(model: str) -> Path:
    """Download a model from the hub; with HF_HUB_OFFLINE, find it in the local cache."""
    from huggingface_hub import snapshot_download

    local = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    settings: dict[str, Any] = {"ignore_patterns": _UNWANTED, "local_files_only": local}
    problem = f"{model} is not a folder, and cannot be downloaded from the model hub"
    hint = "check the spelling; with HF_HUB_OFFLINE set only downloaded models are found"
    with quiet(), quote_errors(problem, hint=hint):
        folder = Path(snapshot_download(model, allow_patterns=_WANTED, **settings))
        if not list(folder.glob("*.safetensors")):
            snapshot_download(model, allow_patterns=["pytorch_model*.bin"], **settings)
    return folder


def load(folder: Path, task: str) -> Any:
    """Load the torch model in float32 on CPU, from local files only; custom code never runs.

    Raises InputError when weights are missing: transformers would fill them with random numbers.
    """
    from transformers import AutoModel, AutoModelForCausalLM

    if task == "generate":
        model, missing = _load_as(AutoModelForCausalLM, folder, task)
    else:
        model, missing = _load_as(AutoModel, folder, task)
        if missing and ModelConfig.read(folder).architecture.endswith("ForCausalLM"):
            # some families load their weights only as a whole
            model, missing = _load_as(AutoModelForCausalLM, folder, task)
            model = model.get_decoder()
    if missing:
        raise InputError(
            f"the weights of {folder.name} are not those of a {type(model).__name__}",
            got=f"{len(missing)} missing or of another shape, such as {missing[0]}",
            hint="is config.json of the same model? try another --task",
        )
    model.config.use_cache = task == "generate"
    return model.eval()


def _load_as(kind: Any, folder: Path, task: str) -> tuple[Any, list[str]]:
    """Load the model; return it with the names of the weights that the folder lacks."""
    import torch

    with _quoting(f"transformers does not load {folder.name} for the task {task}"):
        model, info = kind.from_pretrained(
            str(folder),
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    # a pooler comes after the final hidden states, which do not depend on it
    lacking = [*info["missing_keys"], *(str(m[0]) for m in info["mismatched_keys"])]
    return model, sorted(name for name in lacking if "pooler" not in name)


def load_tokenizer(folder: Path) -> Any:
    """Load the fast tokenizer. Raises InputError when the model has none."""
    from transformers import AutoTokenizer

    with _quoting(f"transformers does not load the tokenizer of {folder.name}"):
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), use_fast=True, local_files_only=True, trust_remote_code=False
        )
    if not tokenizer.is_fast:
        raise InputError(
            f"{folder.name} has no fast tokenizer", got=type(tokenizer).__name__, hint=FAST_HINT
        )
    return tokenizer


def round_parameters(model: Any) -> None:
    """Round the large parameters to float16 values, in place; they stay float32."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dtype == torch.float32:
                array = parameter.numpy()
                if array.size >= float16.MIN_SIZE and float16.in_range(array):
                    for rows in graph_edit.row_blocks(array):
                        rows[:] = rows.astype(np.float16)


def export_graph(
    model: Any, path: Path, task: str, opset: int | None
) -> tuple[Any, dict[str, graph_edit.AnyArray]]:
    """Export the graph of ``model`` by Optimum's settings, by way of the file ``path``.

    Returns the ModelProto, whose weights have no values, and the weights by name, which share the
    memory of the model. Weights are traced as inputs: torch copies all that it stores in a graph,
    twice. Raises InputError when the export fails.
    """
    import onnx
    import torch
    from optimum.exporters.utils import check_dummy_inputs_are_allowed

    with _quoting(f"Optimum does not export {type(model).__name__} for the task {task}"):
        config = _exporter_config(model, task)
        version = config.DEFAULT_ONNX_OPSET if opset is None else opset
        feeds = config.rename_ambiguous_inputs(config.generate_dummy_inputs(framework="pt"))
        every = [name for name in ("logits_to_keep",) if _takes(model, name)]
        with (
            torch.no_grad(),
            grouped_attention(),
            config.patch_model_for_export(model, model_kwargs=dict.fromkeys(every, 0)),
        ):
            check_dummy_inputs_are_allowed(model, feeds)
            names = [name for name in inspect.signature(model.forward).parameters if name in feeds]
            weights: dict[Any, str] = {}
            for name, tensor in model.state_dict(keep_vars=True).items():
                weights.setdefault(tensor, name)  # tied ones have one name
            inputs = config.ordered_inputs(model)
            torch.onnx.export(
                _functional(model, names, list(weights)),
                ([feeds[name] for name in names], list(weights)),
                f=str(path),
                input_names=[*inputs, *weights.values()],
                output_names=list(config.outputs),
                dynamic_axes={**inputs, **config.outputs},
                opset_version=version,
                dynamo=False,
            )
    graph = onnx.load(str(path))
    arrays = {name: tensor.detach().numpy() for tensor, name in weights.items()}
    return graph, graph_edit.declare_weights(graph, arrays)


def _exporter_config(model: Any, task: str) -> Any:
    """Optimum's settings for the model: names, shapes and axes of inputs and outputs, patches."""
    import optimum.exporters.onnx.model_configs  # noqa: F401 (registers the families)
    from optimum.exporters.tasks import TasksManager
    from optimum.exporters.utils import get_decoder_models_for_export

    TasksManager.standardize_model_attributes(model)
    make = TasksManager.get_exporter_config_constructor(
        model=model, exporter="onnx", task=_TASKS[task], library_name="transformers"
    )
    config = make(model.config, int_dtype="int64", float_dtype="fp32")
    if task == "generate":
        parts = get_decoder_models_for_export(model, config)
        if list(parts) != ["model"]:
            raise InputError("it is not exported as one graph", got=", ".join(parts)[:200])
        config = parts["model"][1]
    model.config.return_dict = True
    for name, value in (config.values_override or {}).items():
        setattr(model.config, name, value)
    return config


def _takes(model: Any, name: str) -> bool:
    return name in inspect.signature(model.forward).parameters


def _functional(model: Any, names: list[str], weights: list[Any]) -> Any:
    """A module without weights of its own: its inputs are those of ``model`` and the weights."""
    import torch

    number = {tensor: i for i, tensor in enumerate(weights)}
    slots = [  # torch.func.functional_call is not traced
        (held, name, number[tensor])
        for part in model.modules()
        for held in (part._parameters, part._buffers)
        for name, tensor in held.items()
        if tensor is not None and tensor in number
    ]

    class Functional(torch.nn.Module):  # type: ignore[misc]
        def forward(self, values: list[Any], traced: list[Any]) -> Any:
            try:
                for held, name, i in slots:
                    held[name] = traced[i]
                return model(**dict(zip(names, values, strict=True)))
            finally:
                for held, name, i in slots:
                    held[name] = weights[i]

    return Functional().eval()


def reference(model: Any, task: str) -> parity.Reference:
    """Return a function that computes final hidden states, and for a causal LM logits, in torch.

    The states of a causal LM are the inputs of its output projection.
    """
    import torch

    def run(ids: parity.Int64, mask: parity.Int64) -> tuple[Any, Any]:
        feeds = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        with quiet(), torch.inference_mode():
            if task == "embed":
                return model(**feeds).last_hidden_state.numpy(), None
            captured: list[Any] = []
            hook = model.get_output_embeddings().register_forward_pre_hook(
                lambda _, inputs: captured.append(inputs[0])
            )
            try:
                logits = model(**feeds, use_cache=False).logits
            finally:
                hook.remove()
            return captured[0].numpy(), logits.numpy()

    return run
