"""Progress and report of a head-aware fit."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from linalign_lite.alignment.report import Report, next_step
from linalign_lite.core.text_tables import Pairs
from linalign_lite.core.verdict import Verdict, agreement_scale


@dataclass(frozen=True)
class Step:
    """Progress of a minimisation. ``held_out`` is nan where it was not measured."""

    stage: str
    iteration: int
    loss: float
    held_out: float


Watch = Callable[[Step], None]


@dataclass(frozen=True)
class KlReport(Report):
    """Report of a head-aware fit.

    Divergences are mean KL in nats on held-out texts, ``agreement`` the share of held-out rows
    where the head's first choice is the same on true and on mapped states; ``start_`` figures are
    those of the least-squares map that is the starting point. The map is then fitted on all texts.
    ``penalty`` is inf where no penalty did better than that map, which is then the result.
    """

    penalty: float
    n: int
    n_held_out: int
    d_source: int
    d_target: int
    n_outputs: int
    temperature: float
    truth: float
    start_method: str
    start_penalty: float
    start_divergence: float
    start_agreement: float
    held_out_divergence: float
    held_out_agreement: float
    iterations: int
    warnings: tuple[str, ...] = ()
    curve: tuple[tuple[float, float], ...] = field(default=(), repr=False)

    @property
    def verdict(self) -> Verdict:
        """Grade of the agreement on held-out texts."""
        step = next_step(self.n, self.d_source)
        scale = agreement_scale(self.n_outputs, self.truth)
        return scale.judge(self.held_out_agreement, step)

    def as_card(self) -> dict[str, Any]:
        return {"method": "kl", **super().as_card()}

    def rows(self) -> Pairs:
        """Names and values of the report for printing."""
        start, temperature = self.start_method, f"temperature {self.temperature:g}"
        loss, agreement = self.held_out_divergence, self.held_out_agreement
        return [
            ("objective", f"kl, penalty {self.penalty:.3g}, {temperature}, truth {self.truth:g}"),
            ("dimensions", f"{self.d_source} to {self.d_target}, {self.n_outputs} outputs"),
            ("rows", self.n),
            ("held-out divergence", f"{loss:.4f} nats ({start}: {self.start_divergence:.4f})"),
            ("held-out agreement", f"{agreement:.4f} ({start}: {self.start_agreement:.4f})"),
        ]
