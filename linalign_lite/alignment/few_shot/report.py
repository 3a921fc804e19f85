"""Report of a few-shot fit."""

import math
from dataclasses import dataclass, field
from typing import Any

from linalign_lite.alignment.report import UNRELATED, Report, see_pairing
from linalign_lite.core.text_tables import Pairs
from linalign_lite.core.verdict import Grade, Verdict


@dataclass(frozen=True)
class FewReport(Report):
    """Chosen weight and penalty; losses of public, few and both on held-out few texts.

    ``few_weight`` is the total weight of the few texts relative to that of the public texts: 0 is
    the public texts alone, inf the few alone. A loss is the mean over the few texts, evaluated
    by cross-validation: 1 − R² for least squares, the divergence in nats for kl (of a classifier
    at the scale of the mapped scores that suits them best). ``loss`` is that of what was chosen;
    ``public_``, ``few_`` and ``both_`` that of the best of each kind, None where it was not tried.
    ``start_penalty`` is that of the ridge map which a kl map begins with; ``penalty`` is inf where
    the least-squares map of the public texts did best. ``curve`` lists what was tried: (few_weight,
    start_penalty, penalty, loss).
    """

    objective: str
    few_weight: float
    penalty: float
    start_penalty: float | None
    n_public: int
    n_few: int
    folds: int
    d_source: int
    d_target: int
    n_outputs: int | None
    temperature: float | None
    truth: float | None
    loss: float
    loss_error: float
    public_loss: float | None
    public_error: float | None
    few_loss: float | None
    few_error: float | None
    both_loss: float | None
    both_error: float | None
    warnings: tuple[str, ...] = ()
    curve: tuple[tuple[float, float, float, float], ...] = field(default=(), repr=False)

    @property
    def verdict(self) -> Verdict | None:
        """Poor for an R² on held-out few texts of nearly nothing; None else.

        Neither R² of few texts of one kind nor divergences tell what a classifier keeps.
        """
        r2 = 1 - self.loss
        if self.objective != "least-squares" or r2 >= UNRELATED:
            return None
        step = see_pairing(f"more of the few texts ({self.n_few} now)")
        reason = f"held-out R² of the few texts {r2:.3f}, below {UNRELATED:g}"
        return Verdict(Grade.poor, reason, step)

    def as_card(self) -> dict[str, Any]:
        method = "ridge" if self.objective == "least-squares" else "kl"
        return {"method": method, **super().as_card()}

    def rows(self) -> Pairs:
        """Names and values of the report for printing."""
        outputs = "" if self.n_outputs is None else f", {self.n_outputs} outputs"
        start = "" if self.start_penalty is None else f", start's {self.start_penalty:.3g}"
        weights = {
            0.0: "0: only the public texts count",
            math.inf: "infinite: only the few texts count",
        }
        weight = f"{self.few_weight:g} times that of the public texts"
        squares = self.objective == "least-squares"
        losses = {
            "held-out R²" if squares else "held-out divergence": (self.loss, self.loss_error),
            "  public alone": (self.public_loss, self.public_error),
            "  few alone": (self.few_loss, self.few_error),
            "  both": (self.both_loss, self.both_error),
        }
        return [
            ("objective", f"{self.objective}, penalty {self.penalty:.3g}{start}"),
            ("dimensions", f"{self.d_source} to {self.d_target}{outputs}"),
            ("rows", f"{self.n_public} public, {self.n_few} few"),
            ("weight of the few", weights.get(self.few_weight, weight)),
            *(
                (name, f"{1 - v if squares else v:.4f} ± {e:.4f}")
                for name, (v, e) in losses.items()
                if v is not None
            ),
            ("what it keeps", "`evaluate --map` on labelled texts tells"),
        ]
