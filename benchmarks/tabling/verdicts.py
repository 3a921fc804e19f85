"""Verdicts: the measurements that their thresholds rest on."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence

from tabling.base import load, table

MAJORITY = {"CLINC150": 1 / 150, "TREC": 0.276, "SST-2": 0.509, "AG News": 0.25}  # test texts'
R2 = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
OVERLAP = (0.2, 0.4, 0.6, 0.65, 0.7, 0.8, 1.0)


def verdict_r2() -> str:
    """Share that a classifier keeps through maps of a held-out R²."""
    found = load("survey_published")
    own = {
        (r["data"], r["source"], r["target"]): min(r["native_source"], r["native_target"])
        for r in found["few"]
    }
    points = []
    for r in found["curves"]:
        best, least = own[r["data"], r["source"], r["target"]], MAJORITY[r["data"]]
        points.append((r["r2"], (r["accuracy"] - least) / (best - least)))
    return _bands("held-out R²", R2, points)


def verdict_overlap() -> str:
    """Share of the target's nDCG that a search across models keeps, by overlap of the first ten."""
    found = load("retrieval")
    points = []
    for r in found["rows"]:
        own = found["native"][r["collection"]][r["target"]]["value"]
        points += [
            (r[way]["overlap"], r[way]["ndcg"]["value"] / own) for way in ("queries", "documents")
        ]
    return _bands("overlap", OVERLAP, points)


def _bands(name: str, edges: Sequence[float], points: Sequence[tuple[float, float]]) -> str:
    rows = []
    for low, high in itertools.pairwise(edges):
        kept = sorted(y for x, y in points if low <= x < high)
        if len(kept) > 1:
            first, middle, last = statistics.quantiles(kept, n=4)
            half = sum(y >= 0.5 for y in kept) / len(kept)
            rows.append([f"{low:g} to {high:g}", str(len(kept)), f"{middle:.2f}",
                         f"{first:.2f} to {last:.2f}", f"{half:.0%}"])  # fmt: skip
    head = [name, "maps", "kept, median", "middle half of them", "keep at least half"]
    return table(head, rows)


TABLES = (verdict_r2, verdict_overlap)
