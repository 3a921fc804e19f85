"""Group texts into batches, and pool the token states of each text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """Texts that run together."""

    rows: tuple[int, ...]  # indices of texts
    length: int  # tokens of the longest row


def plan_batches(lengths: Sequence[int], budget: int) -> Iterator[Batch]:
    """Batches of texts sorted from long to short, with rows × longest ≤ budget, or of one text.

    lengths, budget: in tokens. The longest come first: a batch that does not fit in memory fails at
    once, not after an hour.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    start = 0
    while start < len(order):
        longest = max(lengths[order[start]], 1)
        stop = start + max(1, budget // longest)
        yield Batch(tuple(order[start:stop]), longest)
        start = stop


def pool(states: Array, lengths: Int64, pooling: str, start: int = 0) -> Array:
    """Pool token states z₁ … zₙ of each text to one, (batch, d), as sentence-transformers does.

    states: (batch, length, d), padded on the right; lengths: n, (batch,); pooling: "cls" z₁, "last"
    zₙ, "max" of each dimension, "mean" Σ zᵢ / n, "mean-sqrt" Σ zᵢ / √n or "weighted-mean"
    Σ i·zᵢ / Σ i. start: tokens at the beginning that are left out, all but the last one at most.
    """
    starts = np.minimum(start, lengths - 1)
    if pooling == "cls":
        return states[np.arange(len(states)), starts]
    if pooling == "last":
        return states[np.arange(len(states)), lengths - 1]
    places = np.arange(states.shape[1])
    inside = (places >= starts[:, None]) & (places < lengths[:, None])
    if pooling == "max":
        largest: Array = states.max(axis=1, initial=-np.inf, where=inside[:, :, None])
        return largest
    weights = inside * (places + 1.0) if pooling == "weighted-mean" else inside
    totals = weights.sum(axis=1, keepdims=True)
    weights = (weights / (np.sqrt(totals) if pooling == "mean-sqrt" else totals)).astype(np.float32)
    pooled: Array = np.matmul(weights[:, None, :], states)[:, 0]
    return pooled
