"""The README's five jobs run word by word."""

from __future__ import annotations

import re

from readme import block, in_a_shell


def test_the_longer_example_runs_word_by_word(tmp_path):
    done = in_a_shell(block("run"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^(\w+ -?\d+\.\d{3,4}\t\w+ -?\d+\.\d{3,4}\n){3}", done.stdout, re.MULTILINE)
    assert "affine map" in done.stdout
