"""Summary of a survey (best pairs, retention, failures), and its models and data."""

import statistics
from collections.abc import Iterator

from linalign_lite.survey.report import analysis, content
from linalign_lite.survey.report.analysis import FAILS, KEPT, plural, texts_label
from linalign_lite.survey.report.columns import DATA, MODELS, titles
from linalign_lite.survey.report.content import cell, decimal
from linalign_lite.survey.report.figures import ReportBuilder, value_range
from linalign_lite.survey.report.plots import Grid
from linalign_lite.survey.report.svg import truncate, width_of
from linalign_lite.survey.results import Results, names

NAME = 112  # CSS pixels that a name may take beside a grid of pairs
SHOWN = 12  # failures in the summary; all are in the table


def summary(builder: ReportBuilder) -> Iterator[content.Block]:
    if tiles := list(_tiles(builder.results)):
        yield content.Tiles(tiles)
    if best := list(_best(builder)):
        yield content.Heading("The best pair for each task")
        yield content.Bullets(best)
    if builder.results.classification:
        yield content.Heading("What maps keep")
        yield _retention(builder)
        yield from _failures(builder)


def participants(builder: ReportBuilder) -> Iterator[content.Block]:
    r = builder.results
    head, body = [*titles(MODELS), "digest"], []
    for m in r.models:
        cells = builder.cells(MODELS, m)
        name, digest = builder.styles.model(m.name), content.Styled(m.digest[:12], "code")
        body.append([name, *cells[1:], digest])
    yield content.Table("Models", head, body)
    if r.data:
        yield builder.table("Data sets", DATA, r.data)


def _tiles(r: Results) -> Iterator[tuple[str, str, str]]:
    for texts in names(r.classification, "texts"):
        groups = [group for group in analysis.retention_by_texts(r) if group.texts == texts]
        values = [x for group in groups for x in group.retention]
        text = (
            f"median retention; {sum(v >= KEPT for v in values)} of {len(values)} pairs and data "
            f"sets keep {KEPT} or more"
        )
        yield f"classification, {texts_label(texts)}", f"{statistics.median(values):.2f}", text
    if losses := _losses(r):
        median = statistics.median(x.lost for x in losses)
        text = (
            f"AUROC lost through a map from {texts_label(losses[0].mapped.texts)}, median of "
            f"{len(losses)} pairs and data sets"
        )
        yield "out of distribution", decimal(median, 2), text
    for best in analysis.best_generation(r)[:1]:
        text = f"of next tokens are the target's own choice, at best: {best.source} → {best.target}"
        yield "generation", f"{best.agreement:.2f}", text


def _losses(r: Results) -> list[analysis.OodLoss]:
    """Losses through maps from public texts, or else from the first kind of texts."""
    found = [t for t in names(r.ood, "texts") if t != "native"]
    first = "public" if "public" in found else (found or [""])[0]
    return [x for x in analysis.ood_losses(r) if x.mapped.texts == first]


def _best(builder: ReportBuilder) -> Iterator[content.Inline]:
    """The best pair for each data set and task, in a sentence each."""
    r, pair = builder.results, builder.styles.pair
    for x in analysis.best_pairs(r):
        text = (
            f" keeps {x.retention:.2f}: accuracy {x.accuracy:.3f} with {texts_label(x.texts)} "
            f"({x.objective})."
        )
        yield content.Styled(x.data, "b"), ": ", pair(x.pair), text
    if losses := _losses(r):
        least = min(losses, key=lambda x: (x.lost, x.mapped.source, x.mapped.target))
        text = (
            f" on {least.mapped.data}: AUROC {least.mapped.auroc:.3f} where native has "
            f"{least.native.auroc:.3f} ({least.native.detector})."
        )
        yield content.Styled("out of distribution", "b"), ": ", pair(least.mapped.pair), text
    for g in analysis.best_generation(r)[:1]:
        text = (
            f": agreement {g.agreement:.3f}, cross-entropy {g.cross_entropy:.2f} nats per token "
            f"where the target alone has {g.target_cross_entropy:.2f} ({g.objective})."
        )
        yield content.Styled("generation", "b"), ": ", pair(g.pair), text


def _retention(builder: ReportBuilder) -> content.Figure:
    """Retention of every pair on every data set, one panel per kind of texts."""
    r = builder.results
    best = analysis.best_by_texts(r)
    pairs = [p for p in r.pairs() if any(key[:2] == p for key in best)]
    data = names(r.classification, "data")
    labels = tuple(f"{truncate(s, 10, NAME)} →\n{truncate(t, 10, NAME)}" for s, t in pairs)
    side = 12 + max(width_of(line, 10) for label in labels for line in label.split("\n"))
    grids = {}
    for texts in names(r.classification, "texts"):
        values = {
            (pairs.index((s, t)), data.index(d)): found[texts].retention
            for (s, t, d), found in best.items()
            if texts in found
        }
        grids[f"Map fitted on {texts_label(texts)}"] = Grid(
            labels, tuple(data), values, "pair ↓  data →", side=side, wide=44
        )
    ends = value_range(grids.values())
    alt = f"Retention of {len(pairs)} pairs on {len(data)} data sets"
    panels = [builder.heat(grid, title, alt, ends) for title, grid in grids.items()]
    caption = (
        "Retention: accuracy with the map over the lower of the two models' native "
        "accuracies, the better objective of each. Own texts: training texts of the data "
        "set itself, without their labels."
    )
    rows = [x for found in best.values() for x in found.values()]
    columns = "pair data texts objective accuracy retention"
    table = builder.table("retention", columns, rows, collapsed=True)
    return content.Figure(panels, caption, tables=[table], ends=ends)


def _failures(builder: ReportBuilder) -> Iterator[content.Block]:
    r = builder.results
    found, fixed = analysis.failures(r), analysis.fixed_by_kl(r)
    pairs = plural(len(analysis.best_by_texts(r)), "pair and data set", "pairs and data sets")
    text = f"Of {pairs}, {len(found)} keep less than {FAILS} with public texts."
    if fixed:
        text += f" Least squares alone would fail {len(fixed)} more, which kl solves."
    if len(found) > SHOWN:
        text += f" The {SHOWN} worst:"
    yield content.Heading("Where maps fail, and why")
    yield text
    head = ("pair", "data", "retention", "held-out R²", "few", "public + few", "all", "why")
    rows: list[content.Row] = [
        (builder.styles.pair(f.pair), f.data, cell(f.retention, 2), cell(f.r2, 2),
         *(cell(dict(f.by_texts).get(t), 2) for t in ("few", "public+few", "all")), f.why)
        for f in found
    ]  # fmt: skip
    if found:
        yield content.Table("The worst, with public texts", head, rows[:SHOWN])
    if len(found) > SHOWN:
        yield content.Table("all that fail", head, rows, collapsed=True)
