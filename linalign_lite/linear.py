"""Affine maps, heads, and the spaces between which they go.

Weights are always (out, in): an affine map sends a source state z to ``weight @ z + bias``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.errors import InputError, MismatchError
from linalign_lite.storage.arrays import not_finite

Array = npt.NDArray[np.floating[Any]]


POOLINGS = ("mean", "last", "cls", "tokens")
MAX_DIM = 1 << 20
BLOCK = 128 << 20  # bytes of a weight widened at once
MAX_NAME = 256  # characters of a space's name or digest in a file


@dataclass(frozen=True)
class Space:
    """Where states live: the final hidden states of one model, read in one way.

    ``model`` is the digest of the exported model folder, or "" when it is not known (arrays that
    the caller brought). ``pooling`` says how a text became one state: mean, last, cls, tokens or
    "" (not known).
    """

    dim: int
    model: str = ""
    name: str = ""
    pooling: str = ""
    normalize: bool = False

    def agrees(self, other: Space) -> bool:
        """Whether states of one space may be used in the other. What is not known agrees."""
        named = [(self.model, other.model), (self.pooling, other.pooling)]
        if self.dim != other.dim or any(a != b for a, b in named if a and b):
            return False
        # arrays that a caller brought do not say whether they were normalised
        return self.normalize == other.normalize or not (self.model and other.model)

    @classmethod
    def parse(cls, raw: object) -> Space:
        """A space from a file's JSON. Raises InputError when a field is missing or not usable.

        Names stand in messages, so only printable characters are let in.
        """
        kinds = {"dim": int, "model": str, "name": str, "pooling": str, "normalize": bool}
        if not isinstance(raw, dict) or set(raw) != set(kinds):
            raise InputError("its space has unknown or missing fields")
        for key, kind in kinds.items():
            if type(raw[key]) is not kind:
                raise InputError(f"its space's {key!r} has the wrong type", expected=kind.__name__)
        if not 1 <= raw["dim"] <= MAX_DIM:
            raise InputError("its space's 'dim' is out of range", expected=f"1 to {MAX_DIM}")
        if raw["pooling"] not in ("", *POOLINGS):
            raise InputError("its space has an unknown pooling")
        for key in ("model", "name"):
            if len(raw[key]) > MAX_NAME or not raw[key].isprintable():
                raise InputError(
                    f"the {key} of its space is not usable",
                    expected=f"at most {MAX_NAME} printable characters",
                )
        return cls(**raw)

    def describe(self) -> str:
        """For messages: name, short digest, pooling, dimension."""
        name = self.name or "unnamed"
        digest = f" {self.model[:8]}" if self.model else ""
        how = f" {self.pooling}" if self.pooling else ""
        unit = " normalized" if self.normalize else ""
        return f"{name}{digest}{how}{unit} ({self.dim} dimensions)"

    def require(self, other: Space, what: str) -> None:
        """Raise MismatchError when states of ``other`` do not belong in this space."""
        if not self.agrees(other):
            raise MismatchError(
                what,
                got=other.describe(),
                expected=self.describe(),
                hint="use files made from the same exported model with the same pooling",
            )


def usable_label(label: str) -> bool:
    """Whether a label can be printed on one line."""
    return 0 < len(label) <= MAX_NAME and label.isprintable()


UNKNOWN = Space(0)  # stands for "not given": becomes Space(d) of the weight's own dimension


def _checked(name: str, value: Array, ndim: int) -> Array:
    array = np.asarray(value)
    if array.dtype not in (np.float16, np.float32, np.float64):
        array = array.astype(np.float64)
    if array.ndim != ndim or 0 in array.shape:
        raise InputError(
            f"{name} has the wrong shape",
            got=str(array.shape),
            expected=f"{ndim} dimension(s), none of them empty",
        )
    if bad := not_finite(array):
        raise InputError(
            f"{name} holds values that are not finite",
            got=f"{bad} of {array.size}",
            expected="finite numbers only",
        )
    array = array.view()
    array.flags.writeable = False
    return array


def _apply(weight: Array, bias: Array, states: Array, what: str) -> Array:
    states = np.asarray(states)
    if states.ndim not in (1, 2) or states.shape[-1] != weight.shape[1]:
        raise InputError(
            f"states do not fit this {what}",
            got=f"shape {states.shape}",
            expected=f"(n, {weight.shape[1]}) or ({weight.shape[1]},)",
        )
    dtype = np.result_type(weight.dtype, states.dtype, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        result = _product(states.astype(dtype, copy=False), weight)
        result += bias.astype(dtype, copy=False)
    if not np.isfinite(result).all():
        raise InputError(
            f"this {what} gives values that {dtype} cannot hold on these states",
            hint="scale its weight down, or pass float64 states",
        )
    return result


def row_blocks(weight: Array) -> Iterator[slice]:
    """Rows of a weight that is to be widened, or is mapped from a file, a piece at a time."""
    step = max(1, BLOCK // (8 * weight.shape[1]))
    for start in range(0, len(weight), step):
        yield slice(start, min(start + step, len(weight)))


def _product(states: Array, weight: Array) -> Array:
    """states·weightᵀ in the states' dtype, which is at least as wide as the weight's."""
    if weight.dtype == states.dtype and weight.flags.aligned:
        product: Array = states @ weight.T
        return product
    result: Array = np.empty((*states.shape[:-1], len(weight)), dtype=states.dtype)
    for rows in row_blocks(weight):
        result[..., rows] = states @ weight[rows].astype(states.dtype).T
    return result


def _pair(weight: Array, bias: Array, what: str) -> tuple[Array, Array]:
    weight = _checked(f"the {what}'s weight", weight, 2)
    bias = _checked(f"the {what}'s bias", bias, 1)
    if bias.shape[0] != weight.shape[0]:
        raise InputError(
            f"the {what}'s bias does not fit its weight",
            got=f"bias {bias.shape}, weight {weight.shape}",
            expected=f"bias ({weight.shape[0]},)",
        )
    return weight, bias


def _space_or_unknown(space: Space, dim: int, what: str) -> Space:
    if space.dim == 0:
        return Space(dim)
    if space.dim != dim:
        raise InputError(f"the {what} space does not fit", got=str(space.dim), expected=str(dim))
    return space


@dataclass(frozen=True, eq=False)
class AffineMap:
    """z ↦ weight·z + bias, from a source space into a target space.

    ``card`` holds what is known of how it was made (method, penalty, n, held-out R², version).
    """

    weight: Array  # shape: (d_target, d_source)
    bias: Array  # shape: (d_target,)
    source: Space = UNKNOWN
    target: Space = UNKNOWN
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weight, bias = _pair(self.weight, self.bias, "map")
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "bias", bias)
        object.__setattr__(
            self, "source", _space_or_unknown(self.source, weight.shape[1], "source")
        )
        object.__setattr__(
            self, "target", _space_or_unknown(self.target, weight.shape[0], "target")
        )

    def apply(self, states: Array) -> Array:
        """Mapped states: (n, d_source) → (n, d_target), or (d_source,) → (d_target,).

        Computed in the wider of the dtypes of weight and states, never narrower than float32.
        """
        return _apply(self.weight, self.bias, states, "map")

    __call__ = apply

    def __matmul__(self, first: AffineMap) -> AffineMap:
        """``(b @ a).apply(z) == b.apply(a.apply(z))`` up to rounding."""
        if not isinstance(first, AffineMap):
            return NotImplemented
        self.source.require(first.target, "these maps cannot follow one another")
        weight, bias = _compose(self.weight, self.bias, first)
        card = {"method": "composed", "of": [dict(self.card), dict(first.card)]}
        return AffineMap(weight, bias, first.source, self.target, card)


@dataclass(frozen=True, eq=False)
class Head:
    """Scores of a state: ``weight·z + bias``, then soft-capped when the model does so.

    With ``softcap`` c (Gemma-2) the scores are ``c·tanh((weight·z + bias) / c)``. A causal LM's
    token head is a Head with n_outputs = the vocabulary size and no labels.
    """

    weight: Array  # shape: (n_outputs, d)
    bias: Array  # shape: (n_outputs,)
    labels: tuple[str, ...] = ()
    space: Space = UNKNOWN
    softcap: float | None = None
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weight, bias = _pair(self.weight, self.bias, "head")
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "bias", bias)
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "space", _space_or_unknown(self.space, weight.shape[1], "head's"))
        if self.labels and len(self.labels) != weight.shape[0]:
            raise InputError(
                "the head's labels do not fit its weight",
                got=f"{len(self.labels)} labels",
                expected=f"{weight.shape[0]}",
            )
        if len(set(self.labels)) != len(self.labels) or not all(map(usable_label, self.labels)):
            raise InputError(
                "the head's labels are not usable",
                expected=f"distinct, printable, 1 to {MAX_NAME} characters each",
            )
        if self.softcap is not None and not 0 < self.softcap < np.inf:
            raise InputError(
                "the head's soft cap is not usable", got=repr(self.softcap), expected="above 0"
            )

    @property
    def n_outputs(self) -> int:
        """Rows of the weight: classes, or the size of the vocabulary."""
        return int(self.weight.shape[0])

    def apply(self, states: Array) -> Array:
        """Scores. states: (n, d) or (d,); returns (n, n_outputs) or (n_outputs,)."""
        return self.finish(_apply(self.weight, self.bias, states, "head"))

    __call__ = apply

    def finish(self, scores: Array) -> Array:
        """What comes after the affine part: the soft cap, or nothing."""
        return soft_capped(scores, self.softcap)

    def predict(self, states: Array) -> npt.NDArray[np.intp]:
        """Index of the highest score of each state, (n,)."""
        best: npt.NDArray[np.intp] = np.argmax(self.apply(states), axis=-1)
        return best

    def top(self, states: Array, k: int) -> tuple[npt.NDArray[np.intp], Array]:
        """The k highest scores of each state, highest first: indices and scores, (n, k) each.

        states: (n, d). Scores of all outputs are never held at once.
        """
        if not 1 <= k <= self.n_outputs:
            raise InputError("not so many outputs", got=str(k), expected=f"1 to {self.n_outputs}")
        states = np.asarray(states)
        if states.ndim != 2:
            raise InputError(
                "states do not fit this head",
                got=f"shape {states.shape}",
                expected=f"(n, {self.weight.shape[1]})",
            )
        best = np.empty((len(states), 0), dtype=np.intp)
        scores: Array = np.empty((len(states), 0), dtype=np.float16)  # widened by what comes
        for rows in row_blocks(self.weight):
            part = _apply(self.weight[rows], self.bias[rows], states, "head")
            index = np.broadcast_to(np.arange(rows.start, rows.stop), part.shape)
            best, scores = _best(np.hstack([best, index]), np.hstack([scores, part]), k)
        return best, self.finish(scores)

    def __matmul__(self, first: AffineMap) -> Head:
        """``head @ map``: one head that reads source states, so that the map need not travel."""
        if not isinstance(first, AffineMap):
            return NotImplemented
        self.space.require(first.target, "this map does not lead into this head's space")
        weight, bias = _compose(self.weight, self.bias, first)
        card = {"method": "composed", "of": [dict(self.card), dict(first.card)]}
        return dataclasses.replace(self, weight=weight, bias=bias, space=first.source, card=card)


def _best(index: npt.NDArray[np.intp], scores: Array, k: int) -> tuple[npt.NDArray[np.intp], Array]:
    """The k highest of each row, highest first, the earlier of equals first.

    Of equals, those with the lower index stand before the others in each row.
    """
    if k < scores.shape[1]:
        least = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
        above, equal = scores > least, scores == least
        left = k - above.sum(axis=1, keepdims=True)
        kept = above | (equal & (equal.cumsum(axis=1) <= left))
        index, scores = index[kept].reshape(-1, k), scores[kept].reshape(-1, k)
    order = np.lexsort((index, -scores), axis=1)
    return np.take_along_axis(index, order, axis=1), np.take_along_axis(scores, order, axis=1)


def soft_capped(scores: Array, softcap: float | None) -> Array:
    """c·tanh(scores / c), or the scores themselves without a cap."""
    if softcap is None:
        return scores
    with np.errstate(over="ignore"):  # a cap next to nothing: tanh of infinity is 1
        capped: Array = np.tanh(scores / softcap) * softcap
    return capped


def _compose(weight: Array, bias: Array, first: AffineMap) -> tuple[Array, Array]:
    """W₂(W₁z + b₁) + b₂ = (W₂W₁)z + (W₂b₁ + b₂), in float64, stored as wide as the wider part."""
    dtype = np.result_type(weight.dtype, first.weight.dtype, np.float32)
    inner, shift = first.weight.astype(np.float64), first.bias.astype(np.float64)
    product, moved = np.empty((len(weight), inner.shape[1]), dtype), np.empty(len(weight), dtype)
    for rows in row_blocks(weight):
        wide = weight[rows].astype(np.float64)
        product[rows], moved[rows] = wide @ inner, wide @ shift + bias[rows]
    return product, moved
