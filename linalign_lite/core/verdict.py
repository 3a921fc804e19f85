"""Verdicts: whether what was measured is good, usable or poor, and what to do next.

docs/VERDICTS.md states each threshold with its source.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from linalign_lite.core.text_tables import Pairs, pair_lines

Grade = StrEnum("Grade", "poor usable good")


@dataclass(frozen=True)
class Verdict:
    """A grade, the measure that it rests on beside its threshold, and the next step.

    ``advice`` is empty where nothing is missing.
    """

    grade: Grade
    reason: str
    advice: str = ""

    def __str__(self) -> str:
        return f"{self.grade}: {self.reason}{f'; next: {self.advice}' if self.advice else ''}"

    def as_dict(self) -> dict[str, Any]:
        """Values of the verdict for JSON."""
        return {"grade": self.grade.value, "reason": self.reason, "advice": self.advice}


class Measurement:
    """Base of what was measured: prints as its command does, warnings and the verdict last."""

    warnings: tuple[str, ...] = ()

    def rows(self) -> Pairs:
        """Names and values for printing."""
        return []

    def lines(self) -> list[str]:
        """Lines of the values for printing."""
        return pair_lines(self.rows())

    @property
    def verdict(self) -> Verdict | None:
        """Grade of what was measured, None where it has no scale."""
        return None

    def __str__(self) -> str:
        last = [f"warning: {text}" for text in self.warnings]
        last += [] if self.verdict is None else ["", str(self.verdict)]
        return "\n".join([*self.lines(), *last])


@dataclass(frozen=True)
class Scale:
    """A measure that is better when larger: usable from ``usable`` on, good from ``good`` on."""

    measure: str
    usable: float
    good: float

    def judge(self, value: float, advice: str = "") -> Verdict:
        """Grade a value; advice: the next step unless it is good. NaN is poor."""
        shown = f"{self.measure} {value:.3f}"
        if value >= self.good:
            return Verdict(Grade.good, f"{shown}, at least {self.good:g}")
        if value >= self.usable:
            return Verdict(Grade.usable, f"{shown}, below {self.good:g}", advice)
        return Verdict(Grade.poor, f"{shown}, below {self.usable:g}", advice)


MAP_R2 = Scale("held-out R²", 0.3, 0.5)
OUTPUT_AGREEMENT = Scale("agreement of the head's outputs", 0.6, 0.85)  # a classifier's
TOKEN_AGREEMENT = Scale("agreement of next tokens", 0.35, 0.5)
PARTNER_FIRST = Scale("share of held-out pairs whose partner is first", 0.3, 0.6)
RANKING_OVERLAP = Scale("overlap with the native ranking", 0.4, 0.65)
NDCG_KEPT = Scale("share of the target's own nDCG", 0.7, 0.9)
RANKS_KEPT = Scale("share of the first ten rows that rounding keeps", 0.9, 0.99)
PRECISION = Scale("bits of a score's precision", 6, 9)
BUDGET_LEFT = Scale("share of the budget that is left", 0.05, 0.25)
AUROC = Scale("AUROC", 0.7, 0.8)
GAIN = Scale("share of the gain that is possible", 0.25, 0.6)
KEPT = Scale("share kept of the head's own gain", 0.6, 0.9)
WIDE = 0.05  # half of an interval that is as wide as that of few texts
TOKENS = 5_000  # outputs of a head, from which on it is taken for a token head


def agreement_scale(n_outputs: int, truth: float) -> Scale:
    """The scale for a head's first choices; truth: share of the true next token in the objective.

    Only token heads have true next tokens, or so many outputs.
    """
    return TOKEN_AGREEMENT if truth > 0 or n_outputs >= TOKENS else OUTPUT_AGREEMENT


def of_accuracy(
    value: float, low: float, majority: float, *, own: float | None = None, advice: str = ""
) -> Verdict:
    """Grade a classifier's accuracy by (value − majority)/(own − majority); own: 1 without one.

    majority: accuracy of always predicting the commonest label; an accuracy whose interval
    reaches down to it is poor. low: lower end of the interval. own: accuracy of the head on its
    own model's states; where a map exceeds it, on other texts, its share is 1.
    """
    beside = f"accuracy {value:.3f}, the commonest label {majority:.3f}"
    if majority >= 1:
        return Verdict(Grade.poor, "all texts have the same label", "measure on other texts too")
    if low <= majority < value and value - low > WIDE:
        unsure = "too few texts to tell it from always predicting the commonest label"
        return Verdict(Grade.poor, f"{beside}, interval from {low:.3f}: {unsure}", advice)
    if low <= majority:
        worthless = f"no better than always predicting the commonest label ({beside})"
        step = f"first see that each row has its own label; {advice}"
        return Verdict(Grade.poor, worthless, step)
    scale, best = GAIN, 1.0
    if own is not None and own > majority:
        scale, best, beside = KEPT, own, f"{beside}, the head's own {own:.3f}"
    found = scale.judge(min(1.0, (value - majority) / (best - majority)), advice)
    return Verdict(found.grade, f"{beside}; {found.reason}", found.advice)
