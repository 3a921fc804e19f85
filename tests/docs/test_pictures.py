"""The pictures in docs/images: readable by everybody, in light and dark, and true."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from support import ROOT

from linalign_lite import keygen

IMAGES = ROOT / "docs" / "images"
SVG = "{http://www.w3.org/2000/svg}"
OURS = ["private_fit", "private_search", "protocol", "threats"]
TEXT, GROUND = ("text", ".s", ".h", ".wt"), (".bg", ".c", ".p", ".n")


def rules(css):
    """{selector: fill} of a style sheet without media queries."""
    found = {}
    for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", css):
        fill = re.search(r"fill:(#[0-9a-f]+)", body)
        for selector in selectors.split(",") if fill else ():
            found[selector.strip()] = fill[1]
    return found


def luminance(colour):
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("path", sorted(IMAGES.glob("*.svg")), ids=lambda p: p.stem)
def test_a_picture_says_in_words_what_it_shows_and_loads_nothing(path):
    root = ET.parse(path).getroot()
    assert root.get("role") == "img"
    ids = {e.get("id"): e.tag for e in root if e.tag in (f"{SVG}title", f"{SVG}desc")}
    assert set(root.get("aria-labelledby").split()) == set(ids)
    assert len(root.find(f"{SVG}desc").text) > 150
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert "http" not in text
    assert not re.search(r"href|<image|<script|@import|@font-face", text)


@pytest.mark.parametrize("name", OURS)
def test_text_stands_out_in_light_and_dark(name):
    style = ET.parse(IMAGES / f"{name}.svg").getroot().find(f"{SVG}style").text
    light, dark = re.fullmatch(
        r"(.*?)@media \(prefers-color-scheme:dark\)\{(.*)\}", style, re.DOTALL
    ).groups()
    for mode in (rules(light), {**rules(light), **rules(dark)}):
        for text in TEXT:
            for ground in (".bg",) if text == ".wt" else GROUND:
                assert contrast(mode[text], mode[ground]) >= 4.5, (text, ground)


def test_the_sizes_in_the_protocol_are_the_measured_ones(tmp_path):
    shown = (IMAGES / "protocol.svg").read_text(encoding="utf-8")
    figures = (ROOT / "docs" / "FIGURES.md").read_text(encoding="utf-8")
    table = re.search(r"<!-- table: encrypted -->\n(.*?)<!-- end -->", figures, re.DOTALL)[1]
    one = re.search(r"one query: bytes asked, answered \| (\S+ kB), (\S+ kB)", table)
    many = re.search(r"all at once: bytes a query \| (\S+ kB), (\S+ kB)", table)
    for direction in (0, 1):
        words = f"{one[direction + 1]} for one state; {many[direction + 1]} each for 4,500 together"
        assert words in shown, words
    keygen()[1].save(tmp_path / "public.key")
    assert f"{(tmp_path / 'public.key').stat().st_size / 1e3:.0f} kB</text>" in shown
