"""Affine maps between spaces, and the products that maps and heads share.

Weights are always (out, in): an affine map takes a source state z to ``weight @ z + bias``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core.space import UNKNOWN, Space
from linalign_lite.core.text_tables import Pairs
from linalign_lite.errors import InputError
from linalign_lite.storage.arrays import count_nonfinite

Array = npt.NDArray[np.floating[Any]]
BLOCK = 128 << 20  # bytes of a weight converted to float64 at once


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
    if bad := count_nonfinite(array):
        raise InputError(
            f"{name} holds values that are not finite",
            got=f"{bad} of {array.size}",
            expected="finite numbers only",
        )
    array = array.view()
    array.flags.writeable = False
    return array


def apply_affine(weight: Array, bias: Array, states: Array, what: str) -> Array:
    given, states = states, np.asarray(states)
    if states.ndim not in (1, 2) or states.shape[-1] != weight.shape[1]:
        whole = hasattr(given, "states")  # HiddenStates, which know more than is computed here
        raise InputError(
            f"states do not fit this {what}",
            got=type(given).__name__ if whole else f"shape {states.shape}",
            expected=f"(n, {weight.shape[1]}) or ({weight.shape[1]},)",
            hint="pass their `.states`" if whole else "",
        )
    dtype = np.result_type(weight.dtype, states.dtype, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        result = _product(states.astype(dtype, copy=False), weight)
        result += bias.astype(dtype, copy=False)
    if count_nonfinite(result):
        if bad := count_nonfinite(states):
            rows = np.flatnonzero(~np.isfinite(np.atleast_2d(states)).all(axis=1))
            where = f"in {len(rows)} rows, the first number {rows[0]}"
            got = f"{bad} of {states.size} values, {where}"
            raise InputError("states hold values that are not finite", got=got)
        raise InputError(
            f"this {what} gives values beyond {dtype} on these states",
            hint="scale its weight down, or pass float64 states",
        )
    return result


def row_blocks(weight: Array) -> Iterator[slice]:
    """Yield slices of the rows of a weight, each of at most BLOCK bytes as float64."""
    step = max(1, BLOCK // (8 * weight.shape[1]))
    for start in range(0, len(weight), step):
        yield slice(start, min(start + step, len(weight)))


def _product(states: Array, weight: Array) -> Array:
    """Compute states·weightᵀ in the dtype of states, which is at least as wide as weight's."""
    if weight.dtype == states.dtype and weight.flags.aligned:
        product: Array = states @ weight.T
        return product
    result: Array = np.empty((*states.shape[:-1], len(weight)), dtype=states.dtype)
    for rows in row_blocks(weight):
        result[..., rows] = states @ weight[rows].astype(states.dtype).T
    return result


def checked_weights(weight: Array, bias: Array, what: str) -> tuple[Array, Array]:
    weight = _checked(f"the {what}'s weight", weight, 2)
    bias = _checked(f"the {what}'s bias", bias, 1)
    if bias.shape[0] != weight.shape[0]:
        raise InputError(
            f"the {what}'s bias does not fit its weight",
            got=f"bias {bias.shape}, weight {weight.shape}",
            expected=f"bias ({weight.shape[0]},)",
        )
    return weight, bias


def checked_space(space: Space, dim: int, what: str) -> Space:
    if space.dim == 0:
        return Space(dim)
    if space.dim != dim:
        raise InputError(f"the {what} space does not fit", got=str(space.dim), expected=str(dim))
    return space


@dataclass(frozen=True, eq=False)
class AffineMap:
    """z ↦ weight·z + bias, from a source space into a target space.

    ``card`` records how it was made (method, penalty, n, held-out R², version).
    """

    weight: Array  # shape: (d_target, d_source)
    bias: Array  # shape: (d_target,)
    source: Space = UNKNOWN
    target: Space = UNKNOWN
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weight, bias = checked_weights(self.weight, self.bias, "map")
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "bias", bias)
        object.__setattr__(self, "source", checked_space(self.source, weight.shape[1], "source"))
        object.__setattr__(self, "target", checked_space(self.target, weight.shape[0], "target"))

    def rows(self) -> Pairs:
        """The spaces that the map reads and lands in, by name, for printing."""
        return [("reads", self.source.describe()), ("lands in", self.target.describe())]

    def __repr__(self) -> str:
        return f"AffineMap({self.source.describe()} to {self.target.describe()})"

    def require_readable(
        self, space: Space, things: str = "states", *, any_prompt: bool = False
    ) -> None:
        """Raise MismatchError unless the map reads states of ``space``."""
        hint = "are the map's sides swapped?" if self.target.agrees(space) else ""
        what = f"this map does not read these {things}"
        self.source.require(space, what, hint, any_prompt=any_prompt)

    def apply(self, states: Array) -> Array:
        """Map states: (n, d_source) → (n, d_target), or (d_source,) → (d_target,).

        Computes in the wider of the dtypes of weight and states, at least float32. Raises
        InputError for another shape, and for results that are not finite.
        """
        return apply_affine(self.weight, self.bias, states, "map")

    __call__ = apply

    def __matmul__(self, first: AffineMap) -> AffineMap:
        """Compose: ``(b @ a).apply(z) == b.apply(a.apply(z))`` up to rounding."""
        if not isinstance(first, AffineMap):
            return NotImplemented
        self.source.require(first.target, "these maps do not compose")
        weight, bias = compose(self.weight, self.bias, first)
        card = {"method": "composed", "of": [dict(self.card), dict(first.card)]}
        return AffineMap(weight, bias, first.source, self.target, card)


def float32_weights(affine: AffineMap) -> tuple[Array, Array]:
    """Weight and bias in float32. Raises InputError for values beyond it."""
    with np.errstate(over="ignore"):
        weight, bias = affine.weight.astype(np.float32), affine.bias.astype(np.float32)
    if count_nonfinite(weight) or count_nonfinite(bias):
        raise InputError("this map has values beyond float32", hint="scale its weight down")
    return weight, bias


def compose(weight: Array, bias: Array, first: AffineMap) -> tuple[Array, Array]:
    """Compute W₂W₁ and W₂b₁ + b₂ in float64; return them in the wider of the weights' dtypes."""
    dtype = np.result_type(weight.dtype, first.weight.dtype, np.float32)
    inner, shift = first.weight.astype(np.float64), first.bias.astype(np.float64)
    product, moved = np.empty((len(weight), inner.shape[1]), dtype), np.empty(len(weight), dtype)
    for rows in row_blocks(weight):
        wide = weight[rows].astype(np.float64)
        product[rows], moved[rows] = wide @ inner, wide @ shift + bias[rows]
    return product, moved
