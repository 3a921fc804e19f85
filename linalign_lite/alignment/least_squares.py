"""Fit an affine map between two models' hidden states.

Objective (Gorbett & Jana, arXiv 2603.18908, section 3, with a relative penalty and an intercept):

    minimise  ‖X_c Wᵀ − Y_c‖² + λ ‖W‖²,   bias = mean(Y) − W mean(X),

X_c and Y_c being the centred source (n, d_source) and target (n, d_target). λ = penalty ·
trace(X_cᵀX_c) / d_source, so that a penalty means the same at every scale of the states.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.moments import Float64, FoldedMoments, Moments, fold_index, folded
from linalign_lite.alignment.ridge import PENALTIES, Spectrum, held_out_errors, ridge, spectrum
from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.choices import MapMethod, values_of
from linalign_lite.core.hidden_states import HiddenStates, as_states
from linalign_lite.core.text_tables import Pairs
from linalign_lite.errors import InputError

METHODS = values_of(MapMethod)
LOW_ROWS = 4  # fewer rows than this times d_source draws a warning


@dataclass(frozen=True)
class FitReport:
    """What a fit found. ``held_out_r2`` is K-fold, each fold predicted by a map that never saw it.

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
    curve: tuple[tuple[float, float], ...] = field(default=(), repr=False)

    def as_card(self) -> dict[str, Any]:
        """For the map file: everything but the curve, infinities as null."""
        card = asdict(self)
        del card["curve"]
        card["warnings"] = list(self.warnings)
        if not np.isfinite(self.condition):
            card["condition"] = None
        return card

    def as_dict(self) -> dict[str, Any]:
        """Values of the report for JSON."""
        return {**self.as_card(), "curve": self.curve}

    def rows(self) -> Pairs:
        """Names and values of the report for printing."""
        rank = f"{self.rank} of {self.d_source}"
        return [
            ("method", f"{self.method}, penalty {self.penalty:.3g}"),
            ("dimensions", f"{self.d_source} to {self.d_target}"),
            ("texts", self.n),
            ("held-out R²", f"{self.held_out_r2:.4f} ({self.folds} folds)"),
            ("condition", f"{self.condition:.3g}, rank {rank}, freedom {self.freedom:.1f}"),
        ]


def fit(
    source: HiddenStates | Array,
    target: HiddenStates | Array,
    *,
    method: str = "ridge",
    penalty: float | str = "auto",
    folds: int = 5,
    seed: int = 0,
) -> tuple[AffineMap, FitReport]:
    """Fit the affine map that carries source states into the target's space.

    source: (n, d_source) and target: (n, d_target), row i of both the same text.
    method: "ridge" (penalty chosen by exact K-fold cross-validation unless given), "lstsq" (no
    penalty, minimum norm, `scipy.linalg.lstsq` on the rows), "procrustes" (a scaled rotation).
    Returns the map (weight (d_target, d_source), float32) and a report.

    Raises MismatchError when the states were made from different texts, InputError for an unknown
    method, a penalty below 0, or folds that do not fit the data.
    """
    x, y = as_states(source), as_states(target)
    x.require_same_texts(y)
    if method not in METHODS:
        raise InputError("unknown method", got=method, expected=", ".join(METHODS))
    moments = folded(x.states, y.states, folds, x.groups, seed)
    if method == "lstsq":
        _require_no_penalty(method, penalty)
        weight, bias, report = _lstsq_of(x, y, moments, seed)
    else:
        weight, bias, report = solve(moments, method=method, penalty=penalty)
    card = {**report.as_card(), "text_digest": x.text_digest or y.text_digest}
    result = AffineMap(weight.astype(np.float32), bias.astype(np.float32), x.space, y.space, card)
    return result, report


