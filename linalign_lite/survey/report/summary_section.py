"""What a reader decides from, first; then who took part."""

from __future__ import annotations

import statistics

from linalign_lite.survey.report.analysis import (
    FAILS,
    KEPT,
    Failure,
    best_by_texts,
    best_generation,
    best_pairs,
    failures,
    fixed_by_kl,
    ood_losses,
    plural,
    retention_by_texts,
    texts_label,
)
from linalign_lite.survey.report.figures import ReportBuilder, prose, section, value_range
from linalign_lite.survey.report.figures import figure as pictures
from linalign_lite.survey.report.markup import (
    Child,
    Html,
    Row,
    behind,
    figure,
    join,
    number,
    table,
    tag,
)
from linalign_lite.survey.report.plots import Grid
from linalign_lite.survey.report.svg import truncate, width_of
from linalign_lite.survey.results import Results, names

NAME = 112  # CSS pixels that a name may take beside a grid of pairs
SHOWN = 12  # failures in the summary; all are in the table


def summary(builder: ReportBuilder) -> Html:
    return section(
        "summary", "In short", _tiles(builder), _best(builder), *_kept(builder), *_failing(builder)
    )


def participants(builder: ReportBuilder) -> Html:
    r = builder.results
    models = table(
        "Models",
        ("model", "architecture", "task", "dimensions", "vocabulary", "context", "digest"),
        [(builder.styles.chip(m.name), m.architecture, m.task, figure(m.dim, 0),
          figure(m.vocab_size, 0), figure(m.context, 0), tag("code", m.digest[:12]))
         for m in r.models],
    )  # fmt: skip
    data = table(
        "Data sets: numbers of texts",
        ("data", "training", "test", "outside", "labels", "commonest label"),
        [(d.name, figure(d.train, 0), figure(d.test, 0), figure(d.outside or None, 0),
          figure(d.labels, 0), figure(d.majority)) for d in r.data],
    )  # fmt: skip
    return section("participants", "Models and data", models, data if r.data else None)


def _tiles(builder: ReportBuilder) -> Html | None:
    r = builder.results
    tiles = [_kept_tile(r, texts) for texts in names(r.classification, "texts")]
    losses = [x for x in ood_losses(r) if x.mapped.texts == _first(r.ood)]
    if losses:
        median = statistics.median(x.lost for x in losses)
        tiles.append(("out of distribution", number(median, 2), "AUROC lost through a map from "
                      f"{texts_label(losses[0].mapped.texts)}, median of {len(losses)} pairs and "
                      "data sets"))  # fmt: skip
    tiles += [
        ("generation", f"{best.agreement:.2f}", "of next tokens are the speaker's own choice, at "
         f"best: {best.source} → {best.target}")
        for best in best_generation(r)[:1]
    ]  # fmt: skip
    items = (
        tag("div", tag("dt", what), tag("dd", tag("strong", shown), " ", said))
        for what, shown, said in tiles
    )
    return tag("dl", *items, class_="tiles") if tiles else None


def _kept_tile(r: Results, texts: str) -> tuple[str, str, str]:
    values = [x for group in retention_by_texts(r) if group.texts == texts for x in group.retention]
    said = (
        f"median retention; {sum(v >= KEPT for v in values)} of {len(values)} pairs and data "
        f"sets keep {KEPT} or more"
    )
    return f"classification, {texts_label(texts)}", f"{statistics.median(values):.2f}", said


def _first(rows: tuple[object, ...]) -> str:
    """ "public" where there is such a row, else the first kind of texts that is not native."""
    found = [t for t in names(rows, "texts") if t != "native"]
    return "public" if "public" in found else (found or [""])[0]


