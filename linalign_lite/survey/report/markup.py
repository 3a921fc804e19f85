"""HTML from small functions: whatever is not marked as HTML already is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class Html(str):
    """Text that is HTML. A plain `str` never is: `tag` escapes it."""

    __slots__ = ()


Child = str | None  # Html among them
_VOID = {"meta", "br", "link"}


def tag(element: str, /, *children: Child, **attributes: str | int | bool | None) -> Html:
    """An element. ``class_`` is class, ``aria_label`` aria-label; None and False leave one out."""
    written = "".join(_attribute(k, v) for k, v in attributes.items() if v is not None)
    if element in _VOID:
        return Html(f"<{element}{written}>")
    return Html(f"<{element}{written}>{join(children)}</{element}>")


def join(children: Iterable[Child], between: str = "") -> Html:
    """Children one after the other, escaped where they are not HTML."""
    return Html(html.escape(between).join(escape(c) for c in children if c is not None))


def escape(text: str) -> Html:
    return text if isinstance(text, Html) else Html(html.escape(text, quote=True))


def _attribute(name: str, value: str | int | bool) -> str:
    name = name.rstrip("_").replace("_", "-")
    if value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{html.escape(str(value), quote=True)}"'


@dataclass(frozen=True)
class Cell:
    """What a table shows, and the number it is sorted by (None: by its text)."""

    shown: str
    value: float | None = None


Row = Sequence[str | Cell]


def figure(value: float | None, digits: int = 3) -> Cell:
    """A number with so many decimals, or a dash where there is none."""
    if value is None:
        return Cell("–", None)
    return Cell(number(value, digits), value)


def number(value: float, digits: int = 3) -> str:
    """With so many decimals and a real minus; very large and small ones with an exponent."""
    if value and not 10**-digits / 2 <= abs(value) < 1e6:
        text = f"{value:.3g}"
    else:
        text = f"{value:,.{digits}f}"
    return text.replace("-", "−")


def table(caption: str, head: Sequence[str], rows: Sequence[Row]) -> Html:
    """A table whose columns sort, in a box that scrolls; the first cell names the row."""
    names = [
        tag("th", tag("button", name, type="button"), scope="col", aria_sort="none")
        for name in head
    ]
    body = [tag("tr", _cell(row[0], "th"), *(_cell(c, "td") for c in row[1:])) for row in rows]
    inner = tag(
        "table", tag("caption", caption), tag("thead", tag("tr", *names)), tag("tbody", *body)
    )
    return tag("div", inner, class_="scroll", role="region", aria_label=caption)


def _cell(cell: str | Cell, name: str) -> Html:
    scope = "row" if name == "th" else None
    if isinstance(cell, str):
        return tag(name, cell, scope=scope)
    value = None if cell.value is None else repr(float(cell.value))
    return tag(name, cell.shown, scope=scope, class_="n", data_v=value)


def behind(caption: str, head: Sequence[str], rows: Sequence[Row]) -> Html:
    """A table that opens: the numbers behind a picture."""
    return tag(
        "details",
        tag("summary", f"The numbers: {caption}"),
        table(caption, head, rows),
        class_="behind",
    )
