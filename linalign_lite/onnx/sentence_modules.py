"""Read the modules of a sentence-transformers folder after its Transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.errors import InputError, import_extra, quote_errors
from linalign_lite.extraction.embedder import Embedder, Layer, LayerKind
from linalign_lite.storage.npz import AnyArray

MAX_WEIGHTS = 1 << 30  # bytes of a file of weights of one module
MODES = {  # in the order in which sentence-transformers concatenates those that are flags
    "cls": "cls",
    "cls_token": "cls",
    "max": "max",
    "max_tokens": "max",
    "mean": "mean",
    "mean_tokens": "mean",
    "mean_sqrt_len_tokens": "mean-sqrt",
    "weightedmean": "weighted-mean",
    "weightedmean_tokens": "weighted-mean",
    "lasttoken": "last",
    "last": "last",
}
_PREFIX = "pooling_mode_"
_ACTIVATIONS = {
    "Identity": "identity",
    "Tanh": "tanh",
    "ReLU": "relu",
    "Sigmoid": "sigmoid",
    "SiLU": "silu",
    "GELU": "gelu",
}


@dataclass(frozen=True)
class SentenceModules:
    """Pooling, normalisation and, where these two are not all, the embedder of a model."""

    pooling: str = "mean"
    normalize: bool = False
    embedder: Embedder | None = None


def read_modules(folder: Path, entries: Any, read: Any) -> SentenceModules:
    """Read the modules that `modules.json` lists.

    entries: its content. read: makes an object of a JSON file. Raises InputError, naming it, for a
    module, a pooling or an activation that cannot be carried over, and for weights that are missing
    or of another shape; MissingExtraError where weights cannot be read without torch.
    """
    poolings, include_prompt, layers = tuple[str, ...](), True, list[Layer]()
    for number, entry in enumerate(entries):
        kind, path = kind_and_path(entry, number)
        inside = folder / path
        if number == 0 and kind == "Transformer":
            continue
        settings = read(inside / "config.json")
        if kind == "Pooling" and not poolings:
            poolings = _poolings(settings)
            include_prompt = settings.get("include_prompt", True) is not False
        elif kind in ("Dense", "LayerNorm") and poolings:
            layers.append((_dense if kind == "Dense" else _layer_norm)(inside, settings))
        elif kind == "Normalize" and poolings:
            layers.append(Layer(LayerKind("normalize")))
        elif kind != "Dropout" or not poolings:
            raise InputError(
                f"a module of {folder.name} cannot be exported",
                got=f"{kind[:60]} as number {number + 1}",
                expected="a Transformer, a Pooling, then Dense, LayerNorm, Dropout or Normalize",
            )
    poolings = poolings or ("mean",)
    normalize = bool(layers) and layers[-1].kind.kind == "normalize"
    layers = layers[:-1] if normalize else layers
    if len(poolings) == 1 and not layers and include_prompt:
        return SentenceModules(poolings[0], normalize)
    return SentenceModules(
        "embedding", normalize, Embedder(poolings, tuple(layers), include_prompt)
    )


def kind_and_path(entry: Any, number: int) -> tuple[str, str]:
    """Kind and path of a module. Raises InputError for a path outside the folder."""
    kind = entry.get("type") if isinstance(entry, dict) else None
    path = entry.get("path", "") if isinstance(entry, dict) else None
    inside = isinstance(path, str) and not path.startswith("/") and ".." not in Path(path).parts
    if not isinstance(kind, str) or not inside:
        raise InputError(f"modules.json: module {number + 1} is not usable", got=str(entry)[:80])
    home, _, name = kind.rpartition(".")
    return (name if f"{home}.".startswith("sentence_transformers.") else kind), str(path)


def _poolings(settings: Mapping[str, Any]) -> tuple[str, ...]:
    mode = settings.get("pooling_mode")
    if mode is None:  # flags, in the order of MODES
        on = {k[len(_PREFIX) :] for k, v in settings.items() if k.startswith(_PREFIX) and v is True}
        modes = [m for m in MODES if m in on] + sorted(on - MODES.keys())
        modes = modes or ["mean"]
    else:
        modes = list(mode) if isinstance(mode, list) else [mode]
    for name in modes:
        if not isinstance(name, str) or name not in MODES:
            raise InputError(
                "a pooling of the model cannot be exported",
                got=str(name)[:60],
                expected=", ".join(MODES),
            )
    return tuple(MODES[name] for name in modes)


def _dense(folder: Path, settings: Mapping[str, Any]) -> Layer:
    name = str(settings.get("activation_function", "torch.nn.modules.activation.Tanh"))
    activation = _ACTIVATIONS.get(name.rpartition(".")[2]) if name.startswith("torch.nn.") else None
    if activation is None:
        raise InputError(
            f"the activation of {folder.name} cannot be exported",
            got=name[:80],
            expected=f"of torch.nn: {', '.join(_ACTIVATIONS)}",
        )
    feature = "sentence_embedding"
    for key in ("module_input_name", "module_output_name"):
        if settings.get(key) not in (None, feature):
            got = str(settings[key])[:60]
            problem = f"{folder.name} does not work on the embedding alone"
            raise InputError(problem, got=f"{key} {got}", expected=feature)
    outputs, inputs = settings.get("out_features"), settings.get("in_features")
    weights = _weights(folder)
    bias = None
    if settings.get("bias", True) is not False:
        bias = _take(weights, "linear.bias", (outputs,), folder)
    weight = _take(weights, "linear.weight", (outputs, inputs), folder)
    return Layer(LayerKind("dense", activation), weight, bias)


def _layer_norm(folder: Path, settings: Mapping[str, Any]) -> Layer:
    weights, shape = _weights(folder), (settings.get("dimension"),)
    scale, shift = (_take(weights, f"norm.{part}", shape, folder) for part in ("weight", "bias"))
    return Layer(LayerKind("layer-norm"), scale, shift)


def _take(weights: Mapping[str, Any], name: str, shape: tuple[Any, ...], folder: Path) -> AnyArray:
    found = weights.get(name)
    if found is None or tuple(found.shape) != shape:
        raise InputError(
            f"{folder.name} lacks the weight {name}" if found is None else
            f"the weight {name} of {folder.name} does not fit its config.json",
            got=", ".join(map(str, weights))[:120] if found is None else str(tuple(found.shape)),
            expected=str(shape),
        )  # fmt: skip
    array: AnyArray = np.ascontiguousarray(found.float().numpy(), dtype=np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"the weight {name} of {folder.name} is not finite")
    return array


def _weights(folder: Path) -> Mapping[str, Any]:
    """Tensors of `model.safetensors` or `pytorch_model.bin`; nothing is unpickled but tensors."""
    paths = [folder / name for name in ("model.safetensors", "pytorch_model.bin")]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        expected = "model.safetensors or pytorch_model.bin"
        raise InputError(f"the weights of the module {folder.name} are missing", expected=expected)
    if path.stat().st_size > MAX_WEIGHTS:
        raise InputError(f"{path} is too large", expected=f"at most {MAX_WEIGHTS} bytes")
    torch = import_extra("torch", extra="export", purpose="reading the weights of a module")
    with quote_errors(f"{path} is not a readable file of weights"):
        if path.suffix == ".bin":
            found = torch.load(path, map_location="cpu", weights_only=True)
            return {str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)}
        from safetensors.torch import load_file

        return dict(load_file(path))
