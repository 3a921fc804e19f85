"""Similarity of the models' states, and native beside mapped states on two axes."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

from linalign_lite.survey.report import content
from linalign_lite.survey.report.content import cell, decimal
from linalign_lite.survey.report.figures import ReportBuilder, value_range
from linalign_lite.survey.report.plots import cloud
from linalign_lite.survey.results import Point, Projection, names

MEASURES = {
    "cka": "CKA", "cka_debiased": "CKA, debiased", "mutual_knn": "mutual k-NN", "svcca": "SVCCA",
    "r2": "held-out R² of the map", "cosine": "cosine of mapped and true",
    "cycle": "error of there and back (small: alike)",
}  # fmt: skip
MOST_LABELS = 8  # written into a projection
MOST_DRAWN = 300  # texts of a projection
MOST_LISTED = 40  # texts of a projection in its table


def similarity(builder: ReportBuilder) -> Iterator[content.Block]:
    yield (
        "Every measure on the same texts for all pairs. In the tables: what pairs of texts "
        "shuffled at random give, beside the measure on the same texts as they are paired, "
        "and how often shuffled pairs look as much alike (p)."
    )
    for i, texts in enumerate(names(builder.results.similarity, "texts")):
        title, figure = f"On {texts} texts", _measures(builder, texts)
        if i:
            yield content.Details(title, [figure])
        else:
            yield content.Heading(title)
            yield figure


def _measures(builder: ReportBuilder, texts: str) -> content.Figure:
    rows = [x for x in builder.results.similarity if x.texts == texts]
    panels = []
    for measure in names(rows, "measure"):
        grid = builder.matrix({x.pair: x.value for x in rows if x.measure == measure})
        name = MEASURES.get(measure, measure)
        panels.append(builder.heat(grid, name, f"{name} on {texts} texts", value_range([grid])))
    named = [replace(x, measure=MEASURES.get(x.measure, x.measure)) for x in rows]
    columns = "pair measure value n_texts observed null p null_n"
    table = builder.table(f"similarity on {texts} texts", columns, named, collapsed=True)
    caption = "Each measure on a scale of its own, lowest to highest pair."
    return content.Figure(panels, caption, tables=[table])


def projections(builder: ReportBuilder) -> Iterator[content.Block]:
    yield (
        "The two principal axes are the native states'; a thin line joins the two states of "
        "one text. Words stand at the native centre of their label."
    )
    for data in names(builder.results.projections, "data"):
        yield content.Heading(data)
        yield _projected(builder, data)


def _projected(builder: ReportBuilder, data: str) -> content.Figure:
    found, pair = [p for p in builder.results.projections if p.data == data], builder.styles.pair
    numbers: list[content.Row] = [
        (
            pair(p.pair), p.objective, *(cell(share) for share in p.explained),
            *(cell(c, 2) for c in _correlations(p)), cell(_distance(p), 2), cell(len(p.native), 0),
        )
        for p in found
    ]  # fmt: skip
    head = (
        "pair", "objective", "variance, axis 1", "axis 2", "correlation, axis 1", "axis 2",
        "distance", "texts",
    )  # fmt: skip
    points: list[content.Row] = [
        ((pair(p.pair), f", {p.objective}"), label, *(cell(v) for v in (*a, *b)))
        for p in found
        for a, b, label in _sampled(p, MOST_LISTED)
    ]
    columns = ("pair", "label", "native 1", "native 2", "mapped 1", "mapped 2")
    text = f"points, at most {MOST_LISTED} of each (all are in results.json)"
    caption = (
        "Distance: median between a text's two points, over the native points' spread (root "
        "mean square from their centre)."
    )
    sample = "ring: native, in the target's colour; cross: mapped, in the source's"
    return content.Figure(
        [_projection(builder, p) for p in found],
        caption,
        builder.styles.legend((content.LineSample("line"), sample)),
        [
            content.Table(f"projections of {data}", head, numbers, collapsed=True),
            content.Table(text, columns, points, collapsed=True),
        ],
    )


def _projection(builder: ReportBuilder, p: Projection) -> content.Panel:
    drawn = _sampled(p, MOST_DRAWN)
    native, mapped, _ = zip(*drawn, strict=True)
    colours = (builder.styles.colour(p.target), builder.styles.colour(p.source))
    one, two = (f"axis {i} ({share:.0%} of variance)" for i, share in enumerate(p.explained, 1))
    on_first, on_second = ("unknown" if c is None else decimal(c, 2) for c in _correlations(p))
    alt = (
        f"States of {len(drawn)} texts of {p.data} in the space of {p.target}: native, and mapped "
        f"from {p.source} ({p.objective}). Correlation of native and mapped {on_first} on the "
        f"first axis, {on_second} on the second; median distance {decimal(_distance(p), 2)} of the "
        "native spread."
    )
    draw = partial(cloud, native, mapped, colours, _centres(p), (one, two))
    return builder.panel(draw, f"{p.source} → {p.target}, {p.objective}", alt)


def _sampled(p: Projection, most: int) -> list[tuple[Point, Point, str]]:
    """At most ``most`` texts, evenly spaced: (native point, mapped point, label)."""
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
