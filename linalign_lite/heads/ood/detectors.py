"""The detectors: one small frozen class each. ``score`` is higher for what is more outlying.

``score`` takes states (n, d) float64 that fit and gives (n,); Detector checks and cuts into blocks.
docs/FORMAT.md, section 1, has the same formulas by the names of the files' members.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array
from linalign_lite.core.head import Head
from linalign_lite.errors import InputError
from linalign_lite.heads.ood.nearest_neighbours import kth_distance, unit
from linalign_lite.heads.ood.scores import SCORE_METHODS, energy, outlyingness, usable_temperature

Float64 = npt.NDArray[np.float64]
_UNIT = 1e-3  # how far from 1 the length of a row that should have length 1 may be


class Rule(Protocol):
    """What every detector can do."""

    @property
    def method(self) -> str: ...

    @property
    def dim(self) -> int | None:
        """Dimensions of the states it reads; None when it reads scores only."""

    @property
    def width(self) -> int:
        """Numbers that one state needs while it is scored."""

    def score(self, states: Float64) -> Float64: ...


@dataclass(frozen=True, eq=False)
class ScoreRule:
    """energy, msp or max-logit (ood.scores) of a head's scores; without a head, of given scores."""

    method: str
    n_outputs: int
    temperature: float = 1.0
    head: Head | None = None

    def __post_init__(self) -> None:
        if self.method not in SCORE_METHODS:
            raise InputError("no score of this name", got=self.method)
        usable_temperature(self.temperature)
        if self.n_outputs < 2 or (self.head and self.head.n_outputs != self.n_outputs):
            raise InputError(
                "the number of outputs does not fit", got=str(self.n_outputs), expected="2 or more"
            )

    @property
    def dim(self) -> int | None:
        return None if self.head is None else int(self.head.weight.shape[1])

    @property
    def width(self) -> int:
        return self.n_outputs

    def score(self, states: Float64) -> Float64:
        if self.head is None:
            raise InputError(
                "this detector reads scores, not states",
                hint="use it on decrypted scores, or fit one with its head",
            )
        return self.of_scores(self.head(states))

    def of_scores(self, scores: Array) -> Float64:
        """scores: (n, n_outputs)."""
        if np.ndim(scores) != 2 or np.shape(scores)[1] != self.n_outputs:
            raise InputError(
                "scores do not fit this detector",
                got=f"shape {np.shape(scores)}",
                expected=f"(n, {self.n_outputs})",
            )
        return outlyingness(scores, self.method, self.temperature)


@dataclass(frozen=True, eq=False)
class Mahalanobis:
    """minₖ ‖W(z − m) − cₖ‖², the squared distance to the nearest class mean under a shared
    covariance (WᵀW)⁻¹. Lee et al. 2018, eq. 2.

    With ``background`` B, − ‖B(z − m)‖² is added, the squared distance to the mean of all states
    under their covariance: Ren et al. 2021, "A Simple Fix to Mahalanobis Distance for Improving
    Near-OOD Detection".
    """

    mean: Array  # shape: (d,)
    whitening: Array  # shape: (r, d)
    centres: Array  # shape: (K, r)
    background: Array | None = None  # shape: (q, d)

    def __post_init__(self) -> None:
        _require_white(self.mean, self.whitening, self.centres)
        if self.background is not None:
            _require_shape("background", self.background, (None, len(self.mean)))

    @property
    def method(self) -> str:
        return "mahalanobis" if self.background is None else "relative-mahalanobis"

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def width(self) -> int:
        return len(self.centres)

    def score(self, states: Float64) -> Float64:
        moved = states - self.mean
        nearest = _least_square(moved @ _wide(self.whitening).T, _wide(self.centres))
        if self.background is None:
            return nearest
        away = moved @ _wide(self.background).T
        relative: Float64 = nearest - np.einsum("ij,ij->i", away, away)
        return relative


@dataclass(frozen=True, eq=False)
class Cosine:
    """−maxₖ cos(W(z − m), cₖ): whitened as for Mahalanobis, but the direction alone is compared.

    The whitened cosine of Liu 2007, "The Bayes Decision Rule Induced Similarity Measures", with m
    the mean of all states.
    """

    mean: Array  # shape: (d,)
    whitening: Array  # shape: (r, d)
    centres: Array  # shape: (K, r)  rows of length 1

    method = "cosine"

    def __post_init__(self) -> None:
        _require_white(self.mean, self.whitening, self.centres)
        _require_unit("centres", self.centres)

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def width(self) -> int:
        return len(self.centres)

    def score(self, states: Float64) -> Float64:
        directions = unit((states - self.mean) @ _wide(self.whitening).T)
        nearest: Float64 = (directions @ _wide(self.centres).T).max(axis=1)
        return -nearest


