"""KL divergence between a head's distributions on true and on mapped states, and its gradient.

With a head of weight V (n_outputs, d), bias c, target states y and source states x of the same
texts, p = softmax(V y + c) and q = softmax(V (W x + b) + c):

    L(W, b) = Σᵢ wᵢ KL(pᵢ ‖ qᵢ) / Σᵢ wᵢ,   KL(p ‖ q) = logsumexp(V z + c) − pᵀ(V z + c) + pᵀ log p,

z = W x + b. It is convex in (W, b), and of p it needs only the vector Vᵀp and two numbers: a pass
costs a product with V and one with Vᵀ, exact over the whole vocabulary, a block of rows at a time.
A head with a soft cap is not linear in z, so p is computed in every pass; L is not convex.

The target distribution may be sharpened, p = softmax((V y + c)/t) with a temperature t below 1, so
that its mode has more weight, and mixed with the truth, (1 − a)·p + a·e, e being 1 at the next
token of the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.kl.softmax import FEWEST, Float32, Softmax
from linalign_lite.alignment.moments import Float64
from linalign_lite.core.affine_map import Array
from linalign_lite.errors import InputError

Ints = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Teaching:
    """Teacher distribution of a fit: ``temperature`` t, share a (``truth``) of the true token."""

    temperature: float = 1.0
    truth: float = 0.0


@dataclass(frozen=True, eq=False)
class DistillationData:
    """Source states and teacher statistics of n rows, each with its weight.

    ``summary`` is Vᵀp in ζ's coordinates, ``constant`` pᵀlog p − pᵀc. With a soft cap, ``target``
    holds ζ of the target's states instead, and ``next_token`` the true tokens (-1: none).
    """

    teaching: Teaching
    source: Array  # shape: (n, d_source)
    summary: Float32  # shape: (n, r)
    constant: Float64  # shape: (n,)
    weight: Float32  # shape: (n,), of mean 1
    target: Float32 | None  # shape: (n, r)
    next_token: Ints | None  # shape: (n,)

    def __len__(self) -> int:
        return len(self.source)

    def rows(self, keep: slice | npt.NDArray[np.intp]) -> DistillationData:
        """Return some of the rows with their weights."""
        arrays = self.source, self.summary, self.constant, self.weight, self.target, self.next_token
        kept: list[Any] = [None if array is None else array[keep] for array in arrays]
        return DistillationData(self.teaching, *kept)


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # looked for at the end
def distillation_data(
    softmax: Softmax,
    source: Array,
    target: Array,
    weight: Float32 | None = None,
    *,
    teaching: Teaching = Teaching(),
    next_token: Ints | None = None,
    sample: int | None = None,
) -> tuple[DistillationData, Float64]:
    """Compute the teacher statistics on the target's own states, and the mean curvature (r, r).

    The curvature is E[Vᵀ(diag p − ppᵀ)V], the second derivative of KL in z where q = p: the
    sensitivity of the head to directions of the target's space. next_token: (n,), the true
    outputs, -1 where none is known. sample: the first rows, of which alone the curvature is
    computed; the probabilities of the others are not held, which is several times faster.
    Raises InputError when float32 cannot hold the scores.
    """
    n, r = len(source), softmax.rank
    weight = np.ones(n, dtype=np.float32) if weight is None else weight
    summary = np.empty((n, r), dtype=np.float32)
    constant = np.empty(n)
    usage = np.zeros(len(softmax.factor))
    zetas = None if softmax.softcap is None else np.empty((n, r), dtype=np.float32)
    held = min(sample or n, n) if zetas is None and not softmax.bias.any() else n
    for rows in softmax.blocks(held):
        zeta = softmax.coordinates(target[rows])
        true = None if next_token is None else next_token[rows]
        p = _target_distribution(softmax, zeta, teaching, true)
        summary[rows] = softmax.summed(p)
        logs = np.log(np.maximum(p, np.finfo(np.float32).tiny))
        constant[rows] = np.einsum("ij,ij->i", p, logs, dtype=np.float64)
        if zetas is None:
            constant[rows] -= p @ softmax.bias
        else:
            zetas[rows] = zeta
        usage += (weight[rows] @ p).astype(np.float64)
    for start in range(held, n, FEWEST):
        rows = slice(start, min(start + FEWEST, n))
        true = None if next_token is None else next_token[rows]
        zeta = softmax.coordinates(target[rows])
        summary[rows], constant[rows] = _summaries(softmax, zeta, teaching, true)
    outer = (summary[:held] * weight[:held, None]).T @ summary[:held]
    curvature = _gram(softmax, usage) - outer.astype(np.float64)
    if not np.isfinite(curvature).all() or not np.isfinite(constant).all():
        raise InputError(
            "this head gives scores that float32 cannot hold on these states",
            hint="scale its weight down, or take a higher temperature",
        )
    true = None if zetas is None else next_token
    data = DistillationData(teaching, source, summary, constant, weight, zetas, true)
    return data, curvature / float(weight[:held].sum())


def _summaries(
    softmax: Softmax, zeta: Float32, teaching: Teaching, next_token: Ints | None
) -> tuple[Float32, Float64]:
    """Vᵀm, (n, r), and mᵀ log m, (n,), of m = (1 − a)·p + a·e, for a head without bias.

    With p = softmax(Vζ/t): pᵀ log p = ζᵀVᵀp/t − log-partition; e changes the term of one output.
    """
    scaled = zeta / np.float32(teaching.temperature)
    summary, partition = softmax.expected(scaled)
    entropy: Float64 = np.einsum("ij,ij->i", scaled, summary, dtype=np.float64) - partition
    if not teaching.truth or next_token is None:
        return summary, entropy
    share, known = teaching.truth, np.flatnonzero(next_token >= 0)
    true = np.asarray(softmax.factor[next_token[known]], dtype=np.float32)
    log_p = np.einsum("ij,ij->i", scaled[known], true, dtype=np.float64) - partition[known]
    p = np.exp(log_p)
    mixed = (1 - share) * p + share
    entropy[known] = (1 - share) * (entropy[known] - p * log_p) + mixed * np.log(mixed)
    if share < 1:
        entropy[known] += (1 - share) * (1 - p) * np.log(1 - share)
    summary[known] *= np.float32(1 - share)
    summary[known] += np.float32(share) * true
    return summary, entropy


def _target_distribution(
    softmax: Softmax, zeta: Float32, teaching: Teaching, next_token: Ints | None
) -> Float32:
    """(1 − a)·p + a·e: (n, n_outputs)."""
    p, _ = softmax.probabilities(zeta, teaching.temperature)
    if teaching.truth and next_token is not None:
        known = np.flatnonzero(next_token >= 0)
        p[known] *= np.float32(1 - teaching.truth)
        p[known, next_token[known]] += np.float32(teaching.truth)
    return p


def _gram(softmax: Softmax, usage: Float64) -> Float64:
    """Vᵀ diag(usage) V, a block of outputs at a time."""
    total = np.zeros((softmax.rank,) * 2)
    for outputs, part in softmax.parts():
        share = usage[outputs].astype(np.float32)
        total += part.T @ (part * share[:, None])
    return total


def divergence(
    softmax: Softmax,
    data: DistillationData,
    weight: Float64,
    bias: Float64,
    offset: Float32 | None = None,
) -> tuple[float, Float64, Float64]:
    """L and its gradient in weight (r, d_source) and bias (r,), ζ = weight·x + bias.

    offset: (n, r), is added to ζ.
    """
    slope, shift = np.zeros(weight.shape), np.zeros(bias.shape)
    total = 0.0
    for rows, x, zeta in _mapped_blocks(softmax, data, weight, bias):
        if offset is not None:
            np.add(zeta, offset[rows], out=zeta)
        losses, gradient = block_divergence(softmax, data.rows(rows), zeta)
        gradient *= data.weight[rows, None]
        total += float(np.dot(data.weight[rows].astype(np.float64), losses))
        slope += gradient.T @ x
        shift += gradient.sum(axis=0, dtype=np.float64)
    mass = float(data.weight.sum(dtype=np.float64))
    slope /= mass  # in place: with a large head it is one of the largest matrices
    return total / mass, slope, shift / mass


def block_divergence(
    softmax: Softmax, part: DistillationData, zeta: Float32
) -> tuple[Float64, Float32]:
    """KL of some rows, (n,), and its gradient in ζ, (n, r)."""
    if part.target is None:
        gradient, partition = softmax.expected(zeta)
        losses = partition - np.einsum("ij,ij->i", zeta, part.summary, dtype=np.float64)
        gradient -= part.summary
    else:
        q, partition = softmax.probabilities(zeta)
        p = _target_distribution(softmax, part.target, part.teaching, part.next_token)
        scores = softmax.scores(zeta)
        losses = partition - np.einsum("ij,ij->i", p, scores, dtype=np.float64)
        cap = np.float32(softmax.softcap or 1.0)
        gradient = softmax.summed((q - p) * (1 - (scores / cap) ** 2))
    return losses + part.constant, gradient


def _mapped_blocks(
    softmax: Softmax, data: DistillationData, weight: Float64, bias: Float64, *, whole: bool = False
) -> Iterator[tuple[slice, Float32, Float32]]:
    """Yield blocks of rows with their x and ζ = weight·x + bias.

    whole: the scores of all outputs are held at once, as with a soft cap; else those of CHUNK.
    """
    outputs = len(softmax.factor) if whole else softmax.width
    weight32, bias32 = weight.astype(np.float32), bias.astype(np.float32)
    for rows in softmax.blocks(len(data), outputs):
        x = np.asarray(data.source[rows], dtype=np.float32)
        yield rows, x, x @ weight32.T + bias32


def divergences(
    softmax: Softmax, data: DistillationData, weight: Float64, bias: Float64
) -> Float64:
    """Compute the KL of each row, (n,), unweighted; ζ = weight·x + bias."""
    found = np.empty(len(data))
    for rows, _, zeta in _mapped_blocks(softmax, data, weight, bias):
        found[rows] = block_divergence(softmax, data.rows(rows), zeta)[0]
    return found


def agreement(
    softmax: Softmax, data: DistillationData, target: Array, weight: Float64, bias: Float64
) -> float:
    """Compute the share of rows whose highest score is the same on target and on mapped states."""
    same = 0
    for rows, _, zeta in _mapped_blocks(softmax, data, weight, bias, whole=True):
        guess = softmax.scores(zeta).argmax(axis=1)
        choice = softmax.scores(softmax.coordinates(target[rows])).argmax(axis=1)
        same += int((choice == guess).sum())
    return same / len(data)
