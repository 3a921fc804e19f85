"""Maps as Dense modules of sentence-transformers: a folder of config.json and model.safetensors.

The form is that of `sentence_transformers.models.Dense` 2.4 to 5. Nothing is unpickled but tensors.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from linalign_lite.core.affine_map import AffineMap, float32_weights
from linalign_lite.core.serialization import MAP, VERSION, map_card, map_of
from linalign_lite.errors import InputError, import_extra, quote_errors
from linalign_lite.storage.atomic import PathLike, open_regular, whole_folder
from linalign_lite.storage.npz import AnyArray
from linalign_lite.storage.schema import format_errors, read_document, strict_json

MAX_WEIGHTS = 1 << 30  # bytes of a file of weights of one module
CONFIG, WEIGHTS = "config.json", "model.safetensors"
CARD = "linalign"  # name of the map's card in the metadata of model.safetensors
_MAX_CONFIG = 1 << 20  # bytes
_PURPOSE, _UNREADABLE = "reading the weights of a module", "{} is not a readable file of weights"
_NUMPY_TYPES = ("F16", "F32", "F64")
_ACTIVATIONS = {
    "Identity": "identity",
    "Tanh": "tanh",
    "ReLU": "relu",
    "Sigmoid": "sigmoid",
    "SiLU": "silu",
    "GELU": "gelu",
}


@dataclass(frozen=True, eq=False)
class DenseModule:
    """activation(Wz + b)."""

    activation: str
    weight: AnyArray  # shape: (out, in); float32
    bias: AnyArray | None  # shape: (out,); float32


def to_dense(out: PathLike, affine: AffineMap) -> None:
    """Write a map as a Dense module with identity activation, whole or not at all.

    `sentence_transformers.models.Dense.load(out)` loads it, float32. The map's card, with its
    spaces, is in the metadata of `model.safetensors`.

    Raises OutputExistsError for a folder that is not empty, InputError for values beyond float32,
    MissingExtraError without `safetensors`.
    """
    numpy_files = import_extra("safetensors.numpy", extra="safetensors", purpose="writing a module")
    weight, bias = float32_weights(affine)
    config = {
        "in_features": weight.shape[1],
        "out_features": weight.shape[0],
        "bias": True,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    card = {**map_card(affine), "format": MAP, "version": VERSION}
    text = json.dumps(card, sort_keys=True, allow_nan=False)
    tensors = {"linear.weight": np.ascontiguousarray(weight), "linear.bias": bias}
    with whole_folder(Path(out)) as folder:
        (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        data = numpy_files.save(tensors, {CARD: text})  # one entry: of several, the order varies
        (folder / WEIGHTS).write_bytes(data)


def from_dense(folder: PathLike) -> AffineMap:
    """Read a Dense module with identity activation as a map, float32.

    Spaces and card are those that `to_dense` wrote, unknown in folders of others. Raises
    FormatError, or InputError when it is not there.
    """
    folder = Path(folder)
    with open_regular(folder / CONFIG) as f, format_errors(folder, "Dense module"):
        settings = strict_json(f.read(_MAX_CONFIG))
        if not isinstance(settings, dict):
            raise InputError(f"{CONFIG} is not an object")
        module = read_dense(folder, settings)
        if module.activation != "identity":
            got, expected = module.activation, "torch.nn.modules.linear.Identity"
            raise InputError("its activation makes it no affine map", got=got, expected=expected)
        bias = np.zeros(len(module.weight), np.float32) if module.bias is None else module.bias
        path = folder / WEIGHTS
        text = None
        if path.is_file():
            with _opened(path) as weights:
                text = (weights.metadata() or {}).get(CARD)
        if text is None:
            return AffineMap(module.weight, bias, card={"method": "from a Dense module"})
        card = read_document(text.encode(), folder, "map", kind=MAP, version=VERSION)
        return map_of(module.weight, bias, card)


def read_dense(folder: Path, settings: Mapping[str, Any]) -> DenseModule:
    """Read the weights of a Dense module whose config.json has these settings.

    Raises InputError, naming it, for an activation that is not known, a module of something else
    than the embedding, and weights that are missing, of another shape or not finite.
    """
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
    weights = module_weights(folder)
    bias = None
    if settings.get("bias", True) is not False:
        bias = take(weights, "linear.bias", (outputs,), folder)
    return DenseModule(activation, take(weights, "linear.weight", (outputs, inputs), folder), bias)


def take(
    weights: Mapping[str, AnyArray], name: str, shape: tuple[Any, ...], folder: Path
) -> AnyArray:
    """One of a module's weights, float32. InputError if it is not there, not so, or not finite."""
    found = weights.get(name)
    if found is None or found.shape != shape:
        raise InputError(
            f"{folder.name} lacks the weight {name}" if found is None else
            f"the weight {name} of {folder.name} does not fit its config.json",
            got=", ".join(map(str, weights))[:120] if found is None else str(found.shape),
            expected=str(shape),
        )  # fmt: skip
    with np.errstate(over="ignore"):
        array: AnyArray = np.ascontiguousarray(found, dtype=np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"the weight {name} of {folder.name} is not finite")
    return array


def module_weights(folder: Path) -> Mapping[str, AnyArray]:
    """Tensors of `model.safetensors` or `pytorch_model.bin`; nothing is unpickled but tensors.

    torch is needed for `pytorch_model.bin` and for types that NumPy lacks, such as bfloat16.
    """
    paths = [folder / name for name in (WEIGHTS, "pytorch_model.bin")]
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        expected = "model.safetensors or pytorch_model.bin"
        raise InputError(f"the weights of the module {folder.name} are missing", expected=expected)
    if path.stat().st_size > MAX_WEIGHTS:
        raise InputError(f"{path} is too large", expected=f"at most {MAX_WEIGHTS} bytes")
    if path.suffix == ".safetensors":
        with _opened(path) as f:
            names = list(f.keys())
            if all(f.get_slice(name).get_dtype() in _NUMPY_TYPES for name in names):
                return {name: f.get_tensor(name) for name in names}
    torch = import_extra("torch", extra="export", purpose=_PURPOSE)
    with quote_errors(_UNREADABLE.format(path)):
        if path.suffix == ".bin":
            found = torch.load(path, map_location="cpu", weights_only=True)
        else:
            from safetensors.torch import load_file

            found = load_file(path)
        tensors = {str(k): v for k, v in found.items() if isinstance(v, torch.Tensor)}
        return {name: tensor.float().numpy() for name, tensor in tensors.items()}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Yield an open file of safetensors, whose header is checked against the file's size."""
    files = import_extra("safetensors", extra="safetensors", purpose=_PURPOSE)
    with quote_errors(_UNREADABLE.format(path)), files.safe_open(str(path), "numpy") as f:
        yield f
