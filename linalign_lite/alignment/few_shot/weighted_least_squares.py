"""Least squares on public texts and few others: moments merged with a weight.

    minimise  Σ_public ‖W x + b − y‖²/n_public + w Σ_few ‖W x + b − y‖²/n_few + λ ‖W‖²,

w and λ chosen by K-fold cross-validation on the few, exactly, from moments alone: for every
weight and fold the merged moments have one eigendecomposition, which serves every penalty.
"""

from collections.abc import Iterator

import numpy as np

from linalign_lite.alignment.few_shot.weighting import FewShotTrial, merged
from linalign_lite.alignment.moments import Float64, FoldedMoments, Moments
from linalign_lite.alignment.ridge import held_out_errors, spectrum
from linalign_lite.alignment.solvers import spread


def trials(
    public: Moments, few: FoldedMoments, weights: tuple[float, ...], penalties: Float64
) -> Iterator[FewShotTrial]:
    """Compute the held-out 1 − R² on the few texts of every weight and penalty, error over folds.

    Raises InputError when the few target states are all equal.
    """
    whole = spread(few.total)
    sizes = np.array([held_out.n for _, held_out in few.splits()])
    for weight in weights:
        errors = np.array(
            [
                held_out_errors(spectrum(merged(public, train, weight)), held_out, penalties)
                for train, held_out in few.splits()
            ]
        )  # shape: (folds, n_penalties)
        each = errors / sizes[:, None] * (few.n / whole)
        noise = each.std(axis=0, ddof=1) / np.sqrt(len(each))
        losses = errors.sum(axis=0) / whole
        for penalty, loss, error in zip(penalties, losses, noise, strict=True):
            yield FewShotTrial(weight, float(penalty), float(loss), float(error))
