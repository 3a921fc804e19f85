"""How models and maps look, the same all over the page; legends, and names made to fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from linalign_lite.survey.report.markup import Child, Html, tag
from linalign_lite.survey.report.theme import MARKS, N_MODELS, STEPS

OF_TEXTS = {"public": "o", "few": "^", "public+few": "D", "all": "s"}
_BREAKS = re.compile(r"(?<=[-_./ ])")
_SHAPES = {
    "s": "-4,-4 4,-4 4,4 -4,4", "^": "0,-5 5,4 -5,4", "v": "0,5 5,-4 -5,-4",
    "D": "0,-5.2 5.2,0 0,5.2 -5.2,0", "p": "0,-5 4.8,-1.5 2.9,4 -2.9,4 -4.8,-1.5",
    "P": "-1.7,-5 1.7,-5 1.7,-1.7 5,-1.7 5,1.7 1.7,1.7 1.7,5 -1.7,5 -1.7,1.7 -5,1.7 -5,-1.7 "
         "-1.7,-1.7",
    "X": "-5,-2.6 -2.6,-5 0,-2.4 2.6,-5 5,-2.6 2.4,0 5,2.6 2.6,5 0,2.4 -2.6,5 -5,2.6 -2.4,0",
}  # fmt: skip


@dataclass(frozen=True)
class ModelStyles:
    """Colours and marks of a survey's models, by their place in it."""

    names: tuple[str, ...]

    def colour(self, name: str) -> str:
        """The name of a custom property of the page."""
        return f"m{self.names.index(name) % N_MODELS}"

    def mark(self, name: str) -> str:
        place = self.names.index(name)
        return MARKS[
            (place + place // N_MODELS) % N_MODELS
        ]  # the ninth has the first's colour only

    def chip(self, name: str) -> Html:
        """A model's name with its mark."""
        return tag("span", glyph(self.mark(name), self.colour(name)), name, class_="chip")

    def pair(self, source: str, target: str) -> Html:
        arrow = tag("span", " → ", class_="arrow")
        return tag("span", self.chip(source), arrow, self.chip(target), class_="pair")

    def legend(self, *more: Html) -> Html:
        return legend([*(self.chip(name) for name in self.names), *more])


def glyph(mark: str, colour: str, *, filled: bool = True) -> Html:
    """A mark as it stands in pictures; it says nothing that the text beside it does not."""
    fill = f"var(--{colour})" if filled else "none"
    style = f"fill:{fill};stroke:var(--{colour});stroke-width:1.5"
    shape = (
        tag("circle", r="4.3", style=style)
        if mark not in _SHAPES
        else tag("polygon", points=_SHAPES[mark], style=style)
    )
    return tag("svg", shape, class_="glyph", viewBox="-6 -6 12 12", aria_hidden="true")


def stroke(colour: str, *, dashed: bool = False, upright: bool = False) -> Html:
    """A line as it stands in pictures."""
    ends = {"x1": "0", "x2": "0", "y1": "-6", "y2": "6"} if upright else {"x1": "-6", "x2": "6"}
    dash = ";stroke-dasharray:3 2" if dashed else ""
    line = tag("line", style=f"stroke:var(--{colour});stroke-width:2{dash}", **ends)
    return tag("svg", line, class_="glyph", viewBox="-6 -6 12 12", aria_hidden="true")


def legend(items: Sequence[Child]) -> Html:
    return tag("ul", *(tag("li", item) for item in items), class_="legend")


def scale(low: str, high: str) -> Html:
    """The ramp of heat maps, with what its ends stand for."""
    steps = (tag("i", style=f"background:var(--h{i})") for i in range(STEPS))
    bar = tag("span", *steps, class_="ramp", aria_hidden="true")
    return tag("span", low, bar, high, class_="scale")


def shorten(name: str, length: int = 20) -> str:
    """``name``, or its beginning and end."""
    if len(name) <= length:
        return name
    tail = length // 3
    return f"{name[: length - tail - 1]}…{name[-tail:]}"


def wrapped(name: str, length: int = 12, lines: int = 3) -> str:
    """``name`` in as few lines as need be, evenly filled, broken where names have joints."""
    pieces = [
        part[i : i + length]
        for part in _BREAKS.split(shorten(name, length * lines - 6))
        for i in range(0, len(part), length)
    ]
    found = _filled(pieces, length)
    for narrower in range(length - 1, 3, -1):
        other = _filled(pieces, narrower)
        if len(other) > len(found) or max(map(len, other), default=0) > narrower:
            break
        found = other
    if len(found) > lines:
        found = [*found[: lines - 1], shorten("".join(found[lines - 1 :]), length)]
    return "\n".join(found)


def _filled(pieces: Sequence[str], length: int) -> list[str]:
    lines = [""]
    for piece in pieces:
        if lines[-1] and len(lines[-1]) + len(piece) > length:
            lines.append("")
        lines[-1] += piece
    return lines
