"""Report of a fit with few pairs or none."""

from dataclasses import dataclass, field
from typing import Any

from linalign_lite.alignment.report import Report
from linalign_lite.core.text_tables import Pairs
from linalign_lite.core.verdict import PARTNER_FIRST, Verdict


@dataclass(frozen=True)
class UnpairedReport(Report):
    """Report of a fit from unshared texts and a few pairs, or none.

    ``partner_first``: the share of pairs, each judged by a map without it, whose partner is nearer
    than each of ``n_judged`` other texts; ``nearer``: the median share of texts that are nearer;
    both None below 16 pairs. ``closeness``: see `unpaired.evidence`. ``rank``: of the map.
    ``starts``: tried until one was accepted.
    """

    n_source: int
    n_target: int
    n_pairs: int
    d_source: int
    d_target: int
    rank: int
    starts: int
    n_judged: int
    closeness: float
    nearer: float | None
    partner_first: float | None
    warnings: tuple[str, ...] = ()
    curve: tuple[tuple[float, ...], ...] = field(default=(), repr=False)

    @property
    def verdict(self) -> Verdict | None:
        """Grade of the share of partners that are first; None below 16 pairs."""
        if self.partner_first is None:
            return None
        return PARTNER_FIRST.judge(self.partner_first, "more pairs, or more unshared texts")

    def as_card(self) -> dict[str, Any]:
        return {"method": "unpaired", **super().as_card()}

    def rows(self) -> Pairs:
        """Names and values of the report for printing."""
        rows: Pairs = [
            ("pairs", str(self.n_pairs)),
            ("unshared texts", f"{self.n_source:,} and {self.n_target:,}"),
            ("dimensions", f"{self.d_source} to {self.d_target}, rank {self.rank}"),
            ("closeness", f"{self.closeness:.3f} (1: a model with itself)"),
        ]
        if self.partner_first is not None:
            among = f"of held-out pairs, among {self.n_judged:,} texts"
            rows.append(("partner first", f"{self.partner_first:.1%} {among}"))
        return rows