@dataclass(frozen=True, eq=False)
class Neighbours:
    """‖u − b₍ₖ₎‖, u = z/‖z‖, to the k-th nearest of the bank's states, normalised alike.

    Sun et al. 2022, "Out-of-Distribution Detection with Deep Nearest Neighbors", section 3. With
    ``whitening`` W and ``mean`` m, u = W(z − m)/‖W(z − m)‖.
    """

    bank: Array  # shape: (m, r)  rows of length 1; r = d without whitening
    k: int
    mean: Array | None = None  # shape: (d,)
    whitening: Array | None = None  # shape: (r, d)

    def __post_init__(self) -> None:
        _require_unit("bank", self.bank)
        if (self.mean is None) != (self.whitening is None):
            raise InputError("mean and whitening go together")
        if self.mean is not None and self.whitening is not None:
            _require_white(self.mean, self.whitening, self.bank)
        if not 1 <= self.k <= len(self.bank):
            raise InputError(
                "the number of neighbours does not fit the bank",
                got=str(self.k),
                expected=f"1 to {len(self.bank)}",
            )

    @property
    def method(self) -> str:
        return "knn" if self.whitening is None else "whitened-knn"

    @property
    def dim(self) -> int:
        return int(self.bank.shape[1]) if self.mean is None else len(self.mean)

    @property
    def width(self) -> int:
        return self.dim  # distances are made in blocks of their own

    def score(self, states: Float64) -> Float64:
        if self.mean is not None and self.whitening is not None:
            states = (states - self.mean) @ _wide(self.whitening).T
        return kth_distance(self.bank, unit(states), self.k)


@dataclass(frozen=True, eq=False)
class VirtualLogit:
    """ViM: α‖R(z − m)‖ − log Σₖ exp(sₖ), R a basis of what the principal directions leave.

    Wang et al. 2022, "ViM: Out-Of-Distribution with Virtual-logit Matching": the logarithm of the
    odds that softmax gives a virtual logit α‖R(z − m)‖. m = −V⁺c makes the head V, c linear.
    """

    head: Head
    mean: Array  # shape: (d,)
    residual: Array  # shape: (q, d)
    alpha: float

    method = "vim"

    def __post_init__(self) -> None:
        d = self.head.weight.shape[1]
        _require_shape("mean", self.mean, (d,))
        _require_shape("residual", self.residual, (None, d))
        if self.head.n_outputs < 2:
            raise InputError("the head has one output alone", expected="2 or more")
        if not 0 < self.alpha < np.inf:
            raise InputError("alpha is not usable", got=str(self.alpha), expected="above 0")

    @property
    def dim(self) -> int:
        return len(self.mean)

    @property
    def width(self) -> int:
        return self.head.n_outputs

    def score(self, states: Float64) -> Float64:
        left = np.linalg.norm((states - self.mean) @ _wide(self.residual).T, axis=1)
        score: Float64 = self.alpha * left + energy(self.head(states))
        return score


def _least_square(rows: Float64, centres: Float64) -> Float64:
    """minₖ ‖row − cₖ‖², (n,)."""
    inner = np.einsum("ij,ij->i", centres, centres) - 2.0 * (rows @ centres.T)
    least: Float64 = inner.min(axis=1) + np.einsum("ij,ij->i", rows, rows)
    floored: Float64 = np.maximum(least, 0.0)
    return floored


def _wide(array: Array) -> Float64:
    return np.asarray(array, dtype=np.float64)


def _require_white(mean: Array, whitening: Array, points: Array) -> None:
    _require_shape("mean", mean, (None,))
    _require_shape("whitening", whitening, (None, len(mean)))
    _require_shape("what is compared with", points, (None, len(whitening)))


def _require_shape(name: str, array: Array, shape: tuple[int | None, ...]) -> None:
    fits: Callable[[int | None, int], bool] = lambda want, got: got >= 1 and want in (None, got)  # noqa: E731
    if array.ndim != len(shape) or not all(map(fits, shape, array.shape)):
        raise InputError(
            f"{name} does not fit the detector",
            got=f"shape {array.shape}",
            expected=str(tuple("any" if n is None else n for n in shape)).replace("'", ""),
        )


def _require_unit(name: str, rows: Array) -> None:
    _require_shape(name, rows, (None, None))
    squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    if not (np.abs(np.sqrt(squares) - 1.0) <= _UNIT).all():
        raise InputError(f"rows of {name} do not have length 1")
