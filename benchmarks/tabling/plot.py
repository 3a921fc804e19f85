"""A picture of lines and points on logarithmic axes, as SVG that loads nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 470
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 20, 50  # around the axes
COLOURS = (("#1f6fb2", "#6db3f2"), ("#b35900", "#f0a35e"), ("#2b7a2b", "#7fd07f"),
           ("#b3261e", "#ff8a80"), ("#6a3fb5", "#b79cf2"), ("#5d4037", "#c7a89a"))  # fmt: skip
MARKS = ("circle", "square", "diamond")
STEPS = 40  # pieces of a line


@dataclass(frozen=True)
class Line:
    """A formula, and what was measured: pairs (x, y), which are joined where there is none."""

    name: str
    formula: Callable[[float], float] | None
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Picture:
    title: str
    description: str
    x_name: str
    y_name: str
    x_range: tuple[int, int]  # powers of ten
    y_range: tuple[int, int]  # powers of ten, or values where y is linear
    linear: bool = False
    key: tuple[int, int] = (LEFT + 16, TOP + 20)  # position of the names of the lines


def svg(picture: Picture, lines: Sequence[Line]) -> str:
    """The picture; colours follow the reader's light or dark scheme."""
    parts = _axes(picture)
    for i, line in enumerate(lines):
        parts += _drawn(picture, line, i)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
            ' aria-labelledby="t d">',
            f'<title id="t">{escape(picture.title)}</title>',
            f'<desc id="d">{escape(picture.description)}</desc>',
            f"<style>{_style(len(lines))}</style>",
            f'<rect class="bg" width="{WIDTH}" height="{HEIGHT}"/>',
            *parts,
            "</svg>",
            "",
        ]
    )


def _style(count: int) -> str:
    def rules(mode: int, text: str, ground: str, grid: str) -> str:
        colours = "".join(
            f".c{i}{{stroke:{COLOURS[i % len(COLOURS)][mode]}}}" for i in range(count)
        )
        fills = "".join(f".f{i}{{fill:{COLOURS[i % len(COLOURS)][mode]}}}" for i in range(count))
        return f".bg{{fill:{ground}}}text{{fill:{text}}}.g{{stroke:{grid}}}{colours}{fills}"

    return (
        "text{font:12.5px system-ui,sans-serif}.m{text-anchor:middle}.e{text-anchor:end}"
        ".l{fill:none;stroke-width:1.5}.g{stroke-width:.6}"
        + rules(0, "#1d2733", "#ffffff", "#c9d1d9")
        + "@media (prefers-color-scheme:dark){"
        + rules(1, "#e6edf3", "#12181f", "#39434d")
        + "}"
    )


def _at(picture: Picture, x: float, y: float) -> tuple[float, float]:
    """Return the position of (x, y) in the picture."""
    (left, right), (low, high) = picture.x_range, picture.y_range
    across = (math.log10(x) - left) / (right - left)
    up = ((y if picture.linear else math.log10(y)) - low) / (high - low)
    return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)


def _axes(picture: Picture) -> list[str]:
    (left, right), low = picture.x_range, picture.y_range[0]
    made = []
    for power in range(left, right + 1):
        x, bottom = _at(picture, 10.0**power, _value(picture, low))
        made.append(f'<path class="g" d="M{x:.1f} {TOP}V{bottom:.1f}"/>')
        made.append(f'<text class="m" x="{x:.1f}" y="{bottom + 18:.1f}">{_power(power)}</text>')
    for level in _levels(picture):
        x, y = _at(picture, 10.0**left, _value(picture, level))
        made.append(f'<path class="g" d="M{x:.1f} {y:.1f}H{WIDTH - RIGHT}"/>')
        made.append(
            f'<text class="e" x="{x - 8:.1f}" y="{y + 4:.1f}">{_label(picture, level)}</text>'
        )
    middle, height = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    made.append(f'<text class="m" x="{middle}" y="{HEIGHT - 10}">{escape(picture.x_name)}</text>')
    made.append(
        f'<text class="m" transform="translate(18 {height}) rotate(-90)">'
        f"{escape(picture.y_name)}</text>"
    )
    return made


def _levels(picture: Picture) -> list[float]:
    low, high = picture.y_range
    if picture.linear:
        return [low + (high - low) * k / 5 for k in range(6)]
    return [float(power) for power in range(low, high + 1)]


def _value(picture: Picture, level: float) -> float:
    return level if picture.linear else 10.0**level


def _label(picture: Picture, level: float) -> str:
    return f"{level:g}" if picture.linear else _power(round(level))


def _power(power: int) -> str:
    digits = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{digits}"


def _drawn(picture: Picture, line: Line, i: int) -> list[str]:
    (left, right), (low, high) = picture.x_range, (_value(picture, v) for v in picture.y_range)
    xs = [10 ** (left + (right - left) * k / STEPS) for k in range(STEPS + 1)]
    formula = line.formula
    inside = (
        list(line.points)
        if formula is None
        else [(x, y) for x in xs if low <= (y := formula(x)) <= high]
    )
    path = "L".join("{:.1f} {:.1f}".format(*_at(picture, x, y)) for x, y in inside)
    made = [f'<path class="l c{i}" d="M{path}"/>']
    made += [_mark(i, *_at(picture, x, y)) for x, y in line.points]
    x, y = picture.key[0], picture.key[1] + 20 * i
    made += [f'<path class="l c{i}" d="M{x} {y - 4}H{x + 26}"/>', _mark(i, x + 13, y - 4),
             f'<text x="{x + 34}" y="{y}">{escape(line.name)}</text>']  # fmt: skip
    return made


def _mark(i: int, x: float, y: float) -> str:
    kind = MARKS[i % len(MARKS)]
    if kind == "circle":
        return f'<circle class="f{i}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if kind == "diamond" else ""
    return f'<rect class="f{i}" x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"{turn}/>'
