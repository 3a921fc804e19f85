"""Affine maps for search: cross-covariances of two models, whitened in part on either side.

Let C_ss, C_tt and C_ts be covariances of documents and pseudo-queries under both models, each set
about its own means (s: source, t: target). A map is x ↦ W (x − mean_s) + g · mean_t with

    W ∝ (C_tt + λ_t)^−a  C_ts  (C_ss + λ_s)^−b,       λ = penalty · trace(C) / d,

scaled to the least mean square error. a = 0, b = 1 is ridge; a = b = ½ is a rotation of whitened
states, but for its singular values. In between, the target's large directions, which all documents
share and which tell few of them apart, count less than in least squares. g below 1 takes away a
part of the mean that all mapped states share: it favours the documents nearest to it (hubs) for
any query. "procrustes" is the rotation U Vᵀ of C_ts = U S Vᵀ (Schönemann 1966), scaled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array
from linalign_lite.errors import InputError

Float64 = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Pair = tuple[Array, Array]  # states of the same texts, source and target; (n, d_s), (n, d_t)


@dataclass(frozen=True)
class Shape:
    """The form of a map, without its mean: what W is made of."""

    method: str  # "whitened" or "procrustes"
    target_power: float = 0.0  # a
    source_power: float = 0.0  # b
    penalty: float = 0.0

    def describe(self) -> str:
        """Name for reports."""
        if self.method == "procrustes":
            return "procrustes"
        a, b = f"{self.target_power:g}", f"{self.source_power:g}"
        name = "ridge" if (a, b) == ("0", "1") else f"whitened (target {a}, source {b})"
        return f"{name}, penalty {self.penalty:g}"


SHAPES = (
    Shape("procrustes"),
    *(
        Shape("whitened", a, b, penalty)
        for a, b in ((0.0, 1.0), (0.25, 1.0), (0.5, 0.75), (0.5, 0.5))
        for penalty in (0.01, 0.03, 0.1, 0.3, 1.0)
    ),
)


@dataclass(frozen=True, eq=False)
class Spectra:
    """C_ss = Q_s diag(s) Q_sᵀ, C_tt = Q_t diag(t) Q_tᵀ, and C_ts in these bases."""

    source_values: Float64  # shape: (d_s,)
    source_vectors: Float64  # shape: (d_s, d_s)
    target_values: Float64  # shape: (d_t,)
    target_vectors: Float64  # shape: (d_t, d_t)
    cross: Float64  # shape: (d_t, d_s)

    def core(self, shape: Shape) -> Float64:
        """W in the eigenbases, (d_t, d_s)."""
        if shape.method == "procrustes":
            u, _, vt = np.linalg.svd(self.cross, full_matrices=False)
            core: Float64 = u @ vt
        else:
            left = _power(self.target_values, shape.target_power, shape.penalty)
            right = _power(self.source_values, shape.source_power, shape.penalty)
            core = left[:, None] * self.cross * right
        explained = float((core * self.source_values * core).sum())
        return core * (float((core * self.cross).sum()) / explained if explained else 0.0)

    def weight(self, shape: Shape) -> Float64:
        """W, (d_t, d_s)."""
        found: Float64 = self.target_vectors @ self.core(shape) @ self.source_vectors.T
        return found


def _power(values: Float64, power: float, penalty: float) -> Float64:
    """(values + λ)^−power, 0 for directions that do not vary."""
    shifted = values + penalty * values.mean()
    safe = shifted > values.max(initial=0.0) * len(values) * np.finfo(np.float32).eps
    found: Float64 = np.power(shifted, -power, out=np.zeros_like(shifted), where=safe)
    return found


def spectra(sets: Sequence[Pair]) -> Spectra:
    """Spectra of pairs, each set about its own means. Raises InputError where nothing varies."""
    d_s, d_t = sets[0][0].shape[1], sets[0][1].shape[1]
    ss, tt, ts = np.zeros((d_s, d_s)), np.zeros((d_t, d_t)), np.zeros((d_t, d_s))
    for source, target in sets:
        x, y = centred(source), centred(target)
        ss += x.T @ x
        tt += y.T @ y
        ts += y.T @ x
    n = sum(len(x) for x, _ in sets)
    s, q_s = np.linalg.eigh(ss / n)
    t, q_t = np.linalg.eigh(tt / n)
    s, t = np.maximum(s, 0.0), np.maximum(t, 0.0)
    if not (s.max() > 0 and t.max() > 0):
        raise InputError("the states of one side are all the same, so no map can be fitted")
    return Spectra(s, q_s, t, q_t, q_t.T @ (ts / n) @ q_s)


def mean(states: Array) -> Float64:
    """Mean of rows (n, d), in float64."""
    found: Float64 = states.mean(axis=0, dtype=np.float64)
    return found


def centred(states: Array) -> Float32:
    """Rows about their mean, float32."""
    return (states - mean(states)).astype(np.float32)
