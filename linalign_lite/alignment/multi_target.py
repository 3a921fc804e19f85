"""Fit ridge maps from one source to several targets with one eigendecomposition per fold.

X_cᵀX_c and its eigendecomposition do not depend on the target. So the targets are stacked in one
product X_cᵀ[Y₁ Y₂ …], and the penalty of each is chosen from its own columns. Every map and report
equals that of `fit`.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from linalign_lite.alignment.least_squares import FitReport, make_map, report_of
from linalign_lite.alignment.moments import FoldedMoments, Moments, folded
from linalign_lite.alignment.ridge import PENALTIES, Spectrum, penalty_errors, ridge, spectrum
from linalign_lite.alignment.solvers import Solution, best_penalty, r2
from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.choices import MAP_FOLDS
from linalign_lite.core.hidden_states import HiddenStates, as_states
from linalign_lite.errors import InputError


def fit_several(
    source: HiddenStates | Array,
    targets: Mapping[str, HiddenStates | Array],
    *,
    folds: int = MAP_FOLDS,
    seed: int = 0,
) -> dict[str, tuple[AffineMap, FitReport]]:
    """Fit the ridge map from the source to each target, penalties by K-fold cross-validation.

    source: (n, d_source), each target: (n, d_target), row i of all the same text. Raises what `fit`
    does, and InputError when there is no target.
    """
    x = as_states(source)
    ys = {name: as_states(y) for name, y in targets.items()}
    if not ys:
        raise InputError("there is no target to fit a map to")
    for y in ys.values():
        x.require_same_texts(y)
    stacked = np.concatenate([y.states.astype(np.float32, copy=False) for y in ys.values()], axis=1)
    moments = folded(x.states, stacked, folds, x.groups, seed)
    widths = [y.space.dim for y in ys.values()]
    columns = [slice(stop - d, stop) for d, stop in zip(widths, np.cumsum(widths), strict=True)]
    errors = np.zeros((len(columns), len(PENALTIES)))
    for train, held_out in moments.splits():
        basis = spectrum(train)
        part = held_out.about(train.mean_x, train.mean_y)
        inner = basis.vectors.T @ part.xx @ basis.vectors
        for i, at in enumerate(columns):
            errors[i] += penalty_errors(_basis(basis, at), _moments(part, at), inner, PENALTIES)
    total = spectrum(moments.total)
    found = {}
    for (name, y), at, error in zip(ys.items(), columns, errors, strict=True):
        own = FoldedMoments(tuple(_moments(m, at) for m in moments.folds))
        basis = _basis(total, at)
        penalty, score, curve = best_penalty(PENALTIES, r2(error, own))
        weight, bias = ridge(basis, penalty)
        report = report_of(own, "ridge", Solution(weight, bias, score, penalty, curve, basis))
        found[name] = make_map(weight, bias, (x, y), report), report
    return found


def _moments(m: Moments, at: slice) -> Moments:
    """Return the moments of the target in the stacked columns ``at``."""
    return replace(m, mean_y=m.mean_y[at], xy=m.xy[:, at], yy=m.yy[at])


def _basis(s: Spectrum, at: slice) -> Spectrum:
    return replace(s, projected=s.projected[:, at], mean_y=s.mean_y[at])