def solve(
    moments: FoldedMoments, *, method: str = "ridge", penalty: float | str = "auto"
) -> tuple[Float64, Float64, FitReport]:
    """What `fit` finds with "ridge" or "procrustes": weight, bias and report, from moments alone.

    Raises InputError for another method ("lstsq" needs the rows) and for an unusable penalty.
    """
    if method == "ridge":
        return fit_moments(moments, penalty=penalty)
    if method != "procrustes":
        raise InputError(
            "this method cannot be fitted from moments",
            got=method[:20],
            expected="ridge or procrustes",
            hint="lstsq needs the states themselves, in memory",
        )
    _require_no_penalty(method, penalty)
    return _procrustes_of(moments)


def _require_no_penalty(method: str, penalty: float | str) -> None:
    if penalty not in ("auto", 0, 0.0):
        raise InputError(f"{method} has no penalty", got=str(penalty), hint="use --method ridge")


def fit_moments(
    moments: FoldedMoments, *, penalty: float | str = "auto"
) -> tuple[Float64, Float64, FitReport]:
    """Ridge from moments alone: no row of the data is needed.

    Returns weight (d_target, d_source), bias (d_target,) and a report. Raises InputError for a
    penalty that is neither "auto" nor a number of at least 0.
    """
    curve: tuple[tuple[float, float], ...] = ()
    if penalty == "auto":
        scores = _held_out(moments, PENALTIES)
        curve = tuple((float(p), float(s)) for p, s in zip(PENALTIES, scores, strict=True))
        best = int(np.argmax(scores))
        chosen, score = curve[best]
    else:
        chosen = usable_penalty(penalty)
        score = _held_out(moments, [chosen])[0]
    total = spectrum(moments.total)
    weight, bias = ridge(total, chosen)
    return weight, bias, report_of(moments, "ridge", chosen, float(score), curve, total)


def _lstsq(x: Array, y: Array) -> tuple[Float64, Float64, Float64]:
    """Least squares on the centred rows themselves, so the condition is not squared.

    Returns weight, bias and the singular values of the centred rows.
    """
    from scipy.linalg import lstsq

    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    mean_x, mean_y = x64.mean(axis=0), y64.mean(axis=0)
    solution, _, _, singular = lstsq(
        x64 - mean_x, y64 - mean_y, _noise(x.shape), overwrite_a=True, overwrite_b=True
    )
    return solution.T, mean_y - solution.T @ mean_x, singular


def _noise(shape: tuple[int, ...]) -> float:
    """Singular values below this share of the largest are rounding that centring leaves."""
    return float(max(shape) * np.finfo(np.float64).eps)


def _lstsq_of(
    x: HiddenStates, y: HiddenStates, moments: FoldedMoments, seed: int
) -> tuple[Float64, Float64, FitReport]:
    """Least squares, judged fold by fold on the rows; rank and condition are those of the rows."""
    index = fold_index(x.groups, len(moments.folds), seed)
    error = 0.0
    for k in range(len(moments.folds)):
        inside = index != k
        weight, bias, _ = _lstsq(x.states[inside], y.states[inside])
        rest = y.states[~inside] - (x.states[~inside].astype(np.float64) @ weight.T + bias)
        error += float((rest**2).sum())
    weight, bias, singular = _lstsq(x.states, y.states)
    kept = singular[singular > _noise(x.states.shape) * singular[0]]
    full = len(kept) == x.space.dim
    report = replace(
        report_of(moments, "lstsq", 0.0, 1.0 - error / spread(moments.total)),
        rank=len(kept),
        freedom=float(len(kept)),
        condition=float((kept[0] / kept[-1]) ** 2) if full else float("inf"),
    )
    return weight, bias, report


