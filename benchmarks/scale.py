"""Write docs/SCALE.md's tables and plot from results/points.json and fit.json.

    python benchmarks/scale.py

The page states the formula; its terms are measured on one machine. Figures for a cluster are
calculated from them. With results/extract.json, rates on other text sets stand beside.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT
from tabling.base import table
from tabling.plot import Line, Picture, svg

from linalign_lite.alignment.streaming.measure import MOST_TASKS, default_leaf_rows
from linalign_lite.extraction.pipeline import SHARD_TEXTS

PAGE = ROOT / "docs" / "SCALE.md"
PLOT = ROOT / "docs" / "images" / "scale.svg"
BILLION = 10**9
WORKERS = (1, 16, 256, 4096)
FOLDS = 5
LEVELS = 4  # of the tree of moments, at most
FLOAT = 8
BYTES = 4  # of a stored number


@dataclass(frozen=True)
class Reader:
    """A model: what its points say of it, at several numbers of texts, the most last."""

    name: str
    d: int
    graph_bytes: int
    load_seconds: float
    points: tuple[tuple[int, float, int], ...]  # texts, seconds, peak bytes

    @property
    def rate(self) -> float:
        """e: texts a second, at the largest number."""
        texts, seconds, _ = self.points[-1]
        return texts / seconds

    def seconds(self, n: float, workers: int = 1) -> float:
        """To extract n texts. With workers, each shard's task loads the model anew."""
        loads = 1.0 if workers == 1 else math.ceil(n / SHARD_TEXTS) / workers
        return n / (workers * self.rate) + loads * self.load_seconds

    def most_workers(self, read: float) -> float:
        """From here on the client, which writes all states, is what takes the time."""
        return read / (self.rate * BYTES * self.d)


@dataclass(frozen=True)
class Products:
    """The terms of moments. g: operations a second; r: bytes a second; s: share of the slower."""

    g: float
    r: float
    s: float
    solve_seconds: float  # for d dimensions
    d: int

    def seconds(self, n: float, d: int, workers: int = 1) -> float:
        """n · max(3 d² / g, b · 2 d / r) / (s W), and with workers their results' way."""
        alone = n * max(3 * d * d / self.g, BYTES * 2 * d / self.r) / self.s
        return alone / workers + (self.traffic(n, d) / self.r if workers > 1 else 0.0)

    def traffic(self, n: float, d: int) -> float:
        """Bytes of the results that go to the client; both sides have d dimensions."""
        leaves = math.ceil(n / default_leaf_rows(d, d))
        size = 1
        while leaves > MOST_TASKS * size:
            size *= 32
        return math.ceil(leaves / size) * self.result(d)

    def result(self, d: int) -> float:
        """Bytes of moments of all folds."""
        return FOLDS * 2 * d * d * FLOAT

    def solve(self, d: int) -> float:
        return self.solve_seconds * (d / self.d) ** 3

    def most_workers(self, n: float, d: int) -> float:
        """From here on results take longer to come than products to be made."""
        return self.seconds(n, d) / (self.traffic(n, d) / self.r)


def readers(points: Mapping[str, Any]) -> list[Reader]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in points["extraction"]:
        found.setdefault(row["model"], []).append(row)
    made = []
    for name, unsorted in found.items():
        rows = sorted(unsorted, key=lambda row: row["texts"])
        last = rows[-1]
        made.append(
            Reader(
                name, last["d"], last["graph_bytes"], last["load_seconds"],
                tuple((r["texts"], r["seconds"], r["peak_bytes"]) for r in rows),
            )
        )  # fmt: skip
    return sorted(made, key=lambda reader: reader.graph_bytes)


def products(fit: Mapping[str, Any]) -> Products:
    disk = fit["disk"]
    run, d = disk["verified"], disk["d"]
    return Products(
        g=3 * d * d * disk["rows"] / disk["product_seconds"],
        r=disk["read_mb_per_second"] * 1e6,
        s=run["share_of_slower"],
        solve_seconds=run["solve_seconds"],
        d=d,
    )


def measured(found: Sequence[Reader]) -> str:
    """Cost of a million texts, as the largest run says, and memory of the smallest and largest."""
    rows = [
        [r.name, f"{r.graph_bytes / 1e6:.1f} MB", str(r.d), f"{r.rate:,.0f}",
         span(1e6 / r.rate), size(1e6 * BYTES * r.d), size(1e6 * BYTES * r.d / 2),
         f"{size(r.points[0][2])} of {r.points[0][0]:,}, {size(r.points[-1][2])} of "
         f"{r.points[-1][0]:,}"]
        for r in found
    ]  # fmt: skip
    head = ["model", "graph", "dimensions", "texts/s", "a million texts", "states", "in fp16",
            "peak memory, of so many texts"]  # fmt: skip
    return table(head, rows)


def elsewhere(extract: Mapping[str, Any] | None) -> str:
    """Tabulate the same model on other text sets."""
    sets = [s for s in (extract or {}).get("sets", []) if "per_second" in s]
    if not sets:
        return "Not measured yet: `python benchmarks/extract.py`."
    assert extract is not None
    rows = [
        [s["set"], f"{s['tokens'] / s['texts']:.0f}", f"{s['per_second']['ours']:,.0f}",
         span(1e6 / s["per_second"]["ours"]), f"{s['per_second']['ours_int8']:,.0f}",
         f"{s['gemm_share']:.0%}"]
        for s in sets
    ]  # fmt: skip
    head = [extract["model"], "tokens a text", "texts/s", "a million texts", "int8, texts/s",
            "share of the GEMM rate"]  # fmt: skip
    return table(head, rows)


