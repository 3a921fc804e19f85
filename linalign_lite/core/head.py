"""Linear heads: classifiers, and the token heads of causal language models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.core import affine_map
from linalign_lite.core.affine_map import AffineMap, Array, apply_affine, checked_space
from linalign_lite.core.space import UNKNOWN, Space, require_labels
from linalign_lite.errors import InputError


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head: scores ``weight·z + bias`` of a state z, with an optional soft cap.

    With ``softcap`` c (Gemma-2) the scores are ``c·tanh((weight·z + bias) / c)``. The token head of
    a causal LM is a Head with n_outputs = the vocabulary size and no labels.
    """

    weight: Array  # shape: (n_outputs, d)
    bias: Array  # shape: (n_outputs,)
    labels: tuple[str, ...] = ()
    space: Space = UNKNOWN
    softcap: float | None = None
    card: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weight, bias = affine_map.checked_weights(self.weight, self.bias, "head")
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "bias", bias)
        object.__setattr__(self, "labels", tuple(self.labels))
        object.__setattr__(self, "space", checked_space(self.space, weight.shape[1], "head's"))
        if self.labels and len(self.labels) != weight.shape[0]:
            raise InputError(
                "the head's labels do not fit its weight",
                got=f"{len(self.labels)} labels",
                expected=f"{weight.shape[0]}",
            )
        require_labels(self.labels, "the head")
        if self.softcap is not None and not 0 < self.softcap < np.inf:
            raise InputError(
                "the head's soft cap is not usable", got=repr(self.softcap), expected="above 0"
            )

    def __repr__(self) -> str:
        return f"Head({self.n_outputs} outputs, {self.space.describe()})"

    @property
    def n_outputs(self) -> int:
        """Number of rows of the weight: classes, or the size of the vocabulary."""
        return int(self.weight.shape[0])

    def apply(self, states: Array) -> Array:
        """Compute scores. states: (n, d) or (d,); returns (n, n_outputs) or (n_outputs,)."""
        return self.finish(apply_affine(self.weight, self.bias, states, "head"))

    __call__ = apply

    def finish(self, scores: Array) -> Array:
        """Apply the soft cap, if any, to the scores of the affine part."""
        return soft_capped(scores, self.softcap)

    def predict(self, states: Array) -> npt.NDArray[np.intp]:
        """Return the index of the highest score of each state, (n,)."""
        best: npt.NDArray[np.intp] = np.argmax(self.apply(states), axis=-1)
        return best

    def top(self, states: Array, k: int) -> tuple[npt.NDArray[np.intp], Array]:
        """Return indices and scores, (n, k) each, of the k highest scores of each state, sorted.

        states: (n, d). Memory for the scores of all outputs is never allocated.
        """
        if not 1 <= k <= self.n_outputs:
            raise InputError("k is not usable", got=str(k), expected=f"1 to {self.n_outputs}")
        states = np.asarray(states)
        if states.ndim != 2:
            raise InputError(
                "states do not fit this head",
                got=f"shape {states.shape}",
                expected=f"(n, {self.weight.shape[1]})",
            )
        best = np.empty((len(states), 0), dtype=np.intp)
        scores: Array = np.empty((len(states), 0), dtype=np.float16)  # hstack widens it
        for rows in affine_map.row_blocks(self.weight):
            part = apply_affine(self.weight[rows], self.bias[rows], states, "head")
            index = np.broadcast_to(np.arange(rows.start, rows.stop), part.shape)
            best, scores = _best(np.hstack([best, index]), np.hstack([scores, part]), k)
        return best, self.finish(scores)

    def __matmul__(self, first: AffineMap) -> Head:
        """Compose ``head @ map``: one head of source states, equal to the map and then the head."""
        if not isinstance(first, AffineMap):
            return NotImplemented
        self.space.require(first.target, "this map does not lead into this head's space")
        weight, bias = affine_map.compose(self.weight, self.bias, first)
        card = {"method": "composed", "of": [dict(self.card), dict(first.card)]}
        return dataclasses.replace(self, weight=weight, bias=bias, space=first.source, card=card)


def _best(index: npt.NDArray[np.intp], scores: Array, k: int) -> tuple[npt.NDArray[np.intp], Array]:
    """Return the k highest scores of each row, sorted; of equal ones the lower index first.

    In the input too, equal scores of a row are in the order of their indices.
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
    """Compute c·tanh(scores / c); without a cap, return the scores."""
    if softcap is None:
        return scores
    with np.errstate(over="ignore"):  # with a tiny cap: tanh of infinity is 1
        capped: Array = np.tanh(scores / softcap) * softcap
    return capped
