"""Statistics of one model's states, computed once for all comparisons with other models."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.moments import CHUNK, Float64
from linalign_lite.alignment.similarity.measures import Ints, hsic, nearest, whitener
from linalign_lite.core.affine_map import Array
from linalign_lite.errors import InputError

_NOTHING = 1e-12  # share of ‖X_cᵀX_c‖² that an HSIC of 0 may have by rounding


@dataclass(frozen=True, eq=False)
class FoldProducts:
    """Sums and XᵀX of each fold about the mean of all rows, and every row's squared length."""

    sums: Float64  # shape: (folds, d)
    grams: Float64  # shape: (folds, d, d)
    squares: Float64  # shape: (n,)


@dataclass(frozen=True, eq=False)
class SplitBasis:
    """One split: the training rows' X_cᵀX_c = V diag(s) Vᵀ, the held-out XᵀX in that basis."""

    values: Float64  # shape: (d,)  s, none below 0
    vectors: Float64  # shape: (d, d)  V
    held: Float64  # shape: (d, d)  Vᵀ XᵀX V of the held-out rows about the training mean
    unit: float  # λ of a relative penalty of 1

    def shrink(self, penalties: npt.ArrayLike) -> Float64:
        """1 / (s + λ), (n_penalties, d); 0 at or below the cutoff."""
        shifted = self.values + np.atleast_1d(np.asarray(penalties))[:, None] * self.unit
        safe = shifted > cutoff(self.values)
        return np.divide(1.0, shifted, out=np.zeros_like(shifted), where=safe)


@dataclass(frozen=True, eq=False)
class ModelStatistics:
    """Some rows of a model's states, cut into folds. Caches depend on these fields alone.

    ``dim`` is the model's: ``states`` have fewer columns where they were rotated.
    """

    name: str
    states: Array = field(repr=False)  # shape: (n, d)
    folds: tuple[Ints, ...] = field(repr=False)
    dim: int
    k: int
    share: float

    def __len__(self) -> int:
        return len(self.states)

    @cached_property
    def mean(self) -> Float64:
        return np.asarray(self.states.mean(axis=0, dtype=np.float64))

    def rows(self, index: Ints) -> Float64:
        """Return rows ``index`` in float64, minus the mean of all."""
        return self.states[index].astype(np.float64) - self.mean

    def parts(self) -> Iterator[tuple[int, Ints]]:
        """Yield the number of each fold with runs of its rows that may be float64 at once."""
        for i, fold in enumerate(self.folds):
            for start in range(0, len(fold), CHUNK):
                yield i, fold[start : start + CHUNK]

    @cached_property
    def own(self) -> FoldProducts:
        """Sums and products, in one pass over the rows."""
        d = self.states.shape[1]
        sums, grams = np.zeros((len(self.folds), d)), np.zeros((len(self.folds), d, d))
        squares = np.zeros(len(self))
        for i, part in self.parts():
            rows = self.rows(part)
            sums[i] += rows.sum(axis=0)
            grams[i] += rows.T @ rows
            squares[part] = np.einsum("ij,ij->i", rows, rows)
        return FoldProducts(sums, grams, squares)

    @cached_property
    def gram(self) -> Float64:
        """X_cᵀX_c of all rows, (d, d)."""
        return np.asarray(self.own.grams.sum(axis=0))

    @cached_property
    def gram_norm(self) -> float:
        """‖X_cᵀX_c‖."""
        return float(np.linalg.norm(self.gram))

    @cached_property
    def hsic(self) -> float:
        """Unbiased HSIC of the states with themselves, not divided by n(n − 3).

        Raises InputError when it is zero, as where all rows but one are equal.
        """
        a = self.own.squares
        found = hsic(self.gram_norm**2, float(a @ a), float(a.sum()), float(a.sum()), len(self))
        if found <= _NOTHING * self.gram_norm**2:
            raise InputError(
                f"debiased CKA is not defined for the states of {self.name}",
                got=f"{len(self)} rows of whose kernel nothing is left without its row means",
                hint="leave cka_debiased out, or bring more rows",
            )
        return found

    @cached_property
    def whitener(self) -> Float64:
        """Matrix from centred rows to uncorrelated directions with ``share`` of the variance."""
        values, vectors = eigen(self.gram)
        return whitener(values, vectors, self.share, cutoff(values))

    @cached_property
    def neighbours(self) -> npt.NDArray[np.int32]:
        return nearest(self.states, self.k)

    @cached_property
    def gaps(self) -> Float64:
        """Mean of each split's training rows, less that of all rows; (folds, d)."""
        left = np.array([len(self) - len(fold) for fold in self.folds])
        return np.asarray(without_each(self.own.sums) / left[:, None])

    @cached_property
    def bases(self) -> tuple[SplitBasis, ...]:
        """One eigendecomposition per fold, for every penalty and every other model."""
        found = []
        training = without_each(self.own.grams)
        for i, fold in enumerate(self.folds):
            square = np.outer(self.gaps[i], self.gaps[i])
            values, vectors = eigen(training[i] - (len(self) - len(fold)) * square)
            cross = np.outer(self.own.sums[i], self.gaps[i])
            held = self.own.grams[i] - cross - cross.T + len(fold) * square
            unit = float(values.sum()) / self.dim
            found.append(SplitBasis(values, vectors, vectors.T @ held @ vectors, unit))
        return tuple(found)


def statistics_of(
    name: str, states: Array, folds: Sequence[Ints], *, dim: int, k: int, share: float
) -> ModelStatistics:
    """Check the rows and rotate them to as few columns as they need.

    With fewer rows than columns, X = RᵀQᵀ (a QR of Xᵀ): Rᵀ has the same inner products, and every
    measure here depends on those alone. Raises InputError when all rows are equal.
    """
    if (states == states[0]).all():
        raise InputError(
            f"the states of {name} are all the same",
            got=f"{len(states)} equal rows",
            hint="similarity needs states that differ",
        )
    if states.shape[1] > len(states):
        states = np.asarray(np.linalg.qr(states.T.astype(np.float64), mode="r")).T
    return ModelStatistics(name, states, tuple(folds), dim, k, share)


def eigen(gram: Float64) -> tuple[Float64, Float64]:
    """Eigenvalues, ascending and none below 0, and eigenvectors."""
    values, vectors = np.linalg.eigh(gram)
    return np.maximum(values, 0.0), vectors


def cutoff(values: Float64) -> float:
    """Eigenvalues at or below this are rounding noise."""
    return float(values[-1]) * len(values) * float(np.finfo(np.float64).eps)


def without_each(parts: Float64) -> Float64:
    """Sum all parts but one, for each; a subtraction from the total would cost digits."""
    return np.stack([np.delete(parts, i, axis=0).sum(axis=0) for i in range(len(parts))])
