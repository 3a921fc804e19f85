"""Score the target's tokens in a state of the source: its head, through the map if there is one."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np

from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.head import Head
from linalign_lite.generation.decoding.greedy_head import GreedyHead, int8_pays

MAX_FOLD = 1 << 30  # multiplications to fold a map into a head, at most
_GREEDY: WeakKeyDictionary[Head, GreedyHead] = WeakKeyDictionary()


class TokenScores:
    """Function of a state of the source, (d,), to scores, (n_outputs,) float32.

    The map is folded into the head where that is less work. The folded weight is one product in
    float32, as exact as the two products that it replaces: it is computed for each text, and in
    float64 took as long as a dozen tokens. greedy: only the highest scores are asked for.
    """

    def __init__(
        self, head: Head, affine: AffineMap | None, *, greedy: bool = False, threads: int = 1
    ) -> None:
        self._weight, self._bias = _float32(head.weight), _float32(head.bias)
        self._map, self._finish = None, head.finish
        self._greedy = None
        if greedy and int8_pays(head):
            if head not in _GREEDY:  # made once: it takes as long as some ten tokens
                _GREEDY[head] = GreedyHead(self._weight, self._bias, threads)
            self._greedy = _GREEDY[head]
        if affine is None:
            return
        map_weight, map_bias = _float32(affine.weight), _float32(affine.bias)
        outputs, (inner, outer) = len(self._weight), map_weight.shape
        less = outputs * outer <= outputs * inner + inner * outer
        if less and outputs * inner * outer <= MAX_FOLD and self._greedy is None:
            with np.errstate(over="ignore", invalid="ignore"):  # the sampler refuses such scores
                self._bias = self._weight @ map_bias + self._bias
                self._weight = self._weight @ map_weight
        else:
            self._map = map_weight, map_bias

    def __call__(self, state: Array) -> Array:
        """Compute all scores."""
        return self._finish(np.dot(self._weight, self._mapped(state)) + self._bias)

    def best(self, state: Array) -> int | None:
        """The first token with the highest score; None where all scores must be computed."""
        return None if self._greedy is None else self._greedy(self._mapped(state))

    def _mapped(self, state: Array) -> Array:
        if self._map is None:
            return state
        weight, bias = self._map
        mapped: Array = np.dot(weight, state) + bias
        return mapped


def _float32(array: Array) -> Array:
    with np.errstate(over="ignore"):  # the sampler refuses scores that are not finite
        found: Array = np.require(array, np.float32, ["C", "A"])
    return found
