"""Report of a survey: one HTML page that works offline, or Markdown tables.

In: `Results`. analysis summarises rows, columns names tables; sections build content, plots draw
pictures (matplotlib), svg and page.html (jinja2; both of the extra `report`) write the page.
"""

from linalign_lite.survey.report.markdown import to_markdown
from linalign_lite.survey.report.page import render, write_report

__all__ = ["render", "to_markdown", "write_report"]
