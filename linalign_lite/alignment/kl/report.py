"""What a head-aware fit tells: while it works, and what it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Step:
    """Where a descent is. ``held_out`` is nan where it was not measured in this step."""

    stage: str
    iteration: int
    loss: float
    held_out: float


Watch = Callable[[Step], None]


@dataclass(frozen=True)
class KlReport:
    """What a head-aware fit found.

    Divergences are mean KL in nats on held-out texts, ``agreement`` the share of held-out rows
    where the head's first choice is the same on true and on mapped states; ``start_`` figures are
    those of the least-squares map that it began with. The map itself is then fitted on all texts.
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

    def as_card(self) -> dict[str, Any]:
        """For the map file: everything but the curve, an infinite penalty as null."""
        card = asdict(self)
        del card["curve"]
        if self.penalty == float("inf"):
            card["penalty"] = None
        return {"method": "kl", **card, "warnings": list(self.warnings)}
