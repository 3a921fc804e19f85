"""Class means, shared covariance, Ledoit-Wolf shrinkage, whitening."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.moments import CHUNK
from linalign_lite.core.affine_map import Array
from linalign_lite.errors import InputError

Float64 = npt.NDArray[np.float64]
Ids = npt.NDArray[np.integer[Any]]
DEAD = 1e-6  # a dimension with less than this share of the largest deviation is not used
RANK = 1e-10  # a direction with less than this share of the largest variance is left out


@dataclass(frozen=True, eq=False)
class Spread:
    """A covariance, and what its shrinkage depends on."""

    covariance: Float64  # shape: (d, d)  divided by n
    fourth: float  # mean of ‖row‖⁴
    n: int


def class_means(states: Array, ids: Ids, classes: int) -> Float64:
    """Mean of each class's rows, (classes, d). states: (n, d), ids: (n,), none of them empty."""
    sums = np.zeros((classes, states.shape[1]))
    for start in range(0, len(states), CHUNK):
        np.add.at(sums, ids[start : start + CHUNK], states[start : start + CHUNK].astype(float))
    result: Float64 = sums / np.bincount(ids, minlength=classes)[:, None]
    return result


def spread_about(states: Array, centres: Float64, ids: Ids) -> Spread:
    """Covariance of the rows about each one's centre: Σᵢ (zᵢ − c)(zᵢ − c)ᵀ / n, c = centres[idᵢ].

    Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
    Adversarial Attacks", eq. 1. A pass over the states in pieces.
    """
    d = states.shape[1]
    total, fourth = np.zeros((d, d)), 0.0
    for start in range(0, len(states), CHUNK):
        rows = states[start : start + CHUNK].astype(np.float64)
        rows -= centres[ids[start : start + CHUNK]]
        total += rows.T @ rows
        fourth += float((np.einsum("ij,ij->i", rows, rows) ** 2).sum())
    return Spread(total / len(states), fourth / len(states), len(states))


def ledoit_wolf(spread: Spread) -> float:
    """The share s of μI, μ the mean variance, for which (1 − s)·C + s·μI is nearest to the truth.

    s = min(β, δ)/δ, δ = ‖C‖²/d − μ², β = (mean ‖z‖⁴ − ‖C‖²)/(d·n). Ledoit & Wolf 2004, "A
    well-conditioned estimator for large-dimensional covariance matrices"; the same as
    scikit-learn's. 0 when C is a multiple of I already.
    """
    c, d = spread.covariance, len(spread.covariance)
    squares = float(np.einsum("ij,ij->", c, c))
    delta = squares / d - (np.trace(c) / d) ** 2
    beta = (spread.fourth - squares) / (d * spread.n)
    if delta <= 0 or beta <= 0:
        return 0.0
    return float(min(beta / delta, 1.0))


def whitening(spread: Spread, shrinkage: float | None = None) -> tuple[Float64, float]:
    """W with WᵀW the inverse of the shrunk covariance, (r, d), and the shrinkage used.

    shrinkage: 0 to 1; None: Ledoit-Wolf's. Dimensions that never change get no weight, so do
    directions without variance that shrinkage did not give any: r may be less than d.
    Raises InputError when nothing varies.
    """
    deviation = np.sqrt(np.maximum(np.diag(spread.covariance), 0.0))
    alive = deviation > DEAD * deviation.max()
    if not alive.any():
        raise InputError("the states do not vary within their classes", got="no variance at all")
    kept = Spread(spread.covariance[np.ix_(alive, alive)], spread.fourth, spread.n)
    used = ledoit_wolf(kept) if shrinkage is None else shrinkage
    d = len(kept.covariance)
    shrunk = (1.0 - used) * kept.covariance
    shrunk[np.diag_indices(d)] += used * np.trace(kept.covariance) / d
    values, vectors = np.linalg.eigh(shrunk)
    real = values > RANK * values[-1]
    result = np.zeros((int(real.sum()), len(alive)))
    result[:, alive] = (vectors[:, real] / np.sqrt(values[real])).T
    return result, used
