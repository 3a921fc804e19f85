"""Out-of-distribution detection on native and on mapped states."""

from __future__ import annotations

from functools import partial

from linalign_lite.survey.report.analysis import OodLoss, ood_losses, texts_label
from linalign_lite.survey.report.figures import ReportBuilder, prose, section, value_range
from linalign_lite.survey.report.figures import figure as pictures
from linalign_lite.survey.report.markup import Child, Html, Row, behind, figure, join, number, tag
from linalign_lite.survey.report.plots import Frame, Line, lines
from linalign_lite.survey.report.style import stroke
from linalign_lite.survey.results import OodRow, Point, names

MOST_DRAWN = 200  # points of a curve
RATES = (0.01, 0.05, 0.1, 0.2, 0.5)  # false positive rates of the table behind curves


def out_of_distribution(builder: ReportBuilder) -> Html | None:
    r = builder.results
    if not r.ood:
        return None
    parts: list[Child] = [
        prose(
            "Which texts are not of the data set? AUROC: how often a text of it scores as more "
            "usual than one from outside. Pictures show the target's best native detector, on "
            "its own states and on mapped ones; the tables have all detectors."
        )
    ]
    for data in names(r.ood, "data"):
        losses = [x for x in ood_losses(r) if x.mapped.data == data]
        parts.append(tag("h3", data))
        if losses:
            parts += [_heats(builder, data, losses), *_rocs(builder, data, losses)]
        parts.append(_numbers(builder, data))
    return section("ood", "Out-of-distribution detection", *parts)


def _heats(builder: ReportBuilder, data: str, losses: list[OodLoss]) -> Html:
    native = {x.native.target: x.native.auroc for x in losses}
    grids = {
        texts: builder.matrix(
            {(x.mapped.source, x.mapped.target): x.mapped.auroc
             for x in losses if x.mapped.texts == texts}, native,
        )
        for texts in dict.fromkeys(x.mapped.texts for x in losses)
    }  # fmt: skip
    ends = value_range(grids.values())
    panels = [
        builder.heat(
            grid,
            f"map from {texts_label(texts)}",
            f"AUROC on {data}, map from {texts_label(texts)}",
            ends,
        )
        for texts, grid in grids.items()
    ]
    return pictures(
        panels, f"AUROC on {data}, the better objective of each pair; framed: native.", ends=ends
    )


def _rocs(builder: ReportBuilder, data: str, losses: list[OodLoss]) -> list[Html]:
    """Curves, one picture a target, for each kind of texts."""
    styles = builder.styles
    legend = styles.legend(
        join([stroke("ink"), "native, thick, in the target's colour"]),
        join([stroke("ink", dashed=True), "mapped, in the source's"]),
    )
    made = []
    for texts in dict.fromkeys(x.mapped.texts for x in losses):
        panels = []
        for target in styles.names:
            found = [x for x in losses if (x.mapped.target, x.mapped.texts) == (target, texts)]
            if any(len(x.mapped.roc) > 1 for x in found):
                panels.append(_roc(builder, data, found))
        if panels:
            made.append(
                pictures(panels, f"ROC curves on {data}, map from {texts_label(texts)}.", legend)
            )
    rows: list[Row] = [
        (styles.pair(x.source, x.target), texts_label(x.texts), x.objective, x.detector,
         *(figure(_at(x, rate)) for rate in RATES))
        for x in builder.results.ood
        if x.data == data and len(x.roc) > 1
    ]  # fmt: skip
    head = ("pair", "map fitted on", "objective", "detector",
            *(f"TPR at FPR {rate:g}" for rate in RATES))  # fmt: skip
    return [*made, behind(f"ROC curves on {data}", head, rows)] if made else []


def _roc(builder: ReportBuilder, data: str, losses: list[OodLoss]) -> Html:
    """Into one target."""
    styles, own = builder.styles, losses[0].native
    drawn = [
        Line(_thinned(x.roc), styles.colour(x.source), styles.mark(x.source), dashed=True)
        for x in (y.mapped for y in losses)
        if len(x.roc) > 1
    ]
    if len(own.roc) > 1:
        drawn.insert(0, Line(_thinned(own.roc), styles.colour(own.target), width=2.6))
    areas = "; ".join(f"{x.mapped.source} {x.mapped.auroc:.3f}" for x in losses)
    alt = (
        f"ROC curves on {data} into {own.target}, map from {texts_label(losses[0].mapped.texts)}. "
        f"AUROC native {own.auroc:.3f}; {areas}."
    )
    frame = Frame("false positive rate", "true positive rate", square=True)
    return builder.panel(partial(lines, drawn, frame), f"into {own.target} ({own.detector})", alt)


def _thinned(roc: tuple[Point, ...]) -> tuple[Point, ...]:
    """No more points than a picture shows."""
    if len(roc) <= MOST_DRAWN:
        return roc
    return tuple(roc[round(i * (len(roc) - 1) / (MOST_DRAWN - 1))] for i in range(MOST_DRAWN))


def _at(row: OodRow, rate: float) -> float:
    """The true positive rate at a false positive rate, between points in a straight line."""
    points = sorted(row.roc)
    before = max((p for p in points if p[0] <= rate), default=points[0])
    after = min((p for p in points if p[0] >= rate), default=points[-1])
    if after[0] <= before[0]:
        return before[1]
    return before[1] + (after[1] - before[1]) * (rate - before[0]) / (after[0] - before[0])


def _numbers(builder: ReportBuilder, data: str) -> Html:
    styles = builder.styles
    rows = [
        (styles.chip(x.target) if x.source == x.target else styles.pair(x.source, x.target),
         texts_label(x.texts), x.objective, x.detector, figure(x.auroc), figure(x.aupr_in),
         figure(x.aupr_out), figure(x.fpr95))
        for x in builder.results.ood
        if x.data == data
    ]  # fmt: skip
    head = ("pair", "map fitted on", "objective", "detector", "AUROC", "AUPR in", "AUPR out",
            "FPR95")  # fmt: skip
    best = max((x for x in builder.results.ood if x.data == data), key=lambda x: x.auroc)
    return behind(f"detectors on {data}, AUROC up to {number(best.auroc)}", head, rows)
