"""Fixtures that several rooms of the tests use."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")  # as the commands do, before NumPy is loaded


def _one_core() -> None:
    """Leave a worker of pytest-xdist a core of its own, before NumPy counts how many there are.

    As many workers as cores, each of whose libraries takes all cores, wait for each other.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker.startswith("gw") and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) >= len(cores):
            os.sched_setaffinity(0, {cores[int(worker[2:]) % len(cores)]})


_one_core()

import numpy as np
import pytest
from support import SHARED, aligned_states

from linalign_lite.core.hidden_states import HiddenStates

# the files that take longest, first: one that comes last leaves the other cores idle
LONG = (
    "test_real.py", "rehearsal/", "test_tutorial.py", "test_survey_run.py", "test_scenarios.py",
    "test_commands.py", "test_page.py", "test_readme.py",
)  # fmt: skip
MARKED = {
    "fuzz/": "fuzz", "rehearsal/": "rehearsal", "upgrade/": "upgrade", "browser": "browser",
    "_page.py": "browser",
}  # fmt: skip
# In CI nothing that can be installed may be missing: what else may be a reason to skip a test.
# SCIPY_ARRAY_API: scikit-learn's check of arrays of other kinds, which the estimators do not take.
MAY_SKIP = re.compile(
    r"LINALIGN_SHARED|LINALIGN_REAL|unshare|Windows|needs fork|needs pipes|SCIPY_ARRAY_API"
)
IN_CI = bool(os.environ.get("LINALIGN_CI"))


def pytest_configure() -> None:
    """A worker of pytest-xdist ignores Ctrl-C, and so would every command that a test starts."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of tests/slow, and put the files that take longest first."""
    for item in items:
        path = item.path.as_posix()
        if "/tests/slow/" in path:
            item.add_marker("slow")
            for part, marker in MARKED.items():
                if part in path:
                    item.add_marker(marker)
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONG))


def _refuse_skip(report: Any) -> None:
    """Turn a skip for want of something installable into a failure."""
    reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    expected = hasattr(report, "wasxfail") or MAY_SKIP.search(reason)
    if IN_CI and report.skipped and not expected:
        report.outcome, report.longrepr = "failed", f"skipped in CI: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[Any]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[Any]:
    report = yield
    _refuse_skip(report)
    return report


@pytest.fixture(scope="session")
def shared() -> Path:
    if not (SHARED / "models").is_dir():
        pytest.skip("real models and data are absent: set LINALIGN_SHARED to their folder")
    return SHARED


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture
def pair(rng: np.random.Generator) -> tuple[HiddenStates, HiddenStates]:
    return aligned_states(rng)


@pytest.fixture(scope="session")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `demo --out` writes. Tests read it and write elsewhere."""
    from command_line import run

    folder = tmp_path_factory.mktemp("demo") / "out"
    done = run("demo", "--out", folder, "--json")
    figures = json.loads(done.stdout)
    assert figures == json.loads((folder / "figures.json").read_text())
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
