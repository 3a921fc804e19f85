"""matplotlib figures as inline SVG whose colours are custom properties of the page.

Text stays text; the same figure gives the same bytes; nothing refers to another file. matplotlib
(extra `report`) is imported only when a picture is drawn.
"""

import contextlib
import html
import io
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree as ET

from linalign_lite.errors import import_extra
from linalign_lite.survey.report.content import Panel
from linalign_lite.survey.report.style import shorten
from linalign_lite.survey.report.theme import NAMES

# Pictures are drawn in a stand-in colour per custom property, later replaced by `var(--name)`.
_STAND_INS = {name: f"#fe{i:04x}" for i, name in enumerate(NAMES)}
_BACK = {stand_in: name for name, stand_in in _STAND_INS.items()}
_COLOUR = re.compile(r"#fe[0-9a-f]{4}")
_DECIMALS = re.compile(r"(-?\d+\.\d\d)\d+")
_FONT = re.compile(r"font(?:-family)?: (?:(?:\w+ )*([\d.]+px) )?[^;]*;?")  # the page sets the font
_REFERENCE = re.compile(r"#([A-Za-z_][\w.-]*)")
_DRAWN = {"d", "x", "y", "transform", "points", "width", "height", "cx", "cy", "r"}
_XLINK = "{http://www.w3.org/1999/xlink}href"


def css_var(name: str) -> str:
    """Stand-in colour of the page's custom property ``--name``."""
    return _STAND_INS[name]


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Use matplotlib's defaults and this page's settings; ignore the user's matplotlibrc.

    Raises MissingExtraError without matplotlib.
    """
    style = import_extra("matplotlib.style", extra="report", purpose="a report with pictures")
    ours = {
        "svg.fonttype": "none", "svg.hashsalt": "linalign", "svg.image_inline": True,
        "text.parse_math": False, "text.usetex": False, "axes.unicode_minus": True,
        "font.family": "DejaVu Sans", "font.size": 11, "path.simplify": False,
        "text.color": css_var("ink"), "axes.edgecolor": css_var("line"), "axes.linewidth": 0.8,
        "axes.labelcolor": css_var("muted"), "axes.labelsize": 11, "axes.facecolor": "none",
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
        "axes.grid": True, "grid.color": css_var("rule"), "grid.linewidth": 0.8,
        "xtick.color": css_var("line"), "ytick.color": css_var("line"),
        "xtick.labelcolor": css_var("muted"), "ytick.labelcolor": css_var("muted"),
        "xtick.labelsize": 10.5, "ytick.labelsize": 10.5,
        "figure.facecolor": "none", "savefig.facecolor": "none", "savefig.edgecolor": "none",
        "lines.solid_capstyle": "round",
    }  # fmt: skip
    with style.context(["default", ours]):
        yield


def canvas(width: float, height: float) -> Any:
    """A figure of ``width`` × ``height`` CSS pixels."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72)


def axes(figure: Any, left: float, top: float, right: float, bottom: float) -> Any:
    """Axes inside margins given in CSS pixels."""
    width, height = (v * 72 for v in figure.get_size_inches())
    inner = (width - left - right) / width, (height - top - bottom) / height
    return figure.add_axes((left / width, bottom / height, *inner))


def blank(figure: Any) -> Any:
    """Invisible axes over the whole figure, in CSS pixels from its upper left corner."""
    ax = axes(figure, 0, 0, 0, 0)
    width, height = (v * 72 for v in figure.get_size_inches())
    ax.set(xlim=(0, width), ylim=(height, 0))
    ax.axis("off")
    return ax


def width_of(text: str, size: float) -> float:
    """Width of ``text`` in CSS pixels, in a wide font."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", size=size)
    with _quiet():
        return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def truncate(text: str, size: float, room: float) -> str:
    """Shorten ``text`` until it fits in ``room`` CSS pixels."""
    length = len(text)
    while length > 3 and width_of(text, size) > room:
        length -= 1
        text = shorten(text, length)
    return text


def to_panel(figure: Any, ident: str, title: str, alt: str) -> Panel:
    """Convert a matplotlib figure to a panel; ids in its SVG begin with ``ident``."""
    raw = io.BytesIO()
    with _quiet():
        figure.savefig(raw, format="svg", metadata={"Date": None})
    root = ET.fromstring(raw.getvalue())  # noqa: S314 (written by matplotlib)
    width, height = (round(v * 72) for v in figure.get_size_inches())
    _clean(root, ident)
    return Panel(ident, title, alt, "".join(map(_serialised, root)), width, height)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ignore warnings and messages of matplotlib, as about characters that the font lacks."""
    log = logging.getLogger("matplotlib")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        log.setLevel(before)


def _clean(root: ET.Element, ident: str) -> None:
    """Remove namespaces, metadata and style sheets; keep used ids, prefixed with ``ident``."""
    used: set[str] = set()
    for parent in root.iter():
        for child in list(parent):
            if child.tag.rpartition("}")[2] in {"metadata", "style"}:
                parent.remove(child)
        parent.tag = parent.tag.rpartition("}")[2]
        if _XLINK in parent.attrib:
            parent.attrib["href"] = parent.attrib.pop(_XLINK)
        for name, value in parent.attrib.items():
            if name == "href" or "url(" in value:
                used |= set(_REFERENCE.findall(value))
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            element.attrib[name] = _attribute(name, value, ident, used)
        name = element.attrib.pop("id", "")
        if name in used:
            element.attrib["id"] = f"{ident}-{name}"
        elif name.startswith("class-"):  # an id that stands for a class
            element.attrib["class"] = name.removeprefix("class-").partition(".")[0]


def _attribute(name: str, value: str, ident: str, used: set[str]) -> str:
    if name == "style":
        value = _FONT.sub(lambda m: f"font-size: {m[1]};" if m[1] else "", value)
        value = _COLOUR.sub(lambda m: f"var(--{_BACK[m[0]]})" if m[0] in _BACK else m[0], value)
    if name == "href" or "url(" in value:
        return _REFERENCE.sub(lambda m: f"#{ident}-{m[1]}" if m[1] in used else m[0], value)
    return " ".join(_DECIMALS.sub(r"\1", value).split()) if name in _DRAWN else value


def _serialised(element: ET.Element) -> str:
    attributes = "".join(f' {k}="{html.escape(v)}"' for k, v in element.attrib.items())
    inner = html.escape((element.text or "").strip()) + "".join(map(_serialised, element))
    tail = html.escape((element.tail or "").strip())
    whole = f">{inner}</{element.tag}>" if inner else "/>"
    return f"<{element.tag}{attributes}{whole}{tail}"
