"""Ridge from one eigendecomposition: every penalty, every target, and every held-out error.

In the eigenbasis of X_cᵀX_c = Q diag(s) Qᵀ a ridge map is W = (Q diag(1/(s+λ)) QᵀX_cᵀY_c)ᵀ, so only
a diagonal factor depends on the penalty, and only a product on the target.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from linalign_lite.alignment.moments import Float64, Moments
from linalign_lite.errors import InputError

PENALTIES = np.logspace(-8, 2, 61)


@dataclass(frozen=True, eq=False)
class Spectrum:
    """X_cᵀX_c = Q diag(s) Qᵀ, and QᵀX_cᵀY_c, which serve every penalty."""

    values: Float64  # shape: (d_source,)  s, none below 0
    vectors: Float64  # shape: (d_source, d_source)  Q
    projected: Float64  # shape: (d_source, d_target)  QᵀX_cᵀY_c
    mean_x: Float64
    mean_y: Float64

    @property
    def cutoff(self) -> float:
        """Eigenvalues at or below this are rounding noise."""
        return float(self.values[-1]) * len(self.values) * np.finfo(np.float64).eps

    @property
    def unit(self) -> float:
        """trace / d_source: λ of a relative penalty of 1."""
        return float(self.values.sum()) / len(self.values)

    def shrink(self, penalty: float) -> Float64:
        """1 / (s + λ), (d_source,); 0 at or below the cutoff (the pseudo-inverse)."""
        shifted = self.values + penalty * self.unit
        safe = shifted > self.cutoff
        return np.divide(1.0, shifted, out=np.zeros_like(shifted), where=safe)


def spectrum(moments: Moments) -> Spectrum:
    """Eigendecomposition of the centred X_cᵀX_c: O(d³) once, then every penalty is O(d²)."""
    values, vectors = np.linalg.eigh(moments.xx)
    return Spectrum(
        np.maximum(values, 0.0), vectors, vectors.T @ moments.xy, moments.mean_x, moments.mean_y
    )


def ridge(spectrum: Spectrum, penalty: float) -> tuple[Float64, Float64]:
    """W = (Q diag(1/(s+λ)) QᵀX_cᵀY_c)ᵀ and the bias mean(Y) − W mean(X)."""
    weight = (spectrum.vectors @ (spectrum.shrink(penalty)[:, None] * spectrum.projected)).T
    return weight, spectrum.mean_y - weight @ spectrum.mean_x


def held_out_errors(basis: Spectrum, held_out: Moments, penalties: Float64) -> Float64:
    """‖X Wᵀ + b − Y‖² on held-out pairs of the ridge map of every penalty, (n_penalties,)."""
    part = held_out.about(basis.mean_x, basis.mean_y)
    inner = basis.vectors.T @ part.xx @ basis.vectors
    return penalty_errors(basis, part, inner, penalties)


def penalty_errors(basis: Spectrum, part: Moments, inner: Float64, penalties: Float64) -> Float64:
    """‖X Wᵀ − Y‖² on held-out rows for every penalty, (n_penalties,).

    In the eigenbasis of a fold's training data, with f = 1/(s+λ), A = QᵀX_cᵀY_c of the training
    part, B and G the held-out XᵀY and XᵀX (about the training means) in that basis:
    ‖X Wᵀ − Y‖² = yy − 2 fᵀ(A∘B)1 + fᵀ(G ∘ AAᵀ)f, so each penalty costs one O(d²) form.
    part: moments about the training means; inner: G, (d_source, d_source).
    """
    linear = np.einsum("ij,ij->i", basis.projected, basis.vectors.T @ part.xy)
    quadratic = inner * (basis.projected @ basis.projected.T)
    f = np.stack([basis.shrink(float(penalty)) for penalty in penalties])
    errors: Float64 = part.yy.sum() - 2 * f @ linear + np.einsum("ij,ij->i", f @ quadratic, f)
    return errors


def usable_penalty(value: float | str, *, limit: float = float("inf")) -> float | None:
    """Return the penalty as a number of at least 0, or None for "auto". Else raise InputError."""
    expected = "auto, or 0 or more"
    return number_or_auto(value, "the penalty", lambda number: 0 <= number < limit, expected)


def number_or_auto(
    value: float | str, what: str, usable: Callable[[float], bool], expected: str
) -> float | None:
    """Return an option as a usable number, or None for "auto". Else raise InputError."""
    if value == "auto":
        return None
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = float("nan")
    if not usable(found):
        raise InputError(f"{what} is not usable", got=str(value)[:40], expected=expected)
    return found
