"""Fit an affine map between two models' hidden states.

Objective (Gorbett & Jana, arXiv 2603.18908, section 3, with a relative penalty and an intercept):

    minimise  ‖X_c Wᵀ − Y_c‖² + λ ‖W‖²,   bias = mean(Y) − W mean(X),

X_c and Y_c being the centred source (n, d_source) and target (n, d_target). λ = penalty ·
trace(X_cᵀX_c) / d_source, so that a penalty means the same at every scale of the states.
"""

from dataclasses import dataclass, field, replace

import numpy as np

from linalign_lite.alignment import solvers
from linalign_lite.alignment.moments import Float64, FoldedMoments, fold_index, folded
from linalign_lite.alignment.report import (
    LOW_ROWS,
    UNRELATED,
    Report,
    next_step,
    not_new,
    see_pairing,
)
from linalign_lite.alignment.ridge import spectrum
from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.choices import MAP_FOLDS, MapMethod, values_of
from linalign_lite.core.hidden_states import HiddenStates, as_sides
from linalign_lite.core.text_tables import Pairs
from linalign_lite.core.verdict import MAP_R2, Verdict
from linalign_lite.errors import InputError

METHODS = values_of(MapMethod)


@dataclass(frozen=True)
class FitReport(Report):
    """Report of a fit. ``held_out_r2`` is K-fold: a map of the other folds predicts each fold.

    ``condition`` is the ratio of the largest to the smallest eigenvalue of X_cᵀX_c (inf when it is
    singular), ``rank`` its numerical rank, ``freedom`` the effective degrees of freedom
    Σ sᵢ/(sᵢ+λ). ``curve`` lists (penalty, held-out R²) pairs, empty without a search.
    """

    method: str
    penalty: float
    n: int
    d_source: int
    d_target: int
    folds: int
    held_out_r2: float
    condition: float
    rank: int
    freedom: float
    warnings: tuple[str, ...] = ()
    curve: solvers.Curve = field(default=(), repr=False)

    @property
    def verdict(self) -> Verdict:
        """Grade of the held-out R²."""
        step = next_step(self.n, self.d_source)
        if self.held_out_r2 < UNRELATED:
            step = see_pairing(step)
        return MAP_R2.judge(self.held_out_r2, step)

    def rows(self) -> Pairs:
        """Names and values of the report for printing."""
        return [
            ("method", f"{self.method}, penalty {self.penalty:.3g}"),
            ("dimensions", f"{self.d_source} to {self.d_target}"),
            ("texts", self.n),
            ("held-out R²", f"{self.held_out_r2:.4f} ({self.folds} folds)"),
        ]


def fit(
    source: HiddenStates | Array,
    target: HiddenStates | Array,
    *,
    method: str = "ridge",
    penalty: float | str = "auto",
    folds: int = MAP_FOLDS,
    seed: int = 0,
) -> tuple[AffineMap, FitReport]:
    """Fit the affine map from the source's space to the target's.

    source: (n, d_source) and target: (n, d_target), row i of both the same text.
    method: "ridge" (penalty chosen by exact K-fold cross-validation unless given), "lstsq" (no
    penalty, minimum norm, `scipy.linalg.lstsq` on the rows), "procrustes" (a scaled rotation).
    Returns the map (weight (d_target, d_source), float32) and a report.

    Raises MismatchError when the states were made from different texts, InputError for an unknown
    method, a penalty below 0, or folds that do not fit the data.
    """
    x, y = as_sides(source, target)
    x.require_same_texts(y)
    if method not in METHODS:
        raise InputError("unknown method", got=method, expected=", ".join(METHODS))
    moments = folded(x.states, y.states, folds, x.groups, seed)
    rows = solvers.Rows(x.states, y.states, fold_index(x.groups, folds, seed))
    found = solvers.SOLVERS[method](solvers.Problem(moments, rows), penalty)
    report = report_of(moments, method, found)
    report = replace(report, warnings=(*report.warnings, *not_new(x, "held-out R²")))
    return make_map(found.weight, found.bias, (x, y), report), report


def make_map(
    weight: Float64, bias: Float64, states: tuple[HiddenStates, HiddenStates], report: FitReport
) -> AffineMap:
    """Return the map in float32, with the report and the digest of its texts in the card."""
    x, y = states
    card = {**report.as_card(), "text_digest": x.text_digest or y.text_digest}
    return AffineMap(weight.astype(np.float32), bias.astype(np.float32), x.space, y.space, card)


def fit_moments(
    moments: FoldedMoments, *, method: str = "ridge", penalty: float | str = "auto"
) -> tuple[Float64, Float64, FitReport]:
    """Fit a map from moments alone: no row of the data is needed.

    Returns weight (d_target, d_source), bias (d_target,) and a report. Raises InputError for
    "lstsq", which needs the rows, for an unknown method and for a penalty that is not usable.
    """
    if method not in METHODS:
        raise solvers.needs_rows(method)
    found = solvers.SOLVERS[method](solvers.Problem(moments), penalty)
    return found.weight, found.bias, report_of(moments, method, found)


def report_of(moments: FoldedMoments, method: str, found: solvers.Solution) -> FitReport:
    """Report on a solution. Raises InputError when all source states are equal."""
    total = found.spectrum or spectrum(moments.total)
    d_source, d_target = total.projected.shape
    rank = int((total.values > total.cutoff).sum())
    if rank == 0:
        raise InputError("the source states are all the same, so no map can be fitted")
    condition = float(total.values[-1]) / float(total.values[0]) if rank == d_source else np.inf
    freedom = float((total.values * total.shrink(found.penalty)).sum())
    if found.singular is not None:  # rank and condition of the rows are more exact
        cutoff = solvers.row_cutoff((moments.n, d_source)) * found.singular[0]
        kept = found.singular[found.singular > cutoff]
        rank, freedom = len(kept), float(len(kept))
        condition = float((kept[0] / kept[-1]) ** 2) if rank == d_source else np.inf
    warnings = []
    if moments.n < LOW_ROWS * d_source:
        warnings.append(
            f"{moments.n} rows are few for {d_source} source dimensions; "
            f"{LOW_ROWS * d_source} or more make a map that holds on new texts"
        )
    if found.curve and found.penalty in (found.curve[0][0], found.curve[-1][0]):
        warnings.append(f"the best penalty, {found.penalty:g}, is at the edge of those tried")
    return FitReport(
        method=method,
        penalty=found.penalty,
        n=moments.n,
        d_source=d_source,
        d_target=d_target,
        folds=len(moments.folds),
        held_out_r2=float(found.held_out_r2),
        condition=condition,
        rank=rank,
        freedom=freedom,
        warnings=tuple(warnings),
        curve=found.curve,
    )
