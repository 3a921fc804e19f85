"""A survey's results for people: a page that opens offline, and Markdown tables.

analysis summarises rows; markup and style write HTML, theme its colours; plots draws pictures
(matplotlib, extra `report`), svg writes them; the sections are put together by page.
"""

from __future__ import annotations

from linalign_lite.survey.report.markdown import to_markdown
from linalign_lite.survey.report.page import render, write_report

__all__ = ["render", "to_markdown", "write_report"]