def _best(builder: ReportBuilder) -> Html | None:
    r, pair = builder.results, builder.styles.pair
    items = [
        join([tag("b", x.data), ": ", pair(x.source, x.target), f" keeps {x.retention:.2f}: "
              f"accuracy {x.accuracy:.3f} with {texts_label(x.texts)} ({x.objective})."])
        for x in best_pairs(r)
    ]  # fmt: skip
    losses = [x for x in ood_losses(r) if x.mapped.texts == _first(r.ood)]
    if losses:
        least = min(losses, key=lambda x: (x.lost, x.mapped.source, x.mapped.target))
        said = (
            f" on {least.mapped.data}: AUROC {least.mapped.auroc:.3f} where native has "
            f"{least.native.auroc:.3f} ({least.native.detector})."
        )
        items.append(join([tag("b", "out of distribution"), ": ",
                           pair(least.mapped.source, least.mapped.target), said]))  # fmt: skip
    items += [
        join([tag("b", "generation"), ": ", pair(g.source, g.target), f": agreement "
              f"{g.agreement:.3f}, cross-entropy {g.cross_entropy:.2f} nats a token where the "
              f"speaker by itself has {g.target_cross_entropy:.2f} ({g.objective})."])
        for g in best_generation(r)[:1]
    ]  # fmt: skip
    if not items:
        return None
    return join([tag("h3", "The best pair for each task"),
                 tag("ul", *(tag("li", item) for item in items), class_="findings")])  # fmt: skip


def _kept(builder: ReportBuilder) -> list[Child]:
    """Retention of every pair on every data set, one panel a kind of texts."""
    r = builder.results
    best = best_by_texts(r)
    if not best:
        return []
    pairs = [p for p in r.pairs() if any(key[:2] == p for key in best)]
    data = names(r.classification, "data")
    rows = tuple(f"{truncate(s, 10, NAME)} →\n{truncate(t, 10, NAME)}" for s, t in pairs)
    side = 12 + max(width_of(line, 10) for row in rows for line in row.split("\n"))
    grids = {}
    for texts in names(r.classification, "texts"):
        values = {(pairs.index((s, t)), data.index(d)): found[texts].retention
                  for (s, t, d), found in best.items() if texts in found}  # fmt: skip
        grids[texts] = Grid(rows, tuple(data), values, "pair ↓  data →", side=side, wide=44)
    ends = value_range(grids.values())
    panels = [
        builder.heat(grid, f"Map fitted on {texts_label(texts)}",
                    f"Retention of {len(pairs)} pairs on {len(data)} data sets", ends)
        for texts, grid in grids.items()
    ]  # fmt: skip
    numbers = [
        (builder.styles.pair(x.source, x.target), x.data, texts_label(x.texts), x.objective,
         figure(x.accuracy), figure(x.retention, 2))
        for found in best.values()
        for x in found.values()
    ]  # fmt: skip
    caption = (
        "Retention: accuracy with the map over the lower of the two models' native "
        "accuracies, the better objective of each. Own texts: training texts of the data "
        "set itself, without their labels."
    )
    head = ("pair", "data", "map fitted on", "objective", "accuracy", "retention")
    return [
        tag("h3", "What maps keep"),
        pictures(panels, caption, behind("retention", head, numbers), ends=ends),
    ]


def _failing(builder: ReportBuilder) -> list[Child]:
    r = builder.results
    found, mended = failures(r), fixed_by_kl(r)
    if not r.classification:
        return []
    said = [
        f"Of {plural(len(best_by_texts(r)), 'pair and data set', 'pairs and data sets')}, "
        f"{len(found)} keep less than {FAILS} with public texts."
    ]
    if mended:
        said.append(f"Least squares alone would fail {len(mended)} more, which kl mends.")
    if len(found) > SHOWN:
        said.append(f"The {SHOWN} worst:")
    head = ("pair", "data", "retention", "held-out R²", "few", "public + few", "all", "why")
    all_rows = [_failure(builder, f) for f in found]
    parts: list[Child] = [tag("h3", "Where maps fail, and why"), prose(" ".join(said))]
    if found:
        parts.append(table("The worst, with public texts", head, all_rows[:SHOWN]))
    if len(found) > SHOWN:
        parts.append(behind("all that fail", head, all_rows))
    return parts


def _failure(builder: ReportBuilder, f: Failure) -> Row:
    by_texts = dict(f.by_texts)
    return (
        builder.styles.pair(f.source, f.target), f.data, figure(f.retention, 2), figure(f.r2, 2),
        *(figure(by_texts.get(t), 2) for t in ("few", "public+few", "all")), f.why,
    )  # fmt: skip
