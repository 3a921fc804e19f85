"""How alike the models' states are, as figures and as points."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import partial

from linalign_lite.survey.report.figures import ReportBuilder, prose, section, value_range
from linalign_lite.survey.report.figures import figure as pictures
from linalign_lite.survey.report.markup import Child, Html, Row, behind, figure, join, number, tag
from linalign_lite.survey.report.plots import cloud
from linalign_lite.survey.report.style import stroke
from linalign_lite.survey.results import Point, Projection, SimilarityRow, names

MEASURES = {
    "cka": "CKA", "cka_debiased": "CKA, debiased", "mutual_knn": "mutual k-NN", "svcca": "SVCCA",
    "r2": "held-out R² of the map", "cosine": "cosine of mapped and true",
    "cycle": "error of there and back (small: alike)",
}  # fmt: skip
MOST_LABELS = 8  # written into a projection
MOST_DRAWN = 300  # texts of a projection


def similarity(builder: ReportBuilder) -> Html | None:
    r = builder.results
    if not r.similarity:
        return None
    parts: list[Child] = [
        prose(
            "Every measure on the same texts for all pairs. In the tables: what pairs of texts "
            "shuffled at random give, beside the measure on the same texts as they are paired, "
            "and how often shuffled pairs look as much alike (p)."
        )
    ]
    for texts in names(r.similarity, "texts"):
        rows = [x for x in r.similarity if x.texts == texts]
        measured = _measured(builder, texts, rows)
        if len(parts) == 1:
            parts += [tag("h3", f"On {texts} texts"), measured]
        else:
            parts.append(tag("details", tag("summary", f"On {texts} texts"), measured))
    return section("similarity", "Similarity of states", *parts)


def _measured(builder: ReportBuilder, texts: str, rows: Sequence[SimilarityRow]) -> Html:
    panels = []
    for measure in names(rows, "measure"):
        grid = builder.matrix({(x.source, x.target): x.value for x in rows if x.measure == measure})
        words = MEASURES.get(measure, measure)
        panels.append(builder.heat(grid, words, f"{words} on {texts} texts", value_range([grid])))
    numbers = [
        (builder.styles.pair(x.source, x.target), MEASURES.get(x.measure, x.measure),
         figure(x.value), figure(x.n, 0), figure(x.observed), figure(x.null), figure(x.p),
         figure(x.null_n, 0))
        for x in rows
    ]  # fmt: skip
    head = ("pair", "measure", "value", "texts", "to compare", "shuffled", "p", "texts compared")
    return pictures(panels, "Each measure on a scale of its own, lowest to highest pair.",
                    behind(f"similarity on {texts} texts", head, numbers))  # fmt: skip


def projections(builder: ReportBuilder) -> Html | None:
    r = builder.results
    if not r.projections:
        return None
    parts: list[Child] = [
        prose(
            "The two principal axes are the native states'; a thin line joins the two states of "
            "one text. Words stand at the native centre of their label."
        )
    ]
    for data in names(r.projections, "data"):
        of_data = [p for p in r.projections if p.data == data]
        panels = [_projection(builder, p) for p in of_data]
        shown = builder.styles.legend(
            join([stroke("line"), "ring: native, in the target's colour; cross: mapped, in the "
                                  "source's"])
        )  # fmt: skip
        numbers: list[Row] = [
            (builder.styles.pair(p.source, p.target), p.objective, figure(p.explained[0]),
             figure(p.explained[1]), *(figure(c, 2) for c in _correlations(p)),
             figure(_distance(p), 2), figure(len(p.native), 0))
            for p in of_data
        ]  # fmt: skip
        head = ("pair", "objective", "variance, axis 1", "axis 2", "correlation, axis 1", "axis 2",
                "distance", "texts")  # fmt: skip
        points: list[Row] = [
            (join([builder.styles.pair(p.source, p.target), f", {p.objective}"]), label,
             *(figure(v) for v in (*a, *b)))
            for p in of_data
            for a, b, label in _sampled(p, 40)
        ]  # fmt: skip
        caption = (
            "Distance: median between a text's two points, over the native points' spread (root "
            "mean square from their centre)."
        )
        parts += [
            tag("h3", data),
            pictures(
                panels, caption, shown, behind(f"projections of {data}", head, numbers),
                behind("points, at most 40 of each (all are in results.json)",
                       ("pair", "label", "native 1", "native 2", "mapped 1", "mapped 2"), points),
            ),
        ]  # fmt: skip
    return section("projections", "Native and mapped states", *parts)


def _projection(builder: ReportBuilder, p: Projection) -> Html:
    styles = builder.styles
    drawn = _sampled(p, MOST_DRAWN)
    native, mapped, _ = zip(*drawn, strict=True)
    colours = (styles.colour(p.target), styles.colour(p.source))
    axis_names = tuple(
        f"axis {i + 1} ({share:.0%} of variance)" for i, share in enumerate(p.explained)
    )
    one, two = _correlations(p)
    alt = (
        f"States of {len(drawn)} texts of {p.data} in the space of {p.target}: native, and mapped "
        f"from {p.source} ({p.objective}). Correlation of native and mapped {_said(one)} on the "
        f"first axis, {_said(two)} on the second; median distance {number(_distance(p), 2)} of the "
        "native spread."
    )
    draw = partial(cloud, native, mapped, colours, _centres(p), (axis_names[0], axis_names[1]))
    return builder.panel(draw, f"{p.source} → {p.target}, {p.objective}", alt)


def _said(correlation: float | None) -> str:
    return "unknown" if correlation is None else number(correlation, 2)


def _sampled(p: Projection, most: int) -> list[tuple[Point, Point, str]]:
    """At most so many texts, evenly spaced."""
    rows = list(zip(p.native, p.mapped, p.labels, strict=True))
    return [rows[i * len(rows) // most] for i in range(most)] if len(rows) > most else rows


def _centres(p: Projection) -> dict[str, Point]:
    labels = dict.fromkeys(p.labels)
    if len(labels) > MOST_LABELS:
        return {}
    of = {x: [a for a, y in zip(p.native, p.labels, strict=True) if y == x] for x in labels}
    return {x: (statistics.fmean(a for a, _ in points), statistics.fmean(b for _, b in points))
            for x, points in of.items() if x}  # fmt: skip


def _correlations(p: Projection) -> tuple[float | None, float | None]:
    return tuple(  # type: ignore[return-value]
        _correlation([a[i] for a in p.native], [b[i] for b in p.mapped]) for i in (0, 1)
    )


def _correlation(x: Sequence[float], y: Sequence[float]) -> float | None:
    try:
        return statistics.correlation(x, y)
    except statistics.StatisticsError:  # no variance
        return None


def _distance(p: Projection) -> float:
    """Median distance of a text's two points over the native points' root mean square radius."""
    centre = [statistics.fmean(a[i] for a in p.native) for i in (0, 1)]
    spread = math.sqrt(statistics.fmean(math.dist(a, centre) ** 2 for a in p.native))
    apart = statistics.median(map(math.dist, p.native, p.mapped))
    return apart / spread if spread else 0.0
