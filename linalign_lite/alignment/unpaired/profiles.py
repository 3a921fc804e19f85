"""A start without any pair: match texts by how their similarities to all others are distributed.

The quantiles of the similarities of one text to the others do not depend on the directions of the
coordinates: a text has this profile with either model (as VecMap starts from sorted similarities;
Artetxe, Labaka & Agirre 2018). Profiles are taken in all coordinates and in the leading ones, and
the mean profiles of a text's neighbours are added: together they match far better than the first.
"""

import numpy as np

from linalign_lite.alignment.unpaired.refinement import draw, rotation_of
from linalign_lite.alignment.unpaired.transport import matches
from linalign_lite.core.affine_map import Array
from linalign_lite.storage.arrays import unit_rows

QUANTILES = np.linspace(0.0, 1.0, 101)
LEADING = (64, 16)  # coordinates
NEIGHBOURS = (10, 100)
ROWS = 3000  # of each side
TEMPERATURE = 0.03
RANK = 8  # profiles say something about the leading dimensions alone


def profile_start(source: Array, target: Array, rng: np.random.Generator) -> Array:
    """Rotation (r, r') from soft matches of the profiles of a sample of both sides."""
    x, y = draw(source, ROWS, rng), draw(target, ROWS, rng)
    found = matches(profiles(x) @ profiles(y).T, TEMPERATURE)
    return rotation_of(x.T @ (found @ y), RANK)


def profiles(rows: Array) -> Array:
    """The profile of each row, of length 1, (n, features)."""
    similar = rows @ rows.T
    own = [_quantiles(similar)]
    for leading in LEADING:
        part = unit_rows(rows[:, :leading])
        own.append(_quantiles(part @ part.T))
    whole = np.concatenate(own, axis=1)
    near = [
        _standardised(whole[np.argpartition(-similar, k, axis=1)[:, :k]].mean(axis=1))
        for k in NEIGHBOURS if k < len(rows)
    ]  # fmt: skip
    return unit_rows(np.concatenate([whole, *near], axis=1))


def _quantiles(similar: Array) -> Array:
    at = np.round(QUANTILES * (len(similar) - 1)).astype(np.intp)
    return _standardised(np.sort(similar, axis=1)[:, at])


def _standardised(columns: Array) -> Array:
    spread = columns.std(axis=0)
    found: Array = (columns - columns.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return found.astype(np.float32)
