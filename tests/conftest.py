"""Fixtures that several rooms of the tests use."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "16")  # as the commands do, before NumPy is loaded

import numpy as np
import pytest
from support import SHARED, aligned_states

from linalign_lite.hidden import HiddenStates


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
