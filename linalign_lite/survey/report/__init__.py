"""A survey's results for people: a page that opens offline, and Markdown tables.

markup and theme make HTML and colours, drawing the pictures (matplotlib, extra `report`), plots
their kinds, looks what models look like; findings says what rows say together; studio holds a page
in the making, the other files its sections, page the whole.
"""

from __future__ import annotations

from linalign_lite.survey.report.markdown import to_markdown
from linalign_lite.survey.report.page import render, write_report

__all__ = ["render", "to_markdown", "write_report"]
