"""Evidence that an alignment was found.

With enough pairs: maps from either half of them, judged by the other half. With fewer, or none: how
much better texts that no fit has seen match across the models than texts without structure do,

    closeness = (m(x R, y) − m₀) / (√(m(x, x') m(y, y')) − m₀),

m being the mean score of a soft match (`transport`), x, y texts kept aside, x', y' others of the
same model, and m₀ that of x R and y with the coordinates of one of them permuted, each by itself,
from text to text. A wrong rotation fits clusters of one model to clusters of the other, but not the
texts within; with a right one closeness is what the two models share, 1 for a model with itself.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.unpaired.refinement import Sides
from linalign_lite.alignment.unpaired.transport import matches
from linalign_lite.core.affine_map import Array
from linalign_lite.storage.arrays import unit_rows

JUDGED = 1000  # texts at most
TEMPERATURE = 0.02
CLOSE = 0.46  # closeness of an alignment; docs/FEW_PAIRS.md has those of right and wrong ones
ENOUGH_PAIRS = 16  # to judge a map by half of them
NEAR = 0.05  # median share of texts that are nearer than a pair's partner, of an alignment
RIGHT = 0.01  # and of a map that may tell which pairs contradict the others
CONTRADICTS = 0.1  # share from which on they do


@dataclass(frozen=True, eq=False)
class Evidence:
    """``nearer``: the share of texts nearer than its partner, for each held-out pair, (p,) or (0,).

    It is empty where the pairs are too few to hold some out. ``contradicting``: rows of pairs
    whose partners are far from where a map puts them that is right for most.
    """

    closeness: float
    nearer: npt.NDArray[np.float64]
    contradicting: tuple[int, ...] = ()

    @property
    def found(self) -> bool:
        near = len(self.nearer) > 0 and float(np.median(self.nearer)) <= NEAR
        return near or self.closeness >= CLOSE


def count_aside(count: int) -> int:
    """Return how many of so many texts are kept aside to judge a map: a tenth, at most JUDGED."""
    return min(count // 10, JUDGED)


def keep_aside(sides: Sides, rng: np.random.Generator) -> tuple[Sides, Sides]:
    """The sides without a tenth of the unshared texts, and that tenth, at most JUDGED."""
    source, target = (rng.permutation(len(rows)) for rows in (sides.source, sides.target))
    n, m = count_aside(len(source)), count_aside(len(target))
    p, q = sides.pair_source, sides.pair_target
    return (
        Sides(sides.source[source[n:]], sides.target[target[m:]], p, q),
        Sides(sides.source[source[:n]], sides.target[target[:m]], p[:0], q[:0]),
    )


def nearer_texts(image: Array, partner: Array, others: Array) -> npt.NDArray[np.float64]:
    """Share of ``others`` (k, r) nearer to each image (p, r) than its partner (p, r), (p,)."""
    own = (image * partner).sum(axis=1, keepdims=True)
    found: npt.NDArray[np.float64] = (image @ others.T > own).mean(axis=1)
    return found


def contradicting(rows: npt.NDArray[np.intp], nearer: npt.NDArray[np.float64]) -> list[int]:
    """Those of the rows, judged by one map, that contradict the others; none if it is not right."""
    if float(np.median(nearer)) > RIGHT:
        return []
    far: list[int] = rows[nearer > CONTRADICTS].tolist()
    return far


def closeness(rotation: Array, fitted: Sides, judged: Sides, rng: np.random.Generator) -> float:
    """Closeness, above, of the texts in ``judged``; at most 1 but for chance."""
    x, y = judged.source, judged.target
    image = unit_rows(x @ rotation)
    without = max(
        _match(unit_rows(_permuted(x, rng) @ rotation), y),
        _match(image, unit_rows(_permuted(y, rng))),
    )
    alone = _match(x, fitted.source[: len(x)]), _match(y, fitted.target[: len(y)])
    room = float(np.sqrt(alone[0] * alone[1])) - without
    return (_match(image, y) - without) / room if room > 0 else 0.0


def _match(one: Array, two: Array) -> float:
    scores = one @ two.T
    return float((matches(scores.copy(), TEMPERATURE) * scores).sum() / len(one))


def _permuted(rows: Array, rng: np.random.Generator) -> Array:
    """Each column in an order of its own: the same distributions, and no structure."""
    found: Array = rng.permuted(rows, axis=0)
    return found
