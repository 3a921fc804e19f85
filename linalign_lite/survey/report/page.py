"""The page of a survey: one HTML file that loads nothing and runs one script, named by its hash."""

import base64
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources

from linalign_lite.errors import import_extra
from linalign_lite.storage.atomic import PathLike, write_atomic
from linalign_lite.survey.report.analysis import plural
from linalign_lite.survey.report.classification_section import classification
from linalign_lite.survey.report.content import Block, Table, cell, decimal
from linalign_lite.survey.report.curve_section import fitting
from linalign_lite.survey.report.figures import ReportBuilder
from linalign_lite.survey.report.generation_section import generation, tokenizers
from linalign_lite.survey.report.ood_section import ood
from linalign_lite.survey.report.retrieval_section import retrieval
from linalign_lite.survey.report.similarity_section import projections, similarity
from linalign_lite.survey.report.style import POLYGONS, ModelStyles
from linalign_lite.survey.report.summary_section import participants, summary
from linalign_lite.survey.report.svg import drawing
from linalign_lite.survey.report.theme import STEPS, variables
from linalign_lite.survey.results import Results
from linalign_lite.survey.validation import check_results


@dataclass(frozen=True)
class Section:
    """A section of the page, shown if one of ``tables`` has rows or none is named."""

    name: str  # in the navigation
    ident: str
    title: str
    build: Callable[[ReportBuilder], Iterable[Block]]
    tables: tuple[str, ...] = ()


SECTIONS = (
    Section("In short", "summary", "In short", summary),
    Section("Models and data", "participants", "Models and data", participants),
    Section("Classification", "classification", "Classification", classification,
            ("classification", "native")),
    Section("Out of distribution", "ood", "Out-of-distribution detection", ood, ("ood",)),
    Section("Retrieval", "retrieval", "Search across models", retrieval, ("retrieval",)),
    Section("Generation", "generation", "Generation", generation, ("generation",)),
    Section("Tokenizers", "tokenizers", "Tokenizers", tokenizers, ("tokenizers",)),
    Section("Similarity", "similarity", "Similarity of states", similarity, ("similarity",)),
    Section("Projections", "projections", "Native and mapped states", projections,
            ("projections",)),
    Section("Fitting", "fitting", "How a map depends on its fitting", fitting, ("curves",)),
)  # fmt: skip


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
    shown = [s for s in SECTIONS if not s.tables or any(getattr(results, t) for t in s.tables)]
    with drawing():
        sections = [(section, list(section.build(builder))) for section in shown]
    script = _read("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    caption = "Seconds of each step; cached: an earlier run's"
    times = [(t.step, cell(t.seconds, 1), "yes" if t.cached else "no") for t in results.times]
    page: str = environment.from_string(_read("page.html").lstrip()).render(
        results=results,
        sections=sections,
        absent=", ".join(s.name for s in SECTIONS if s not in shown).lower(),
        times=Table(caption, ("step", "seconds", "cached"), times),
        style=variables() + _read("page.css"),
        script=script,
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'",
        polygons=POLYGONS,
        steps=STEPS,
        plural=plural,
        decimal=decimal,
        sort_key=lambda value: repr(float(value)),
        kind=lambda part: type(part).__name__,
    )
    return page.strip() + "\n"


def _read(name: str) -> str:
    return resources.files("linalign_lite.survey.report").joinpath(name).read_text(encoding="utf-8")
