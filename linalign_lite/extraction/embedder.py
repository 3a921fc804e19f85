"""The modules of a sentence-transformers model after its token states: poolings, then layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

import numpy as np

from linalign_lite.core.affine_map import Array
from linalign_lite.core.choices import TextPooling
from linalign_lite.errors import InputError
from linalign_lite.extraction.batching import Int64, pool
from linalign_lite.storage.atomic import PathLike
from linalign_lite.storage.npz import AnyArray, Spec, load_npz, save_npz
from linalign_lite.storage.schema import Choice, Size, format_errors, parse_known, plain

FORMAT, VERSION = "linalign-embedder", 1
MAX_LAYERS = 7  # each has at most two of the 15 members of a file
MAX_FILE = 4 << 30  # bytes
NORM_EPSILON, LENGTH_EPSILON = 1e-5, 1e-12  # of torch's LayerNorm and normalize


def _special(name: str, z: Array) -> Array:
    import scipy.special  # only where a model needs it: it takes long to load

    found: Array = getattr(scipy.special, name)(z)
    return found


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "identity": lambda z: z,
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "sigmoid": partial(_special, "expit"),
    "silu": lambda z: z * _special("expit", z),
    "gelu": lambda z: 0.5 * z * (1 + _special("erf", z / np.float32(np.sqrt(2)))),
}
_POOLINGS = Choice(tuple(p.value for p in TextPooling if p != TextPooling.embedding))
_WEIGHTS = tuple(f"weight{i}" for i in range(MAX_LAYERS))
_NAMES = (*_WEIGHTS, *(f"bias{i}" for i in range(MAX_LAYERS)))


@dataclass(frozen=True)
class LayerKind:
    """Kind of a layer and, of a dense one, its activation."""

    kind: Literal["dense", "layer-norm", "normalize"]
    activation: Annotated[str, Choice(tuple(ACTIVATIONS))] = "identity"


@dataclass(frozen=True, eq=False)
class Layer:
    """activation(Wz + b), (z − mean) / √(variance + ε) · w + b, or z / ‖z‖."""

    kind: LayerKind
    weight: AnyArray | None = None  # shape: dense (out, in), layer-norm (d,); float32
    bias: AnyArray | None = None  # shape: (out,) or (d,); float32

    def __post_init__(self) -> None:
        dimensions = {"dense": 2, "layer-norm": 1, "normalize": 0}[self.kind.kind]
        found = 0 if self.weight is None else self.weight.ndim
        bias = None if self.bias is None else self.bias.shape
        fits = bias is None or (self.weight is not None and bias == self.weight.shape[:1])
        if found != dimensions or not fits:
            raise InputError(f"the weights of a {self.kind.kind} layer have another shape")

    def width(self, width: int) -> int:
        """Dimension of the output for inputs of ``width``. Raises InputError if they do not fit."""
        if self.weight is not None and self.weight.shape[-1] != width:
            raise InputError(
                f"a {self.kind.kind} layer does not fit what it reads",
                got=f"{self.weight.shape[-1]} inputs",
                expected=str(width),
            )
        return width if self.weight is None else len(self.weight)

    def apply(self, z: Array) -> Array:
        """z: (n, d) → (n, width), float32."""
        if self.kind.kind == "normalize":
            lengths = np.linalg.norm(z, axis=1, keepdims=True)
            unit: Array = z / np.maximum(lengths, LENGTH_EPSILON)
            return unit
        if self.weight is None:
            return z
        if self.kind.kind == "dense":
            z = z @ self.weight.T
        else:
            centred = z - z.mean(axis=1, keepdims=True)
            z = centred / np.sqrt(z.var(axis=1, keepdims=True) + NORM_EPSILON) * self.weight
        if self.bias is not None:
            z = z + self.bias
        return ACTIVATIONS[self.kind.activation](z)


@dataclass(frozen=True, eq=False)
class Embedder:
    """Poolings of the token states, concatenated, and layers that follow."""

    poolings: tuple[str, ...]
    layers: tuple[Layer, ...] = ()
    include_prompt: bool = True  # False: tokens of the prompt are left out of the poolings

    def width(self, hidden_size: int) -> int:
        """Dimension of the embedding. Raises InputError if a layer does not fit."""
        width = len(self.poolings) * hidden_size
        for layer in self.layers:
            width = layer.width(width)
        return width

    def apply(self, states: Array, lengths: Int64, prompt_tokens: int = 0) -> Array:
        """Embeddings (batch, width) of states (batch, length, d) of texts of ``lengths`` tokens.

        prompt_tokens: how many at the beginning are the prompt's (see `prompt_tokens`).
        """
        start = 0 if self.include_prompt else prompt_tokens
        z: Array = np.concatenate([pool(states, lengths, p, start) for p in self.poolings], axis=1)
        for layer in self.layers:
            z = layer.apply(z)
        return z.astype(np.float32, copy=False)

    def rounded(self, function: Callable[[AnyArray], AnyArray]) -> Embedder:
        """The embedder with ``function`` applied to each weight and bias."""

        def of(array: AnyArray | None) -> AnyArray | None:
            return None if array is None else function(array)

        layers = (replace(x, weight=of(x.weight), bias=of(x.bias)) for x in self.layers)
        return replace(self, layers=tuple(layers))


@dataclass(frozen=True)
class _Card:
    poolings: Annotated[tuple[Annotated[str, _POOLINGS], ...], Size(len(_POOLINGS.values), 1)]
    layers: Annotated[tuple[LayerKind, ...], Size(MAX_LAYERS)]
    include_prompt: bool


def save_embedder(path: PathLike, embedder: Embedder) -> None:
    """Write `embedder.npz` (docs/FORMAT.md, section 2). InputError for more than MAX_LAYERS."""
    if len(embedder.layers) > MAX_LAYERS:
        raise InputError(
            "the model has too many layers after its pooling",
            got=str(len(embedder.layers)),
            expected=f"at most {MAX_LAYERS}",
        )
    arrays = {
        f"{part}{i}": np.atleast_2d(array) if part == "weight" else array
        for i, layer in enumerate(embedder.layers)
        for part, array in (("weight", layer.weight), ("bias", layer.bias))
        if array is not None
    }
    kinds = tuple(layer.kind for layer in embedder.layers)
    card = plain(_Card(embedder.poolings, kinds, embedder.include_prompt))
    save_npz(path, FORMAT, VERSION, arrays, card)


def load_embedder(path: PathLike) -> Embedder:
    """Read `embedder.npz`. Raises FormatError, or InputError when it is not there."""
    schema: dict[str, Spec] = {n: (("<f4",), 2 if n in _WEIGHTS else 1) for n in _NAMES}
    arrays, raw = load_npz(path, FORMAT, VERSION, schema, cap=MAX_FILE)
    with format_errors(path, "embedder"):
        card = parse_known(_Card, raw, "card")
        layers = []
        for i, kind in enumerate(card.layers):
            weight, bias = arrays.pop(f"weight{i}", None), arrays.pop(f"bias{i}", None)
            if kind.kind == "layer-norm" and weight is not None and len(weight) == 1:
                weight = weight[0]
            layers.append(Layer(kind, weight, bias))
        if arrays:
            raise InputError("it has weights of layers that it does not list")
        return Embedder(card.poolings, tuple(layers), card.include_prompt)
