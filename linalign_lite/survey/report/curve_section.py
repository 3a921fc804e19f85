"""Curves of held-out R² and accuracy over the penalty, and the number of texts and of pairs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from linalign_lite.survey.report import content
from linalign_lite.survey.report.analysis import native_accuracy
from linalign_lite.survey.report.content import decimal
from linalign_lite.survey.report.figures import ReportBuilder
from linalign_lite.survey.report.plots import Frame, Line, lines
from linalign_lite.survey.results import CurveRow, names

LOWEST_R2 = -0.25  # of what penalty curves show

KINDS_OF_PAIRS = {"pairs": "pairs, alone", "pairs+unshared": "pairs, and unshared texts"}
Curves = dict[str, list[tuple[float, float]]]  # by source


def fitting(builder: ReportBuilder) -> Iterator[content.Block]:
    """R² against the penalty, R² and accuracy against the number of public texts."""
    if penalty := [c for c in builder.results.curves if c.kind == "penalty"]:
        yield content.Heading("Penalty")
        yield _penalties(builder, penalty)
    if size := [c for c in builder.results.curves if c.kind == "size"]:
        yield content.Heading("Number of public texts")
        yield from _sizes(builder, size, "public texts", "size")
    for kind, words in KINDS_OF_PAIRS.items():
        if pairs := [c for c in builder.results.curves if c.kind == kind]:
            yield content.Heading(f"Number of {words}")
            yield from _sizes(builder, pairs, words, "pairs")


def _curves(builder: ReportBuilder, rows: Sequence[CurveRow], target: str, value: str) -> Curves:
    """Curves into a target; equal points of several data sets are one curve."""
    found: dict[str, dict[float, float]] = {}
    for c in rows:
        y = getattr(c, value)
        if c.target == target and y is not None and c.x > 0:
            found.setdefault(c.source, {})[c.x] = y
    return {n: sorted(found[n].items()) for n in builder.styles.names if n in found}


def _panels(
    builder: ReportBuilder,
    rows: Sequence[CurveRow],
    value: str,
    frame: Frame,
    title: str,
    alt: Callable[[str, Curves], str],
) -> list[content.Panel]:
    """One panel per target that has curves; ``title`` precedes "into" and its name."""
    styles, panels = builder.styles, []
    for target in styles.names:
        if curves := _curves(builder, rows, target, value):
            drawn = [Line(tuple(c), styles.colour(n), styles.mark(n)) for n, c in curves.items()]
            text = alt(target, curves)
            panels.append(
                builder.panel(partial(lines, drawn, frame), f"{title}into {target}", text)
            )
    return panels


def _penalties(builder: ReportBuilder, rows: list[CurveRow]) -> content.Figure:
    top = max(c.r2 for c in rows)
    low = max(min(c.r2 for c in rows), min(LOWEST_R2, top - 0.1))
    slack = max((top - low) * 0.06, 0.01)
    frame = Frame("penalty", "held-out R²", True, (low - slack, top + slack))

    def alt(target: str, curves: Curves) -> str:
        best = ((n, *max(points, key=lambda p: p[1])) for n, points in curves.items())
        text = "; ".join(f"{n} {decimal(y, 2)} at {x:g}" for n, x, y in best)
        return f"Held-out R² against the ridge penalty, into {target}. Best: {text}."

    panels = _panels(builder, rows, "r2", frame, "", alt)
    table = builder.table("R² and penalty", "pair penalty r2", rows, collapsed=True)
    cut = " Lower values are cut off." if min(c.r2 for c in rows) < low else ""
    caption = "Held-out R² on public texts, by source." + cut
    return content.Figure(panels, caption, builder.styles.legend(), [table])


def _sizes(
    builder: ReportBuilder, rows: list[CurveRow], words: str, column: str
) -> Iterator[content.Block]:
    styles, own = builder.styles, native_accuracy(builder.results)
    low, high = min(c.r2 for c in rows), max(c.r2 for c in rows)
    slack = max((high - low) * 0.06, 0.01)
    frame = Frame(words, "held-out R²", True, (max(low, LOWEST_R2) - slack, high + slack))

    def r2_alt(target: str, curves: Curves) -> str:
        return f"Held-out R² against {words}, into {target}: {_ends(curves)}."

    panels = _panels(builder, rows, "r2", frame, "R², ", r2_alt)
    yield content.Figure(panels, "Held-out R² by source.", styles.legend())
    for data in names(rows, "data"):
        of_data = [c for c in rows if c.data == data]
        seen = [c.accuracy for c in of_data if c.accuracy is not None]
        if not seen:
            continue
        native = {n: own[n, data] for n in styles.names if (n, data) in own}
        seen += native.values()
        frame = Frame(
            words, "accuracy", True, (min(seen) - 0.03, max(seen) + 0.03),
            tuple((accuracy, styles.colour(n)) for n, accuracy in native.items()),
        )  # fmt: skip
        alt = partial(_accuracy_alt, data, native, words)
        panels = _panels(builder, of_data, "accuracy", frame, f"{data}, ", alt)
        legend = styles.legend((content.LineSample(dashed=True), "native, in the model's colour"))
        yield content.Figure(panels, f"Accuracy on {data} by source.", legend)
    columns = f"pair data {column} r2 accuracy"
    yield builder.table(f"R² and accuracy by {words}", columns, rows, collapsed=True)


def _accuracy_alt(
    data: str, native: Mapping[str, float], words: str, target: str, curves: Curves
) -> str:
    end = f"; {target}'s native {native[target]:.3f}" if target in native else ""
    return f"Accuracy on {data} against {words}, into {target}: {_ends(curves)}{end}."


def _ends(curves: Curves) -> str:
    """First and last point of each curve in words."""
    return "; ".join(
        f"{n} from {decimal(points[0][1], 2)} with {points[0][0]:,.0f} to "
        f"{decimal(points[-1][1], 2)} with {points[-1][0]:,.0f}"
        for n, points in curves.items()
    )
