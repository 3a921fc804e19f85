"""Stochastic steps beside exact passes: loss on held-out rows against processor time.

    python benchmarks/kl_steps.py [--pairs 20000] [--minutes 8]

Gemma 3 270M reads, SmolLM2-135M's head of 49,152 outputs speaks; the states are those of speak.py.
Both minimise the same objective from the same ridge map on the same rows, with the same penalty;
the exact minimisation ends after so many minutes of processor time. "fit": the steps, and the exact
iterations with which a fit ends them. Evaluation is not counted.
Needs the models and data (LINALIGN_SHARED, LINALIGN_REAL) and the extra `bench`.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from common import PUBLISHED, exported, publish
from speak import token_states

from linalign_lite import fit, load_model
from linalign_lite.alignment.kl import objective, optimizer, stochastic
from linalign_lite.alignment.kl.divergence_fit import STOCHASTIC_ROWS
from linalign_lite.alignment.kl.problem import EPOCHS, EXACT
from linalign_lite.alignment.kl.softmax import reduce_head
from linalign_lite.core.token_alignment import pair_states

PENALTY = 0.3
HELD_OUT = 2_000
EVERY = 60  # seconds between two evaluations


class Curve:
    """Loss on held-out rows against seconds of processor time since the start."""

    def __init__(self, softmax: Any, held_out: Any, limit: float) -> None:
        self.softmax, self.held_out, self.limit = softmax, held_out, limit
        self.points: list[tuple[float, float]] = []
        self._last, self._aside, self._began = 0.0, 0.0, time.process_time()

    def __call__(self, _step: int, _loss: float, current: Any) -> bool:
        seconds = time.process_time() - self._began - self._aside
        if seconds - self._last >= EVERY:
            self.add(seconds, current())
        return seconds >= self.limit

    def end(self, found: Any) -> list[tuple[float, float]]:
        self.add(time.process_time() - self._began - self._aside, found)
        return self.points

    def add(self, seconds: float, here: Any) -> None:
        began = time.process_time()
        loss, _, _ = objective.divergence(self.softmax, self.held_out, here.weight, here.bias)
        self.points.append((seconds, loss))
        self._last = seconds
        self._aside += time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--minutes", type=float, default=8.0)
    args = parser.parse_args()
    x, y = pair_states(*(token_states(n) for n in ("Gemma", "SmolLM2")))
    some = np.random.default_rng(0).permutation(len(x))[: args.pairs + HELD_OUT]
    softmax = reduce_head(load_model(exported(PUBLISHED["SmolLM2"])).token_head())
    data, curvature = objective.distillation_data(
        softmax, x.states[some], y.states[some], sample=STOCHASTIC_ROWS
    )
    rows, held_out = data.rows(slice(0, args.pairs)), data.rows(slice(args.pairs, None))
    start = fit(x.states[some[: args.pairs]], y.states[some[: args.pairs]])[0]
    begin = optimizer.reduce_map(softmax, start)
    bases = optimizer.eigenbases_of(rows, curvature)
    reparam = optimizer.reparametrize(bases, begin, PENALTY)
    curve = Curve(softmax, held_out, 60 * args.minutes)
    found = stochastic.descend(softmax, rows, reparam, begin, epochs=EPOCHS, watch=curve)
    steps = [*curve.end(found)]
    found, _ = optimizer.minimise_divergence(
        softmax, rows, reparam, found, iterations=EXACT, tolerance=0.0, watch=curve
    )
    ended = curve.end(found)
    curve = Curve(softmax, held_out, 60 * args.minutes)
    found, _ = optimizer.minimise_divergence(
        softmax, rows, reparam, begin, iterations=200, tolerance=1e-6, watch=curve
    )
    ridge, _, _ = objective.divergence(softmax, held_out, begin.weight, begin.bias)
    publish("kl_steps", {
        "pairs": args.pairs, "outputs": len(softmax.factor), "penalty": PENALTY, "ridge": ridge,
        "stochastic": steps, "fit": ended, "exact": curve.end(found),
    })  # fmt: skip


if __name__ == "__main__":
    main()
