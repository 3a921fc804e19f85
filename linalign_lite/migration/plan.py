"""Plan a migration: measure every way on held-out texts, and say how many texts it needs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np

from linalign_lite.core.metrics import Interval
from linalign_lite.core.text_tables import column_lines
from linalign_lite.errors import InputError
from linalign_lite.migration.options import (
    BOTH,
    DOCUMENTS,
    QUERIES,
    STAY,
    Canaries,
    Maps,
    Measured,
    best,
    canaries,
    fit_documents,
    fit_queries,
    put_together,
)
from linalign_lite.migration.sample import Pairs, Sample
from linalign_lite.retrieval.choosing import LEAST
from linalign_lite.storage.schema import LEFT_OUT, Range, Size, Text

SHARES = (0.25, 0.5)  # of documents embedded again, measured beside that of the sample
CURVE = (8, 4, 2)  # the sample divided by these, beside the whole
Count = Annotated[int, Range(0, 1 << 53)]
Place = Annotated[str, Text(4096)]


@dataclass(frozen=True)
class Texts:
    """Retention of mapped documents, fitted on so many texts."""

    texts: Count
    retention: Interval


@dataclass(frozen=True)
class Plan:
    """Plan of a migration: its sources, and the retention measured of each way.

    needed: texts that mapped documents need to meet the gate, read off the curve or extrapolated
    from it; None where more texts hardly help.
    """

    documents: Place
    sample: Place
    queries: Place
    queries_old: Place
    count: Count
    sample_size: Count
    texts: Count
    canaries: Count
    metric: Literal["cosine", "dot"]
    k: Annotated[int, Range(1, 1000)]
    gate: Annotated[float, Range(0, 1)]
    seed: Annotated[int, Range(0, 1 << 62)]
    ways: Annotated[tuple[Measured, ...], Size(16)]
    curve: Annotated[tuple[Texts, ...], Size(16)]
    needed: Count | None
    choice: Literal["queries", "documents", "both"]
    judgements: Place = field(default="", metadata=LEFT_OUT)

    @property
    def measure(self) -> str:
        """Name of what retention is."""
        return "share of nDCG" if self.judgements else "overlap"

    def way(self, name: str) -> Measured:
        """Return the measurement of a way without documents embedded again."""
        return next(m for m in self.ways if m.name == name and not m.share)

    @property
    def mixing_pays(self) -> bool:
        """Return True if mapped documents with the sample's own vectors kept more than without."""
        share = self.sample_size / self.count
        near = min((m for m in self.ways if m.share), key=lambda m: abs(m.share - share))
        return near.retention.value >= self.way(DOCUMENTS).retention.value

    def lines(self) -> list[str]:
        """Return the plan as a table."""
        rows = [
            ["way", "embedded again", f"{self.measure}@{self.k}", "interval", *self._recall_head()]
        ]
        for m in self.ways:
            share = f"{m.share:.0%}" if m.share else "–"
            rows.append([m.name, share, f"{m.retention.value:.3f}", _interval(m.retention),
                         *_recall_cells(m, self._recall_head())])  # fmt: skip
        texts = ", ".join(f"{t.texts}: {t.retention.value:.3f}" for t in self.curve)
        need = "more texts would hardly help" if self.needed is None else f"about {self.needed}"
        met = "meets" if self.way(self.choice).retention.value >= self.gate else "does not meet"
        return [
            *column_lines(rows),
            "",
            f"measured on {self.canaries} canaries; fitted on {self.texts} texts of {self.count}",
            f"mapped documents by texts: {texts}; for the gate {self.gate:g}: {need}",
            f"choice: {self.choice}, which {met} the gate",
        ]

    def _recall_head(self) -> list[str]:
        if all(m.recall is None for m in self.ways):
            return []
        change = ["− old model"] if any(m.recall_change for m in self.ways) else []
        return [f"recall@{self.k}", *change]


def make_plan(
    sample: Sample,
    places: tuple[str, str, str, str],
    *,
    k: int,
    gate: float,
    seed: int,
    judgements: str = "",
) -> Plan:
    """Fit every way on the sample without its canaries, and measure it on these.

    places: locations of documents, sample, queries and the old model's queries; ``judgements`` is a
    file of them, read by `read_sample`. The row "stay" is
    the old model's search, "documents" with a share has so much embedded again.
    """
    if not 0 < gate <= 1 or k < 1:
        raise InputError(
            "gate or k is not usable", got=f"{gate:g}, {k}", expected="0 to 1, 1 or more"
        )
    train, held_out = sample.split(seed)
    judge = canaries(sample, held_out, k)
    ways = []
    if judge.queries.old is not None:
        ways.append(judge.measure(Maps(), STAY, seed=seed, stay=True))
    forward, back = fit_documents(train, sample, seed), fit_queries(train, sample, seed)
    measured = [
        judge.measure(put_together(name, forward, back, train, sample), name, seed=seed)
        for name in (QUERIES, DOCUMENTS, BOTH)
    ]
    ways += measured
    shares = sorted({*SHARES, round(len(sample.pairs) / sample.count, 4)})
    mixed = put_together(DOCUMENTS, forward, None, train, sample, mixed=True)
    ways += [judge.measure(mixed, DOCUMENTS, s, seed=seed) for s in shares]
    curve = (*_curve(judge, train, sample, seed), Texts(len(train), measured[1].retention))
    return Plan(
        *places,
        count=sample.count,
        sample_size=len(sample.pairs),
        texts=len(train),
        canaries=len(judge.queries.new),
        metric=sample.metric,  # type: ignore[arg-type]
        k=judge.k,
        gate=gate,
        seed=seed,
        ways=tuple(ways),
        curve=curve,
        needed=_needed(curve, gate, sample.count),
        choice=best(measured),  # type: ignore[arg-type]
        judgements=judgements,
    )


def _curve(judge: Canaries, train: Pairs, sample: Sample, seed: int) -> tuple[Texts, ...]:
    order = np.random.default_rng(seed).permutation(len(train))
    found = []
    for part in CURVE:
        n = len(train) // part
        if n >= LEAST:
            maps = Maps(documents=fit_documents(train.rows(order[:n]), sample, seed))
            found.append(Texts(n, judge.measure(maps, DOCUMENTS, seed=seed).retention))
    return tuple(found)


def _needed(curve: tuple[Texts, ...], gate: float, count: int) -> int | None:
    """Return the texts for the gate, where log(1 − overlap) leads against log n."""
    enough = [t.texts for t in curve if t.retention.value >= gate]
    if enough:
        return min(enough)
    last = curve[-3:]
    if len(last) < 2:
        return None
    texts = np.log([float(t.texts) for t in last])
    lost = np.log([max(1e-9, 1 - t.retention.value) for t in last])
    slope, level = map(float, np.polyfit(texts, lost, 1))
    if slope > -0.02 or gate >= 1:
        return None
    found = math.exp(min(60.0, (math.log(1 - gate) - level) / slope))
    return math.ceil(found) if found < count else None


def _interval(v: Interval) -> str:
    return f"{v.low:.3f} to {v.high:.3f}"


def _recall_cells(m: Measured, head: list[str]) -> list[str]:
    cells = ["–" if m.recall is None else f"{m.recall.value:.3f}"] if head else []
    if len(head) > 1:
        change = m.recall_change
        cells.append("–" if change is None else f"{change.value:+.3f} ({_interval(change)})")
    return cells
