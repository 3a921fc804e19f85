"""How a map depends on its fitting: curves over the penalty and the number of public texts."""

from __future__ import annotations

from functools import partial

from linalign_lite.survey.report.analysis import native_accuracy
from linalign_lite.survey.report.figures import ReportBuilder, section
from linalign_lite.survey.report.figures import figure as pictures
from linalign_lite.survey.report.markup import Child, Html, behind, figure, join, number, tag
from linalign_lite.survey.report.plots import Frame, Line, lines
from linalign_lite.survey.report.style import stroke
from linalign_lite.survey.results import CurveRow, names

LOWEST_R2 = -0.25  # of what penalty curves show

Curve = list[tuple[float, float]]


def fitting(builder: ReportBuilder) -> Html | None:
    """R² against the penalty, R² and accuracy against the number of public texts."""
    r = builder.results
    if not r.curves:
        return None
    penalty = [c for c in r.curves if c.kind == "penalty"]
    size = [c for c in r.curves if c.kind == "size"]
    parts: list[Child] = []
    if penalty:
        parts += [tag("h3", "Penalty"), _penalties(builder, penalty)]
    if size:
        parts += [tag("h3", "Number of public texts"), *_sizes(builder, size)]
    return section("fitting", "How a map depends on its fitting", *parts)


def _curves(
    builder: ReportBuilder, rows: list[CurveRow], target: str, value: str
) -> list[tuple[str, Curve]]:
    """(source, points) into a target; data sets that say the same are one curve."""
    found: dict[str, dict[float, float]] = {}
    for c in rows:
        y = getattr(c, value)
        if c.target == target and y is not None and c.x > 0:
            found.setdefault(c.source, {})[c.x] = y
    order = [n for n in builder.styles.names if n in found]
    return [(n, sorted(found[n].items())) for n in order]


def _panel(
    builder: ReportBuilder, found: list[tuple[str, Curve]], title: str, alt: str, frame: Frame
) -> Html:
    styles = builder.styles
    drawn = [Line(tuple(points), styles.colour(n), styles.mark(n)) for n, points in found]
    return builder.panel(partial(lines, drawn, frame), title, alt)


def _penalties(builder: ReportBuilder, rows: list[CurveRow]) -> Html:
    top = max(c.r2 for c in rows)
    low = max(min(c.r2 for c in rows), min(LOWEST_R2, top - 0.1))
    slack = max((top - low) * 0.06, 0.01)
    frame = Frame("penalty", "held-out R²", True, (low - slack, top + slack))
    panels = []
    for target in builder.styles.names:
        found = _curves(builder, rows, target, "r2")
        best = [(n, *max(points, key=lambda p: p[1])) for n, points in found]
        alt = f"Held-out R² against the ridge penalty, into {target}. Best: " + "; ".join(
            f"{n} {number(y, 2)} at {x:g}" for n, x, y in best
        )
        if found:
            panels.append(_panel(builder, found, f"into {target}", alt + ".", frame))
    body = [(builder.styles.pair(c.source, c.target), figure(c.x, 4), figure(c.r2)) for c in rows]
    cut = " Lower values are cut off." if min(c.r2 for c in rows) < low else ""
    return pictures(
        panels,
        "Held-out R² on public texts, by source." + cut,
        builder.styles.legend(),
        behind("R² and penalty", ("pair", "penalty", "held-out R²"), body),
    )


def _sizes(builder: ReportBuilder, rows: list[CurveRow]) -> list[Child]:
    own = native_accuracy(builder.results)
    low, high = min(c.r2 for c in rows), max(c.r2 for c in rows)
    slack = max((high - low) * 0.06, 0.01)
    frame = Frame("public texts", "held-out R²", True, (max(low, LOWEST_R2) - slack, high + slack))
    panels = []
    for target in builder.styles.names:
        found = _curves(builder, rows, target, "r2")
        alt = f"Held-out R² against public texts, into {target}: {_grows(found)}."
        if found:
            panels.append(_panel(builder, found, f"R², into {target}", alt, frame))
    parts: list[Child] = [pictures(panels, "Held-out R² by source.", builder.styles.legend())]
    native = join([stroke("ink", dashed=True), "native, in the model's colour"])
    for data in names(rows, "data"):
        of_data = [c for c in rows if c.data == data and c.accuracy is not None]
        seen = [c.accuracy for c in of_data if c.accuracy is not None]
        if not seen:
            continue
        seen += [v for (_, d), v in own.items() if d == data]
        ylim = (min(seen) - 0.03, max(seen) + 0.03)
        panels = []
        for target in builder.styles.names:
            found = _curves(builder, of_data, target, "accuracy")
            shown = [n for n in builder.styles.names if (n, data) in own]
            lines_at = tuple((own[n, data], builder.styles.colour(n)) for n in shown)
            said = f"; {target}'s native {own[target, data]:.3f}" if (target, data) in own else ""
            alt = f"Accuracy on {data} against public texts, into {target}: {_grows(found)}{said}."
            wanted = Frame("public texts", "accuracy", True, ylim, lines_at)
            if found:
                panels.append(_panel(builder, found, f"{data}, into {target}", alt, wanted))
        parts.append(
            pictures(panels, f"Accuracy on {data} by source.", builder.styles.legend(native))
        )
    body = [(builder.styles.pair(c.source, c.target), c.data, figure(c.x, 0), figure(c.r2),
             figure(c.accuracy)) for c in rows]  # fmt: skip
    head = ("pair", "data", "public texts", "held-out R²", "accuracy")
    return [*parts, behind("R² and accuracy by public texts", head, body)]


def _grows(found: list[tuple[str, Curve]]) -> str:
    return "; ".join(
        f"{n} from {number(points[0][1], 2)} with {points[0][0]:,.0f} to "
        f"{number(points[-1][1], 2)} with {points[-1][0]:,.0f}"
        for n, points in found
    )
