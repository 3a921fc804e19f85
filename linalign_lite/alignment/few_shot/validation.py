"""Divergence of a map from the teacher on held-out few texts."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.kl.objective import DistillationData, Float32, Softmax, divergences
from linalign_lite.alignment.kl.optimizer import ReducedMap
from linalign_lite.alignment.moments import Float64
from linalign_lite.core.affine_map import Array

SCALES = tuple(float(s) for s in np.logspace(-1.5, 0.5, 17))
MOST = 1 << 26  # maximum probabilities that are held of a classifier


@dataclass(frozen=True, eq=False)
class HeldOutDivergence:
    """The divergence of each row, for a classifier at several scales of the mapped scores.

    A map from few texts is miscalibrated; the top classes of a classifier do not depend on that.
    So each map is compared at the best scale of its scores. A token head, whose probabilities are
    used, is compared at scale 1.
    """

    softmax: Softmax
    data: DistillationData
    said: Float32 | None  # shape: (n, n_outputs)  p of every row; None: scale 1 alone

    def losses(self, rows: npt.NDArray[np.intp], affine: ReducedMap) -> Float64:
        """(n_scales, len(rows))."""
        data = self.data.rows(rows)
        if self.said is None:
            return divergences(self.softmax, data, affine.weight, affine.bias)[None]
        mapped = np.asarray(data.source, dtype=np.float64) @ affine.weight.T + affine.bias
        scores = self.softmax.scores(mapped.astype(np.float32)).astype(np.float64)
        scores -= scores.max(axis=1, keepdims=True)
        p = self.said[rows].astype(np.float64)
        wanted = np.einsum("ij,ij->i", p, scores)
        own = np.einsum("ij,ij->i", p, np.log(np.maximum(p, np.finfo(np.float32).tiny)))
        partitions = [np.log(np.exp(scores * s).sum(axis=1)) for s in SCALES]
        return np.array([z - s * wanted + own for s, z in zip(SCALES, partitions, strict=True)])


def held_out_divergence(
    softmax: Softmax, data: DistillationData, target: Array, *, classifier: bool
) -> HeldOutDivergence:
    """Return the measure of divergence. target: (n, d) states of the few texts."""
    if not classifier or len(data) * len(softmax.factor) > MOST:
        return HeldOutDivergence(softmax, data, None)
    said, _ = softmax.probabilities(softmax.coordinates(target), data.teaching.temperature)
    return HeldOutDivergence(softmax, data, said)


def at_best_scale(losses: Float64) -> Float64:
    """(n_scales, n) → (n,): at the scale whose mean is lowest."""
    best: Float64 = losses[losses.mean(axis=1).argmin()]
    return best
