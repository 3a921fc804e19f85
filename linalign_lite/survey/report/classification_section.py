"""Classification: native against mapped, pair by pair."""

from __future__ import annotations

from functools import partial

from linalign_lite.survey.report.analysis import TEXTS, Recipe, plural, recipes, texts_label
from linalign_lite.survey.report.figures import ReportBuilder, prose, section, value_range
from linalign_lite.survey.report.figures import figure as pictures
from linalign_lite.survey.report.markup import Child, Html, behind, figure, join, tag
from linalign_lite.survey.report.plots import DotRow, Estimate, dots
from linalign_lite.survey.report.style import OF_TEXTS, glyph, legend, stroke
from linalign_lite.survey.results import ClassRow, NativeRow, names

MOST_DOT_ROWS = 12  # in one picture


def classification(builder: ReportBuilder) -> Html | None:
    r = builder.results
    if not r.classification and not r.native:
        return None
    parts: list[Child] = [
        prose(
            "The target's head reads the source's mapped states. Native is a head on its own "
            "model's states. Intervals: 95 %, bootstrap."
        )
    ]
    if r.classification:
        parts += [tag("h3", "Native against mapped"), _native_against_mapped(builder)]
    for data in r.data:
        parts += _of_data(builder, data.name)
    return section("classification", "Classification", *parts)


def _of_data(builder: ReportBuilder, data: str) -> list[Child]:
    r = builder.results
    own = {x.model: x for x in r.native if x.data == data}
    by_recipe = recipes(x for x in r.classification if x.data == data)
    if not own and not by_recipe:
        return []
    majority = next(d.majority for d in r.data if d.name == data)
    return [
        tag("h3", data),
        prose(f"Always saying the commonest label is right for {majority:.3f}."),
        _heats(builder, data, own, by_recipe) if by_recipe else None,
        _numbers(builder, data, own, by_recipe),
    ]


def _heats(
    builder: ReportBuilder,
    data: str,
    own: dict[str, NativeRow],
    by_recipe: dict[Recipe, list[ClassRow]],
) -> Html:
    native = {name: x.accuracy for name, x in own.items()}
    grids = {
        key: builder.matrix({(x.source, x.target): x.accuracy for x in rows}, native)
        for key, rows in by_recipe.items()
    }
    ends = value_range(grids.values())
    panels = [
        builder.heat(grid, key.label, f"Accuracy on {data}, map from {key.label}", ends)
        for key, grid in grids.items()
    ]
    return pictures(panels, f"Accuracy on {data}; framed: native.", ends=ends)


def _native_against_mapped(builder: ReportBuilder) -> Html:
    r = builder.results
    panels = [panel for data in names(r.classification, "data") for panel in _dots(builder, data)]
    kinds = sorted(names(r.classification, "texts"), key=lambda t: (*TEXTS, t).index(t))
    shown = legend(
        [
            *(join([glyph(OF_TEXTS.get(t, "P"), "ink"), texts_label(t)]) for t in kinds),
            join([glyph("o", "ink", filled=False), "hollow: ridge"]),
            join([glyph("o", "ink"), "filled: kl"]),
            join([stroke("ink", upright=True), "target's native, in the target's colour"]),
            join([stroke("ink", upright=True, dashed=True), "source's own, in the source's"]),
        ]
    )
    caption = (
        "Each line a kind of texts, ridge and kl joined. Kept: the lowest and the highest "
        "retention of the pair. The numbers stand with each data set below."
    )
    return pictures(panels, caption, shown)


def _dots(builder: ReportBuilder, data: str) -> list[Html]:
    """One picture of a data set, or, of many pairs, one for each target."""
    r = builder.results
    own = {x.model: x for x in r.native if x.data == data}
    by_recipe = recipes(x for x in r.classification if x.data == data)
    rows = [(key, x) for key, found in by_recipe.items() for x in found]
    pairs = [p for p in r.pairs() if any((x.source, x.target) == p for _, x in rows)]
    groups = [pairs]
    if len(pairs) > MOST_DOT_ROWS:
        groups = [[p for p in pairs if p[1] == t] for t in dict.fromkeys(t for _, t in pairs)]
    values = [v for _, x in rows for v in (x.low, x.high)]
    values += [x.accuracy for x in own.values()]
    limits = (min(values) - 0.02, max(values) + 0.02)
    panels = []
    for group in groups:
        dot_rows = [
            _dot_row(builder, p, own, [(k, x) for k, x in rows if (x.source, x.target) == p])
            for p in group
        ]
        title = data + (f", into {group[0][1]}" if len(groups) > 1 else "")
        draw = partial(dots, dot_rows, "accuracy", limits, "kept")
        panels.append(builder.panel(draw, title, _alt_text(data, group, rows)))
    return panels


def _dot_row(
    builder: ReportBuilder,
    pair: tuple[str, str],
    own: dict[str, NativeRow],
    rows: list[tuple[Recipe, ClassRow]],
) -> DotRow:
    source, target = pair
    colour = builder.styles.colour
    kinds = list(dict.fromkeys((k.texts, k.n_few) for k, _ in rows))
    found = tuple(
        tuple(
            Estimate(x.accuracy, OF_TEXTS.get(k.texts, "P"), k.objective != "ridge", x.low, x.high)
            for k, x in rows
            if (k.texts, k.n_few) == kind
        )
        for kind in kinds
    )
    references = [(own[n].accuracy, colour(n), dashed)
                  for n, dashed in ((source, True), (target, False)) if n in own]  # fmt: skip
    kept = [x.retention for _, x in rows]
    said = f"{min(kept):.2f}–{max(kept):.2f}"
    return DotRow(source, target, colour(source), found, tuple(references), said)


def _alt_text(data: str, pairs: list[tuple[str, str]], rows: list[tuple[Recipe, ClassRow]]) -> str:
    found = [x for _, x in rows if (x.source, x.target) in pairs]
    best, worst = max(found, key=lambda x: x.retention), min(found, key=lambda x: x.retention)
    return (
        f"Accuracy on {data} of {plural(len(pairs), 'pair')}. Most is kept by {best.source} → "
        f"{best.target}, {best.texts} with {best.objective}: {best.accuracy:.3f}, retention "
        f"{best.retention:.2f}; least by {worst.source} → {worst.target}, {worst.texts} with "
        f"{worst.objective}: {worst.accuracy:.3f}, retention {worst.retention:.2f}."
    )


def _numbers(
    builder: ReportBuilder,
    data: str,
    own: dict[str, NativeRow],
    by_recipe: dict[Recipe, list[ClassRow]],
) -> Html:
    styles = builder.styles
    rows = [
        (styles.chip(x.model), "native", "–", figure(None), figure(None), figure(x.accuracy),
         figure(x.low), figure(x.high), figure(1.0, 2))
        for x in own.values()
    ] + [
        (styles.pair(x.source, x.target), texts_label(x.texts), x.objective,
         figure(x.n_public, 0), figure(x.n_few, 0), figure(x.accuracy), figure(x.low),
         figure(x.high), figure(x.retention, 2))
        for found in by_recipe.values()
        for x in found
    ]  # fmt: skip
    head = ("pair", "map fitted on", "objective", "public texts", "own texts", "accuracy", "low",
            "high", "retention")  # fmt: skip
    return behind(f"accuracy on {data}", head, rows)
