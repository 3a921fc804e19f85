"""Content of a page as plain data, which the template page.html writes as HTML and escapes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Marker:
    """The mark of a point in pictures. ``mark``: matplotlib's name of it."""

    mark: str
    colour: str = "ink"
    filled: bool = True


@dataclass(frozen=True)
class LineSample:
    """A piece of a line as pictures draw it."""

    colour: str = "ink"
    dashed: bool = False
    upright: bool = False


@dataclass(frozen=True)
class ModelName:
    """A model's name after its marker."""

    marker: Marker
    name: str


@dataclass(frozen=True)
class Pair:
    """Source → target."""

    source: ModelName
    target: ModelName


@dataclass(frozen=True)
class Styled:
    """Text in the HTML element ``element``."""

    text: str
    element: str


@dataclass(frozen=True)
class Cell:
    """A number in a table. ``value`` sorts the column; a dash without a value comes last."""

    shown: str
    value: float | None = None


Part = str | Marker | LineSample | ModelName | Pair | Styled
Inline = Part | tuple[Part, ...]
Row = Sequence[Inline | Cell]


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Bullets:
    items: Sequence[Inline]


@dataclass(frozen=True)
class Tiles:
    """Large figures. ``items``: (title, figure, explanation)."""

    items: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Table:
    """A sortable table whose first cells name the rows; ``collapsed``: opened by a click."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Row]
    collapsed: bool = False


@dataclass(frozen=True)
class Panel:
    """A picture (content of an <svg> of ``width`` × ``height`` CSS pixels), or its text alone."""

    ident: str
    title: str
    alt: str
    svg: str = ""
    width: int = 0
    height: int = 0


@dataclass(frozen=True)
class Figure:
    """Panels side by side, their caption, legend and tables. ``ends``: of the colour scale."""

    panels: Sequence[Panel]
    caption: str
    legend: Sequence[Inline] = ()
    tables: Sequence[Table] = ()
    ends: tuple[float, float] | None = None


@dataclass(frozen=True)
class Details:
    """Blocks that a click opens."""

    summary: str
    blocks: Sequence[Block]


Block = str | Heading | Bullets | Tiles | Table | Figure | Details  # str: a paragraph


def cell(value: float | None, digits: int = 3) -> Cell:
    """A number with ``digits`` decimals, or a dash for None."""
    return Cell("–") if value is None else Cell(decimal(value, digits), value)


def decimal(value: float, digits: int = 3) -> str:
    """Format with ``digits`` decimals and a minus sign; very large or small with an exponent."""
    extreme = value and not 10**-digits / 2 <= abs(value) < 1e6
    return format(value, ".3g" if extreme else f",.{digits}f").replace("-", "−")
