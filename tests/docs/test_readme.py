"""The README is true: its commands run, its code runs, its tables are the measured ones."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from readme import README, block, in_a_shell
from support import ROOT


def test_the_python_example_runs_and_knows_a_puppy_from_snow(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", block("python")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("['animals', 'weather'] held-out R² 0.")


def without_times(text):
    """Times are the machine's, the last digits of a score's error the key's.

    What a model writes may turn on a rounding: only that it wrote is compared.
    """
    text = re.sub(r"(client, map, head|provider alone): .*", r"\1: _", text)
    text = re.sub(r"\d+\.\d+ s", "_ s", text)
    return re.sub(r"\d\.\de-\d+", "_", text).strip()


@pytest.mark.slow
def test_the_shown_output_is_the_demos(tmp_path):
    done = in_a_shell("linalign-lite demo", tmp_path)
    # accuracies may move by a text or two where another processor rounds otherwise
    shown = without_times(block("demo")).splitlines()
    got = without_times(done.stdout).splitlines()
    assert len(shown) == len(got)
    for a, b in zip(shown, got, strict=True):
        assert re.sub(r"[\d.]+", "#", a) == re.sub(r"[\d.]+", "#", b)
        for x, y in zip(re.findall(r"0\.\d{3}", a), re.findall(r"0\.\d{3}", b), strict=True):
            assert abs(float(x) - float(y)) <= 0.03


def test_the_tables_are_the_measured_ones():
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "tables.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_is_short():
    assert len(README.split()) <= 1500
    assert README.count("<!-- table: ") - README.count("<!-- table: machine -->") <= 3


def test_every_command_and_link_is_real():
    import typer

    from linalign_lite.commands import app

    known = set(typer.main.get_command(app).commands)
    named = set(re.findall(r"^linalign-lite ([a-z][a-z-]+)", README, re.MULTILINE))
    assert len(named) >= 10
    assert named <= known
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda p: p.name)
def test_links_in_the_docs_are_real(path):
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert target.startswith("http") or (path.parent / target).exists(), target
