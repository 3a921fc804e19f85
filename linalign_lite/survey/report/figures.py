"""Where a page's pictures are made, each with a title and with words for who cannot see it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from linalign_lite.survey.report.markup import Child, Html, number, tag
from linalign_lite.survey.report.plots import Grid, heat
from linalign_lite.survey.report.style import ModelStyles, scale
from linalign_lite.survey.report.svg import to_svg
from linalign_lite.survey.results import Results

MOST_PICTURES = 400  # a page with more would not open


@dataclass(frozen=True)
class ReportBuilder:
    """A page in the making."""

    results: Results
    styles: ModelStyles
    counter: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def panel(self, draw: Callable[[], Any], title: str, alt: str) -> Html:
        """A picture with its title above; beyond MOST_PICTURES, its words alone."""
        count = next(self.counter)
        if count > MOST_PICTURES:
            return tag("p", f"{title}: {alt} (No picture: the page has {MOST_PICTURES} already.)")
        drawn = draw()
        svg = to_svg(drawn, f"p{count}", title, alt)
        width = f"width:calc({round(drawn.get_size_inches()[0] * 72)}px + 1.5rem)"
        box = tag("div", svg, class_="scroll", role="group", aria_label=title)
        return tag("div", tag("p", title, class_="title"), box, class_="panel", style=width)

    def heat(self, grid: Grid, title: str, what: str, ends: tuple[float, float]) -> Html:
        """A heat map whose words name its best and its worst cell."""
        alt = f"{what}. {_extremes(grid)}"
        return self.panel(partial(heat, grid, *ends), title, alt)

    def matrix(
        self, values: Mapping[tuple[str, str], float], native: Mapping[str, float] | None = None
    ) -> Grid:
        """(source, target) → value as a grid of all models; ``native`` on its diagonal."""
        names = self.styles.names
        cells = {
            (names.index(source), names.index(target)): v for (source, target), v in values.items()
        }
        own = {(names.index(n), names.index(n)): v for n, v in (native or {}).items()}
        return Grid(names, names, {**cells, **own}, framed=frozenset(own))


def value_range(grids: Iterable[Grid], least: float = 0.1) -> tuple[float, float]:
    """One scale for all of them: from the lowest to the highest value, at least so wide."""
    values = [v for grid in grids for v in grid.values.values()]
    low, high = min(values), max(values)
    slack = max(0.0, (least - (high - low)) / 2)
    return low - slack, high + slack


def figure(
    panels: Sequence[Child], caption: str, *more: Child, ends: tuple[float, float] | None = None
) -> Html:
    """Panels side by side with what explains them; ``more``: legend, and the numbers behind."""
    ramp = scale(number(ends[0], 2), number(ends[1], 2)) if ends else None
    return tag(
        "figure",
        tag("div", *panels, class_="panels"),
        tag("figcaption", caption, " " if ramp else None, ramp),
        *more,
    )


def section(ident: str, title: str, *children: Child) -> Html:
    return tag(
        "section", tag("h2", title, id=f"{ident}-title"), *children,
        id=ident, aria_labelledby=f"{ident}-title",
    )  # fmt: skip


def prose(*text: Child) -> Html:
    return tag("p", *text)


def _extremes(grid: Grid) -> str:
    cells = sorted((v, at) for at, v in grid.values.items() if at not in grid.framed)
    if not cells:
        return "No value."
    low, high = cells[0], cells[-1]
    own = [v for at, v in grid.values.items() if at in grid.framed]
    said = f"Highest {number(high[0], 2)}, {_place(grid, high[1])}"
    if len(cells) > 1:
        said += f"; lowest {number(low[0], 2)}, {_place(grid, low[1])}"
    if own:
        said += f"; native {number(min(own), 2)} to {number(max(own), 2)}"
    return said + "."


def _place(grid: Grid, at: tuple[int, int]) -> str:
    join = " → " if grid.rows == grid.columns else ", "
    return f"{grid.rows[at[0]]}{join}{grid.columns[at[1]]}".replace("\n", " ")
