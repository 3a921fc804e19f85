"""Results of a survey as Markdown tables, without pictures or further packages."""

import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

from linalign_lite.survey.report.analysis import (
    KEPT,
    best_pairs,
    by_settings,
    failures,
    native_accuracy,
    ood_losses,
    plural,
    retention_by_texts,
    settings_label,
)
from linalign_lite.survey.report.columns import DATA, GENERATION, MODELS, TOKENIZERS, titles, values
from linalign_lite.survey.report.content import decimal
from linalign_lite.survey.results import Results, SimilarityRow, names
from linalign_lite.survey.validation import check_results

_SPECIAL = re.compile(r"([\\`*_{}\[\]|~#])")


def to_markdown(results: Results) -> str:
    """Format the tables of a survey in Markdown, one section per task that was measured.

    Names are escaped. Raises InputError for inconsistent results (`check_results`).
    """
    check_results(results)
    r = results
    parts = [
        f"# {plain(r.title)}",
        f"{plural(len(r.models), 'model')}, {plural(len(r.data), 'data set')}, {r.public:,} "
        f"public texts, pooling {plain(r.pooling)}, seed {r.seed}, linalign-lite "
        f"{plain(r.library)}.",
        *_models(r), *_summary(r), *_classification(r), *_similarity(r), *_ood(r),
        *_generation(r), *_tokenizers(r),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def plain(text: str) -> str:
    """Escape what has a meaning in Markdown or HTML."""
    return _SPECIAL.sub(r"\\\1", html.escape(text, quote=False))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _pair(source: str, target: str) -> str:
    return f"{plain(source)} → {plain(target)}"


def _rows_table(names: str, rows: Iterable[Any]) -> str:
    """Table of the columns ``names`` (`columns.COLUMNS`)."""
    return _table(titles(names), ([_cell(*v) for v in values(names, row)] for row in rows))


def _cell(value: Any, digits: int | None = 3) -> str:
    if value is None:
        return "–"
    if isinstance(value, tuple):
        return _pair(*value)
    return plain(value) if digits is None else decimal(value, digits)


def _models(r: Results) -> list[str]:
    data = [_rows_table(DATA, r.data)] if r.data else []
    return ["## Models and data", _rows_table(MODELS, r.models), *data]


def _summary(r: Results) -> list[str]:
    if not r.classification:
        return []
    rows = [
        (plain(x.data), x.texts, f"{x.median:.3f}",
         f"{min(x.retention):.3f} to {max(x.retention):.3f}",
         f"{x.kept} of {len(x.retention)}")
        for x in retention_by_texts(r)
    ]  # fmt: skip
    kept = _table(
        ("data", "map fitted on", "retention, median", "range", f"pairs at {KEPT} or more"), rows
    )
    best = [
        f"- Best pair on {plain(x.data)}: {_pair(x.source, x.target)}, {x.accuracy:.3f}, retention "
        f"{x.retention:.2f} ({x.texts}, {x.objective})."
        for x in best_pairs(r)
    ]
    lost = [
        f"- {_pair(f.source, f.target)} on {plain(f.data)} keeps {f.retention:.2f} with public "
        f"texts: {f.why}."
        for f in failures(r)
    ]
    return [
        "## In short",
        "Retention: accuracy over the lower of the two models' native accuracies; the better "
        "objective of each pair.",
        kept,
        "\n".join(best),
        *(["### Where maps fail", "\n".join(lost)] if lost else []),
    ]


def _classification(r: Results) -> list[str]:
    parts = ["## Classification", "Accuracy of the target's head on mapped states (retention)."]
    own = native_accuracy(r)
    for data in names(r.classification, "data"):
        by_kind = by_settings(x for x in r.classification if x.data == data)
        cells = {
            (x.source, x.target, key): f"{x.accuracy:.3f} ({x.retention:.2f})"
            for key, rows in by_kind.items()
            for x in rows
        }
        head = ("source → target", "native target", "native source",
                *(plain(settings_label(key)) for key in by_kind))  # fmt: skip
        rows = [
            (_pair(s, t), _cell(own.get((t, data))), _cell(own.get((s, data))),
             *(cells.get((s, t, key), "–") for key in by_kind))
            for s, t in r.pairs()
            if any((s, t, key) in cells for key in by_kind)
        ]  # fmt: skip
        parts += [f"### {plain(data)}", _table(head, rows)]
    return parts if r.classification else []


def _beside(x: SimilarityRow) -> str:
    return f"{x.value:.3f} ({x.observed:.3f}, {x.null:.3f})"


def _similarity(r: Results) -> list[str]:
    said = "In brackets: the same on fewer texts, and what these give with their pairs shuffled."
    parts = ["## Similarity of states", said]
    for texts in names(r.similarity, "texts"):
        rows = [x for x in r.similarity if x.texts == texts]
        measures = names(rows, "measure")
        cells = {(x.source, x.target, x.measure): _beside(x) for x in rows}
        body = [
            (_pair(s, t), *(cells.get((s, t, m), "–") for m in measures))
            for s, t in r.pairs()
            if any((s, t, m) in cells for m in measures)
        ]
        head = ("source → target", *map(plain, measures))
        parts += [f"### On {plain(texts)} texts", _table(head, body)]
    return parts if r.similarity else []


def _ood(r: Results) -> list[str]:
    losses = ood_losses(r)
    rows = [
        (plain(x.mapped.data), _pair(*x.mapped.pair), plain(x.native.detector),
         f"{x.native.auroc:.3f}", f"{x.mapped.auroc:.3f}", f"{x.native.fpr95:.3f}",
         f"{x.mapped.fpr95:.3f}", plain(f"{x.mapped.texts}, {x.mapped.objective}"))
        for x in losses
    ]  # fmt: skip
    head = ("data", "source → target", "detector", "AUROC native", "AUROC mapped",
            "FPR95 native", "FPR95 mapped", "map")  # fmt: skip
    said = "The target's best native detector, there and on the best map's states."
    return ["## Out of distribution", said, _table(head, rows)] if losses else []


def _generation(r: Results) -> list[str]:
    table = _rows_table(GENERATION, r.generation)
    return ["## Generation", "Cross-entropy in nats per token.", table] if r.generation else []


def _tokenizers(r: Results) -> list[str]:
    return ["## Tokenizers", _rows_table(TOKENIZERS, r.tokenizers)] if r.tokenizers else []
