"""Evaluate how well a detector separates outlying states from in-distribution ones."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from linalign_lite.core import metrics
from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.text_tables import Pairs
from linalign_lite.core.verdict import AUROC, Grade, Measurement, Verdict
from linalign_lite.heads.ood.detector import Detector

# of a good threshold: shares of in-distribution states below it, and of outlying ones above it
KEPT, CAUGHT = 0.75, 0.5


@dataclass(frozen=True)
class DetectionReport(Measurement):
    """Metrics of a detector on in-distribution and outlying states, as core/metrics defines them.

    ``fpr_at_95``: share of outlying states kept at the threshold that keeps 95 % of in-distribution
    ones. ``kept`` and ``caught`` are at the detector's own threshold, None without one: shares of
    in-distribution states not above it, and of outlying states above it. ``roc``: at most 200
    points (share of in-distribution, share of outlying states above a threshold).
    """

    method: str
    auroc: metrics.Interval
    aupr_in: float
    aupr_out: float
    fpr_at_95: float
    n_in: int
    n_out: int
    threshold: float | None
    kept: float | None
    caught: float | None
    roc: tuple[tuple[float, float], ...] = field(default=(), repr=False)

    @property
    def verdict(self) -> Verdict:
        """Grade of the AUROC; good needs a threshold, if there is one, that tells them apart."""
        step = "another detector (ood fit --method auto), or a better map if one is between"
        found = AUROC.judge(self.auroc.value, step)
        if self.kept is None or self.caught is None:
            return found
        shares = f"keeps {self.kept:.3f} of in and catches {self.caught:.3f} of out"
        reason = f"{found.reason}; its threshold {shares}"
        if found.grade == Grade.good and (self.kept < KEPT or self.caught < CAUGHT):
            step = "a threshold that keeps less (--tpr), set on mapped states if these are mapped"
            return Verdict(Grade.usable, f"{reason}, {KEPT:g} and {CAUGHT:g} asked", step)
        return Verdict(found.grade, reason, found.advice)

    def as_card(self) -> dict[str, Any]:
        """Values of the report for JSON."""
        return {**asdict(self), "roc": [list(point) for point in self.roc]}

    def rows(self) -> Pairs:
        """Names and values of the report for printing."""
        area = self.auroc
        interval = f"({area.low:.4f} to {area.high:.4f}, {area.confidence:.0%})"
        rows: Pairs = [
            ("method", self.method),
            ("AUROC", f"{area.value:.4f} {interval}"),
            ("FPR at 95 %", f"{self.fpr_at_95:.4f}"),
            ("AUPR in, out", f"{self.aupr_in:.4f}, {self.aupr_out:.4f}"),
            ("states in, out", f"{self.n_in}, {self.n_out}"),
        ]
        if self.kept is not None:
            caught = f"{self.kept:.4f} of in kept, {self.caught:.4f} of out caught"
            rows.append(("at its threshold", caught))
        return rows


def report_scores(
    inlying: Array, outlying: Array, *, threshold: float | None = None, method: str = ""
) -> DetectionReport:
    """Metrics of scores of in-distribution (n,) and outlying states (m,); higher is more outlying.

    Raises InputError when either is empty or not finite.
    """
    low, high = (np.asarray(a, dtype=np.float64) for a in (inlying, outlying))
    return DetectionReport(
        method=method,
        auroc=metrics.auroc_interval(low, high),
        aupr_in=metrics.aupr_in(low, high),
        aupr_out=metrics.aupr_out(low, high),
        fpr_at_95=metrics.fpr_at(low, high, 0.95),
        n_in=len(low),
        n_out=len(high),
        threshold=threshold,
        kept=None if threshold is None else float((low <= threshold).mean()),
        caught=None if threshold is None else float((high > threshold).mean()),
        roc=tuple(metrics.roc_curve(low, high)),
    )


def evaluate_detector(
    detector: Detector,
    inlying: HiddenStates | Array,
    outlying: HiddenStates | Array,
    map: AffineMap | None = None,  # noqa: A002 (the field's word)
) -> DetectionReport:
    """Metrics of a detector on in-distribution and outlying states, after ``map`` if given.

    Raises MismatchError when detector, map and states do not belong together.
    """
    low, high = (detector.scores(states, map) for states in (inlying, outlying))
    return report_scores(low, high, threshold=detector.threshold, method=detector.method)
