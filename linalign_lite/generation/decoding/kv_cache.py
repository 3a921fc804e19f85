"""Run a causal model on a growing sequence of tokens, with a KV cache."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from linalign_lite.core.affine_map import Array
from linalign_lite.errors import InputError, LinalignError
from linalign_lite.extraction.model_card import LAST_HIDDEN_STATE, PAST, PRESENT
from linalign_lite.extraction.session import Model

OLDER_BYTES = 64 << 20  # of caches older than the newest
OLDER_CACHES = 3
RERUN = 4  # so few tokens are run again rather than a cache cropped


@dataclass(frozen=True, eq=False)
class _Cache:
    """Keys and values of the first ``length`` tokens, as onnxruntime keeps them."""

    length: int
    values: list[Any]


class CachedModel:
    """Final hidden states of a sequence that mostly grows; for one thread.

    A model without cache inputs runs on all tokens each time.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.context = model.card.max_length  # tokens
        self.tokens_run = 0  # tokens that went through the graph
        self.crops = 0  # times that a cache was cut and copied
        self._ids: list[int] = []  # tokens of the newest cache
        self._caches: list[_Cache] = []  # shortest first
        presents = [PRESENT + p.name.removeprefix(PAST) for p in model.card.past]
        outputs = {output.name for output in model.session.get_outputs()}
        self._cached = bool(presents) and outputs.issuperset(presents)
        self._outputs = [LAST_HIDDEN_STATE, *presents]
        self._pasts = [p.name for p in model.card.past]

    def last_state(self, ids: Sequence[int]) -> Array:
        """Final hidden state of the last of the tokens ``ids``, (d,).

        Tokens that a cache shares with ``ids`` at the start are not run again; the others are run
        in one pass. Raises InputError when there is no token, or more than the context holds,
        LinalignError when the graph fails.
        """
        ids = list(ids)
        if not 1 <= len(ids) <= self.context:
            problem = "the model cannot read this many tokens"
            raise InputError(problem, got=str(len(ids)), expected=f"1 to {self.context}")
        if not self._cached:
            self.tokens_run += len(ids)
            whole = np.array([ids], dtype=np.int64)
            alone: Array = self.model.run(whole, np.ones_like(whole))[0, -1].copy()
            return alone
        past = self._past(min(_shared_prefix(self._ids, ids), len(ids) - 1))
        new = ids[past.length :]
        try:
            state, values = self._run(new, past)
        except Exception as e:  # onnxruntime's errors share no other base
            self._ids, self._caches = [], []
            raise LinalignError(
                f"{self.model.folder} fails on {len(new)} tokens after {past.length}",
                got=f"{type(e).__name__}: {str(e)[:160]}",
                hint="does this tokenizer belong to this graph?",
            ) from e
        self.tokens_run += len(new)
        self._ids = ids
        self._keep(_Cache(len(ids), values))
        return state

    def _past(self, length: int) -> _Cache:
        """A cache of at most ``length`` tokens, cropped from a longer one where that saves work."""
        longer = None
        while self._caches and self._caches[-1].length > length:
            longer = self._caches.pop()
        newest = self._caches[-1] if self._caches else None
        if newest is not None and newest.length >= length - RERUN:
            return newest
        if longer is None or length == 0:
            return newest or self._empty()
        self.crops += 1
        cut = _Cache(length, [_ort_value(v.numpy()[:, :, :length]) for v in longer.values])
        self._keep(cut)
        return cut

    def _empty(self) -> _Cache:
        shapes = [(1, p.heads, 0, p.head_dim) for p in self.model.card.past]
        return _Cache(0, [_ort_value(np.zeros(shape, dtype=np.float32)) for shape in shapes])

    def _keep(self, cache: _Cache) -> None:
        self._caches.append(cache)
        size = sum(4 * p.heads * p.head_dim for p in self.model.card.past)
        while len(self._caches) > 1 and (
            len(self._caches) > OLDER_CACHES + 1
            or size * sum(c.length for c in self._caches[:-1]) > OLDER_BYTES
        ):
            del self._caches[0]

    def _run(self, new: Sequence[int], past: _Cache) -> tuple[Array, list[Any]]:
        total = past.length + len(new)
        ids = np.array([new], dtype=np.int64)
        arrays = {"input_ids": ids, "attention_mask": np.ones((1, total), dtype=np.int64)}
        if "position_ids" in self.model.inputs:
            arrays["position_ids"] = np.arange(past.length, total, dtype=np.int64)[None]
        if "token_type_ids" in self.model.inputs:
            arrays["token_type_ids"] = np.zeros_like(ids)
        feeds = {name: _ort_value(array) for name, array in arrays.items()}
        feeds.update(zip(self._pasts, past.values, strict=True))
        states, *values = self.model.session.run_with_ort_values(self._outputs, feeds)
        if values[0].shape()[2] != total:
            raise ValueError(f"the cache holds {values[0].shape()[2]} tokens after {total}")
        return states.numpy()[0, -1].copy(), values


def _ort_value(array: Any) -> Any:
    import onnxruntime as ort

    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _shared_prefix(a: list[int], b: list[int]) -> int:
    """Count the tokens that two sequences share at the start."""
    shorter = min(len(a), len(b))
    if a[:shorter] == b[:shorter]:  # nearly always, and fast
        return shorter
    return next(i for i in range(shorter) if a[i] != b[i])
