"""Prose reads as the field writes: no docstring opens with a question word, no mannered phrase."""

from __future__ import annotations

import ast
import re

import pytest
from support import ROOT

FILES = sorted(
    p
    for folder in ("linalign_lite", "export", "benchmarks", "tests")
    for p in (ROOT / folder).rglob("*.py")
    if p.name != "test_prose.py"
)
PAGES = sorted(
    p
    for p in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*/*/README.md")]
    if p.name != "CHANGELOG.md"
)
OPENINGS = re.compile(r"(What|How|Which|Whether|Where|When|Why|As|All that|That|Of)\b")
# phrase: what the field writes instead
MANNERED = {
    r"go(es)? on (with|where|from)|went on|goes on": "continues, resumes",
    r"\bis (dear|dearer)\b|dearer": "expensive",
    r"several houses|machines or houses|\bhouses\b": "organisations",
    r"\bof ours\b": "this library's",
    r"a (row|label|line|thread|byte|token|fold) (a|each) (text|row|token|fold|penalty)": "per",
    r"\b(what|it|not|not be|as|so) (is|was|are) said\b|\bit is said\b|said before": "state, name",
    r"\breckon(s|ed|ing)?\b": "computes, estimates",
    r"\blets? go of\b|\blet go\b": "releases",
    r"\bat the door\b": "on input",
    r"\bsees to it\b|\bhangs? together\b|\bhung on\b": "is consistent, depends on",
    r"\bfor ever\b": "without end",
    r"\bhow (alike|unlike)\b": "similarity, distance",
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_docstrings_open_with_what_is_computed_or_done(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            if OPENINGS.match(text):
                name = getattr(node, "name", "the module")
                found.append(f"{name}: {text.splitlines()[0]}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", [*FILES, *PAGES], ids=lambda p: str(p.relative_to(ROOT)))
def test_no_mannered_phrase(path):
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for phrase, better in MANNERED.items():
            if re.search(phrase, line, re.IGNORECASE):
                found.append(f"{number}: {line.strip()[:120]} (write: {better})")
    assert not found, "\n".join(found)
