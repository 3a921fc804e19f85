"""The page for data scientists: its blocks run from top to bottom and print what is shown.

tests/core/test_map_forms.py makes the calls of FAISS and sentence-transformers that the page names.
"""

from __future__ import annotations

import re

import pytest
from readme import in_a_shell
from support import ROOT

PAGE = (ROOT / "docs" / "for-data-scientists.md").read_text(encoding="utf-8")
SPLIT = "--- end of block ---"


def test_every_block_runs_and_prints_what_is_shown(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("safetensors")
    pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    page = re.sub(
        r"<!-- not run: other libraries -->\n```python\n.*?```\n", "", PAGE, flags=re.DOTALL
    )
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    python = [text for language, text in blocks if language == "python"]
    shown = [text for language, text in blocks if language == "text"]
    shell = [text for language, text in blocks if language == "sh"]
    saved = f"print('{SPLIT}')\n" + 'np.save("X.npy", X)\nnp.save("Y.npy", Y)\n'
    text = f"print('{SPLIT}')\n".join(python) + saved
    (tmp_path / "page.py").write_text(text, encoding="utf-8")
    done = in_a_shell("python page.py\n" + "".join(shell) + "ls\n", tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    got = done.stdout.split(f"{SPLIT}\n")
    assert "held-out R²  0.5" in got.pop()  # of `fit` in the shell
    assert len(got) == len(shown) == len(python)
    for wanted, found in zip(shown, got, strict=True):
        assert re.sub(r"[\d.]+", "#", found) == re.sub(r"[\d.]+", "#", wanted), found
        figures = r"-?\d+\.\d{3}"
        for x, y in zip(re.findall(figures, wanted), re.findall(figures, found), strict=True):
            assert abs(float(x) - float(y)) <= 0.03, found  # other processors round otherwise
    for name in ("dense", "faiss", "onnx"):
        assert f"birch-to-ash.{name}\n" in done.stdout
