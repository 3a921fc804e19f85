"""A sheet: figures and pictures of one measurement, one HTML file that loads nothing."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from linalign_lite.alignment.report import Report
from linalign_lite.core.metrics import Interval
from linalign_lite.core.text_tables import Pairs
from linalign_lite.core.verdict import Verdict
from linalign_lite.heads.evaluation import Evaluation
from linalign_lite.heads.ood.report import DetectionReport
from linalign_lite.retrieval.evaluation import NATIVE_TARGET, RetrievalReport
from linalign_lite.storage.atomic import PathLike, write_atomic
from linalign_lite.survey.report import plots
from linalign_lite.survey.report.content import Panel
from linalign_lite.survey.report.plots import Frame, Line
from linalign_lite.survey.report.svg import drawing, to_panel
from linalign_lite.survey.report.theme import variables

Measured = Report | Evaluation | DetectionReport | RetrievalReport
LABELS = 60  # of which the recall is drawn: the lowest
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def write_sheet(
    path: PathLike, title: str, measured: Measured, rows: Pairs, verdict: Verdict | None
) -> None:
    """Write the sheet of a measurement, whole or not at all.

    rows: names and values beside the pictures. Raises MissingExtraError without matplotlib.
    """
    with drawing():
        panels = [to_panel(drawn, f"p{i}", name, alt)
                  for i, (name, alt, drawn) in enumerate(pictures(measured))]  # fmt: skip
    write_atomic(path, _page(title, panels, rows, verdict).encode())


def pictures(measured: Measured) -> list[tuple[str, str, Any]]:
    """Title, description and matplotlib figure of each picture of a measurement; maybe none."""
    if isinstance(measured, Report):
        return _search(measured)
    if isinstance(measured, DetectionReport):
        curve = Line(tuple(measured.roc), "m0")
        frame = Frame("in-distribution above the threshold", "outlying above it", square=True)
        area = f"AUROC {measured.auroc.value:.3f}"
        return [(f"ROC curve, {area}", f"The ROC curve; {area}.", plots.lines([curve], frame))]
    if isinstance(measured, RetrievalReport):
        first = f"ndcg@{measured.k}"
        bars = {name: r.measures[first] for name, r in measured.rankings.items()}
        own = measured.rankings[NATIVE_TARGET].measures[first].value
        return [(first, _told(bars), plots.intervals(bars, first, own))]
    recalls = sorted(measured.per_class.items(), key=lambda item: item[1])[:LABELS]
    lowest = {name: Interval(value, value, value) for name, value in recalls}
    title = "recall of each label" if len(recalls) == len(measured.per_class) else (
        f"recall of the {LABELS} labels with the lowest"
    )  # fmt: skip
    return [(title, _told(lowest), plots.intervals(lowest, "recall", None))]


def _search(report: Report) -> list[tuple[str, str, Any]]:
    """The search of a penalty, where there was one over numbers."""
    points = [(row[0], row[-1]) for row in report.curve if len(row) == 2]
    points = [(x, y) for x, y in points if 0 < x < math.inf and math.isfinite(y)]
    if len(points) < 2 or not hasattr(report, "penalty"):
        return []
    measure = "held-out R²" if hasattr(report, "held_out_r2") else "held-out loss"
    frame = Frame("penalty", measure, logarithmic=True)
    told = f"{measure} by penalty, from {points[0][1]:.4g} to {points[-1][1]:.4g}."
    return [(f"{measure} by penalty", told, plots.lines([Line(tuple(points), "m0", "o")], frame))]


def _told(values: Mapping[str, Interval]) -> str:
    return ", ".join(f"{name} {v.value:.3f}" for name, v in values.items()) + "."


def _page(title: str, panels: Sequence[Panel], rows: Pairs, verdict: Verdict | None) -> str:
    style = variables() + resources.files("linalign_lite.survey.report").joinpath(
        "page.css"
    ).read_text(encoding="utf-8")
    e = html.escape
    table = "".join(
        f'<tr><th scope="row">{e(name)}</th><td>{e(str(v))}</td></tr>' for name, v in rows
    )
    drawn = "".join(
        f'<div class="panel" style="width:calc({p.width}px + 1.5rem)"><p class="title">'
        f'{e(p.title)}</p><div class="scroll" role="group" aria-label="{e(p.title)}">'
        f'<svg class="pic" role="img" aria-label="{e(p.alt)}" viewBox="0 0 {p.width} {p.height}" '
        f'width="{p.width}" height="{p.height}">{p.svg}</svg></div></div>'
        for p in panels
    )
    said = "" if verdict is None else f"<p><strong>{e(str(verdict))}</strong></p>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{e(title)}</title><style>{style}</style></head><body><main>"
        f"<h1>{e(title)}</h1>{said}<table><caption>Figures</caption><tbody>{table}</tbody></table>"
        f'<figure><div class="panels">{drawn}</div></figure></main></body></html>\n'
    )
