"""Shared by all tables: results by name, names of models, and rows to Markdown."""

from __future__ import annotations

import json
from typing import Any

from common import RESULTS

SHORT = {"all-minilm-l6-v2": "MiniLM-L6", "tinystories-656k": "TinyStories-656K",
         "stories260k": "stories260K"}  # fmt: skip
STORIES = {"260k": "stories260k", "656k": "tinystories-656k"}
NAMES = {**STORIES, "minilm": "all-minilm-l6-v2"}


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def has(name: str) -> bool:
    """Return whether there are results of this name."""
    return (RESULTS / f"{name}.json").exists()


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
