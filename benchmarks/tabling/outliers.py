"""Texts outside a classifier's kind."""

from __future__ import annotations

from typing import Any

from tabling.base import NAMES, SHORT, load, table


def _areas(rows: list[dict[str, Any]]) -> tuple[list[str], list[str], dict[tuple[str, str], Any]]:
    """Methods and columns in the order they were measured, and the row of each pair of them."""
    found = {}
    for r in rows:
        of = SHORT[NAMES[r["target"]]]
        if "map" in r:
            of = f"{SHORT[NAMES[r['source']]]} to {of}, {r['map']}"
        found[r["method"], of] = r
    return list(dict.fromkeys(m for m, _ in found)), list(dict.fromkeys(c for _, c in found)), found


def outlying() -> str:
    """AUROC and FPR at 95 % of every detector on its own model's states."""
    methods, models, found = _areas(load("ood")["native"])
    cells = [
        [m, *(f"{found[m, c]['auroc']:.3f}, {found[m, c]['fpr_at_95']:.2f}" for c in models)]
        for m in methods
    ]
    return table(["AUROC, FPR at 95 %", *models], cells)


def outlying_mapped() -> str:
    """AUROC of every detector on states that a map carried over."""
    methods, pairs, found = _areas(load("ood")["mapped"])
    shown = [p for p in pairs if not p.startswith("stories260K")]
    cells = [[m, *(f"{found[m, p]['auroc']:.3f}" for p in shown)] for m in methods]
    return table(["AUROC", *shown], cells)


TABLES = (outlying, outlying_mapped)
