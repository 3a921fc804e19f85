"""Fixtures that several rooms of the tests use."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")  # as the commands do, before NumPy is loaded

import numpy as np
import pytest
from support import SHARED, aligned_states

from linalign_lite.hidden import HiddenStates


def pytest_configure() -> None:
    """A worker of pytest-xdist ignores Ctrl-C, and so would every command that a test starts."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
