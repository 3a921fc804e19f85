"""The site: built without a warning, with every public name and command, and needing no network."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser

import pytest
from chromium import started
from command_line import GROUPS
from support import ROOT

import linalign_lite

DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", *DOCS.glob("*.md"), ROOT / "export" / "README.md",
                *ROOT.glob("examples/*/README.md")])  # fmt: skip
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "object": "data",
         "embed": "src", "source": "src", "audio": "src", "video": "src"}  # fmt: skip


def build(root, out):
    pytest.importorskip("sphinx", reason="sphinx is absent: pip install '.[docs]'")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c"]
    return subprocess.run(
        [*command, root / "docs", root, out], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "out"
    before = sorted(p for p in DOCS.rglob("*") if "__pycache__" not in p.parts)
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr
    after = sorted(p for p in DOCS.rglob("*") if "__pycache__" not in p.parts)
    assert before == after, "what is generated is left among the sources"
    return out


def test_broken_links_stop_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    for name in ("conf.py", "reference.py"):
        shutil.copy(DOCS / name, tmp_path / "docs" / name)
    front = "# Front\n\n{}\n\n```{{toctree}}\nother\n```\n"
    (tmp_path / "docs" / "index.md").write_text(front.format("[x](other.md#here)"))
    (tmp_path / "docs" / "other.md").write_text("# Other\n\n## Here\n\nText.\n")
    done = build(tmp_path, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    broken = "[x](nowhere.md) [y](other.md#gone) ![z](missing.svg)"
    (tmp_path / "docs" / "index.md").write_text(front.format(broken))
    done = build(tmp_path, tmp_path / "out")
    assert done.returncode != 0
    for said in ("nowhere.md", "gone", "missing.svg"):
        assert said in done.stderr


def sections(page):
    """The text of each section of a page, by its heading."""
    parts = re.split(r"<h[23]>(.*?)</h[23]>", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    names = [plain(re.sub(r"<a class=\"headerlink\".*?</a>", "", h)) for h in parts[1::2]]
    return dict(zip(names, map(plain, parts[2::2]), strict=True))


def plain(html):
    return " ".join(unescape(re.sub(r"<[^>]+>", "", html)).split())


def test_every_public_name_is_on_its_page_with_what_its_docstring_says(site):
    found = sections(site / "docs" / "API.html")
    for name in linalign_lite.__all__:
        assert name in found, name
        thing = getattr(linalign_lite, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            said = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
            assert said, f"{name} has no docstring"
            assert not said.startswith(f"{name}("), f"{name} has dataclass's docstring"
            words = re.findall(r"[A-Za-z]{4,}", said.split("\n\n")[0])
            missing = [w for w in words if w not in found[name]]
            assert not missing, (name, missing)


def test_every_public_member_has_a_docstring_and_is_on_the_page(site):
    found = sections(site / "docs" / "API.html")
    for name in linalign_lite.__all__:
        thing = getattr(linalign_lite, name)
        for key, value in vars(thing).items() if inspect.isclass(thing) else ():
            plain_value = getattr(value, "__func__", value)
            if key.startswith("_") or not (
                inspect.isfunction(plain_value) or isinstance(value, property)
            ):
                continue
            assert inspect.getdoc(value), f"{name}.{key} has no docstring"
            assert f"{name}.{key}" in found[name], f"{name}.{key}"


def test_the_estimators_are_on_the_page_with_their_methods(site):
    from linalign_lite import sklearn as estimators

    found = sections(site / "docs" / "API.html")
    for name, method in (
        ("AffineAligner", "inverse_transform"),
        ("HeadClassifier", "predict_proba"),
        ("OutlierDetector", "score_samples"),
    ):
        assert name in estimators.__all__
        assert f"{name}.{method}" in found[name]


def test_every_command_and_option_is_on_its_page(site):
    from command_line import COMMAND, command_names

    found = sections(site / "docs" / "COMMANDS.html")
    for name in command_names():
        assert name in found, name
        assert "Example" in found[name], name
    for name in ("fit", "ood fit", "bundle create"):  # as the installed command has them
        done = subprocess.run(
            [*COMMAND, *name.split(), "--help"], capture_output=True, text=True, check=True
        )
        for option in re.findall(r"^  (?:-\w, )?(--[a-z-]+)", done.stdout, re.MULTILINE):
            assert option in found[name] or option == "--help", (name, option)


class Loads(HTMLParser):
    """Collect the URLs that a page loads when it is opened; links to follow are left out."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag in LOADS and values.get(LOADS[tag]):
            self.found.append(values[LOADS[tag]])
        self.found += re.findall(r"url\(([^)]+)\)", values.get("style") or "")
        self.found += [part.split()[0] for part in (values.get("srcset") or "").split(",") if part]


def test_no_page_loads_anything_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > len(PAGES)
    for page in pages:
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert loads.found or page.parent == site, page
        for target in loads.found:
            assert not re.match(r"(\w+:)?//", target), (page.name, target)
            if not target.startswith(("data:", "#")):
                assert (page.parent / target.split("?")[0].split("#")[0]).exists(), target
    for sheet in site.rglob("*.css"):
        for target in re.findall(r"(?:url\(|@import\s)\s*['\"]?([^'\")\s]+)", sheet.read_text()):
            assert not re.match(r"(https?:)?//", target), (sheet.name, target)


def test_chromium_opens_the_pages_and_asks_for_files_alone(site, tmp_path):
    with started(tmp_path / "profile") as driver:
        for name in ("index.html", "docs/API.html", "docs/SECURITY.html"):
            driver.get((site / name).as_uri())
            loaded = driver.execute_script(
                "return performance.getEntriesByType('resource').map(e => e.name)"
            )
            assert all(url.startswith(("file:", "data:")) for url in loaded), loaded
            assert driver.title, name
            severe = [x for x in driver.get_log("browser") if x["level"] == "SEVERE"]
            assert not severe, severe
        broken = driver.execute_script(
            "return [...document.images].filter(i => !i.naturalWidth).map(i => i.src)"
        )
        assert driver.execute_script("return document.images.length") >= 2
        assert broken == []


def test_commands_in_the_pages_are_real():
    sys.path.insert(0, str(DOCS))
    try:
        import reference
    finally:
        sys.path.remove(str(DOCS))
    import typer

    from linalign_lite.commands import app

    known = {
        name: {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
        for name, command in reference.walk(typer.main.get_command(app))
    }
    seen = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
        for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
            for call in re.findall(r"linalign-lite ([a-z][^|&;#>]*)", line):
                words = call.split()
                name = words[0] if words[0] not in GROUPS else " ".join(words[:2])
                assert name in known, (page.name, line)
                options = {w.split("=")[0] for w in words if w.startswith("-") and w != "-"}
                assert options <= known[name], (page.name, line)
                seen += 1
    assert seen > 60
