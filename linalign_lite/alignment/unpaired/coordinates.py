"""Coordinates in which the states of two models nearly differ by a rotation.

    z = u / ‖u‖,  u = (x − m) V Λ^(−1/4),

V and Λ being the leading eigenvectors and eigenvalues of the covariance of x, m its mean. Halfway
between principal components and whitened ones: a few directions of large variance, which models
rarely share, count less, and noise is not blown up.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from linalign_lite.alignment.moments import Float64
from linalign_lite.core.affine_map import Array, row_blocks
from linalign_lite.errors import InputError
from linalign_lite.storage.arrays import unit_rows

POWER = 0.25  # of an eigenvalue: 0 keeps the variances, 0.5 makes all of them 1
LEAST_SHARE = 1e-7  # of the largest eigenvalue: below, a direction is rounding noise


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Mean, the basis V Λ^(−1/4) and its inverse V Λ^(1/4), and the mean length of u."""

    mean: Float64  # shape: (d,)
    basis: Float64  # shape: (d, r)
    inverse: Float64  # shape: (d, r)
    length: float

    @property
    def rank(self) -> int:
        return int(self.basis.shape[1])

    def __call__(self, states: Array) -> Array:
        """z of each row, (n, r), float32."""
        return unit_rows(self.project(states))

    def project(self, states: Array) -> Array:
        """u of each row, (n, r), float32."""
        out: Array = np.empty((len(states), self.rank), np.float32)
        basis = self.basis.astype(np.float32)
        for rows in row_blocks(states):  # a mean far from 0 is taken off in float64
            np.matmul((states[rows] - self.mean).astype(np.float32), basis, out=out[rows])
        return out


def coordinates_of(states: Array, largest_rank: int) -> Coordinates:
    """Coordinates of a sample of states (n, d). Raises InputError when all rows are equal."""
    mean, covariance = _covariance(states)
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = min(largest_rank, len(states) - 1, int((values > LEAST_SHARE * values[0]).sum()))
    if values[0] <= 0 or kept < 1:
        raise InputError("the states are all the same, so no map can be fitted")
    scale = values[:kept] ** POWER
    found = Coordinates(mean, vectors[:, :kept] / scale, vectors[:, :kept] * scale, 1.0)
    some = states[: 1 << 14]
    length = float(np.linalg.norm(found.project(some), axis=1).mean())
    return replace(found, length=length)


def affine(source: Coordinates, target: Coordinates, rotation: Any) -> tuple[Float64, Float64]:
    """Weight (d_target, d_source) and bias of the map x → m' + c · u(x) R Λ'^(1/4) V'ᵀ.

    rotation: R, (r, r'), of rows: z R ≈ z'. c is the ratio of the mean lengths of u' and u.
    """
    forward = source.basis @ (np.asarray(rotation, np.float64) @ target.inverse.T)
    weight = (target.length / source.length) * forward.T
    return weight, target.mean - weight @ source.mean


def _covariance(states: Array) -> tuple[Float64, Float64]:
    """Mean (d,) and covariance (d, d), in float64, a block of rows at a time."""
    mean = states.mean(axis=0, dtype=np.float64)
    total = np.zeros((states.shape[1], states.shape[1]))
    for rows in row_blocks(states):
        block = states[rows].astype(np.float64) - mean
        total += block.T @ block
    return mean, total / len(states)
