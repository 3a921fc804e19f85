"""The page in headless Chromium: pictures, sorting, both themes, narrow screens, offline."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from chromium import started
from contrast import ratio
from made import made_results

from linalign_lite.survey.report import write_report
from linalign_lite.survey.report.theme import THEMES
from linalign_lite.survey.results_file import load_results, save_results


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, made_results())
    return path.as_uri()


@pytest.fixture(scope="module")
def long_names(tmp_path_factory):
    """The same page with long names of models and data sets."""
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    save_results(path, made_results())
    text = path.read_text()
    renamed = {
        "all-MiniLM-L6-v2": "Qwen3-Embedding-0.6B-instruct-W8A8",
        "TinyStories-656K": "M" * 200,
        "trec": "W" * 30,
        "sst2": "stanford-sentiment-2",
        "Sports": "W" * 40,
    }
    for short, long in renamed.items():
        text = text.replace(f'"{short}"', f'"{long}"')
    path.write_text(text)
    write_report(path, load_results(path))
    return path.as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with started(tmp_path_factory.mktemp("profile")) as driven:
        yield driven


def seen(browser, address, width=1280, scheme="light"):
    """Load the page in a window of a width, with a preferred colour scheme."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {
        "features": [{"name": "prefers-color-scheme", "value": scheme},
                     {"name": "prefers-reduced-motion", "value": "reduce"}]})  # fmt: skip
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(address)
    return browser


def requests(browser):
    """Addresses requested since the page was loaded."""
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    return [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]


def css(browser, script):
    return browser.execute_script(f"return {script}")


def rgb(colour):
    return "rgb({}, {}, {})".format(*(int(colour[i : i + 2], 16) for i in (1, 3, 5)))


def opened(browser):
    browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")


def test_it_is_drawn_without_an_error_and_asks_for_nothing(browser, address):
    seen(browser, address)
    opened(browser)
    sizes = css(
        browser,
        """[...document.querySelectorAll('svg.pic')].map(s => {
        const r = s.getBoundingClientRect(); return [r.width, r.height]; })""",
    )
    assert len(sizes) > 60
    assert all(width >= 200 and height >= 80 for width, height in sizes)
    assert css(
        browser,
        """[...document.querySelectorAll('svg.pic')].every(s =>
        [...s.querySelectorAll('path')].some(p => p.getBoundingClientRect().width > 30))""",
    )
    browser.find_element("id", "theme").click()
    assert browser.get_log("browser") == []
    assert requests(browser) == [address]
    assert css(browser, "performance.getEntriesByType('resource').length") == 0


def test_the_policy_stops_what_somebody_puts_in(browser, address):
    seen(browser, address)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(1)
        browser.execute_script(
            "const i = new Image(); i.src = arguments[0]; document.body.append(i);"
            "const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
            "document.body.append(s); fetch(arguments[0]).catch(() => 0)",
            f"http://127.0.0.1:{listening.getsockname()[1]}/x",
        )
        with pytest.raises(TimeoutError):
            listening.accept()
    assert css(browser, "window.ran === undefined")
    said = " ".join(e["message"] for e in browser.get_log("browser"))
    assert said.count("Content Security Policy") >= 3


@pytest.mark.parametrize("names", ["address", "long_names"])
def test_text_of_pictures_stays_within_them(browser, names, request):
    """Text stays inside although layout measures another font than the browser's."""
    seen(browser, request.getfixturevalue(names))
    opened(browser)
    assert css(browser, "document.documentElement.scrollWidth") <= 1280
    outside = css(
        browser,
        """[...document.querySelectorAll('svg.pic text')].filter(t => {
        const a = t.getBoundingClientRect(), b = t.closest('svg').getBoundingClientRect();
        return a.left < b.left - 2 || a.right > b.right + 8 || a.top < b.top || a.bottom > b.bottom;
    }).map(t => t.textContent)""",
    )
    assert outside == []


MODELS = "#participants table"


def column(browser, place):
    return css(browser, f"[...document.querySelector('{MODELS}').tBodies[0].rows]"
                        f".map(r => r.cells[{place}].textContent)")  # fmt: skip


def header(browser, place):
    found = browser.find_element("css selector", f"{MODELS} th:nth-child({place + 1})")
    return found, found.find_element("tag name", "button")


def test_tables_sort_by_click(browser, address):
    seen(browser, address)
    th, button = header(browser, 3)  # dimensions
    assert th.get_attribute("aria-sort") == "none"
    button.click()
    assert th.get_attribute("aria-sort") == "ascending"
    assert column(browser, 3) == ["64", "128", "384"]
    assert column(browser, 0) == ["stories260K", "TinyStories-656K", "all-MiniLM-L6-v2"]
    button.click()
    assert th.get_attribute("aria-sort") == "descending"
    assert column(browser, 3) == ["384", "128", "64"]
    other, button = header(browser, 0)
    button.click()
    assert column(browser, 0) == ["all-MiniLM-L6-v2", "stories260K", "TinyStories-656K"]
    assert (th.get_attribute("aria-sort"), other.get_attribute("aria-sort")) == (
        "none",
        "ascending",
    )


