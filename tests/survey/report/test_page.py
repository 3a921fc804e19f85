"""The page as text: complete, inert, reproducible, self-contained, with a text per picture."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from contrast import luminance, ratio
from made import PALE, SMALL, TINY, made_results, small_results
from support import ROOT

from linalign_lite.commands import main
from linalign_lite.errors import InputError, MissingExtraError
from linalign_lite.survey.report import figures, render, write_report
from linalign_lite.survey.report.content import Cell, cell, decimal
from linalign_lite.survey.report.style import ModelStyles, shorten, wrapped
from linalign_lite.survey.report.theme import THEMES, contrast
from linalign_lite.survey.results import ModelRow, Results
from linalign_lite.survey.results_file import save_results

EVIL = "<script>alert(1)</script>\"'&--><img src=x onerror=alert(1)>$x_{1}$]]>"
SECTIONS = ["summary", "participants", "classification", "ood", "retrieval", "generation",
            "tokenizers", "similarity", "projections", "fitting", "methods"]  # fmt: skip
VOID = {"meta", "br", "link"}


class Page(HTMLParser):
    """All elements with attributes and text; tags must be closed in order."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open = [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, name, attrs):
        element = {"tag": name, "text": "", "path": [e["tag"] for e in self.open], **dict(attrs)}
        self.elements.append(element)
        if name not in VOID:
            self.open.append(element)

    def handle_startendtag(self, name, attrs):
        self.handle_starttag(name, attrs)
        self.open.pop()

    def handle_endtag(self, name):
        assert self.open.pop()["tag"] == name

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def all(self, name):
        return [e for e in self.elements if e["tag"] == name]


@pytest.fixture(scope="module")
def text():
    return render(made_results())


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_every_section_is_there_once_and_linked(page):
    assert [e["id"] for e in page.all("section")] == SECTIONS
    links = [e["href"] for e in page.all("a")]
    assert links == ["#main", *(f"#{ident}" for ident in SECTIONS)]
    ids = [e["id"] for e in page.elements if "id" in e]
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in links} <= set(ids)


def test_references_inside_pictures_are_their_own(page):
    ids = {e["id"] for e in page.elements if "id" in e}
    used = 0
    for element in page.elements:
        for name, value in element.items():
            if name in {"clip-path", "xlink:href", "href"} and isinstance(value, str):
                found = re.findall(r"#([\w.-]+)", value)
                used += len(found)
                assert set(found) <= ids
    assert used > 1000


@pytest.mark.slow
def test_the_same_results_give_the_same_bytes_in_any_process(text):
    assert render(made_results()) == text
    code = (
        "import hashlib; from made import made_results\n"
        "from linalign_lite.survey.report import render\n"
        "print(hashlib.sha256(render(made_results()).encode()).hexdigest())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "5", "TZ": "Asia/Tokyo"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env,
        cwd=ROOT / "tests",
    )  # fmt: skip
    assert done.stdout.strip() == hashlib.sha256(text.encode()).hexdigest()


def test_nothing_points_outside(page, text):
    for element in page.elements:
        assert element["tag"] not in {"img", "link", "iframe", "object", "embed", "base", "form",
                                      "video", "audio", "image", "foreignobject"}  # fmt: skip
        for name, value in element.items():
            if name in {"src", "srcset", "action", "data", "poster"}:
                pytest.fail(f"{element['tag']} has {name}")
            if name in {"href", "xlink:href"}:
                assert value.startswith("#")
            assert not name.startswith("on")
    assert not re.search(r"https?:|//[a-z]|url\((?!#)|@import|data:\w+/", text)


