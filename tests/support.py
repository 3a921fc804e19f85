"""Paths, and states made for tests. LINALIGN_SHARED: real models and data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from linalign_lite.core.hidden_states import HiddenStates

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("LINALIGN_SHARED") or ROOT.parent / "shared")


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
