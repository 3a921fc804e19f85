"""Fixtures that several rooms of the tests use."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

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

LONG = ("test_real.py", "rehearsal/", "tests/survey/", "test_tutorial.py", "test_crash.py",
        "tests/examples/", "test_commands.py", "test_readme.py")  # fmt: skip


def pytest_configure() -> None:
    """A worker of pytest-xdist ignores Ctrl-C, and so would every command that a test starts."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take long come first: one that comes last leaves the other cores idle."""
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONG))


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
