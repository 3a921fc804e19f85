"""Out-of-distribution section: detectors on native and on mapped states."""

from collections.abc import Iterator
from functools import partial

from linalign_lite.survey.report import content
from linalign_lite.survey.report.analysis import OodLoss, ood_losses, texts_label
from linalign_lite.survey.report.content import cell, decimal
from linalign_lite.survey.report.figures import ReportBuilder
from linalign_lite.survey.report.plots import Frame, Line, lines
from linalign_lite.survey.results import OodRow, Point, names

MOST_DRAWN = 200  # points of a curve
RATES = (0.01, 0.05, 0.1, 0.2, 0.5)  # false positive rates of the table behind curves


def ood(builder: ReportBuilder) -> Iterator[content.Block]:
    yield (
        "Which texts are not of the data set? AUROC: how often a text of it scores as more "
        "usual than one from outside. Pictures show the target's best native detector, on "
        "its own states and on mapped ones; the tables have all detectors."
    )
    for data in names(builder.results.ood, "data"):
        losses = [x for x in ood_losses(builder.results) if x.mapped.data == data]
        yield content.Heading(data)
        if losses:
            yield _heat_maps(builder, data, losses)
            yield from _rocs(builder, data, losses)
        rows = [x for x in builder.results.ood if x.data == data]
        caption = f"detectors on {data}, AUROC up to {decimal(max(x.auroc for x in rows))}"
        columns = "pair texts objective detector auroc aupr_in aupr_out fpr95"
        yield builder.table(caption, columns, rows, collapsed=True)


def _heat_maps(builder: ReportBuilder, data: str, losses: list[OodLoss]) -> content.Figure:
    native = {x.native.target: x.native.auroc for x in losses}
    by_texts: dict[str, dict[tuple[str, str], float]] = {}
    for x in (loss.mapped for loss in losses):
        by_texts.setdefault(x.texts, {})[x.pair] = x.auroc
    grids = {
        f"map from {texts_label(texts)}": builder.matrix(values, native)
        for texts, values in by_texts.items()
    }
    caption = f"AUROC on {data}, the better objective of each pair; framed: native."
    return builder.heat_maps(grids, f"AUROC on {data}, ", caption)


def _rocs(builder: ReportBuilder, data: str, losses: list[OodLoss]) -> Iterator[content.Block]:
    """ROC curves, one panel per target, for each kind of texts."""
    styles = builder.styles
    legend = styles.legend(
        (content.LineSample(), "native, thick, in the target's colour"),
        (content.LineSample(dashed=True), "mapped, in the source's"),
    )
    drawn = False
    for texts in dict.fromkeys(x.mapped.texts for x in losses):
        panels = []
        for target in styles.names:
            found = [x for x in losses if (x.mapped.target, x.mapped.texts) == (target, texts)]
            if any(len(x.mapped.roc) > 1 for x in found):
                panels.append(_roc(builder, data, found))
        if panels:
            caption = f"ROC curves on {data}, map from {texts_label(texts)}."
            yield content.Figure(panels, caption, legend)
            drawn = True
    if not drawn:
        return
    rows: list[content.Row] = [
        (
            styles.pair(x.pair), texts_label(x.texts), x.objective, x.detector,
            *(cell(_at(x, rate)) for rate in RATES),
        )
        for x in builder.results.ood
        if x.data == data and len(x.roc) > 1
    ]  # fmt: skip
    rates = (f"TPR at FPR {rate:g}" for rate in RATES)
    head = ("pair", "map fitted on", "objective", "detector", *rates)
    yield content.Table(f"ROC curves on {data}", head, rows, collapsed=True)


def _roc(builder: ReportBuilder, data: str, losses: list[OodLoss]) -> content.Panel:
    """ROC curves into one target."""
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
    """Keep at most MOST_DRAWN points, evenly spaced."""
    if len(roc) <= MOST_DRAWN:
        return roc
    return tuple(roc[round(i * (len(roc) - 1) / (MOST_DRAWN - 1))] for i in range(MOST_DRAWN))


def _at(row: OodRow, rate: float) -> float:
    """Interpolate the true positive rate at a false positive rate linearly."""
    points = sorted(row.roc)
    before = max((p for p in points if p[0] <= rate), default=points[0])
    after = min((p for p in points if p[0] >= rate), default=points[-1])
    if after[0] <= before[0]:
        return before[1]
    return before[1] + (after[1] - before[1]) * (rate - before[0]) / (after[0] - before[0])
