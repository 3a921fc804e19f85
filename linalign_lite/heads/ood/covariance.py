"""Class means, shared covariance, Ledoit-Wolf shrinkage, whitening."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.moments import CHUNK, Float64
from linalign_lite.core.affine_map import Array
from linalign_lite.errors import InputError

Ids = npt.NDArray[np.integer[Any]]
MIN_DEVIATION = 1e-6  # share of the largest deviation below which a dimension is not used
MIN_VARIANCE = 1e-10  # share of the largest variance below which a direction is left out


@dataclass(frozen=True, eq=False)
class Covariance:
    """A covariance and the moment that its shrinkage depends on."""

    covariance: Float64  # shape: (d, d)  divided by n
    fourth_moment: float  # mean of ‖row‖⁴
    n: int


def class_means(states: Array, ids: Ids, classes: int) -> Float64:
    """Mean of each class's rows, (classes, d). states: (n, d), ids: (n,); no class is empty."""
    sums = np.zeros((classes, states.shape[1]))
    for start in range(0, len(states), CHUNK):
        np.add.at(sums, ids[start : start + CHUNK], states[start : start + CHUNK].astype(float))
    return np.asarray(sums / np.bincount(ids, minlength=classes)[:, None])


def covariance_about(states: Array, centres: Float64, ids: Ids | None = None) -> Covariance:
    """Covariance of the rows about their centres: Σᵢ (zᵢ − c)(zᵢ − c)ᵀ / n, c = centres[idᵢ].

    Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
    Adversarial Attacks", eq. 1. One pass over the states, in chunks. Without ids, c = centres (d,).
    """
    d = states.shape[1]
    total, fourth = np.zeros((d, d)), 0.0
    for start in range(0, len(states), CHUNK):
        rows = states[start : start + CHUNK].astype(np.float64)
        rows -= centres if ids is None else centres[ids[start : start + CHUNK]]
        total += rows.T @ rows
        fourth += float((np.einsum("ij,ij->i", rows, rows) ** 2).sum())
    return Covariance(total / len(states), fourth / len(states), len(states))


def ledoit_wolf(about: Covariance) -> float:
    """Estimate the s in (1 − s)·C + s·μI, μ the mean variance, with the least expected error.

    s = min(β, δ)/δ, δ = ‖C‖²/d − μ², β = (mean ‖z‖⁴ − ‖C‖²)/(d·n). Ledoit & Wolf 2004, "A
    well-conditioned estimator for large-dimensional covariance matrices"; as in scikit-learn.
    0 when C is a multiple of I already.
    """
    c, d = about.covariance, len(about.covariance)
    squares = float(np.einsum("ij,ij->", c, c))
    delta = squares / d - (np.trace(c) / d) ** 2
    beta = (about.fourth_moment - squares) / (d * about.n)
    return float(min(beta / delta, 1.0)) if delta > 0 and beta > 0 else 0.0


def whitening_matrix(about: Covariance, shrinkage: float | None = None) -> tuple[Float64, float]:
    """W with WᵀW the inverse of the shrunk covariance, (r, d), and the shrinkage used.

    shrinkage: 0 to 1; None: Ledoit-Wolf's. Dimensions that are constant get weight 0, and so do
    directions whose shrunk variance is 0: r may be less than d.
    Raises InputError when nothing varies.
    """
    deviation = np.sqrt(np.maximum(np.diag(about.covariance), 0.0))
    alive = deviation > MIN_DEVIATION * deviation.max()
    if not alive.any():
        raise InputError("the states do not vary within their classes", got="no variance at all")
    kept = Covariance(about.covariance[np.ix_(alive, alive)], about.fourth_moment, about.n)
    used = ledoit_wolf(kept) if shrinkage is None else shrinkage
    d = len(kept.covariance)
    shrunk = (1.0 - used) * kept.covariance
    shrunk[np.diag_indices(d)] += used * np.trace(kept.covariance) / d
    values, vectors = np.linalg.eigh(shrunk)
    positive = values > MIN_VARIANCE * values[-1]
    result = np.zeros((int(positive.sum()), len(alive)))
    result[:, alive] = (vectors[:, positive] / np.sqrt(values[positive])).T
    return result, used
