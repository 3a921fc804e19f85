"""Search across models."""

from __future__ import annotations

from typing import Any

from tabling.base import load, table

USES = ("queries", "documents")
ORDER = ("ridge", "procrustes", "isotrieve ridge", "isotrieve low-rank", "chosen")
NAMES = {"chosen": "**chosen from held-out texts**", "procrustes": "Procrustes"}
COLLECTIONS = {"cranfield": "Cranfield"}


def retrieval() -> str:
    """nDCG@10 with intervals and overlap@10 of every map, beside the native rankings."""
    found = load("retrieval")
    rows = []
    for r in sorted(found["rows"], key=_order):
        cells = [_ndcg(r[use]["ndcg"]) + f", {r[use]['overlap']:.2f}" for use in USES]
        rows.append([COLLECTIONS.get(r["collection"], r["collection"]), r["fitted_on"],
                     f"{r['source']} to {r['target']}", NAMES.get(r["method"], r["method"]),
                     *cells])  # fmt: skip
    head = ["collection", "fitted on", "from, to", "map", "mapped queries: nDCG@10, overlap@10",
            "mapped documents"]  # fmt: skip
    return table(head, rows)


def retrieval_native() -> str:
    """nDCG@10 of each model alone."""
    native = load("retrieval")["native"]
    rows = [
        [COLLECTIONS.get(name, name), *map(_ndcg, models.values())]
        for name, models in native.items()
    ]
    return table(["collection", *next(iter(native.values()))], rows)


def retrieval_chosen() -> str:
    """Choices for each use, and isotrieve's gate beside what was kept."""
    rows = []
    found = load("retrieval")["rows"]
    for r in (r for r in found if r["method"] == "chosen"):
        about = [COLLECTIONS.get(r["collection"], r["collection"]), r["fitted_on"],
                 f"{r['source']} to {r['target']}"]  # fmt: skip
        gate = next((o["gate"] for o in found if "gate" in o and _place(o) == _place(r)), None)
        verdict = f"{gate['verdict']}, {gate['predicted']:.2f}" if gate else "–"
        for use in USES:
            c = r["chosen"][use]
            kept = r[use]["ndcg"]["value"] - r[use]["difference"]["value"]
            rows.append([*about, use, c["method"], c["fitted_on"], f"{c['mean_share']:g}",
                         f"{c['score']:.3f}, {c['ridge_score']:.3f}",
                         f"{r[use]['ndcg']['value'] / kept:.2f}", verdict])  # fmt: skip
    head = ["collection", "fitted on", "from, to", "what is mapped", "chosen", "on",
            "share of the mean", "held-out score, best ridge's", "nDCG@10 over native target's",
            "isotrieve's gate"]  # fmt: skip
    return table(head, rows)


def _ndcg(interval: dict[str, Any]) -> str:
    return f"{interval['value']:.3f} ({interval['low']:.3f} to {interval['high']:.3f})"


def _place(row: dict[str, Any]) -> tuple[str, ...]:
    return row["collection"], row["fitted_on"], row["source"]


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    collections = ("cranfield",)
    first = collections.index(row["collection"]) if row["collection"] in collections else 1
    return first, row["fitted_on"], row["source"] != "MiniLM", ORDER.index(row["method"])


TABLES = (retrieval, retrieval_native, retrieval_chosen)
