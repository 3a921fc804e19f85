"""Classification section: accuracy of heads on native and on mapped states."""

from collections.abc import Iterator
from functools import partial

from linalign_lite.survey.report import content
from linalign_lite.survey.report.analysis import (
    TEXTS,
    by_settings,
    plural,
    settings_label,
    texts_label,
)
from linalign_lite.survey.report.figures import ReportBuilder
from linalign_lite.survey.report.plots import DotRow, Estimate, dots
from linalign_lite.survey.report.style import OF_TEXTS
from linalign_lite.survey.results import ClassRow, names

MOST_DOT_ROWS = 12  # in one picture


def classification(builder: ReportBuilder) -> Iterator[content.Block]:
    yield (
        "The target's head reads the source's mapped states. Native is a head on its own "
        "model's states. Intervals: 95 %, bootstrap."
    )
    if builder.results.classification:
        yield content.Heading("Native against mapped")
        yield _native_against_mapped(builder)
    for data in builder.results.data:
        yield from _of_data(builder, data.name, data.majority)


def _of_data(builder: ReportBuilder, data: str, majority: float) -> Iterator[content.Block]:
    own = [x for x in builder.results.native if x.data == data]
    rows = by_settings(x for x in builder.results.classification if x.data == data)
    if not own and not rows:
        return
    yield content.Heading(data)
    yield f"Always predicting the commonest label is right for {majority:.3f}."
    if rows:
        native = {x.model: x.accuracy for x in own}
        grids = {
            settings_label(key): builder.matrix({x.pair: x.accuracy for x in found}, native)
            for key, found in rows.items()
        }
        alt, caption = f"Accuracy on {data}, map from ", f"Accuracy on {data}; framed: native."
        yield builder.heat_maps(grids, alt, caption)
    native_rows = [
        ClassRow(x.model, x.model, data, "native", "–", 0, 0, x.accuracy, x.low, x.high, 1.0)
        for x in own
    ]
    names = "pair texts objective n_public n_few accuracy low high retention"
    body = [*native_rows, *(x for found in rows.values() for x in found)]
    yield builder.table(f"accuracy on {data}", names, body, collapsed=True)


def _native_against_mapped(builder: ReportBuilder) -> content.Figure:
    r = builder.results
    panels = [panel for data in names(r.classification, "data") for panel in _dots(builder, data)]
    kinds = sorted(names(r.classification, "texts"), key=lambda t: (*TEXTS, t).index(t))
    legend: list[content.Inline] = [
        *((content.Marker(OF_TEXTS.get(t, "P")), texts_label(t)) for t in kinds),
        (content.Marker("o", filled=False), "hollow: ridge"),
        (content.Marker("o"), "filled: kl"),
        (content.LineSample(upright=True), "target's native, in the target's colour"),
        (content.LineSample(upright=True, dashed=True), "source's own, in the source's"),
    ]
    caption = (
        "One line per kind of texts, ridge and kl joined. Kept: the lowest and the highest "
        "retention of the pair. The tables of the data sets below hold the numbers."
    )
    return content.Figure(panels, caption, legend)


def _dots(builder: ReportBuilder, data: str) -> list[content.Panel]:
    """One dot plot of a data set, or one per target where there are many pairs."""
    r = builder.results
    own = {x.model: x.accuracy for x in r.native if x.data == data}
    by_kind = by_settings(x for x in r.classification if x.data == data)
    rows = [x for found in by_kind.values() for x in found]
    by_pair = {p: [x for x in rows if x.pair == p] for p in r.pairs()}
    groups = [[p for p, found in by_pair.items() if found]]
    if len(groups[0]) > MOST_DOT_ROWS:
        targets = dict.fromkeys(target for _, target in groups[0])
        groups = [[p for p in groups[0] if p[1] == t] for t in targets]
    values = [*(v for x in rows for v in (x.low, x.high)), *own.values()]
    limits = (min(values) - 0.02, max(values) + 0.02)
    panels = []
    for group in groups:
        dot_rows = [_dot_row(builder, own, by_pair[p]) for p in group]
        title = data + (f", into {group[0][1]}" if len(groups) > 1 else "")
        draw = partial(dots, dot_rows, "accuracy", limits, "kept")
        alt = _alt_text(data, [x for p in group for x in by_pair[p]], len(group))
        panels.append(builder.panel(draw, title, alt))
    return panels


def _dot_row(builder: ReportBuilder, own: dict[str, float], rows: list[ClassRow]) -> DotRow:
    """The accuracies of one pair, one line per kind of texts."""
    source, target = rows[0].source, rows[0].target
    colour = builder.styles.colour
    kinds: dict[tuple[str, int], list[Estimate]] = {}
    for x in rows:
        mark, filled = OF_TEXTS.get(x.texts, "P"), x.objective != "ridge"
        dot = Estimate(x.accuracy, mark, filled, x.low, x.high)
        kinds.setdefault((x.texts, x.n_few), []).append(dot)
    models = ((source, True), (target, False))
    references = tuple((own[n], colour(n), dashed) for n, dashed in models if n in own)
    kept = [x.retention for x in rows]
    text = f"{min(kept):.2f}–{max(kept):.2f}"
    lines = tuple(map(tuple, kinds.values()))
    return DotRow(source, target, colour(source), lines, references, text)


def _alt_text(data: str, rows: list[ClassRow], n_pairs: int) -> str:
    best, worst = max(rows, key=lambda x: x.retention), min(rows, key=lambda x: x.retention)
    return (
        f"Accuracy on {data} of {plural(n_pairs, 'pair')}. Most is kept by {best.source} → "
        f"{best.target}, {best.texts} with {best.objective}: {best.accuracy:.3f}, retention "
        f"{best.retention:.2f}; least by {worst.source} → {worst.target}, {worst.texts} with "
        f"{worst.objective}: {worst.accuracy:.3f}, retention {worst.retention:.2f}."
    )