def test_the_policy_allows_the_one_script_and_no_more(page):
    (policy,) = [e["content"] for e in page.all("meta") if "http-equiv" in e]
    (script,) = page.all("script")
    digest = base64.b64encode(hashlib.sha256(script["text"].encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src "
        f"'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def test_every_picture_has_words_with_numbers(page):
    pictures = [e for e in page.all("svg") if e.get("class") == "pic"]
    assert len(pictures) > 60
    by_id = {e["id"]: e for e in page.elements if "id" in e}
    told = []
    for svg in pictures:
        assert svg["role"] == "img"
        title, desc = (by_id[i] for i in svg["aria-labelledby"].split())
        assert (title["tag"], desc["tag"]) == ("title", "desc")
        assert title["text"]
        assert re.search(r"\d\.\d\d", desc["text"]), desc["text"]
        told.append(desc["text"])
        assert "figure" in svg["path"]
    assert len(set(told)) == len(told)
    for svg in page.all("svg"):
        if svg.get("class") != "pic":
            assert svg["aria-hidden"] == "true"
    assert len(page.all("figcaption")) == len(page.all("figure"))


def test_the_words_of_a_heat_map_are_true(page):
    rows = [r for r in made_results().classification
            if (r.data, r.texts, r.objective) == ("trec", "public", "kl")]  # fmt: skip
    best = max(rows, key=lambda r: r.accuracy)
    worst = min(rows, key=lambda r: r.accuracy)
    (desc,) = [e["text"] for e in page.all("desc")
               if e["text"].startswith("Accuracy on trec, map from public texts, kl")]  # fmt: skip
    assert f"Highest {best.accuracy:.2f}, {best.source} → {best.target}" in desc
    assert f"lowest {worst.accuracy:.2f}, {worst.source} → {worst.target}" in desc


def test_every_row_has_its_numbers_in_a_table(page):
    shown = {e["data-v"] for e in page.all("td") if "data-v" in e}
    made = made_results()
    for row in (*made.native, *made.classification):
        assert {repr(row.accuracy), repr(row.low), repr(row.high)} <= shown
    for row in made.ood:
        assert {repr(row.auroc), repr(row.fpr95)} <= shown
    for row in (*made.curves, *made.similarity):
        assert repr(getattr(row, "r2", getattr(row, "value", None))) in shown


def test_text_in_pictures_is_text_and_colours_are_the_pages(page, text):
    inside = {e["text"] for e in page.all("text") if "svg" in e["path"]}
    assert {"agnews", "kept", "accuracy", "false positive rate", "Sci/Tech"} <= inside
    body = text[text.index("<main") :]
    assert not re.search(r"#[0-9a-f]{6}\b", body)
    assert "DejaVu" not in body
    used = set(re.findall(r"var\(--(\w+)\)", text))
    assert used <= set(THEMES["light"])
    assert set(THEMES["light"]) == set(THEMES["dark"])


@pytest.mark.slow
def test_hostile_names_are_inert(tmp_path):
    made = made_results()
    renamed = {PALE: EVIL, TINY: "$\\frac{" + "w" * 240, SMALL: "a</title></svg><b>"}
    small = {k: _renamed(getattr(made, k), renamed) for k in vars(made)}
    small["title"] = EVIL
    small["pooling"] = small["library"] = "<b>"
    small["data"] = tuple(dataclasses.replace(d, name=_other(d.name)) for d in made.data)
    text = render(Results(**small))
    page = Page(text)
    assert len(page.all("script")) == 1
    assert not page.all("img")
    assert not page.all("b") or all("li" in e["path"] for e in page.all("b"))
    assert "<script>alert" not in text
    assert any(EVIL in e["text"] for e in page.all("h1"))
    assert len(page.all("section")) == len(SECTIONS)
    assert all("onerror" not in e for e in page.elements)


def _other(name):
    return f"<i>{name}</i>$" if name != "public" else name


def _renamed(value, names):
    if not isinstance(value, tuple):
        return value
    rows = []
    for row in value:
        changes = {
            f: names[getattr(row, f)] for f in ("source", "target", "model") if hasattr(row, f)
        }
        if isinstance(row, ModelRow):
            changes = {"name": names[row.name], "digest": "<u>", "architecture": EVIL}
        for f in ("data", "texts"):
            if getattr(row, f, "") in {"agnews", "sst2", "trec", "clinc150"}:
                changes[f] = _other(getattr(row, f))
        if hasattr(row, "labels") and isinstance(row.labels, tuple):
            changes["labels"] = tuple(f"<s>{x}" for x in row.labels)
        for f in ("measure", "detector", "verdict", "step"):
            if hasattr(row, f):
                changes[f] = f"<em>{getattr(row, f)}"
        rows.append(dataclasses.replace(row, **changes))
    return tuple(rows)


def test_what_was_not_surveyed_is_left_out_with_a_word():
    models = tuple(ModelRow(n, "", "", "embed", 8, 10, 16) for n in ("a", "b"))
    page = Page(render(Results("t", "1", 0, "mean", 0, models)))
    assert [e["id"] for e in page.all("section")] == ["summary", "participants", "methods"]
    (methods,) = [e for e in page.all("section") if e["id"] == "methods"]
    assert "Not in this survey: classification, out of distribution, retrieval" in methods["text"]
    assert not [e for e in page.all("svg") if e.get("class") == "pic"]


@pytest.mark.parametrize(
    "part", ["native", "similarity", "classification", "ood", "curves", "tokenizers", "generation",
             "projections", "times", "data"],
)  # fmt: skip
def test_any_part_may_be_missing(part):
    made = small_results()
    missing = {part: ()}
    if part == "data":
        missing |= dict.fromkeys(("native", "classification", "ood", "projections"), ())
        missing["curves"] = made.curves[:1]
    assert Page(render(dataclasses.replace(made, **missing))).all("section")


def test_extreme_values_are_drawn_all_the_same():
    small = small_results()
    far = dataclasses.replace(
        small,
        similarity=(dataclasses.replace(small.similarity[0], value=-1e30),),
        curves=tuple(dataclasses.replace(c, r2=-1e30, x=x)
                     for c, x in zip(small.curves, (0.0, 1e30), strict=True)),
        generation=(dataclasses.replace(small.generation[0], cross_entropy=1e30),),
        projections=(dataclasses.replace(small.projections[0], native=((1.0, 1.0),) * 2,
                                         mapped=((1e30, -1e30), (0.0, 0.0))),),
        ood=tuple(dataclasses.replace(r, roc=((0.5, 0.5),) * 3) for r in small.ood),
    )  # fmt: skip
    assert Page(render(far)).all("section")


@pytest.mark.slow
def test_many_models_are_drawn_up_to_a_limit(monkeypatch):
    small = small_results()
    names = [f"model {i}" for i in range(10)]
    models = tuple(dataclasses.replace(small.models[0], name=n) for n in names)
    rows = tuple(
        dataclasses.replace(small.classification[0], source=a, target=b)
        for a in names
        for b in names
        if a != b
    )
    many = Results("t", "1", 0, "mean", 0, models, small.data, classification=rows)
    page = Page(render(many))
    drawn = [e for e in page.all("svg") if e.get("class") == "pic"]
    assert len(drawn) == 1 + 10 + 1  # retention, dots into each target, accuracy
    monkeypatch.setattr(figures, "MOST_PICTURES", 5)
    page = Page(render(many))
    assert len([e for e in page.all("svg") if e.get("class") == "pic"]) == 5
    assert sum("(No picture" in e["text"] for e in page.all("p")) == 7


def test_results_that_do_not_hang_together_are_refused(tmp_path):
    small = small_results()
    with pytest.raises(InputError, match="one name twice"):
        write_report(tmp_path / "r.html", dataclasses.replace(small, models=small.models * 2))
    assert not list(tmp_path.iterdir())


# --- colours --------------------------------------------------------------------------------------


def themes_of(text):
    """Custom properties in the page, light and dark."""
    blocks = re.findall(r"\{color-scheme:(light|dark);([^}]*)\}", text)
    return {name: dict(re.findall(r"--(\w+):(#[0-9a-f]{6})", block)) for name, block in blocks}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast_is_enough(text, theme):
    colours = themes_of(text)[theme]
    grounds = [colours["ground"], colours["card"]]
    for name, colour in colours.items():
        if name in {"ink", "muted", "accent", "good", "bad"} or re.fullmatch(r"m\d", name):
            wanted = 4.5  # text (WCAG 1.4.3)
        elif name == "line":
            wanted = 3.0  # what is drawn (1.4.11)
        else:
            continue
        for ground in grounds:
            assert ratio(colour, ground) >= wanted, (name, ground)
    assert ratio(colours["ink"], colours["wash"]) >= 4.5
    assert ratio(colours["muted"], colours["wash"]) >= 4.5
    steps = [name for name in colours if re.fullmatch(r"h\d+", name)]
    assert len(steps) == 12
    for name in steps:
        assert ratio(colours[name], colours["t" + name[1:]]) >= 4.5, name


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_ramp_goes_by_lightness_alone(text, theme):
    colours = themes_of(text)[theme]
    ramp = [luminance(colours[f"h{i}"]) for i in range(12)]
    assert ramp == sorted(ramp, reverse=theme == "light")
    assert ratio(colours["h0"], colours["h11"]) > 7
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


def test_models_differ_by_mark_as_well_as_by_colour():
    styles = ModelStyles(tuple(f"m{i}" for i in range(32)))
    assert len({(styles.colour(n), styles.mark(n)) for n in styles.names}) == 32
    assert len({styles.mark(n) for n in styles.names[:8]}) == 8


# --- small parts ----------------------------------------------------------------------------------


def test_the_template_escapes_text_and_attributes():
    small = small_results()
    models = tuple(dataclasses.replace(m, architecture='<b>"x"\'&') for m in small.models)
    made = render(dataclasses.replace(small, models=models, library='"x"><i/>'))
    assert made.count("<td>&lt;b&gt;&#34;x&#34;&#39;&amp;</td>") == 2
    assert '<meta name="generator" content="linalign-lite &#34;x&#34;&gt;&lt;i/&gt;">' in made
    assert '<meta charset="utf-8">' in made
    assert "<i/>" not in made


def test_a_missing_number_is_a_dash():
    assert cell(None) == Cell("–", None)


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [(0.8765, 2, "0.88"), (-0.5, 2, "−0.50"), (0.0, 3, "0.000"), (12345.0, 0, "12,345"),
     (1e9, 2, "1e+09"), (0.00001, 3, "1e−05"), (-0.0, 1, "−0.0")],
)  # fmt: skip
def test_numbers(value, digits, shown):
    assert decimal(value, digits) == shown


@pytest.mark.parametrize(
    ("name", "lines"),
    [("ash", "ash"), ("all-MiniLM-L6-v2", "all-MiniLM-\nL6-v2"),
     ("TinyStories-656K", "TinyStories-\n656K"), ("x" * 30, None), ("a-" * 128, None), ("", "")],
)  # fmt: skip
def test_names_are_wrapped_evenly(name, lines):
    found = wrapped(name)
    assert lines is None or found == lines
    assert len(found.split("\n")) <= 3
    assert all(len(line) <= 12 for line in found.split("\n"))
    assert len(shorten(name)) <= 20


# --- the command ----------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_results("results.json", small_results())
    return tmp_path


def test_the_command_writes_a_page_and_tables(here, capsys):
    assert main(["report", "results.json", "r.html", "--markdown", "r.md", "--json"]) == 0
    assert '"page": "r.html"' in capsys.readouterr().out
    assert (here / "r.html").read_text(encoding="utf-8") == render(small_results())
    assert (here / "r.md").read_text(encoding="utf-8").startswith("# Two")
    assert main(["report", "results.json", "--markdown", "only.md"]) == 0
    assert sorted(p.name for p in here.iterdir()) == ["only.md", "r.html", "r.md", "results.json"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["results.json"], "nothing to write"),
        (["results.json", "results.json"], "is an input of this command"),
        (["results.json", "x", "--markdown", "x"], "cannot be the page and the Markdown file"),
        (["results.json", "gone/x.html"], "the folder gone is not there"),
        (["gone.json", "x.html"], "cannot read gone.json"),
        (["bad.json", "x.html"], "bad.json is not a usable file of survey results"),
    ],
)
def test_the_command_refuses_and_leaves_nothing(here, capsys, args, words):
    (here / "bad.json").write_text("{")
    assert main(["report", *args]) == 2
    assert words in capsys.readouterr().err
    assert sorted(p.name for p in here.iterdir()) == ["bad.json", "results.json"]


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_without_the_extra_it_is_named(here, capsys, monkeypatch, package):
    for module in (package, f"{package}.style"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*linalign-lite\[report\]"):
        render(small_results())
    assert main(["report", "results.json", "r.html", "--markdown", "r.md"]) == 1
    assert "linalign-lite[report]" in capsys.readouterr().err
    assert sorted(p.name for p in here.iterdir()) == ["results.json"]
