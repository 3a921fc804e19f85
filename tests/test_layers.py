"""Imports point one way, the rooms stay few, and importing stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from support import ROOT

PACKAGE = ROOT / "linalign_lite"
HEAVY = {"onnxruntime", "tenseal", "onnx", "optimum", "torch", "transformers", "scipy",
         "tokenizers", "sklearn", "distributed", "zstandard", "matplotlib", "jinja2", "pyarrow",
         "cryptography", "fsspec", "starlette", "uvicorn", "httpx",
         "prometheus_client", "sqlalchemy"}  # fmt: skip


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
MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in FILES}


def arrows(place):
    """place of a file -> places that it imports from, itself left out."""
    graph = {}
    for path in FILES:
        mine = place(path)
        found = graph.setdefault(mine, set())
        for module, _ in imported(path):
            parent = module.rpartition(".")[0]
            target = next((MODULES[n] for n in (module, parent) if n in MODULES), None)
            if target is None and module.startswith("linalign_lite."):  # a package's __init__
                target = next((MODULES[f"{n}.__init__"] for n in (module, parent)
                               if f"{n}.__init__" in MODULES), None)  # fmt: skip
            if target is not None and place(target) != mine:
                found.add(place(target))
    return graph


def floors():
    """Rooms by floor, from the ground up: a room stands on the highest that it imports from."""
    graph, floor = arrows(room), {}
    for name in TopologicalSorter(graph).static_order():
        floor[name] = 1 + max((floor[n] for n in graph[name]), default=-1)
    return [
        sorted(n for n in floor if floor[n] == k and n != "__init__")
        for k in range(max(floor.values()) + 1)
    ]


def floor_table():
    rows = ["| floor | rooms | what they hold |", "| --- | --- | --- |"]
    for k, names in enumerate(floors()):
        for name in names:
            path = PACKAGE / name / "__init__.py"
            path = path if path.exists() else PACKAGE / f"{name}.py"
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            rows.append(f"| {k} | `{name}` | {text.splitlines()[0] if text else ''} |")
    return "\n".join(rows) + "\n"


def test_the_package_has_few_rooms():
    rooms = sorted(p.name for p in PACKAGE.iterdir() if p.name != "__pycache__")
    assert len(rooms) <= 22, rooms
    for path in PACKAGE.glob("*/__init__.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path


def test_no_imports_go_in_a_circle():
    for graph in (arrows(room), arrows(str)):
        TopologicalSorter(graph).prepare()  # raises CycleError, which names them


def test_the_floors_in_the_design_are_those_of_the_code():
    design = (ROOT / "docs" / "DESIGN.md").read_text(encoding="utf-8")
    table = design.partition("<!-- floors -->\n")[2].partition("<!-- end -->")[0]
    assert table == floor_table(), f"put this there:\n{floor_table()}"
    assert len(floors()) <= 10


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
        "import linalign_lite.survey.report, linalign_lite.survey.results",
        "import linalign_lite.bundle.reading, linalign_lite.bundle.writing",
        "import linalign_lite.heads.ood.detector_training, linalign_lite.heads.ood.report",
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


@pytest.mark.parametrize("words", [["--help"], ["fit", "--help"], ["score", "--help"]])
def test_help_needs_no_numpy(words):
    """OPENBLAS_THREAD_TIMEOUT is set when the command line is imported, before NumPy is."""
    code = f"""import os, sys
from linalign_lite.commands import main
main({words})
print("LOADED", "numpy" in sys.modules, os.environ["OPENBLAS_THREAD_TIMEOUT"])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].startswith("LOADED False ")


def stub_names():
    tree = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            found |= {a.asname: node.module for a in node.names}
    del found["__version__"]
    return found


def test_public_names_are_all_there_and_lazy():
    import linalign_lite

    assert set(linalign_lite.__all__) == {*stub_names(), "__version__"}
    for name in linalign_lite.__all__:
        assert getattr(linalign_lite, name) is not None
    modules = {n: f"linalign_lite.{m}" for n, m in linalign_lite._MODULES.items()}
    assert modules == stub_names()
    assert set(linalign_lite.__all__) <= set(dir(linalign_lite))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        linalign_lite.nonsense  # noqa: B018
    code = "import sys, linalign_lite; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_package_imports_no_network_module():
    # it knows one harmless class, to refuse what Qdrant's client would unpickle without a look
    allowed = {("qdrant_connection.py", "pickle")}
    # pairs of sockets to processes of its own
    allowed |= {
        ("workers.py", "socket"),
        ("scoring_process.py", "socket"),
        ("startup.py", "socket"),
    }
    for path in FILES:
        for module, _ in imported(path):
            name = module.split(".")[0]
            refused = name in {"requests", "urllib", "http", "socket", "pickle"}
            assert not refused or (path.name, name) in allowed