def procrustes(moments: Moments) -> tuple[Float64, Float64]:
    """The scaled rotation s·R: R = V Uᵀ with X_cᵀY_c = U S Vᵀ, s = trace(S) / ‖X_c Rᵀ‖².

    Where d_source ≤ d_target this minimises ‖s X_c Rᵀ − Y_c‖² over s and R with RᵀR = 1
    (Schönemann 1966). Where d_source > d_target, R is the rotation that solves the problem with Y
    padded with zeros, cut to the real dimensions, and s the best scale for it: never worse than the
    padded solution, but not the minimum over all R with orthonormal rows.
    """
    u, s, vt = np.linalg.svd(moments.xy, full_matrices=False)
    rotation = vt.T @ u.T  # shape: (d_target, d_source)
    spread = float(((rotation @ moments.xx) * rotation).sum())
    weight = rotation * (s.sum() / spread if spread > 0 else 0.0)
    return weight, moments.mean_y - weight @ moments.mean_x


def _procrustes_of(moments: FoldedMoments) -> tuple[Float64, Float64, FitReport]:
    error = 0.0
    for train, held_out in moments.splits():
        weight, _ = procrustes(train)
        error += _squared_error(weight, held_out.about(train.mean_x, train.mean_y))
    weight, bias = procrustes(moments.total)
    return weight, bias, report_of(moments, "procrustes", 0.0, 1.0 - error / spread(moments.total))


def spread(moments: Moments) -> float:
    """‖Y − mean‖². Raises InputError when the target never changes."""
    found = float(moments.yy.sum())
    if found <= 0:
        raise InputError("the target states are all the same, so no map can be judged")
    return found


def _squared_error(weight: Float64, m: Moments) -> float:
    """‖X Wᵀ − Y‖² from moments about the map's own means: tr(yy) − 2 tr(W xy) + tr(W xx Wᵀ)."""
    cross = (weight * m.xy.T).sum()
    square = ((weight @ m.xx) * weight).sum()
    return float(m.yy.sum() - 2 * cross + square)


def _held_out(moments: FoldedMoments, penalties: npt.ArrayLike) -> Float64:
    """Exact K-fold held-out R² of every penalty, (n_penalties,), without touching a row."""
    penalties = np.asarray(penalties, dtype=np.float64)
    errors = np.zeros(len(penalties))
    for train, held_out in moments.splits():
        errors += held_out_errors(spectrum(train), held_out, penalties)
    scores: Float64 = 1.0 - errors / spread(moments.total)
    return scores


def report_of(
    moments: FoldedMoments,
    method: str,
    penalty: float,
    score: float,
    curve: tuple[tuple[float, float], ...] = (),
    total: Spectrum | None = None,
) -> FitReport:
    """The report of a fit with this held-out R². InputError when the source never changes."""
    total = total or spectrum(moments.total)
    d_source, d_target = total.projected.shape
    rank = int((total.values > total.cutoff).sum())
    if rank == 0:
        raise InputError("the source states are all the same, so no map can be fitted")
    smallest = float(total.values[0])
    return FitReport(
        method=method,
        penalty=penalty,
        n=moments.n,
        d_source=d_source,
        d_target=d_target,
        folds=len(moments.folds),
        held_out_r2=float(score),
        condition=float(total.values[-1]) / smallest if rank == d_source else float("inf"),
        rank=rank,
        freedom=float((total.values * total.shrink(penalty)).sum()),
        warnings=_warnings(moments.n, d_source, penalty, curve),
        curve=curve,
    )


def _warnings(
    n: int, d_source: int, penalty: float, curve: tuple[tuple[float, float], ...]
) -> tuple[str, ...]:
    found = []
    if n < LOW_ROWS * d_source:
        found.append(
            f"{n} rows are few for {d_source} source dimensions; "
            f"{LOW_ROWS * d_source} or more make a map that holds on new texts"
        )
    if curve and penalty in (curve[0][0], curve[-1][0]):
        found.append(f"the best penalty, {penalty:g}, is at the edge of those tried")
    return tuple(found)


def usable_penalty(penalty: float | str) -> float:
    try:
        value = float(penalty)
    except (TypeError, ValueError):
        value = float("nan")
    if not 0 <= value < float("inf"):
        raise InputError(
            "the penalty is not usable", got=str(penalty)[:40], expected="auto, or 0 or more"
        )
    return value
