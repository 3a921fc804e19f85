"""The floors stay in order, and importing stays light. DESIGN: a file imports from below only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

PACKAGE = ROOT / "linalign_lite"
FLOORS = {
    "version": 0, "errors": 0,
    "arrays": 1, "linear": 1, "executing": 1, "scheduling": 1, "widening": 1, "moments": 1,
    "metrics": 1, "files": 1, "remote": 1, "archive": 1,
    "hidden": 2, "tokens": 2, "evaluation": 2, "ood": 2, "store": 2, "spectra": 2, "fitting": 2,
    "several": 2, "similarity": 2, "heads": 2, "kl": 2, "few": 2, "modelcard": 2,
    "streams": 2, "parquet": 2, "texts": 2, "corpus": 2, "manifest": 2, "shards": 2, "resuming": 2,
    "uploading": 2,
    "paired": 2, "momentfiles": 2, "measuring": 2,
    "runtime": 3, "compat": 3, "batching": 3, "forward": 3, "extraction": 3, "decoding": 3,
    "generation": 3, "judging": 3,
    "encrypt": 3, "onnx": 3,
    "bundle": 4, "describe": 4, "demo": 4, "survey": 4, "report": 4,
    "__init__": 5, "commands": 5,
}  # fmt: skip
# Within a floor, what comes first may be used by what comes after.
ORDER = list(FLOORS)
HEAVY = {"onnxruntime", "tenseal", "onnx", "optimum", "torch", "transformers", "scipy",
         "tokenizers", "sklearn", "distributed", "zstandard", "matplotlib", "pyarrow",
         "cryptography", "fsspec"}  # fmt: skip


def room(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(path):
    """(module, whether at the top of the file) of every import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in top


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down(path):
    mine = room(path)
    assert mine in FLOORS, f"{mine} has no floor"
    for module, _ in imported(path):
        parts = module.split(".")
        if parts[0] != "linalign_lite" or len(parts) < 2:
            continue
        theirs = parts[1] if parts[1] in FLOORS else "__init__"
        if mine == theirs:
            continue
        assert ORDER.index(theirs) < ORDER.index(mine), f"{path.name} imports {module}"


def test_only_one_file_touches_the_encryption_library():
    users = {
        str(path.relative_to(PACKAGE))
        for path in FILES
        for module, _ in imported(path)
        if module.split(".")[0] == "tenseal"
    }
    assert {str(Path(user).parent) for user in users} == {"encrypt/seal"}


def test_files_stay_small():
    for path in FILES:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 350, f"{path.relative_to(ROOT)} has {lines} lines"


@pytest.mark.parametrize(
    "code",
    [
        "import linalign_lite",
        "import linalign_lite.encrypt",
        "import linalign_lite.core.serialization, linalign_lite.alignment.least_squares",
        "import linalign_lite.alignment.similarity.comparison",
        "import linalign_lite.extraction.pipeline",
        "import linalign_lite.report, linalign_lite.survey.results",
        "import linalign_lite.bundle.reading, linalign_lite.bundle.writing",
        "import linalign_lite.heads.ood.fitting, linalign_lite.heads.ood.report",
        "from linalign_lite.commands import main; main(['--help'])",
        "from linalign_lite.commands import main; main(['extract', '--help'])",
        "from linalign_lite.commands import main; main(['ood', 'fit', '--help'])",
    ],
)
def test_nothing_heavy_is_loaded(code):
    names = "sorted({m.split('.')[0] for m in sys.modules} & HEAVY)"
    check = f"HEAVY = {HEAVY!r}\n{code}\nimport sys\nprint('LOADED', *{names})"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "LOADED"


def test_public_names_are_all_there_and_lazy():
    import linalign_lite

    assert set(linalign_lite.__all__) == {*linalign_lite._HOMES, "__version__"}
    for name in linalign_lite.__all__:
        assert getattr(linalign_lite, name) is not None
    assert set(linalign_lite.__all__) <= set(dir(linalign_lite))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        linalign_lite.nonsense  # noqa: B018
    code = "import sys, linalign_lite; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_package_imports_no_network_module():
    for path in FILES:
        for module, _ in imported(path):
            assert module.split(".")[0] not in {"requests", "urllib", "http", "socket", "pickle"}
