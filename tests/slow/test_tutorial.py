"""The tutorial, word by word: every block runs, in order, and prints what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
SPLIT = "--- end of block ---"


def steps():
    """(code for one shell, output shown or None) of each block that runs."""
    found: list[tuple[str, str | None]] = []
    for language, text in BLOCKS:
        if language == "text":
            assert found, "output before any command"
            assert found[-1][1] is None, "two outputs of one block"
            found[-1] = (found[-1][0], text)
        elif language == "python":
            found.append((f"python - <<'PY'\n{text}PY\n", None))
        else:
            assert language == "sh", language
            found.append((text, None))
    return found


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """Output of each step, all run in one shell."""
    script = "".join(f"{code}echo '{SPLIT}'\n" for code, _ in steps())
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tmp_path_factory.mktemp("tutorial"), capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path, "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split(f"{SPLIT}\n")


def test_the_page_has_the_whole_way():
    shell = "".join(text for language, text in BLOCKS if language == "sh")
    for command in ("extract", "similarity", "fit", "head", "evaluate", "keygen", "encrypt",
                    "score", "decrypt", "budget", "ood evaluate", "fuse", "generate"):  # fmt: skip
        assert f"linalign-lite {command} " in shell, command


def test_every_block_prints_what_is_shown(printed):
    """Word by word but for figures, which may move where another processor rounds otherwise."""
    assert len(printed) == len(steps()) + 1
    for (code, shown), got in zip(steps(), printed, strict=False):
        if shown is None:
            assert got == "", f"{code} prints what the page does not show:\n{got}"
            continue
        assert re.sub(r"\d\.\de-\d+|[\d.]+", "#", got) == re.sub(
            r"\d\.\de-\d+|[\d.]+", "#", shown
        ), f"{code} prints\n{got}"
        decimals = r"-?\d+\.\d{3,4}(?!\d)"
        far = 0.15 if "ood evaluate" in code else 0.03  # one of its eight texts is an eighth
        for x, y in zip(re.findall(decimals, shown), re.findall(decimals, got), strict=True):
            assert abs(float(x) - float(y)) <= far, (code, x, y)
