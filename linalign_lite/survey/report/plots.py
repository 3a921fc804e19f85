"""Kinds of pictures: each function draws plain numbers into a matplotlib figure of fixed size."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from linalign_lite.core.metrics import Interval
from linalign_lite.survey.report.content import decimal
from linalign_lite.survey.report.style import wrapped
from linalign_lite.survey.report.svg import axes, blank, canvas, css_var, truncate
from linalign_lite.survey.report.theme import step
from linalign_lite.survey.results import Point

CELL, ROW, SIDE = (66, 40), 17, 82
PANEL = (282, 204)
Pair = tuple[str, str]
Points = Sequence[Point]
Dot = tuple[float, float, str, str, bool, tuple[str, ...]]  # x, y, colour, mark, filled, pair


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, a dot in a dot plot."""

    value: float
    mark: str
    filled: bool
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class DotRow:
    """A pair in a dot plot: lines of dots, and vertical references (value, colour, dashed)."""

    source: str
    target: str
    colour: str
    lines: tuple[tuple[Estimate, ...], ...]
    references: tuple[tuple[float, str, bool], ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Line:
    """A curve; without ``mark`` its points are not marked."""

    points: tuple[Point, ...]
    colour: str
    mark: str = ""
    dashed: bool = False
    width: float = 1.6


@dataclass(frozen=True)
class Frame:
    """Labels and limits of axes. ``references``: horizontal lines (y, colour)."""

    x: str
    y: str
    logarithmic: bool = False
    ylim: Point | None = None
    references: tuple[tuple[float, str], ...] = ()
    square: bool = False


@dataclass(frozen=True)
class Grid:
    """Values of a heat map. ``framed``: cells of native values."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Mapping[tuple[int, int], float]
    corner: str = "source ↓  target →"
    framed: frozenset[tuple[int, int]] = frozenset()
    side: float = SIDE  # width of row names; one with a line break is not wrapped
    wide: float = CELL[0]


def heat(grid: Grid, low: float, high: float) -> Any:
    """Heat map: cells coloured from ``low`` to ``high``, with their values as text."""
    wide, tall, side = grid.wide, CELL[1], grid.side
    across = [_lines(wrapped(name, round(wide / 5.6)), wide - 1) for name in grid.columns]
    down = [_lines(n if "\n" in n else wrapped(n, round(side / 5.8)), side - 8) for n in grid.rows]
    top = 18 + 12 * max(name.count("\n") + 1 for name in across)
    figure = canvas(side + wide * len(across) + 2, top + tall * len(down) + 2)
    ax = blank(figure)
    ax.text(0, top - 6, grid.corner, fontsize=9, color=css_var("muted"))
    font = {"fontsize": 10, "linespacing": 1.15}
    for i, name in enumerate(down):
        ax.text(side - 6, top + tall * (i + 0.5), name, ha="right", va="center", **font)
    for j, name in enumerate(across):
        ax.text(side + wide * (j + 0.5), top - 6, name, ha="center", va="baseline", **font)
    for i in range(len(down)):
        for j in range(len(across)):
            _cell(ax, grid, (i, j), top, (low, high))
    return figure


def _lines(name: str, room: float) -> str:
    return "\n".join(truncate(line, 10, room) for line in name.split("\n"))


def _cell(ax: Any, grid: Grid, at: tuple[int, int], top: float, ends: Point) -> None:
    wide, tall = grid.wide, CELL[1]
    x, y, value = grid.side + wide * at[1], top + tall * at[0], grid.values.get(at)
    gap, place = 1.5, "muted"
    if value is not None:
        k = step(value, *ends)
        corners = (x + gap, x + wide - gap, x + wide - gap, x + gap)
        sides = (y + gap, y + gap, y + tall - gap, y + tall - gap)
        ax.fill(corners, sides, facecolor=css_var(f"h{k}"), edgecolor="none")
        place = f"t{k}"
        if at in grid.framed:
            inset = (
                (x + 4, x + wide - 4, x + wide - 4, x + 4, x + 4),
                (y + 4, y + 4, y + tall - 4, y + tall - 4, y + 4),
            )
            ax.plot(*inset, color=css_var(place), linewidth=1)
    shown = "–" if value is None else decimal(value, 2)
    ax.text(x + wide / 2, y + tall / 2, shown, ha="center", va="center_baseline", fontsize=13,
            color=css_var(place))  # fmt: skip


def dots(dot_rows: Sequence[DotRow], xlabel: str, limits: tuple[float, float], head: str) -> Any:
    """Dot plot: rows one below the other; in each, one line of joined dots per kind of texts."""
    heights = [24 + ROW * len(s.lines) for s in dot_rows]
    top, bottom = 16, 40
    figure = canvas(PANEL[0], top + sum(heights) + bottom)
    ax = axes(figure, 6, top, 62, bottom)
    ax.set(xlim=limits, ylim=(sum(heights), 0), xlabel=xlabel, yticks=[])
    ax.spines["left"].set_visible(False)
    ax.text(limits[1], -4, f"  {head}", fontsize=9, color=css_var("muted"))
    y = 0.0
    for row, height in zip(dot_rows, heights, strict=True):
        label = " → ".join(truncate(n, 10.5, PANEL[0] / 2 - 14) for n in (row.source, row.target))
        ax.text(limits[0], y + 14, label, fontsize=10.5, gid="class-halo.0")
        for value, colour, dashed in row.references:
            ax.plot([value] * 2, [y + 18, y + height - 2], color=css_var(colour), linewidth=1.6,
                    linestyle=(0, (2, 1.5)) if dashed else "-", zorder=1.5)  # fmt: skip
        for i, line in enumerate(row.lines):
            _dots(ax, y + 20 + ROW * (i + 0.5), line, row.colour)
        ax.text(limits[1], y + 20 + ROW * len(row.lines) / 2, f"  {row.text}", va="center",
                fontsize=11)  # fmt: skip
        y += height
        ax.axhline(y, color=css_var("rule"), linewidth=0.8)
    return figure


def _dots(ax: Any, y: float, line: Sequence[Estimate], colour: str) -> None:
    if len(line) > 1:
        ends = [min(d.value for d in line), max(d.value for d in line)]
        ax.plot(ends, [y, y], color=css_var(colour), linewidth=3, alpha=0.28, zorder=2)
    for d in line:
        if d.low is not None and d.high is not None:
            ax.plot([d.low, d.high], [y, y], color=css_var(colour), linewidth=0.9, zorder=2.5)
        ax.plot([d.value], [y], marker=d.mark, markersize=6.5, color=css_var(colour), zorder=3,
                markerfacecolor=css_var(colour if d.filled else "card"), clip_on=False)  # fmt: skip


def lines(curves: Sequence[Line], frame: Frame) -> Any:
    """Line plot of several curves."""
    width, height = (PANEL[0], 282) if frame.square else PANEL
    figure = canvas(width, height)
    ax = axes(figure, 48, 8, 12, 40)
    ax.set(xlabel=frame.x, ylabel=frame.y)
    for y, colour in frame.references:
        ax.axhline(y, color=css_var(colour), linewidth=1.2, linestyle=(0, (5, 3)), zorder=1.5)
    if frame.square:
        ax.plot([0, 1], [0, 1], color=css_var("line"), linewidth=1, linestyle=(0, (1, 2)))
        ax.set(xlim=(0, 1), ylim=(0, 1.005), aspect="equal")
    for curve in curves:
        xs, ys = zip(*curve.points, strict=True)
        ax.plot(xs, ys, color=css_var(curve.colour), linewidth=curve.width,
                marker=curve.mark or None, markersize=5,
                linestyle=(0, (4, 2)) if curve.dashed else "-",
                markevery=max(1, len(xs) // 8) if len(xs) > 20 else 1)  # fmt: skip
    if frame.logarithmic:
        _logarithmic(ax, [x for c in curves for x, _ in c.points])
    if frame.ylim:
        ax.set_ylim(*frame.ylim)
    ax.yaxis.set_major_formatter(lambda v, _: f"{v:.4g}".replace("-", "−"))
    return figure


def _logarithmic(ax: Any, found: Sequence[float]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    ax.set_xscale("log")
    first, last = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    every = max(1, math.ceil((last - first) / 5))
    steps = (1, 2, 5) if last - first <= 2 else (1,)
    ticks = [m * 10.0**e for e in range(first, last + 1, every) for m in steps]
    inside = [t for t in ticks if min(found) * 0.99 <= t <= max(found) * 1.01]
    ax.xaxis.set_major_locator(FixedLocator(inside or sorted({min(found), max(found)})))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(lambda v, _: _short(v))


def _short(value: float) -> str:
    if 1000 <= value < 1e6:
        return f"{value / 1000:g}k"
    return f"{value:g}".replace("e-0", "e−").replace("e+0", "e").replace("-", "−")


def cloud(
    native: Points, mapped: Points, colours: Pair, centres: Mapping[str, Point], axis_names: Pair
) -> Any:
    """Native states (rings) and mapped ones (crosses); a thin line joins those of one text."""
    figure = canvas(PANEL[0], 292)
    ax = axes(figure, 30, 8, 8, 32)
    for a, b in zip(native, mapped, strict=True):
        ax.plot(*zip(a, b, strict=True), color=css_var("line"), linewidth=0.6, alpha=0.45)
    ax.plot(*zip(*native, strict=True), linestyle="", marker="o", markersize=5,
            color=css_var(colours[0]), markerfacecolor="none", markeredgewidth=1.2)  # fmt: skip
    ax.plot(*zip(*mapped, strict=True), linestyle="", marker="x", markersize=5,
            color=css_var(colours[1]), markeredgewidth=1.3)  # fmt: skip
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1], xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")
    ax.apply_aspect()
    low, high = ax.get_ylim()
    for i, (label, at) in enumerate(_apart(centres, (high - low) * 0.07)):
        ax.text(*at, truncate(label, 11.5, 90), ha="center", va="center", fontsize=11.5,
                fontweight="bold", gid=f"class-halo.{i}")  # fmt: skip
    return figure


def _apart(centres: Mapping[str, Point], line: float) -> list[tuple[str, Point]]:
    """Labels and their positions, moved up so that none covers another."""
    placed: list[tuple[str, Point]] = []
    for label, (x, y) in sorted(centres.items(), key=lambda item: item[1][1]):
        near = [b for _, (a, b) in placed if abs(a - x) < 6 * line and abs(b - y) < line]
        placed.append((label, (x, max([y, *(b + line for b in near)]))))
    return placed


def scatter(points: Sequence[Dot], frame: Frame, upright: float) -> Any:
    """Scatter plot of dots, some with the names of their pair, and a dashed vertical line."""
    figure = canvas(520, 320)
    ax = axes(figure, 50, 12, 16, 40)
    ax.set(xlabel=frame.x, ylabel=frame.y, xlim=(0, 1), ylim=(0, 1))
    ax.axvline(upright, color=css_var("line"), linewidth=1.2, linestyle=(0, (5, 3)))
    taken: list[Point] = []
    for x, y, colour, mark, filled, label in points:
        ax.plot([x], [y], marker=mark, markersize=8, color=css_var(colour), linestyle="",
                markerfacecolor=css_var(colour if filled else "card"), zorder=3)  # fmt: skip
        if label and not any(abs(x - a) < 0.3 and abs(y - b) < 0.05 for a, b in taken):
            taken.append((x, y))
            left = x > 0.5
            text = " → ".join(truncate(name, 10.5, 100) for name in label)
            ax.text(x + (-0.022 if left else 0.022), y, text, ha="right" if left else "left",
                    va="center", fontsize=10.5, gid=f"class-halo.{len(taken)}")  # fmt: skip
    return figure


def intervals(values: Mapping[str, Interval], xlabel: str, upright: float | None) -> Any:
    """Dots with their intervals, one name a row, and a dashed vertical line at ``upright``."""
    side, top, bottom = 120, 8, 40
    figure = canvas(PANEL[0] + side, top + ROW * len(values) + bottom)
    ax = axes(figure, side, top, 44, bottom)
    ax.set(xlim=(0, 1), ylim=(len(values), 0), xlabel=xlabel, yticks=[])
    ax.spines["left"].set_visible(False)
    if upright is not None:
        ax.axvline(upright, color=css_var("line"), linewidth=1.2, linestyle=(0, (5, 3)))
    for i, (name, found) in enumerate(values.items()):
        ax.plot([found.low, found.high], [i + 0.5] * 2, color=css_var("m0"), linewidth=1.4)
        ax.plot([found.value], [i + 0.5], marker="o", markersize=5.5, color=css_var("m0"),
                clip_on=False)  # fmt: skip
        shown = truncate(name, 10.5, side - 10)
        ax.text(-0.02, i + 0.5, shown, ha="right", va="center", fontsize=10.5)
        ax.text(1.02, i + 0.5, decimal(found.value, 3), va="center", fontsize=10.5)
    return figure