@pytest.mark.parametrize("key", ["ENTER", "SPACE"])
def test_tables_sort_by_keyboard(browser, address, key):
    from selenium.webdriver.common.keys import Keys

    seen(browser, address)
    th, button = header(browser, 4)  # vocabulary, as numbers
    browser.execute_script("arguments[0].focus()", button)
    browser.switch_to.active_element.send_keys(getattr(Keys, key))
    assert th.get_attribute("aria-sort") == "ascending"
    assert column(browser, 4) == ["512", "2,048", "30,522"]
    outline = css(browser, "getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_numbers_sort_as_numbers_and_missing_ones_last(browser, address):
    seen(browser, address)
    click = (
        "const t = [...document.querySelectorAll('table')].find(t => t.caption.textContent"
        ".startsWith('Data sets')); t.tHead.rows[0].cells[3].firstChild.click();"
        "return [...t.tBodies[0].rows].map(r => r.cells[3].textContent)"
    )
    assert browser.execute_script(click) == ["1,000", "1,000", "–", "–"]
    assert browser.execute_script(click) == ["1,000", "1,000", "–", "–"]  # downwards too


def test_the_whole_page_works_by_keyboard(browser, address):
    from selenium.webdriver.common.keys import Keys

    seen(browser, address)
    body = browser.find_element("tag name", "body")
    body.send_keys(Keys.TAB)
    assert css(browser, "document.activeElement.className") == "skip"
    assert css(browser, "document.activeElement.getBoundingClientRect().left") >= 0
    names = []
    for _ in range(12):
        browser.switch_to.active_element.send_keys(Keys.TAB)
        names.append(css(browser, "document.activeElement.textContent"))
    assert names[0] == "Dark"
    assert names[1:12] == ["In short", "Models and data", "Classification", "Out of distribution",
                           "Retrieval", "Generation", "Tokenizers", "Similarity", "Projections",
                           "Fitting", "Methods and limits"]  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 768, 1440])
def test_no_page_scrolls_sideways(browser, address, width, scheme):
    seen(browser, address, width, scheme)
    opened(browser)
    assert css(browser, "document.documentElement.scrollWidth") <= width
    assert css(browser, "document.documentElement.clientWidth") > width - 20
    if width == 360:  # what is wider scrolls in a box that the keyboard reaches
        scrolling = css(browser, "[...document.querySelectorAll('.scroll')].filter(b => "
                                 "b.scrollWidth > b.clientWidth).map(b => b.tabIndex)")  # fmt: skip
        assert len(scrolling) > 5
        assert set(scrolling) == {0}
        size = css(browser, "Math.min(...[...document.querySelectorAll('svg.pic text')].map(t => "
                            "parseFloat(getComputedStyle(t).fontSize)))")  # fmt: skip
        assert size >= 9


def colours(browser):
    return css(
        browser,
        """[
        getComputedStyle(document.body).backgroundColor,
        getComputedStyle(document.body).color,
        getComputedStyle(document.querySelector('svg.pic text')).fill,
        document.getElementById('theme').textContent]""",
    )


def test_the_readers_scheme_is_taken_and_the_button_turns_it(browser, address):
    def expected(theme, button):
        c = THEMES[theme]
        return [rgb(c["ground"]), rgb(c["ink"]), rgb(c["muted"]), button]

    seen(browser, address, scheme="dark")
    assert colours(browser) == expected("dark", "Light")
    browser.find_element("id", "theme").click()
    assert colours(browser) == expected("light", "Dark")
    seen(browser, address, scheme="light")
    assert colours(browser) == expected("light", "Dark")
    browser.find_element("id", "theme").click()
    assert colours(browser) == expected("dark", "Light")


def test_cells_and_their_numbers_change_with_the_theme(browser, address):
    """Every value in a heat map has enough contrast as the browser computes it."""
    for scheme in ("light", "dark"):
        seen(browser, address, scheme=scheme)
        pairs = css(
            browser,
            """[...document.querySelectorAll('svg.pic')].flatMap(s => {
            const cells = [...s.querySelectorAll('path')].filter(p => /--h\\d/.test(p.style.fill));
            return cells.map(c => {
                const r = c.getBoundingClientRect();
                const t = [...s.querySelectorAll('text')].find(t => {
                    const q = t.getBoundingClientRect(), x = (q.left + q.right) / 2,
                          y = (q.top + q.bottom) / 2;
                    return x > r.left && x < r.right && y > r.top && y < r.bottom;
                });
                return [getComputedStyle(c).fill, t && getComputedStyle(t).fill];
            });
        })""",
        )
        assert len(pairs) > 200
        for cell, number in pairs:
            assert _ratio(cell, number) >= 4.5


def _ratio(one, other):
    def written(colour):
        parts = [int(p) for p in colour.removeprefix("rgb(").removesuffix(")").split(",")]
        return "#" + "".join(f"{p:02x}" for p in parts)

    return ratio(written(one), written(other))


def test_a_reader_without_script_has_it_all(browser, address):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        seen(browser, address)
        assert browser.find_elements("css selector", "svg.pic")
        assert not browser.find_element("id", "theme").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
