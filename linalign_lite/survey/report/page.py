"""The page: everything in one file, nothing fetched, nothing run but the one script it names."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

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
from linalign_lite.survey.report.figures import ReportBuilder, prose, section
from linalign_lite.survey.report.markup import Html, figure, join, table, tag
from linalign_lite.survey.report.style import ModelStyles
from linalign_lite.survey.report.svg import drawing
from linalign_lite.survey.report.theme import variables
from linalign_lite.survey.results import Results
from linalign_lite.survey.validation import check_results

PARTS = {
    "summary": ("In short", summary_section.summary),
    "participants": ("Models and data", summary_section.participants),
    "classification": ("Classification", classification_section.classification),
    "ood": ("Out of distribution", ood_section.out_of_distribution),
    "generation": ("Generation", generation_section.generation),
    "tokenizers": ("Tokenizers", generation_section.tokenizers),
    "similarity": ("Similarity", similarity_section.similarity),
    "projections": ("Projections", similarity_section.projections),
    "fitting": ("Fitting", curve_section.fitting),
}


def write_report(path: PathLike, results: Results) -> None:
    """Write the page of a survey, whole or not at all. Raises what `render` does."""
    write_atomic(path, render(results).encode())


def render(results: Results) -> str:
    """The page of a survey as HTML; the same results give the same text.

    It needs no network: pictures are inline SVG, and a content security policy forbids everything
    but its own style and script. Whatever stands in ``results`` is escaped. Raises InputError for
    results that do not hang together (`check_results`), MissingExtraError without matplotlib.
    """
    check_results(results)
    builder = ReportBuilder(results, ModelStyles(tuple(m.name for m in results.models)))
    with drawing():
        made = {ident: part(builder) for ident, (_, part) in PARTS.items()}
    shown = {ident: html for ident, html in made.items() if html is not None}
    absent = [name for ident, (name, _) in PARTS.items() if ident not in shown]
    links = [*((i, PARTS[i][0]) for i in shown), ("methods", "Methods and limits")]
    nav = tag("nav", tag("ul", *(tag("li", tag("a", name, href=f"#{i}")) for i, name in links)),
              aria_label="Sections")  # fmt: skip
    main = tag("main", *shown.values(), _methods(results, absent), id="main")
    body = tag(
        "body", tag("a", "To the content", href="#main", class_="skip"), _header(results), nav, main
    )
    return f"<!doctype html>\n{tag('html', _head(results), body, lang='en')}\n"


def _head(results: Results) -> Html:
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content=f"linalign-lite {results.library}"),
        tag("title", results.title),
        tag("style", Html(variables() + _file("page.css"))),
        tag("script", Html(script), type="module"),
    )


def _header(r: Results) -> Html:
    facts = (
        f"{plural(len(r.models), 'model')}, {plural(len(r.pairs()), 'ordered pair')}, "
        f"{plural(len(r.data), 'data set')}. Maps fitted on {r.public:,} public texts; "
        f"pooling {r.pooling}, seed {r.seed}, linalign-lite {r.library}."
    )
    return tag(
        "header",
        tag("p", "linalign-lite survey", class_="kicker"),
        tag("h1", r.title),
        tag("p", facts, class_="facts"),
        tag("button", "Dark", type="button", id="theme", aria_label="Light or dark colours",
            hidden=True),
    )  # fmt: skip


def _methods(r: Results, absent: list[str]) -> Html:
    said = (
        "An affine map carries the final hidden states of a source into the space of a target, "
        "whose head reads them (Gorbett & Jana, Characterizing Linear Alignment Across Language "
        "Models, arXiv 2603.18908). Ridge: least squares, penalty chosen by exact "
        "cross-validation. kl: fitted so that the target's head says on mapped states what it says "
        "on true ones; no label is read.",
        "Maps are fitted on public texts, on a few or on all training texts of a data set, or on "
        "public texts and a few. Accuracies, curves and detectors are of test texts, which no map "
        "and no head has seen.",
        "Retention divides by the lower of the two models' native accuracies: 1 is as good as the "
        "weaker of the two by itself, and more than 1 is possible. Where a picture or a sentence "
        "takes the better of two objectives, it was chosen on the same test texts, which flatters "
        "it a little; the tables have both.",
        "Why a map fails is read off the other rows by rule: what texts of its own mend, then a "
        "held-out R² below 0.3. That is a hint, not a proof.",
    )
    missing = f"Not in this survey: {', '.join(absent).lower()}." if absent else None
    times = table(
        "Seconds of each step; cached: an earlier run's",
        ("step", "seconds", "cached"),
        [(t.step, figure(t.seconds, 1), "yes" if t.cached else "no") for t in r.times],
    )
    return section("methods", "Methods and limits", join(map(prose, said)),
                   prose(missing) if missing else None,
                   times if r.times else None)  # fmt: skip


def _file(name: str) -> str:
    return resources.files("linalign_lite.survey.report").joinpath(name).read_text(encoding="utf-8")
