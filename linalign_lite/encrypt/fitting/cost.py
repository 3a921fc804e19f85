"""Predict the bytes, time and memory of an encrypted fit before any work.

With n texts, m columns, d dimensions of the provider, k folds, w = ⌊N/m⌋ and q of 90 bits:

    offer  = chunks · (w·m·90/8 + 96),      chunks = n/w or so: 11.25·n·m bytes and 96·n/w
    answer = d · (k·(3·(N + m) + 16) + 32)

bytes, headers left out. Work is n·d·(N + m) multiplications modulo each prime, as a matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from linalign_lite.encrypt.fitting.descriptions import MOMENT, WORD
from linalign_lite.encrypt.fitting.products import MAX_HELD, TOGETHER, block_dims, texts_together
from linalign_lite.encrypt.fitting.shape import FitShape
from linalign_lite.encrypt.modular import seeded_size
from linalign_lite.encrypt.parameters import PRIVATE, Parameters
from linalign_lite.encrypt.planner import COSTS
from linalign_lite.encrypt.response_encoding import product_size
from linalign_lite.encrypt.wire import DIGEST

_BASE = 100e6  # bytes of a process that has loaded the libraries
_PRODUCT = 2.0  # milliseconds to mask, flood and round a product (benchmarks/private_fit.py)
_RATE = 2e10  # operations a second of products and eigenvalues in float64


@dataclass(frozen=True)
class FitCost:
    """Bytes of both files, seconds of each step on one core, and the provider's memory in bytes."""

    shape: FitShape
    target_dim: int
    offer_bytes: int
    answer_bytes: int
    offer_s: float
    answer_s: float
    finish_s: float
    memory: int
    passes: int  # over the offer, for blocks of the provider's dimensions

    def as_dict(self) -> dict[str, Any]:
        """Values for JSON."""
        s = self.shape
        sizes = {"texts": s.n, "columns": s.columns, "target_dim": self.target_dim}
        layout = {"folds": s.folds, "texts_per_ciphertext": s.width, "ciphertexts": s.chunks}
        files = {"offer_bytes": self.offer_bytes, "answer_bytes": self.answer_bytes}
        times = ("offer_s", "answer_s", "finish_s")
        seconds = {name: round(getattr(self, name), 2) for name in times}
        return {
            **sizes,
            **layout,
            **files,
            **seconds,
            "memory_bytes": self.memory,
            "passes": self.passes,
        }

    def rows(self) -> list[tuple[str, object]]:
        """Names and values for printing."""
        s = self.shape
        return [
            ("texts", f"{s.n} in {s.folds} folds, {s.width} in a ciphertext"),
            ("columns", f"{s.columns} to {self.target_dim} dimensions"),
            ("offer", f"{self.offer_bytes / 1e6:.1f} MB, about {self.offer_s:.0f} s of one core"),
            ("answer", f"{self.answer_bytes / 1e6:.1f} MB, about {self.answer_s:.0f} s"),
            ("finish", f"about {self.finish_s:.0f} s"),
            ("memory", f"about {self.memory / 1e6:.0f} MB"),
        ]


def predict_fit(shape: FitShape, target_dim: int, parameters: Parameters = PRIVATE) -> FitCost:
    """Predict the cost of a fit. Bytes are exact but for headers, below 3 kB."""
    costs, primes, n = COSTS[shape.degree], parameters.data_primes, shape.degree
    products = target_dim * shape.folds
    share = (n + shape.columns) / (2 * n)  # of coefficients that are multiplied
    dims = block_dims(shape, len(primes), target_dim)
    together = texts_together(shape, len(primes), dims)
    passes, groups = -(-target_dim // dims), shape.folds + shape.n // min(TOGETHER, together)
    answer = passes * shape.chunks * costs.grow + products * _PRODUCT
    answer += share * target_dim * (shape.n * costs.matmul + groups * costs.reduce)
    sums = 8 * len(primes) * shape.folds * dims * (n + shape.columns)
    texts = min(together, max(shape.sizes))
    held = shape.folds * -(-texts // shape.width) * 8 * len(primes) * (n + shape.sent)
    held = min(held, MAX_HELD)
    work = 8 * (texts * (5 * n + shape.columns) + 6 * dims * n) + 4 * shape.n * target_dim
    return FitCost(
        shape=shape,
        target_dim=target_dim,
        offer_bytes=shape.chunks * (seeded_size(shape.sent, primes) + DIGEST),
        answer_bytes=products * (product_size(n, shape.columns, WORD) + MOMENT)
        + target_dim * DIGEST,
        offer_s=shape.chunks * costs.encrypt / 1e3 + 6 * shape.n * shape.columns**2 / _RATE,
        answer_s=answer / 1e3,
        finish_s=products * costs.decrypt / 1e3 + 25 * (shape.folds + 1) * shape.columns**3 / _RATE,
        memory=int(_BASE + sums + held + work),
        passes=passes,
    )
