"""Load a model with transformers, export its graph with Optimum, and compute its outputs.

Needs the `export` extra; every heavy import is inside a function. These libraries share no error
type, so all that they raise becomes an InputError that quotes it.
"""

import contextlib
import logging
import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.errors import InputError, quote_errors
from linalign_lite.onnx import float16, parity
from linalign_lite.onnx.model_config import ModelConfig
from linalign_lite.onnx.tokenizer_file import FAST_HINT

logger = logging.getLogger("linalign_lite.export")
_NOISY = ("optimum", "transformers", "torch", "huggingface_hub")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_WANTED = ["*.json", "*.txt", "*.model", "*.safetensors", "*.jinja"]
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
                values = float16.round_to_float16(parameter.numpy())
                parameter.copy_(torch.from_numpy(np.array(values)))


def export_graph(model: Any, folder: Path, task: str, opset: int | None) -> Path:
    """Export `model.onnx` into ``folder`` with Optimum. Raises InputError when that fails."""
    from optimum.exporters.onnx import onnx_export_from_model

    problem = f"Optimum does not export {type(model).__name__}"
    with _quoting(f"{problem} for the task {task}"):
        onnx_export_from_model(
            model=model,
            output=folder,
            task=_TASKS[task],
            opset=opset,
            do_validation=False,
            no_post_process=True,
            device="cpu",
        )
    path = folder / "model.onnx"
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in folder.glob("*.onnx")))
        raise InputError(f"{problem} as one graph", got=found[:200])
    return path


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
