"""Results of a survey as Markdown tables, without pictures or further packages."""

import html
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from linalign_lite.survey.report import analysis
from linalign_lite.survey.report.analysis import KEPT, plural
from linalign_lite.survey.report.columns import (
    DATA,
    GENERATION,
    MODELS,
    RETRIEVAL,
    TOKENIZERS,
    titles,
    values,
)
from linalign_lite.survey.report.content import decimal
from linalign_lite.survey.results import Results, names
from linalign_lite.survey.validation import check_results

Pair = tuple[str, str]
_SPECIAL = re.compile(r"([\\`*_{}\[\]|~#])")


def to_markdown(results: Results) -> str:
    """Format the tables of a survey in Markdown, one section per task that was measured.

    Names are escaped. Raises InputError for inconsistent results (`check_results`).
    """
    check_results(results)
    return "\n\n".join(_parts(results)) + "\n"


def _parts(r: Results) -> Iterator[str]:
    yield f"# {plain(r.title)}"
    yield (
        f"{plural(len(r.models), 'model')}, {plural(len(r.data), 'data set')}, {r.public:,} "
        f"public texts, pooling {plain(r.pooling)}, seed {r.seed}, linalign-lite "
        f"{plain(r.library)}."
    )
    yield from ("## Models and data", _rows_table(MODELS, r.models))
    if r.data:
        yield _rows_table(DATA, r.data)
    if r.classification:
        yield from (*_summary(r), *_classification(r))
    if r.similarity:
        yield from _similarity(r)
    if losses := analysis.ood_losses(r):
        yield from _ood(losses)
    if r.retrieval:
        yield from ("## Retrieval", "Target's own: nDCG@10 of the target's own search.")
        yield _rows_table(RETRIEVAL, r.retrieval)
    if r.generation:
        yield from ("## Generation", "Cross-entropy in nats per token.")
        yield _rows_table(GENERATION, r.generation)
    if r.tokenizers:
        yield from ("## Tokenizers", _rows_table(TOKENIZERS, r.tokenizers))


def plain(text: str) -> str:
    """Escape what has a meaning in Markdown or HTML."""
    return _SPECIAL.sub(r"\\\1", html.escape(text, quote=False))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rows_table(names: str, rows: Iterable[Any]) -> str:
    """Table of the columns ``names`` (`columns.COLUMNS`)."""
    return _table(titles(names), ([_cell(*v) for v in values(names, row)] for row in rows))


def _cell(value: Any, digits: int | None = 3) -> str:
    if value is None:
        return "–"
    if isinstance(value, tuple):
        return " → ".join(map(plain, value))
    return plain(value) if digits is None else decimal(value, digits)


def _pairs_table(r: Results, head: Sequence[str], cells: Mapping[Pair, Mapping[Any, str]]) -> str:
    """Table with one row per pair of ``cells`` and one column per name in ``head``."""
    found = [(_cell(pair), cells[pair]) for pair in r.pairs() if pair in cells]
    rows = ([shown, *(row.get(name, "–") for name in head)] for shown, row in found)
    return _table(["source → target", *map(plain, head)], rows)


def _summary(r: Results) -> Iterator[str]:
    yield "## In short"
    yield (
        "Retention: accuracy over the lower of the two models' native accuracies; the better "
        "objective of each pair."
    )
    head = ("data", "map fitted on", "retention, median", "range", f"pairs at {KEPT} or more")
    yield _table(head, (
        (plain(x.data), x.texts, f"{x.median:.3f}",
         f"{min(x.retention):.3f} to {max(x.retention):.3f}",
         f"{x.kept} of {len(x.retention)}")
        for x in analysis.retention_by_texts(r)
    ))  # fmt: skip
    yield "\n".join(
        f"- Best pair on {plain(x.data)}: {_cell(x.pair)}, {x.accuracy:.3f}, retention "
        f"{x.retention:.2f} ({x.texts}, {x.objective})."
        for x in analysis.best_pairs(r)
    )
    if failures := analysis.failures(r):
        yield "### Where maps fail"
        yield "\n".join(
            f"- {_cell(f.pair)} on {plain(f.data)} keeps {f.retention:.2f} with public "
            f"texts: {f.why}."
            for f in failures
        )


def _classification(r: Results) -> Iterator[str]:
    yield from ("## Classification", "Accuracy of the target's head on mapped states (retention).")
    own = analysis.native_accuracy(r)
    for data in names(r.classification, "data"):
        by_kind = analysis.by_settings(x for x in r.classification if x.data == data)
        cells: dict[Pair, dict[str, str]] = {}
        for key, rows in by_kind.items():
            for x in rows:
                native = {"native target": _cell(own.get((x.target, data))),
                          "native source": _cell(own.get((x.source, data)))}  # fmt: skip
                shown = f"{x.accuracy:.3f} ({x.retention:.2f})"
                cells.setdefault(x.pair, native)[analysis.settings_label(key)] = shown
        head = ["native target", "native source", *map(analysis.settings_label, by_kind)]
        yield from (f"### {plain(data)}", _pairs_table(r, head, cells))


def _similarity(r: Results) -> Iterator[str]:
    yield "## Similarity of states"
    yield "In brackets: the same on fewer texts, and what these give with their pairs shuffled."
    for texts in names(r.similarity, "texts"):
        rows = [x for x in r.similarity if x.texts == texts]
        cells: dict[Pair, dict[str, str]] = {}
        for x in rows:
            shown = f"{x.value:.3f} ({x.observed:.3f}, {x.null:.3f})"
            cells.setdefault(x.pair, {})[x.measure] = shown
        yield f"### On {plain(texts)} texts"
        yield _pairs_table(r, names(rows, "measure"), cells)


def _ood(losses: Iterable[analysis.OodLoss]) -> Iterator[str]:
    yield "## Out of distribution"
    yield "The target's best native detector, there and on the best map's states."
    head = ("data", "source → target", "detector", "AUROC native", "AUROC mapped",
            "FPR95 native", "FPR95 mapped", "map")  # fmt: skip
    yield _table(head, (
        (plain(x.mapped.data), _cell(x.mapped.pair), plain(x.native.detector),
         f"{x.native.auroc:.3f}", f"{x.mapped.auroc:.3f}", f"{x.native.fpr95:.3f}",
         f"{x.mapped.fpr95:.3f}", plain(f"{x.mapped.texts}, {x.mapped.objective}"))
        for x in losses
    ))  # fmt: skip
