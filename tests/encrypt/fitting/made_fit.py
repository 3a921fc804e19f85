"""States of two made models, and the steps of an encrypted fit in one folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from linalign_lite import HiddenStates, answer_fit, keygen
from linalign_lite.core.hidden_states import text_digest
from linalign_lite.encrypt import key_proof
from linalign_lite.encrypt.fitting.finish import solve_fit
from linalign_lite.encrypt.fitting.kept import KeptOffer
from linalign_lite.encrypt.fitting.offer import write_offer

SECRET, PUBLIC = keygen()
PROVEN = key_proof.proven(SECRET, PUBLIC)


def states(rows, texts="t"):
    """States of as many texts, with their digest."""
    rows = np.asarray(rows, dtype=np.float32)
    return HiddenStates(rows, text_digest=text_digest(f"{texts} {i}" for i in range(len(rows))))


def two_models(n=400, d_source=16, d_target=12, seed=3, noise=0.3, condition=1e3):
    """Two views of the same causes, far from centred; the source's directions differ in size."""
    rng = np.random.default_rng(seed)
    causes = rng.normal(size=(n, 10))
    x = causes @ rng.normal(size=(10, d_source)) + noise * rng.normal(size=(n, d_source))
    x *= np.logspace(0, -np.log10(condition), d_source)
    y = causes @ rng.normal(size=(10, d_target)) + noise * rng.normal(size=(n, d_target))
    return states(x + 2), states(y - 3)


@dataclasses.dataclass
class Exchange:
    """The files of one fit; its key is that of all tests, as a proof takes seconds."""

    folder: Path

    def __post_init__(self):
        self.offer_at, self.kept_at = self.folder / "m.offer", self.folder / "m.kept.npz"
        self.answer_at = self.folder / "m.answer"

    def offer(self, x, secret=SECRET, **options):
        """Make an offer, after another one whose kept file is of no use any more."""
        self.kept_at.unlink(missing_ok=True)
        return write_offer(self.offer_at, self.kept_at, x, secret, **options)

    def answer(self, y, keys=(PROVEN,), **options):
        return answer_fit(self.offer_at, self.answer_at, y, keys, **options)

    def finish(self, **options):
        """Solve; the kept file stays."""
        return solve_fit(self.answer_at, self.kept_at, **options)

    def kept(self):
        return KeptOffer.load(self.kept_at)
