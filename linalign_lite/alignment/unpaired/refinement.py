"""Refine a rotation between two models' coordinates with texts that only one side has.

Each round draws rows of both sides, matches them softly (`transport`), and takes the match of each
row, a mean of target rows, as its pseudo-pair. The rotation is that of Procrustes on pseudo-pairs
and pairs together (Wasserstein Procrustes; Grave, Joulin & Berthet 2019). From round to round the
matches become sharper, and the rotation gets more dimensions, those first of which the
cross-covariance says most (as ZoomOut does for shapes; Melzi et al. 2019): a few pairs say little
about the others. A rotation that is roughly right is heated and cooled again (`HEATS`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from linalign_lite.alignment.unpaired.transport import matches
from linalign_lite.core.affine_map import Array
from linalign_lite.storage.arrays import unit_rows

FULL = 1 << 30  # rank: all dimensions
PAIRS_WEIGHT = 0.5  # of the pairs' cross-covariance, relative to the pseudo-pairs'
RANK_REACHED = 0.9  # part of the rounds after which the rotation has all dimensions
Watch = Callable[[int], object]  # called with 1 after each round


@dataclass(frozen=True)
class Schedule:
    """Rounds from coarse to fine: temperature and rank change by a constant factor."""

    rounds: int
    batch: int  # rows of each side in a round
    warm: float  # temperature of the first matches
    cold: float  # and of the last
    first_rank: int
    memory: float = 0.6  # share of the cross-covariance that is kept from round to round

    def temperature(self, done: float) -> float:
        return float(self.warm * (self.cold / self.warm) ** done)

    def rank(self, done: float, full: int) -> int:
        first = min(self.first_rank, full)
        return round(float(first * (full / first) ** min(1.0, done / RANK_REACHED)))


# from a start of a few dimensions, and from one that pairs or HEATS made
HEATS = (
    Schedule(rounds=40, batch=1500, warm=0.1, cold=0.03, first_rank=8),
    *(Schedule(rounds=30, batch=1500, warm=0.06, cold=0.02, first_rank=r)
      for r in (16, 24, 32, 48, 64, 96)),
)  # fmt: skip
LAST = Schedule(rounds=80, batch=2500, warm=0.05, cold=0.015, first_rank=48)
# at the end: the mean of many matches is far less noisy than one
POLISH = Schedule(rounds=80, batch=2500, warm=0.02, cold=0.02, first_rank=FULL, memory=0.95)


@dataclass(frozen=True, eq=False)
class Sides:
    """Coordinates of unshared texts of both sides, and of the pairs."""

    source: Array  # shape: (n, r)
    target: Array  # shape: (m, r')
    pair_source: Array  # shape: (p, r), p may be 0
    pair_target: Array  # shape: (p, r')


def rotation_of(cross: Array, rank: int) -> Array:
    """Rotation of the ``rank`` leading singular vectors of a cross-covariance (r, r')."""
    u, _, vt = np.linalg.svd(cross, full_matrices=False)
    found: Array = u[:, :rank] @ vt[:rank]
    return found


def refine(
    sides: Sides,
    start: Array,
    schedules: Sequence[Schedule],
    rng: np.random.Generator,
    watch: Watch = lambda _: None,
) -> Array:
    """Refine the rotation ``start``, (r, r'), by each schedule in turn."""
    known = _scaled(sides.pair_source.T @ sides.pair_target, PAIRS_WEIGHT)
    rotation = start
    for schedule in schedules:
        cross = np.zeros_like(start)
        for t in range(schedule.rounds):
            done = t / max(1, schedule.rounds - 1)
            source, target = (draw(x, schedule.batch, rng) for x in (sides.source, sides.target))
            found = matches(unit_rows(source @ rotation) @ target.T, schedule.temperature(done))
            pseudo = _scaled(source.T @ (found @ target)) + known
            cross = schedule.memory * cross + (1 - schedule.memory) * pseudo
            rotation = rotation_of(cross, schedule.rank(done, min(start.shape)))
            watch(1)
    return rotation


def draw(rows: Array, count: int, rng: np.random.Generator) -> Array:
    """``count`` rows at random, in their order; all where there are no more."""
    if len(rows) <= count:
        return rows
    drawn: Array = rows[np.sort(rng.choice(len(rows), count, replace=False))]
    return drawn


def _scaled(cross: Array, length: float = 1.0) -> Array:
    """Scaled to this Frobenius norm; 0 stays 0."""
    norm = float(np.linalg.norm(cross))
    return cross * np.float32(length / norm) if norm > 0 else cross
