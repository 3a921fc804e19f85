"""The interface of scoring rules, the data that they are fitted on, and shared checks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from linalign_lite.core.affine_map import Array
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import InputError
from linalign_lite.heads.ood.covariance import class_means, covariance_about, whitening_matrix
from linalign_lite.storage.arrays import unit_rows

Float64 = npt.NDArray[np.float64]
_UNIT_TOLERANCE = 1e-3  # of the length of a row that should have length 1


@dataclass(frozen=True, eq=False)
class FitData:
    """In-distribution states to fit a rule on, with the options of `fit_detector`.

    ``temperature`` and ``shrinkage`` are None for "auto".
    """

    training: HiddenStates
    validation: HiddenStates | None
    head: Head | None
    temperature: float | None
    k: int
    components: int | None
    bank: int
    shrinkage: float | None
    seed: int

    @cached_property
    def classes(self) -> tuple[npt.NDArray[np.intp], int, str]:
        """Class of each state (n,) from 0 without gaps, their number, and where they come from.

        The states' labels; without labels, the head's predictions; without a head, one class.
        """
        if self.training.label_ids is not None:
            raw, source = self.training.label_ids.astype(np.intp), "labels"
        elif self.head is not None:
            raw, source = self.head.top(self.training.states, 1)[0][:, 0], "head"
        else:
            raw, source = np.zeros(len(self.training), dtype=np.intp), "none"
        present, ids = np.unique(raw, return_inverse=True)
        return ids, len(present), source

    def require_classes(self, method: str) -> None:
        """Raise InputError when there are fewer than two classes."""
        _, n, source = self.classes
        if n < 2:
            raise InputError(
                f"{method} needs states of two labels or more",
                got="no labels" if source == "none" else "one label",
                hint="label the states, give a head, or use mahalanobis or knn",
            )

    def whitening(self) -> tuple[Float64, Float64, Float64, float]:
        """Mean of all (d,), centred class means (K, d), whitening matrix (r, d), shrinkage."""
        states, (ids, n, _) = self.training.states, self.classes
        centres = class_means(states, ids, n)
        mean: Float64 = np.bincount(ids, minlength=n) @ centres / len(ids)
        matrix, used = whitening_matrix(covariance_about(states, centres, ids), self.shrinkage)
        return mean, centres - mean, matrix, used


class Rule(ABC):
    """The scoring rule of one method. Subclasses are frozen data classes.

    ``arrays``: attributes that a file stores as arrays, with their dimensions, in the file's order,
    after ``weight`` and ``bias`` of the head; the last axis of the first one has length d.
    ``settings``: numbers that a file's card stores, with the types that `schema.parse` checks.
    """

    method: ClassVar[str]
    needs_head: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = False  # two labels or more, or a head that gives them
    arrays: ClassVar[Mapping[str, int]] = {}
    settings: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    @abstractmethod
    def fit(cls, data: FitData) -> tuple[Self, dict[str, Any]]:
        """Fit on in-distribution states; returns the rule and facts about the fit for its card."""

    @classmethod
    def rebuild(cls, arrays: Mapping[str, Array], settings: Any, head: Head | None) -> Self:
        """Rebuild the rule from a file's arrays, settings and head."""
        return cls(**arrays, **settings, **({"head": head} if cls.needs_head else {}))

    @property
    def dim(self) -> int | None:
        """Dimensions d of the states; None when only a head's scores can be scored."""
        return int(getattr(self, next(iter(self.arrays))).shape[-1])

    @property
    @abstractmethod
    def width(self) -> int:
        """Numbers held in memory for one state while it is scored."""

    @abstractmethod
    def score(self, states: Float64) -> Float64:
        """Score states that fit, (n, d) → (n,). `Detector` checks them and passes blocks."""


@dataclass(frozen=True, eq=False)
class ClassMeansRule(Rule):
    """Base of the rules that compare whitened states with whitened class means."""

    mean: Array  # shape: (d,)
    whitening: Array  # shape: (r, d)
    centres: Array  # shape: (K, r)

    arrays: ClassVar[Mapping[str, int]] = {"mean": 1, "whitening": 2, "centres": 2}

    def __post_init__(self) -> None:
        require_whitening(self.mean, self.whitening, self.centres)

    @property
    def width(self) -> int:
        return len(self.centres)


def as_float64(array: Array) -> Float64:
    """The array in float64, not copied when it is so already."""
    return np.asarray(array, dtype=np.float64)


def unit(rows: Array) -> Float64:
    """Divide each row by its length, (n, d) → (n, d) float64; a row of length 0 stays 0."""
    return unit_rows(as_float64(rows))


def require_whitening(mean: Array, whitening: Array, points: Array) -> None:
    """Raise InputError unless mean (d,), whitening (r, d) and points (m, r) fit each other."""
    require_shape("mean", mean, (None,))
    require_shape("whitening", whitening, (None, len(mean)))
    require_shape("what is compared with", points, (None, len(whitening)))


def require_shape(name: str, array: Array, shape: tuple[int | None, ...]) -> None:
    """Raise InputError for another shape; None allows any length of 1 or more."""
    fits = array.ndim == len(shape) and all(
        got >= 1 and wanted in (None, got) for wanted, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise InputError(
            f"{name} does not fit the detector",
            got=f"shape {array.shape}",
            expected=str(tuple("any" if n is None else n for n in shape)).replace("'", ""),
        )


def require_unit_rows(name: str, rows: Array) -> None:
    """Raise InputError unless every row has length 1."""
    require_shape(name, rows, (None, None))
    squares = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    if not (np.abs(np.sqrt(squares) - 1.0) <= _UNIT_TOLERANCE).all():
        raise InputError(f"rows of {name} do not have length 1")
