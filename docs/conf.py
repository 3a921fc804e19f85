"""Sphinx configuration: run `sphinx-build -W -c docs . docs/_site` in the repository's root.

The sources are the repository's Markdown files, so that links work on the site and off it. API.md
and COMMANDS.md are completed from docstrings and `--help` while they are read; no generated file
is left among the sources.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import reference  # noqa: E402

from linalign_lite.version import __version__  # noqa: E402

project = "linalign-lite"
version = release = __version__
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "export/README.md", "examples/*/README.md"]
exclude_patterns = [".*", "benchmarks", "build", "dist", "docs/_site", "tests", "**/node_modules"]

myst_heading_anchors = 4
smartquotes = False  # would make one dash of the two before an option

html_theme = "furo"  # system fonts, and no script or style from elsewhere
html_title = f"linalign-lite {__version__}"
html_copy_source = False
html_show_copyright = False

MADE = {"docs/API": reference.api, "docs/COMMANDS": reference.commands}
FRONT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>linalign-lite</title>
<meta http-equiv="refresh" content="0; url=docs/index.html"></head>
<body><a href="docs/index.html">linalign-lite</a></body></html>
"""


def _read(_app: Any, page: str, source: list[str]) -> None:
    if page in MADE:
        source[0] += "\n" + MADE[page]()
    # a table's marks in README.md and FIGURES.md are for benchmarks/tables.py
    source[0] = re.sub(r"^<!-- .* -->\n", "", source[0], flags=re.MULTILINE)


def _finish(app: Any, failed: Exception | None) -> None:
    if failed is None and app.builder.format == "html":
        (Path(app.outdir) / "index.html").write_text(FRONT, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Connect the event handlers."""
    app.connect("source-read", _read)
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True}
