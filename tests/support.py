"""Paths, a fake model, and states made for tests. LINALIGN_SHARED: real models and data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.space import Space
from linalign_lite.extraction.session import Encoded
from linalign_lite.extraction.texts import Texts

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("LINALIGN_SHARED") or ROOT.parent / "shared")
TEXTS = Texts(
    tuple(f"{who} {what}." for who in ("Tom", "The little dog", "A very old and tired cat")
          for what in ("ran", "went to the big house by the sea", "ate a cake")),
    tuple("cabcabcab"),
)  # fmt: skip


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


@dataclass
class Fake:
    """A model without onnxruntime: a character is a token, its state is its code point."""

    dim: int = 4
    scale: float = 1.0
    callers: int = 1

    @property
    def card(self):
        return self

    def space(self, pooling, normalize, prompt=""):
        pooling = pooling or "tokens"
        return Space(self.dim, "cd" * 32, "fake", pooling, bool(normalize), prompt or "")

    def context(self, max_length):
        return max_length or 4096

    def encode(self, texts, max_length, *, places):
        length = self.context(max_length)
        return [
            Encoded([0, *map(ord, t[:length])], [0, *range(1, len(t[:length]) + 1)],
                    [1] + [int(c == "_") for c in t[:length]], len(t) > length)
            for t in texts
        ]  # fmt: skip

    def run(self, ids, mask):
        assert mask.shape == ids.shape
        return np.repeat(ids[..., None] * np.float32(self.scale), self.dim, axis=2)

    def runner(self, n_batches):
        return self.run, self.callers
