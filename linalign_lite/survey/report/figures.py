"""Figures of a page: each panel is a picture with a title and a text alternative."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from linalign_lite.survey.report.columns import titles, values
from linalign_lite.survey.report.content import Cell, Figure, Inline, Panel, Table, cell, decimal
from linalign_lite.survey.report.plots import Grid, heat
from linalign_lite.survey.report.style import ModelStyles
from linalign_lite.survey.report.svg import to_panel
from linalign_lite.survey.results import Results

MOST_PICTURES = 400  # more would make the page too large


@dataclass(frozen=True)
class ReportBuilder:
    """Results, styles of their models, and a counter of pictures."""

    results: Results
    styles: ModelStyles
    counter: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def table(
        self, caption: str, names: str, rows: Iterable[Any], collapsed: bool = False
    ) -> Table:
        """Table of the columns ``names`` (`columns.COLUMNS`); native rows show one model."""
        return Table(caption, titles(names), [self.cells(names, row) for row in rows], collapsed)

    def cells(self, names: str, row: Any) -> list[Inline | Cell]:
        return [self._cell(*value) for value in values(names, row)]

    def _cell(self, value: Any, digits: int | None) -> Inline | Cell:
        if digits is not None:
            return cell(value, digits)
        if isinstance(value, tuple):
            same = value[0] == value[1]
            return self.styles.model(value[0]) if same else self.styles.pair(value)
        return str(value)

    def panel(self, draw: Callable[[], Any], title: str, alt: str) -> Panel:
        """Draw a picture; after MOST_PICTURES the panel has only its text."""
        count = next(self.counter)
        if count > MOST_PICTURES:
            alt += f" (No picture: the page has {MOST_PICTURES} already.)"
            return Panel(f"p{count}", title, alt)
        return to_panel(draw(), f"p{count}", title, alt)

    def heat(self, grid: Grid, title: str, alt: str, ends: tuple[float, float]) -> Panel:
        """A heat map; its alternative text names the best and the worst cell."""
        return self.panel(partial(heat, grid, *ends), title, f"{alt}. {_extremes(grid)}")

    def heat_maps(self, grids: Mapping[str, Grid], alt: str, caption: str) -> Figure:
        """Heat maps by title on one colour scale. ``alt`` precedes the title in their texts."""
        ends = value_range(grids.values())
        panels = [self.heat(grid, title, alt + title, ends) for title, grid in grids.items()]
        return Figure(panels, caption, ends=ends)

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
    """Lowest and highest value, widened evenly to a difference of ``least``."""
    values = [v for grid in grids for v in grid.values.values()]
    low, high = min(values), max(values)
    slack = max(0.0, (least - (high - low)) / 2)
    return low - slack, high + slack


def _extremes(grid: Grid) -> str:
    cells = sorted((v, at) for at, v in grid.values.items() if at not in grid.framed)
    if not cells:
        return "No value."
    low, high = cells[0], cells[-1]
    own = [v for at, v in grid.values.items() if at in grid.framed]
    text = f"Highest {decimal(high[0], 2)}, {_place(grid, high[1])}"
    if len(cells) > 1:
        text += f"; lowest {decimal(low[0], 2)}, {_place(grid, low[1])}"
    if own:
        text += f"; native {decimal(min(own), 2)} to {decimal(max(own), 2)}"
    return text + "."


def _place(grid: Grid, at: tuple[int, int]) -> str:
    join = " → " if grid.rows == grid.columns else ", "
    return f"{grid.rows[at[0]]}{join}{grid.columns[at[1]]}".replace("\n", " ")
