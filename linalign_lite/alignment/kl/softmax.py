"""The softmax of a head in the coordinates that it depends on, over all outputs, in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.moments import Float64
from linalign_lite.core.affine_map import Array
from linalign_lite.core.head import Head

Float32 = npt.NDArray[np.float32]
BLOCK = 4 << 20  # bytes of scores held at once: they should stay in a processor's cache
FEWEST, MOST = 256, 4096  # rows in a block, whatever the number of outputs
CHUNK = 1024  # outputs at least whose scores are made together, where not all are needed
SCORES = 1 << 22  # such scores held at once
LOWEST = np.float32(-60)  # of a score below the highest: e^LOWEST is as good as nothing


@dataclass(frozen=True, eq=False)
class Softmax:
    """Head in reduced coordinates: scores are factor·ζ + bias for ζ = basisᵀz.

    Where a head has fewer outputs than dimensions, ζ has as many coordinates as the scores have
    freedom: adding the same number to every score changes nothing, so the rows of V are centred.
    """

    factor: Array  # shape: (n_outputs, r)  float32; a large head's as it is stored
    bias: Float32  # shape: (n_outputs,)
    basis: Float64 | None = None  # shape: (d, r), orthonormal columns; None: r = d, ζ = z
    softcap: float | None = None

    @property
    def rank(self) -> int:
        return int(self.factor.shape[1])

    @property
    def width(self) -> int:
        """Number of outputs whose scores are held at once: all with a soft cap, else CHUNK."""
        outputs = len(self.factor)
        return outputs if self.softcap is not None else min(outputs, CHUNK)

    def blocks(self, n: int, outputs: int | None = None) -> Iterator[slice]:
        """Yield blocks of rows whose scores of so many outputs fit in the cache; default: all."""
        step = int(np.clip(BLOCK // (4 * (outputs or len(self.factor))), FEWEST, MOST))
        for start in range(0, n, step):
            yield slice(start, min(start + step, n))

    def parts(self, size: int | None = None) -> Iterator[tuple[slice, Float32]]:
        """Yield the factor in float32, ``size`` outputs at a time; default: CHUNK."""
        size = size or CHUNK
        for start in range(0, len(self.factor), size):
            outputs = slice(start, start + size)
            yield outputs, np.asarray(self.factor[outputs], dtype=np.float32)

    def summed(self, shares: Float32) -> Float32:
        """Multiply shares (n, n_outputs) with the factor: (n, r)."""
        found: Float32 = np.zeros((len(shares), self.rank), dtype=np.float32)
        for outputs, part in self.parts():
            found += shares[:, outputs] @ part
        return found

    def coordinates(self, states: Array) -> Float32:
        """ζ of target states: (n, d) → (n, r)."""
        z = np.asarray(states, dtype=np.float32)
        found: Float32 = z if self.basis is None else z @ self.basis.astype(np.float32)
        return found

    def probabilities(
        self, coordinates: Float32, temperature: float = 1.0
    ) -> tuple[Float32, Float64]:
        """softmax and log-partition of rows: (n, r) → (n, n_outputs), (n,)."""
        scores = self.scores(coordinates)
        if temperature != 1.0:
            scores /= np.float32(temperature)
        top = scores.max(axis=1, keepdims=True)
        _exponential(scores, top)
        sums = scores.sum(axis=1, keepdims=True)
        scores /= sums
        return scores, (np.log(sums.astype(np.float64)) + top)[:, 0]

    def expected(self, coordinates: Float32) -> tuple[Float32, Float64]:
        """Vᵀq, (n, r), and log-partition, (n,), of rows (n, r); without a soft cap.

        A CHUNK of outputs at a time, sums rescaled at a higher score (Milakov and Gimelshein,
        "Online normalizer calculation for softmax", 2018): more rows fit in memory, and each time
        that a large head is read it serves them all.
        """
        n = len(coordinates)
        top = np.full((n, 1), -np.inf, dtype=np.float32)
        mass: Float32 = np.zeros((n, 1), dtype=np.float32)
        found: Float32 = np.zeros(coordinates.shape, dtype=np.float32)
        for outputs, part in self.parts(max(CHUNK, SCORES // n)):
            scores = coordinates @ part.T
            scores += self.bias[outputs]
            highest = np.maximum(top, scores.max(axis=1, keepdims=True))
            _exponential(scores, highest)
            rescale = np.exp(top - highest)
            mass = mass * rescale + scores.sum(axis=1, keepdims=True)
            found *= rescale
            found += scores @ part
            top = highest
        found /= mass
        partition: Float64 = np.log(mass.astype(np.float64)) + top
        return found, partition[:, 0]

    def scores(self, coordinates: Float32) -> Float32:
        """Scores, soft-capped: (n, r) → (n, n_outputs)."""
        found: Float32 = np.empty((len(coordinates), len(self.factor)), dtype=np.float32)
        for outputs, part in self.parts():
            found[:, outputs] = coordinates @ part.T
        found += self.bias
        if self.softcap is not None:
            found /= np.float32(self.softcap)
            np.tanh(found, out=found)
            found *= np.float32(self.softcap)
        return found


def _exponential(scores: Float32, top: Float32) -> None:
    """exp(scores − top) in place; clipped, for subnormals are a hundred times slower."""
    scores -= top
    np.maximum(scores, LOWEST, out=scores)
    np.exp(scores, out=scores)


def reduce_head(head: Head) -> Softmax:
    """Reduce a head to the coordinates that its softmax depends on, up to float32 rounding."""
    bias = head.bias.astype(np.float32)
    if head.softcap is not None or head.n_outputs > head.weight.shape[1]:
        large = head.n_outputs > CHUNK  # read in parts, so it need not be held in float32
        weight = head.weight if large else head.weight.astype(np.float32)
        return Softmax(weight, bias, None, head.softcap)
    centred = head.weight.astype(np.float64)
    centred -= centred.mean(axis=0)
    _, singular, rows = np.linalg.svd(centred, full_matrices=False)
    kept = singular > max(singular[0], np.finfo(float).tiny) * len(centred) * np.finfo(float).eps
    basis = rows[kept].T if kept.any() else rows[:1].T
    return Softmax((centred @ basis).astype(np.float32), bias, basis)
