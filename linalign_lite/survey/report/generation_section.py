"""Generation across two models, and the tokenizers that it depends on."""

from collections.abc import Iterator
from functools import partial

from linalign_lite.extraction.tokenizer_compatibility import GOOD_MATCH
from linalign_lite.survey.report import content
from linalign_lite.survey.report.analysis import plural
from linalign_lite.survey.report.columns import GENERATION, TOKENIZERS
from linalign_lite.survey.report.content import cell, decimal
from linalign_lite.survey.report.figures import ReportBuilder
from linalign_lite.survey.report.plots import DotRow, Estimate, Frame, dots, scatter
from linalign_lite.survey.results import GenerationRow, names

MOST_NAMED = 12  # points with a name beside them
OBJECTIVES: tuple[content.Inline, ...] = (
    (content.Marker("o", filled=False), "hollow: ridge"),
    (content.Marker("o"), "filled: kl"),
)


def generation(builder: ReportBuilder) -> Iterator[content.Block]:
    yield (
        "The source reads, the map carries its state over, the target's token head predicts. "
        "Agreement: how often the first choice is the one that the target makes by itself, "
        "at positions where both have read the same characters."
    )
    rows = builder.results.generation
    grids = {
        objective: builder.matrix({x.pair: x.agreement for x in rows if x.objective == objective})
        for objective in names(rows, "objective")
    }
    caption = "Agreement on the next token, by the map's objective."
    yield builder.heat_maps(grids, "Next-token agreement, ", caption)
    yield _cross_entropy(builder)
    yield builder.table("generation", GENERATION, rows, collapsed=True)


def tokenizers(builder: ReportBuilder) -> Iterator[content.Block]:
    yield (
        "Exact match: the share of the target's tokens that the source cuts alike. Paired: "
        "the share at whose end a token of the source ends too. Jaccard: of the "
        "vocabularies. Fertility ratio: the source's tokens over the target's."
    )
    rows = builder.results.tokenizers
    exact = {x.pair: x.exact for x in rows}
    found = [x for x in builder.results.generation if x.pair in exact]
    if found:
        yield _match_against_agreement(builder, exact, found)
    yield builder.table("Agreement of tokenizers on the same texts", TOKENIZERS, rows)


def _cross_entropy(builder: ReportBuilder) -> content.Figure:
    colour = builder.styles.colour
    dot_rows, values, texts = [], [], []
    for source, target in builder.results.pairs():
        rows = [x for x in builder.results.generation if x.pair == (source, target)]
        if not rows:
            continue
        found = tuple(Estimate(x.cross_entropy, "o", x.objective != "ridge") for x in rows)
        own, best = rows[0].target_cross_entropy, min(x.cross_entropy for x in rows)
        values += [own, *(x.cross_entropy for x in rows)]
        texts.append(f"{source} → {target} {decimal(best, 2)}, the target alone {decimal(own, 2)}")
        references = ((own, colour(target), False),)
        lost = f"+{max(best - own, 0):.2f}"
        dot_rows.append(DotRow(source, target, colour(source), (found,), references, lost))
    slack = 0.05 * (max(values) - min(values)) + 0.02
    limits = (min(values) - slack, max(values) + slack)
    panel = builder.panel(
        partial(dots, dot_rows, "cross-entropy, nats per token", limits, "lost"),
        "Cross-entropy",
        "Best cross-entropy of each pair: " + "; ".join(texts) + ".",
    )
    legend = [*OBJECTIVES, (content.LineSample(upright=True), "the target alone, in its colour")]
    caption = "Lower is better. Lost: the better map over the target alone."
    return content.Figure([panel], caption, legend)


def _match_against_agreement(
    builder: ReportBuilder, exact: dict[tuple[str, str], float], found: list[GenerationRow]
) -> content.Figure:
    """Exact-token match against agreement, of pairs that have both."""
    styles, pairs = builder.styles, {x.pair for x in found}
    best = {p: max(x.agreement for x in found if x.pair == p) for p in pairs}
    points = []
    for x in found:
        label = x.pair if x.agreement == best[x.pair] and len(pairs) <= MOST_NAMED else ()
        colour, mark = styles.colour(x.source), styles.mark(x.source)
        points.append((exact[x.pair], x.agreement, colour, mark, x.objective != "ridge", label))
    good = sum(exact[p] >= GOOD_MATCH for p in pairs)
    texts = (
        f"{s} → {t}: match {exact[s, t]:.2f}, agreement {best[s, t]:.2f}" for s, t in sorted(pairs)
    )
    alt = (
        f"Exact-token match against next-token agreement of {plural(len(pairs), 'pair')}; {good} "
        f"of them at a match of {GOOD_MATCH} or more. {'; '.join(texts)}."
    )
    frame = Frame("exact-token match", "next-token agreement")
    panel = builder.panel(
        partial(scatter, points, frame, GOOD_MATCH), "Tokenizers and generation", alt
    )
    line = (
        content.LineSample("line", dashed=True, upright=True),
        f"{GOOD_MATCH}: the paper's good pairs",
    )
    numbers = [
        (styles.pair(x.pair), x.objective, cell(exact[x.pair]), cell(x.agreement)) for x in found
    ]
    head = ("pair", "objective", "exact match", "agreement")
    table = content.Table("match and agreement", head, numbers, collapsed=True)
    legend = styles.legend(*OBJECTIVES, line)
    return content.Figure([panel], "Colour and mark: the source.", legend, [table])
