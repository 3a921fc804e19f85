"""The page for edge developers: its commands run in order and print what is shown."""

from __future__ import annotations

import re
import shutil

import pytest
from conftest import EXAMPLES
from pages import hosting, until
from readme import in_a_shell
from served import serving
from support import ROOT

from linalign_lite.demo.service import demo_service

PAGE = (ROOT / "docs" / "for-edge-developers.md").read_text(encoding="utf-8")
NOT_RUN = ("pip install", "python3 -m http.server", "linalign-lite serve")


@pytest.fixture(scope="module")
def followed(installed, tmp_path_factory):
    """The folder in which somebody followed the page, and what was printed."""
    pytest.importorskip("onnx", reason="onnx is absent: pip install '.[onnx]'")
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(EXAMPLES, folder / "examples", ignore=shutil.ignore_patterns("node_modules"))
    for name in ("node", "browser"):  # so that `npm ci` need not fetch them again
        installed(name)
    section = PAGE.split("## One ONNX file")[1].split("A client that has its states")[0]
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE))
    run = [line for line in lines.splitlines() if not line.startswith(NOT_RUN)]
    assert len(lines.splitlines()) - len(run) == len(NOT_RUN)
    done = in_a_shell("set -e\n" + "\n".join(run).replace("npm ci", "npm ci --silent"), folder)
    assert done.returncode == 0, done.stderr[-2000:]
    shown = "".join(re.findall(r"^```text\n(.*?)^```$", section, re.DOTALL | re.MULTILINE))
    return folder, shown, done.stdout


def test_what_is_printed_is_what_is_shown(followed):
    _, shown, printed = followed
    number = r"\d+\.\d+(?:e-\d+)?"
    assert re.sub(number, "#", printed) == re.sub(number, "#", shown)
    for wanted, found in zip(
        *(re.findall(r"\t(0\.\d+)", x) for x in (shown, printed)), strict=True
    ):
        assert abs(float(wanted) - float(found)) <= 0.03  # other processors round otherwise


def best_scores(browser, button, done):
    """Press a button; the best score of each text, from the table."""
    browser.find_element("id", button).click()
    assert until(browser, done, "failed")[0] == done
    script = "return [...document.querySelectorAll('#scores td.best')].map(c => c.textContent)"
    return [float(x) for x in browser.execute_script(script)]


def test_the_page_in_the_browser_shows_the_same_scores(followed, browser):
    folder, shown, _ = followed
    wanted = [float(x) for x in re.findall(r"\t(0\.\d+)", shown)]
    with hosting(folder / "examples") as origin:
        browser.get(f"{origin}/browser/")
        assert until(browser, "ready", "failed")[0] == "ready"
        clear = best_scores(browser, "score", "done")
        assert clear == pytest.approx(wanted, abs=0.03)
        configuration = demo_service(lambda _: None, folder / "served")
        text = configuration.read_text()
        assert "http://127.0.0.1:8000" in text
        configuration.write_text(text.replace("http://127.0.0.1:8000", origin).replace("8765", "0"))
        with serving(configuration) as service:
            browser.get(f"{origin}/browser/?artefact=private&service={service.url}")
            assert until(browser, "ready", "failed")[0] == "ready"
            assert best_scores(browser, "send", "decrypted") == pytest.approx(clear, abs=1e-3)
            assert service.stop() == 0


def test_a_page_that_cannot_start_says_why(browser, served, tmp_path):
    shutil.copytree(EXAMPLES, tmp_path / "x", ignore=shutil.ignore_patterns("node_modules"))
    browser.get((tmp_path / "x" / "browser" / "index.html").as_uri())
    assert "lets no page read its files from file://" in until(browser, "failed")[1]
    with hosting(tmp_path / "x") as origin:
        browser.get(f"{origin}/browser/")
        assert 'is not there: run "npm ci"' in until(browser, "failed")[1]
    done = in_a_shell("cd x/node; node score.mjs a.onnx b.txt", tmp_path)
    assert done.stderr == (
        'error: its packages are not there: run "npm ci" in the folder of score.mjs\n'
    )


def test_texts_stay_where_the_page_is_loaded_again_to_connect(followed, browser):
    folder, *_ = followed
    with hosting(folder / "examples") as origin:
        browser.get(f"{origin}/browser/")
        assert until(browser, "ready", "failed")[0] == "ready"
        browser.execute_script(
            "document.getElementById('texts').value = 'mine';"
            "document.getElementById('service').value = 'http://127.0.0.1:9';"
            "document.querySelector('#connect button').click()"
        )
        until(browser, "failed")
        assert "service=" in browser.current_url
        assert browser.find_element("id", "texts").get_attribute("value") == "mine"
        browser.get(f"{origin}/browser/")
        assert browser.find_element("id", "texts").get_attribute("value") != "mine"


def test_node_names_what_is_missing(followed):
    folder, *_ = followed
    for model in ("nothing.onnx", "texts.txt"):
        done = in_a_shell(f"cd examples/node; node score.mjs {model} texts.txt", folder)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1
