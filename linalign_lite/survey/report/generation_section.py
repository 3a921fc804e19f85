"""Generation across two models, and what their tokenizers have to do with it."""

from __future__ import annotations

from functools import partial

from linalign_lite.extraction.tokenizer_compatibility import GOOD_MATCH
from linalign_lite.survey.report.analysis import plural
from linalign_lite.survey.report.figures import ReportBuilder, prose, section, value_range
from linalign_lite.survey.report.figures import figure as pictures
from linalign_lite.survey.report.markup import Html, behind, figure, join, number, table
from linalign_lite.survey.report.plots import DotRow, Estimate, Frame, dots, scatter
from linalign_lite.survey.report.style import glyph, legend, stroke
from linalign_lite.survey.results import names

MOST_NAMED = 12  # points with a name beside them


def generation(builder: ReportBuilder) -> Html | None:
    r = builder.results
    if not r.generation:
        return None
    return section(
        "generation", "Generation",
        prose("The source reads, the map carries its state over, the target's token head speaks. "
              "Agreement: how often the first choice is the one that the target makes by itself, "
              "at positions where both have read the same characters."),
        _agreement(builder), _entropy(builder), _numbers(builder),
    )  # fmt: skip


def tokenizers(builder: ReportBuilder) -> Html | None:
    r = builder.results
    if not r.tokenizers:
        return None
    rows = [
        (builder.styles.pair(x.source, x.target), figure(x.exact), figure(x.paired),
         figure(x.jaccard), figure(x.fertility, 2), x.verdict)
        for x in r.tokenizers
    ]  # fmt: skip
    head = ("pair", "exact match", "paired", "Jaccard", "fertility ratio", "verdict")
    return section(
        "tokenizers", "Tokenizers",
        prose("Exact match: the share of the target's tokens that the source cuts alike. Paired: "
              "the share at whose end a token of the source ends too. Jaccard: of the "
              "vocabularies. Fertility ratio: the source's tokens over the target's."),
        _against(builder),
        table("How alike tokenizers cut the same texts", head, rows),
    )  # fmt: skip


def _agreement(builder: ReportBuilder) -> Html:
    r = builder.results
    grids = {
        objective: builder.matrix(
            {(x.source, x.target): x.agreement for x in r.generation if x.objective == objective}
        )
        for objective in names(r.generation, "objective")
    }
    ends = value_range(grids.values())
    panels = [
        builder.heat(grid, objective, f"Next-token agreement, {objective}", ends)
        for objective, grid in grids.items()
    ]
    return pictures(panels, "Agreement on the next token, by the map's objective.", ends=ends)


def _entropy(builder: ReportBuilder) -> Html:
    r, styles = builder.results, builder.styles
    dot_rows, values, told = [], [], []
    for source, target in r.pairs():
        rows = [x for x in r.generation if (x.source, x.target) == (source, target)]
        if not rows:
            continue
        found = tuple(Estimate(x.cross_entropy, "o", x.objective != "ridge") for x in rows)
        own = rows[0].target_cross_entropy
        best = min(x.cross_entropy for x in rows)
        values += [own, *(x.cross_entropy for x in rows)]
        told.append(
            f"{source} → {target} {number(best, 2)}, the speaker by itself {number(own, 2)}"
        )
        dot_rows.append(DotRow(source, target, styles.colour(source),
                            (found,), ((own, styles.colour(target), False),),
                            f"+{max(best - own, 0):.2f}"))  # fmt: skip
    slack = 0.05 * (max(values) - min(values)) + 0.02
    limits = (min(values) - slack, max(values) + slack)
    panel = builder.panel(
        partial(dots, dot_rows, "cross-entropy, nats a token", limits, "lost"),
        "Cross-entropy",
        "Best cross-entropy of each pair: " + "; ".join(told) + ".",
    )
    shown = legend(
        [
            join([glyph("o", "ink", filled=False), "hollow: ridge"]),
            join([glyph("o", "ink"), "filled: kl"]),
            join([stroke("ink", upright=True), "the speaker by itself, in its colour"]),
        ]
    )
    return pictures(
        [panel], "Lower is better. Lost: the better map over the speaker by itself.", shown
    )


def _numbers(builder: ReportBuilder) -> Html:
    rows = [
        (builder.styles.pair(x.source, x.target), x.objective, figure(x.agreement), figure(x.top5),
         figure(x.cross_entropy, 2), figure(x.target_cross_entropy, 2), figure(x.n, 0))
        for x in builder.results.generation
    ]  # fmt: skip
    head = ("reads → speaks", "objective", "agreement", "top 5", "cross-entropy", "speaker's own",
            "positions")  # fmt: skip
    return behind("generation", head, rows)


def _against(builder: ReportBuilder) -> Html | None:
    """Exact match against agreement, of pairs that have both."""
    r, styles = builder.results, builder.styles
    exact = {(x.source, x.target): x.exact for x in r.tokenizers}
    found = [x for x in r.generation if (x.source, x.target) in exact]
    if not found:
        return None
    pairs = {(x.source, x.target) for x in found}
    best = {p: max(x.agreement for x in found if (x.source, x.target) == p) for p in pairs}
    points = []
    for x in found:
        pair = (x.source, x.target)
        named = x.agreement == best[pair] and len(pairs) <= MOST_NAMED
        label = pair if named else ()
        points.append((exact[pair], x.agreement, styles.colour(x.source), styles.mark(x.source),
                       x.objective != "ridge", label))  # fmt: skip
    good = sum(exact[p] >= GOOD_MATCH for p in pairs)
    alt = (
        f"Exact-token match against next-token agreement of {plural(len(pairs), 'pair')}; {good} "
        f"of them at a match of {GOOD_MATCH} or more. "
        + "; ".join(f"{s} → {t}: match {exact[s, t]:.2f}, agreement {best[s, t]:.2f}"
                    for s, t in sorted(pairs)) + "."
    )  # fmt: skip
    frame = Frame("exact-token match", "next-token agreement")
    panel = builder.panel(
        partial(scatter, points, frame, GOOD_MATCH), "Tokenizers and generation", alt
    )
    shown = styles.legend(
        join([glyph("o", "ink", filled=False), "hollow: ridge"]),
        join([glyph("o", "ink"), "filled: kl"]),
        join([stroke("line", dashed=True, upright=True), f"{GOOD_MATCH}: the paper's good pairs"]),
    )
    numbers = [
        (styles.pair(x.source, x.target), x.objective, figure(exact[x.source, x.target]),
         figure(x.agreement))
        for x in found
    ]  # fmt: skip
    return pictures([panel], "Colour and mark: the source.", shown,
                    behind("match and agreement",
                           ("pair", "objective", "exact match", "agreement"), numbers))  # fmt: skip
