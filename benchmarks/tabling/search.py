"""Encrypted search of an index: by rows, beside a peer, and between two models."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy.optimize import nnls

from tabling.base import load, table
from tabling.plot import Line, Picture, svg

Run = dict[str, Any]
# options of the runs that are shown
USUAL = {"dim": 384, "mbit": 100.0, "threads": 1, "proven": True, "clusters": None}
QUANTITIES: tuple[tuple[str, str, Callable[[Run], float]], ...] = (
    ("seconds of one core", "s", lambda r: r["cpu_seconds"]),
    ("query and response", "MB", lambda r: (r["query_bytes"] + r["response_bytes"]) / 1e6),
    ("the provider's memory", "MB", lambda r: r["steps"]["score"]["peak_bytes"] / 1e6),
    ("the client's memory", "MB", lambda r: client_peak(r) / 1e6),
)


def runs(kind: str) -> list[Run]:
    """Results of a kind, with the usual options, by rows."""
    found = [
        r
        for r in load("search")["runs"]
        if r["job"]["kind"] == kind and all(r["job"].get(k, v) == v for k, v in USUAL.items())
    ]
    return sorted(found, key=lambda r: r["job"].get("rows", 0))


def client_peak(r: Run) -> float:
    """The larger peak of the client's two steps, in bytes."""
    return max(float(r["steps"][name]["peak_bytes"]) for name in ("encrypt", "decrypt"))


def search() -> str:
    """One query at growing numbers of rows."""
    rows = []
    for r in runs("size"):
        steps = r["steps"]
        rows.append([
            f"{r['job']['rows']:,}", f"{r['index_bytes'] / 1e6:.1f} MB",
            f"{r['query_bytes'] / 1e6:.2f} MB", f"{r['response_bytes'] / 1e6:.2f} MB",
            " + ".join(_seconds(steps[name]["cpu_seconds"]) for name in steps) + " s",
            f"{_seconds(r['seconds'])} s",
            f"{steps['score']['peak_bytes'] / 1e6:.0f} MB", f"{client_peak(r) / 1e6:.0f} MB",
            f"{r['overlap']:.2f}",
        ])  # fmt: skip
    head = ["rows", "index", "query", "response", "encrypt + score + decrypt, one core",
            "by the clock", "provider's memory", "client's memory",
            "first ten as in the clear"]  # fmt: skip
    return table(head, rows)


def fitted(quantity: Callable[[Run], float]) -> tuple[float, float, float]:
    """Terms a, b, c ≥ 0 of a + b·√n + c·n, of least relative squares over the sizes."""
    n = np.array([r["job"]["rows"] for r in runs("size")], float)
    y = np.array([quantity(r) for r in runs("size")])
    terms, _ = nnls(np.stack([np.ones_like(n), np.sqrt(n), n], axis=1) / y[:, None], n / n)
    return tuple(map(float, terms))  # type: ignore[return-value]


def value(terms: tuple[float, float, float], n: float) -> float:
    return terms[0] + terms[1] * math.sqrt(n) + terms[2] * n


def search_formula() -> str:
    """The same as functions of the number of rows, and how far the sizes are from them."""
    rows = []
    for name, unit, quantity in QUANTITIES:
        terms = fitted(quantity)
        a, b, c = terms[0], terms[1] * 1e3, terms[2] * 1e6
        parts = [(a, ""), (b, " · √(n / 10⁶)"), (c, " · n / 10⁶")]
        shown = " + ".join(f"{x:.3g}{word}" for x, word in parts if x > 5e-4)
        off = max(abs(value(terms, r["job"]["rows"]) / quantity(r) - 1) for r in runs("size"))
        rows.append([f"{name}, {unit}", shown, f"{off:.0%}"])
    return table(["", "n rows", "farthest size from it"], rows)


def search_peer() -> str:
    """Ours and the peer's, of one thread each, in turn."""
    if not runs("akita"):
        return "Not measured yet: `python benchmarks/search.py --akita PYTHON`."
    (r,) = runs("akita")
    job, ours, theirs = r["job"], r["ours"], r["theirs"]
    peak = max(client_peak(ours), float(ours["steps"]["score"]["peak_bytes"]))
    over = r["ratios"]["cpu_seconds"]["median"]
    rows = [
        [name, f"{_seconds(side['cpu_seconds'])} s", times,
         f"{side['query_bytes'] / 1e6:.2f} MB", f"{side['response_bytes'] / 1e6:.2f} MB",
         f"{side['key_bytes'] / 1e6:.1f} MB", f"{memory / 1e6:.0f} MB", hides,
         f"{side['overlap']:.2f}"]
        for name, side, times, memory, hides in (
            ("linalign-lite", ours, "1", peak, "yes"),
            (f"akita-fhe {theirs['version']}", theirs, f"{over:.0f}", theirs["peak_bytes"], "no"),
        )
    ]  # fmt: skip
    head = [f"{job['rows']:,} rows of {job['dim']}", "one core", "over ours", "query", "response",
            "keys, once", "memory", "hides the rows", "first ten as in the clear"]  # fmt: skip
    return table(head, rows)


def search_cranfield() -> str:
    """nDCG@10 of two models through a map, encrypted and in the clear."""
    if not runs("cranfield"):
        return "Not measured yet: `python benchmarks/search.py --cranfield`."
    rows = []
    for r in runs("cranfield"):
        job, found = r["job"], r["ndcg"]
        party = "the client, queries" if job["mapped"] == "queries" else "the provider, documents"
        rows.append([
            job["client"], job["provider"], party, f"{found['clear']:.4f}",
            f"{found['encrypted']:.4f}", f"{found['encrypted'] - found['clear']:+.4f}",
            f"{r['overlap']:.3f}", f"{found['native']:.4f}",
        ])  # fmt: skip
    head = ["client's model", "provider's model", "who maps", "nDCG@10, map in the clear",
            "encrypted", "difference", "first ten as in the clear",
            "the provider's own model"]  # fmt: skip
    return table(head, rows)


def picture() -> str:
    """Seconds, bytes and memory against rows, as SVG."""
    lines = [
        Line(f"{name}, {unit}", partial(value, fitted(quantity)),
             [(float(r["job"]["rows"]), quantity(r)) for r in runs("size")])
        for name, unit, quantity in QUANTITIES
    ]  # fmt: skip
    description = (
        "One encrypted query of an index against its number of rows, points measured and lines by "
        "a formula. "
        + "; ".join(
            f"{x.name}: {x.points[0][1]:.2g} of {x.points[0][0]:,.0f} rows to"
            f" {x.points[-1][1]:.3g} of {x.points[-1][0]:,.0f}"
            for x in lines
        )
    )
    return svg(Picture("Encrypted search", description, "rows", "", (3, 6), (-2, 4)), lines)


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds >= 0.1 else f"{seconds:.3f}"


TABLES = (search, search_formula, search_peer, search_cranfield)
