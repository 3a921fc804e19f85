"""Weights of the few texts relative to the public ones, and their least squares.

    minimise  Σ_public ‖W x + b − y‖²/n_public + w Σ_few ‖W x + b − y‖²/n_few + λ ‖W‖²,

w and λ chosen by K-fold cross-validation on the few, exactly, from merged moments alone.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from linalign_lite.alignment.moments import Float64, FoldedMoments, Moments
from linalign_lite.alignment.ridge import Spectrum, held_out_errors, number_or_auto, spectrum
from linalign_lite.alignment.solvers import spread

PUBLIC_ONLY, FEW_ONLY = 0.0, float("inf")  # weights at which only one side counts
WEIGHTS = (PUBLIC_ONLY, 0.1, 0.3, 1.0, 3.0, FEW_ONLY)


@dataclass(frozen=True)
class FewShotTrial:
    """A few weight and penalties, and their mean loss on held-out few texts with its error.

    ``start_penalty`` is that of the ridge map which a head-aware fit begins with; nan for others.
    ``agreement``: of a classifier's first choices with the target's own; nan for others.
    """

    weight: float
    penalty: float
    loss: float
    error: float
    start_penalty: float = float("nan")
    agreement: float = float("nan")


def merged_spectrum(public: Moments, few: Moments, weight: float) -> Spectrum:
    """Decompose merged moments; ``weight``: total weight of the few texts relative to public."""
    if weight == FEW_ONLY:
        return spectrum(few)
    return spectrum(public.scaled(1 / public.n) + few.scaled(weight / few.n))


def usable_weight(value: float | str) -> tuple[float, ...]:
    """Return the weights to try: all for "auto", else the given one."""
    found = number_or_auto(
        value,
        "the weight of the few texts",
        lambda weight: 0 <= weight <= 1e12 or weight == FEW_ONLY,
        "auto, or 0 or more; 0: public texts alone, inf: the few alone",
    )
    return WEIGHTS if found is None else (found,)


def lowest(trials: Iterable[FewShotTrial]) -> FewShotTrial:
    """Return the trial of the lowest loss, the first of equals."""
    return min(trials, key=lambda t: t.loss)


def least_squares_trials(
    public: Moments, few: FoldedMoments, weights: tuple[float, ...], penalties: Float64
) -> Iterator[FewShotTrial]:
    """Compute the held-out 1 − R² on the few texts of every weight and penalty, error over folds.

    For every weight and fold the merged moments have one eigendecomposition, which serves every
    penalty. Raises InputError when the few target states are all equal.
    """
    whole = spread(few.total)
    sizes = np.array([held_out.n for _, held_out in few.splits()])
    for weight in weights:
        errors_of_folds = [
            held_out_errors(merged_spectrum(public, train, weight), held_out, penalties)
            for train, held_out in few.splits()
        ]
        errors = np.array(errors_of_folds)  # shape: (folds, n_penalties)
        each = errors / sizes[:, None] * (few.n / whole)
        noise = each.std(axis=0, ddof=1) / np.sqrt(len(each))
        losses = errors.sum(axis=0) / whole
        for penalty, loss, error in zip(penalties, losses, noise, strict=True):
            yield FewShotTrial(weight, float(penalty), float(loss), float(error))
