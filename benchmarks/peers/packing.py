"""Shared by all peers: the packing of a head in the slots, and the timing of a query.

The state is repeated as often as the slots hold it, and each copy serves classes of its own: one
generalised diagonal of the head a class of a copy, summed by baby and giant steps, then by
rotations of powers of two. All scores come back in one ciphertext. A state longer than the slots is
sent as several ciphertexts. Slots that hold no score hold partial sums, which a provider with a
secret head would have to mask; the peers are not charged for that.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from typing import Any

import numpy as np

SLOW = 0.1  # seconds of a query; above it a round is one


class Packing:
    """The layout of a head; `cheap` is how many baby steps cost what a giant step does."""

    def __init__(self, weight: Any, slots: int, cheap: float) -> None:
        self.weight, self.slots = np.array(weight, dtype=float), slots
        classes, dim = self.weight.shape
        self.width = min(power(dim), slots)
        self.parts = math.ceil(dim / self.width)  # ciphertexts that a state takes
        self.copies = slots // self.width
        self.rows = power(math.ceil(classes / self.copies))  # classes to a copy
        if self.rows > self.width:
            raise ValueError(f"{classes} classes are more than {slots} slots hold")
        self.babies = min(self.rows, 2 ** round(math.log2(cheap * self.rows) / 2))
        self.folds = [self.rows << i for i in range((self.width // self.rows).bit_length() - 1)]
        self.steps = sorted(
            {*range(1, self.babies), *range(self.babies, self.rows, self.babies), *self.folds}
        )
        copy, row = np.divmod(np.arange(classes), self.rows)
        self.where = copy * self.width + row  # the slots of the scores

    def repeat(self, state: Any) -> Any:
        """Return the contents of the ciphertexts of a state, one row per ciphertext."""
        padded = np.zeros((self.parts, self.width))
        padded.flat[: len(state)] = state
        return np.tile(padded, self.copies)

    def spread(self, bias: Any) -> Any:
        """One number a class, each in its slot."""
        values = np.zeros(self.slots)
        values[self.where] = bias
        return values

    def products(self) -> list[tuple[int, list[tuple[int, int, Any]]]]:
        """For each giant step: the baby step, ciphertext and factors of each of its products."""
        padded = np.zeros((self.copies * self.rows, self.parts * self.width))
        padded[: self.weight.shape[0], : self.weight.shape[1]] = self.weight
        copy, place = np.divmod(np.arange(self.slots), self.width)
        row = copy * self.rows + place % self.rows
        steps = []
        for giant in range(0, self.rows, self.babies):
            found = []
            for baby in range(self.babies):
                for part in range(self.parts):
                    column = part * self.width + (place + giant + baby) % self.width
                    factors = padded[row, column]
                    if factors.any():  # SEAL takes no factor of zero
                        found.append((baby, part, np.roll(factors, giant)))
            if found:
                steps.append((giant, found))
        return steps


def measure(peer: Any, query: dict[str, Any]) -> tuple[dict[str, Any], Any, Any]:
    """Times and scores of the rounds, after an untimed one; what the last sent and got back.

    A round is ``burst`` queries, and begins when a line comes: others are measured in turn.
    """
    state, weight, bias = (np.array(query[k], dtype=float) for k in ("state", "weight", "bias"))
    started = time.perf_counter()
    peer.decrypt(peer.score(peer.encrypt(state)))
    burst = query["burst"] if time.perf_counter() - started < SLOW else 1
    times = []
    for _ in range(query["rounds"]):
        print("ready", flush=True)
        sys.stdin.readline()
        total = np.zeros(3)
        for _ in range(burst):
            started = time.perf_counter()
            sent = peer.encrypt(state)
            encrypted = time.perf_counter()
            answer = peer.score(sent)
            scored = time.perf_counter()
            scores = peer.decrypt(answer)
            ended = time.perf_counter()
            total += encrypted - started, scored - encrypted, ended - scored
        times.append(total / burst)
    print("ready", flush=True)
    encrypt, score, decrypt = (1e3 * statistics.median(x) for x in zip(*times, strict=True))
    figures = {
        "ms": [1e3 * sum(x) for x in times],
        "encrypt_ms": encrypt,
        "score_ms": score,
        "decrypt_ms": decrypt,
        "scores": scores.tolist(),
        "max_abs_error": float(np.abs(scores - (weight @ state + bias)).max()),
    }
    return figures, sent, answer


def power(number: int) -> int:
    """The least power of two that is not under `number`."""
    return 1 << (number - 1).bit_length()
