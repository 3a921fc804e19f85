"""Report of a map chosen for search."""

from __future__ import annotations

from dataclasses import dataclass, field

from linalign_lite.alignment.report import UNRELATED, Report, see_pairing
from linalign_lite.core.text_tables import Pairs
from linalign_lite.core.verdict import RANKING_OVERLAP, Verdict

K = 10  # first documents of a ranking that are compared


@dataclass(frozen=True)
class RetrievalFitReport(Report):
    """Report of `fit_retrieval`.

    found: mean reciprocal rank of the document that a held-out text is of; overlap: share of the
    first 10 documents in common with the target's own ranking; score: their mean, by which the
    shape and ``mean_share`` (g) were chosen. ridge_score: that of the best ridge map with the whole
    mean. native_score = a · mapped score + b, ``recalibration`` (a, b), fitted on the held-out
    texts' first 10 documents, so that a threshold of the target's scores keeps its meaning.
    curve: (number of the trial, score).
    """

    method: str
    fitted_on: str
    use: str
    metric: str
    mean_share: float
    target_power: float
    source_power: float
    penalty: float
    score: float
    found: float
    overlap: float
    ridge_score: float
    recalibration: tuple[float, float]
    n: int
    n_pseudo: int
    folds: int
    normalized: bool  # mapped states are to be scaled to length 1 before they are stored
    warnings: tuple[str, ...] = ()
    curve: tuple[tuple[float, ...], ...] = field(default=(), repr=False)

    @property
    def verdict(self) -> Verdict:
        """Grade of the overlap with the target's own ranking of held-out texts."""
        step = "documents of the collection to search, and pseudo-queries of them (--pseudo)"
        if self.overlap < UNRELATED:
            step = see_pairing(step)
        return RANKING_OVERLAP.judge(self.overlap, step)

    def rows(self) -> Pairs:
        """Names and values of the report for printing."""
        a, b = self.recalibration
        return [
            ("method", f"{self.method}, fitted on {self.fitted_on}"),
            ("maps", f"{self.use}; {self.mean_share:g} of the target's mean kept"),
            ("texts", f"{self.n}, and {self.n_pseudo} pseudo-queries"),
            ("held-out texts find their document", f"{self.found:.4f} (mean reciprocal rank)"),
            ("overlap with the native ranking", f"{self.overlap:.4f} (first {K})"),
            ("score", f"{self.score:.4f}; best ridge {self.ridge_score:.4f}"),
            ("native score", f"{a:.4g} · mapped score {b:+.4g}"),
        ]
