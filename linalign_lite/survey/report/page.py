"""The page of a survey: one HTML file that loads nothing and runs one script, named by its hash."""

import base64
import hashlib
from importlib import resources

from linalign_lite.errors import import_extra
from linalign_lite.storage.atomic import PathLike, write_atomic
from linalign_lite.survey.report import (
    classification_section,
    curve_section,
    generation_section,
    ood_section,
    similarity_section,
    summary_section,
)
from linalign_lite.survey.report.analysis import plural
from linalign_lite.survey.report.content import Table, cell, decimal
from linalign_lite.survey.report.figures import ReportBuilder
from linalign_lite.survey.report.style import POLYGONS, ModelStyles
from linalign_lite.survey.report.svg import drawing
from linalign_lite.survey.report.theme import STEPS, variables
from linalign_lite.survey.results import Results
from linalign_lite.survey.validation import check_results

SECTIONS = {  # name in the navigation → builder
    "In short": summary_section.summary,
    "Models and data": summary_section.participants,
    "Classification": classification_section.classification,
    "Out of distribution": ood_section.out_of_distribution,
    "Generation": generation_section.generation,
    "Tokenizers": generation_section.tokenizers,
    "Similarity": similarity_section.similarity,
    "Projections": similarity_section.projections,
    "Fitting": curve_section.fitting,
}


def write_report(path: PathLike, results: Results) -> None:
    """Write the page of a survey, whole or not at all. Raises the errors of `render`."""
    write_atomic(path, render(results).encode())


def render(results: Results) -> str:
    """Render a survey as HTML; the same results give the same text.

    The page needs no network: pictures are inline SVG, and a content security policy forbids
    everything but its own style and script. All text of ``results`` is escaped. Raises InputError
    for inconsistent results (`check_results`), MissingExtraError without jinja2 or matplotlib.
    """
    check_results(results)
    jinja2 = import_extra("jinja2", extra="report", purpose="a report with pictures")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    builder = ReportBuilder(results, ModelStyles(tuple(m.name for m in results.models)))
    with drawing():
        sections = {name: build(builder) for name, build in SECTIONS.items()}
    script = _read("page.js")
    times = [(t.step, cell(t.seconds, 1), "yes" if t.cached else "no") for t in results.times]
    page: str = environment.from_string(_read("page.html").lstrip()).render(
        results=results,
        sections=[section for section in sections.values() if section],
        links=[(section.ident, name) for name, section in sections.items() if section],
        absent=", ".join(name for name, section in sections.items() if not section).lower(),
        times=Table(
            "Seconds of each step; cached: an earlier run's", ("step", "seconds", "cached"), times
        ),
        style=variables() + _read("page.css"),
        script=script,
        policy=_policy(script),
        polygons=POLYGONS,
        steps=STEPS,
        plural=plural,
        decimal=decimal,
        sort_key=lambda value: repr(float(value)),
    )
    return page.strip() + "\n"


def _policy(script: str) -> str:
    """Content security policy that allows inline styles and the script with this hash."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _read(name: str) -> str:
    return resources.files("linalign_lite.survey.report").joinpath(name).read_text(encoding="utf-8")
