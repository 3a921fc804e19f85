"""Read the modules of a sentence-transformers folder after its Transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from linalign_lite.core.dense_module import module_weights, read_dense, take
from linalign_lite.errors import InputError
from linalign_lite.extraction.embedder import Embedder, Layer, LayerKind

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
    module = read_dense(folder, settings)
    return Layer(LayerKind("dense", module.activation), module.weight, module.bias)


def _layer_norm(folder: Path, settings: Mapping[str, Any]) -> Layer:
    weights, shape = module_weights(folder), (settings.get("dimension"),)
    scale, shift = (take(weights, f"norm.{part}", shape, folder) for part in ("weight", "bias"))
    return Layer(LayerKind("layer-norm"), scale, shift)