def rows(points: Mapping[str, Any], terms: Products) -> str:
    """Moments as measured, beside the formula."""
    made = [
        [f"{p['rows']:,}", str(p["d"]), f"{p['seconds']:.2f} s",
         f"{terms.seconds(p['rows'], p['d']):.2f} s", f"{p['solve_seconds']:.2f} s",
         size(p["disk_bytes"]), size(p["peak_bytes"])]
        for p in points["moments"]
    ]  # fmt: skip
    head = ["rows", "dimensions", "moments", "by the formula", "solution", "read", "peak memory"]
    return table(head, made)


def billion(found: Sequence[Reader], terms: Products, points: Mapping[str, Any]) -> str:
    """Arithmetic: a billion texts, this model on both sides of the map."""
    made = []
    base = min(p["peak_bytes"] for p in points["moments"])  # a process that has little to hold
    for r in found:
        made += [
            [r.name, "extract, a side", size(BILLION * BYTES * r.d),
             *(span(extraction_wall(r, terms, w)) for w in WORKERS),
             f"{r.most_workers(terms.r):,.0f}", size(r.points[-1][2])],
            ["", "moments", size(terms.traffic(BILLION, r.d)),
             *(span(terms.seconds(BILLION, r.d, w)) for w in WORKERS),
             f"{terms.most_workers(BILLION, r.d):,.0f}", size(base + moments_bytes(r.d))],
        ]  # fmt: skip
    head = ["model", "", "bytes to the client", *(f"W = {w:,}" for w in WORKERS), "stops at W =",
            "memory of a worker"]  # fmt: skip
    return table(head, made)


def extraction_wall(r: Reader, terms: Products, workers: int) -> float:
    """Workers' time, or the client's writing where that takes longer."""
    return max(r.seconds(BILLION, workers), BILLION * BYTES * r.d / terms.r)


def moments_bytes(d: int) -> float:
    """Two shards of each side, and moments of the folds on each level and while they are made."""
    return 4 * SHARD_TEXTS * BYTES * d + (LEVELS + 1) * FOLDS * 2 * d * d * FLOAT


def said(terms: Products) -> str:
    return (
        f"g = {terms.g / 1e9:.1f} · 10⁹ operations a second, r = {terms.r / 1e6:,.0f} MB a second, "
        f"s = {terms.s:.2f}; the solution takes {terms.solve_seconds:.1f} s for "
        f"{terms.d} dimensions, and d³ times as long for others."
    )


def draw(found: Sequence[Reader], terms: Products, points: Mapping[str, Any]) -> str:
    """The formula's lines, and what was measured on them, as SVG."""
    lines = [
        Line(f"{r.name}: extract", r.seconds, [(n, s + r.load_seconds) for n, s, _ in r.points])
        for r in found
    ]
    d = points["moments"][0]["d"]
    made = [(p["rows"], p["seconds"]) for p in points["moments"]]
    lines.append(Line(f"moments, {d} dimensions", lambda n: terms.seconds(n, d), made))
    by_rate = sorted(found, key=lambda r: r.rate)
    slow, fast = by_rate[0], by_rate[-1]
    description = (
        "Seconds of one process over the number of texts, both from small to a billion on "
        "logarithmic axes. Each model has a line of the formula and the points that were measured: "
        f"a billion texts take {span(slow.seconds(BILLION))} with {slow.name} and "
        f"{span(fast.seconds(BILLION))} with {fast.name}. The line of moments of {d} dimensions "
        f"lies far below: {span(terms.seconds(BILLION, d))}. The page's tables have the numbers."
    )
    picture = Picture("What a number of texts costs", description, "texts (moments: rows)",
                      "seconds, one process", (2, 9), (-3, 7))  # fmt: skip
    return svg(picture, lines)


def render(text: str, parts: Mapping[str, str]) -> str:
    """The page with what stands between its marks made anew."""

    def one(match: re.Match[str]) -> str:
        return f"<!-- scale: {match[1]} -->\n{parts[match[1]]}\n<!-- end -->"

    return re.sub(r"<!-- scale: (\w+) -->\n.*?<!-- end -->", one, text, flags=re.DOTALL)


def span(seconds: float) -> str:
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.3g} {name}"
    days = seconds / 86_400
    return f"{days:,.0f} days" if days >= 10 else f"{days:.1f} days"


def size(count: float) -> str:
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count / 1e3:.3g} kB"


def load(folder: Path, name: str, script: str) -> dict[str, Any]:
    path = folder / f"{name}.json"
    if not path.exists():
        sys.exit(f"{path.name} is not there: python benchmarks/{script}")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def write(results: Path, page: Path, plot: Path) -> None:
    """Make the page and the plot of the results."""
    points, fit = load(results, "points", "points.py"), load(results, "fit", "fit.py --only disk")
    if "disk" not in fit:
        sys.exit("fit.json has no part `disk`: python benchmarks/fit.py --only disk")
    other = load(results, "extract", "extract.py") if (results / "extract.json").exists() else None
    found, terms = readers(points), products(fit)
    plot.parent.mkdir(parents=True, exist_ok=True)
    plot.write_text(draw(found, terms, points), encoding="utf-8")
    text = page.read_text(encoding="utf-8")
    parts = {
        "measured": measured(found), "elsewhere": elsewhere(other), "rows": rows(points, terms),
        "terms": said(terms), "billion": billion(found, terms, points),
        "plot": "![Seconds over the number of texts: the formula's lines, and the measured points]"
                f"(images/{plot.name})",
    }  # fmt: skip
    page.write_text(render(text, parts), encoding="utf-8")


def main() -> None:
    write(RESULTS, PAGE, PLOT)


if __name__ == "__main__":
    main()
