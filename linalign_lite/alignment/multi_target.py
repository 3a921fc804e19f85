"""Fit ridge maps from one source to several targets with one eigendecomposition per fold.

X_cᵀX_c and its eigendecomposition do not depend on the target. So the targets are stacked in one
product X_cᵀ[Y₁ Y₂ …], and the penalty of each is chosen from its own columns. Every map and report
equals that of `fit`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from linalign_lite.alignment.least_squares import FitReport, make_map, report_of
from linalign_lite.alignment.moments import Float64, FoldedMoments, Moments, folded
from linalign_lite.alignment.ridge import (
    PENALTIES,
    Spectrum,
    in_basis,
    penalty_errors,
    ridge,
    spectrum,
)
from linalign_lite.alignment.solvers import Solution, best_penalty, r2
from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.hidden_states import HiddenStates, as_states
from linalign_lite.errors import InputError


@dataclass(frozen=True, eq=False)
class _Columns:
    """The columns of one target among the stacked targets."""

    at: slice

    def moments(self, m: Moments) -> Moments:
        return replace(m, mean_y=m.mean_y[self.at], xy=m.xy[:, self.at], yy=m.yy[self.at])

    def basis(self, s: Spectrum) -> Spectrum:
        return replace(s, projected=s.projected[:, self.at], mean_y=s.mean_y[self.at])


def fit_several(
    source: HiddenStates | Array,
    targets: Mapping[str, HiddenStates | Array],
    *,
    folds: int = 5,
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
    stops = np.cumsum([y.space.dim for y in ys.values()])
    columns = {
        name: _Columns(slice(stop - y.space.dim, stop))
        for (name, y), stop in zip(ys.items(), stops, strict=True)
    }
    errors = _errors(moments, columns)
    total = spectrum(moments.total)
    found = {}
    for name, y in ys.items():
        part = FoldedMoments(tuple(columns[name].moments(m) for m in moments.folds))
        basis = columns[name].basis(total)
        penalty, score, curve = best_penalty(PENALTIES, r2(errors[name], part))
        weight, bias = ridge(basis, penalty)
        solution = Solution(weight, bias, score, penalty, curve, basis)
        report = report_of(part, "ridge", solution)
        found[name] = make_map(weight, bias, (x, y), report), report
    return found


def _errors(moments: FoldedMoments, columns: Mapping[str, _Columns]) -> dict[str, Float64]:
    """Held-out squared error of every penalty, summed over folds, for each target."""
    errors = {name: np.zeros(len(PENALTIES)) for name in columns}
    for train, held_out in moments.splits():
        basis = spectrum(train)
        part = held_out.about(train.mean_x, train.mean_y)
        inner = in_basis(basis, part)
        for name, these in columns.items():
            errors[name] += penalty_errors(
                these.basis(basis), these.moments(part), inner, PENALTIES
            )
    return errors
