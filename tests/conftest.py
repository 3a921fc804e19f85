"""Shared fixtures. Real models and data are read from LINALIGN_SHARED, or from ../shared."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from linalign_lite.hidden import HiddenStates

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("LINALIGN_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    if not (SHARED / "models").is_dir():
        pytest.skip("real models and data are absent: set LINALIGN_SHARED to their folder")
    return SHARED


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def aligned_states(
    rng: np.random.Generator,
    n: int = 400,
    d_source: int = 12,
    d_target: int = 9,
    noise: float = 0.1,
) -> tuple[HiddenStates, HiddenStates]:
    """Two views of the same hidden causes, far from centred, so that a bias is needed."""
    causes = rng.normal(size=(n, 6))
    views = []
    for dim in (d_source, d_target):
        view = causes @ rng.normal(size=(6, dim)) + rng.normal(size=(n, dim)) * noise
        views.append(HiddenStates((view + rng.normal(size=dim) * 5).astype(np.float32)))
    return views[0], views[1]


@pytest.fixture
def pair(rng: np.random.Generator) -> tuple[HiddenStates, HiddenStates]:
    return aligned_states(rng)
