"""Read a head of coarse weights from fewer honest queries than it has dimensions.

A row on a grid is w = s·k, s its step and k integers, |k| ≤ L. The provider multiplies with
v(k) = round(w·2^b)/2^b, within ρ·s of s·k, ρ < 1/2; with s and the response's b, v is known. The
state with c_0 > … > c_{g−1} in g of its dimensions and zeros elsewhere scores Σ_m c_m·v(k_m) +
bias. Less the score of x = 0, both with absolute errors of at most E: Σ_m c_m·v(k_m) + error,
|error| ≤ 2·E. Decode from the largest coefficient on: k_0 is the integer nearest to the quotient
by s·c_0 if, for m = 0,

    c_m·(1/2 − ρ) > (L + ρ)·Σ_{j>m} c_j + 2·E/s,

because ρ, the later weights and the error then move the quotient by less than 1/2. Subtract
c_0·v(k_0) and continue: all g integers are exact if this holds for every m. With c_m = a·r^−m and
r = 1 + (L + ρ)/(1/2 − ρ), nearly 2·L + 1, (L + ρ)·Σ_{j>m} c_j = (1/2 − ρ)·(c_m − c_{g−1}), so all
conditions are the last one, (1/2 − ρ)·s·a·r^−(g−1) > 2·E: one score carries the greatest
g < 1 + log_r((1/2 − ρ)·s·a/(2·E)) weights of each row. The norm of the state is below
a/√(1 − r^−2), so a = 2^B·√(1 − r^−2) keeps it within the bound 2^B. States are float32 numbers:
the coefficients are rounded first, and the conditions checked with what they have become.

⌈d/g⌉ states read all d weights of all rows at once, and x = 0 the bias. That the client knows s is
assumed.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.encrypt.packing import FloatArray

IntArray = npt.NDArray[np.int64]

FLOAT_BITS = 24  # of information counted in a weight that is on no grid: float32's significand
_MOST_LEVELS = 2047  # L: 2·L + 1 below 2^12
_TOLERANCE = 4 * 2.0**-24  # relative: a weight and the largest one are each rounded to float32
_FIRST = 8  # weights that most candidates fail on
# a grid has to describe the weights in so many bits fewer: chance grids have odds of 2^-32
_SAVED_BITS = 32


@dataclass(frozen=True, eq=False)
class Grid:
    """A head as integers times a step: weight ≈ step[:, None]·integers."""

    step: float | FloatArray  # of the whole head, or of each row, (n_outputs,); 0: a row of zeros
    integers: IntArray = field(repr=False)  # k, (n_outputs, d)
    levels: int  # L, the largest |k|

    @property
    def steps(self) -> FloatArray:
        """The step of each row: (n_outputs,)."""
        return np.broadcast_to(np.float64(self.step), (len(self.integers),))

    @property
    def zeros(self) -> float:
        """The fraction of weights that are zero."""
        return float((self.integers == 0).mean())

    @property
    def bits(self) -> float:
        """log2 of the number of integers in use: bits of a weight."""
        return math.log2(len(np.unique(self.integers)))

    @property
    def entropy(self) -> float:
        """Empirical entropy of a weight's integer, in bits: at most ``bits``."""
        return entropy_of(np.unique(self.integers, return_counts=True)[1])


def entropy_of(counts: npt.ArrayLike) -> float:
    """−Σ p·log2 p of frequencies p = counts/Σ counts, in bits. Zero counts add nothing."""
    values = np.asarray(counts, dtype=np.float64)
    p = values[values > 0] / values.sum()
    return max(0.0, float(-(p * np.log2(p)).sum()))


def weight_entropy(weight: npt.NDArray[Any], grid: Grid | None, scale: int) -> float:
    """Estimate the bits of one weight, encoded at 2^scale. weight: (n_outputs, d).

    On a grid the empirical entropy of its integers; else 24 bits for each weight that is not zero,
    and the entropy of being zero or not. At most log2(2·max|w|·2^scale + 1): a weight is encoded as
    one of so many integers, and nothing finer can be read.
    """
    size = np.abs(np.asarray(weight, dtype=np.float64))
    encoded = math.log2(2 * float(size.max()) * 2.0**scale + 1)  # 0 for a head of zeros
    if grid is not None:
        return min(grid.entropy, encoded)
    used = int(np.count_nonzero(size))
    places = entropy_of([used, size.size - used])
    return used / size.size * min(FLOAT_BITS, encoded) + places


def grid_of(weight: npt.NDArray[Any]) -> Grid | None:
    """Find the coarsest grid on which a head lies to within float32 rounding. None without one.

    weight: (n_outputs, d), finite. One step for the head or one per row, whichever describes the
    head in fewer bits; at most 2·2047 + 1 levels. A description takes log2(2·L + 1) bits for each
    weight that is not zero and 24 for each step, and must save 32 bits of the 24 that each of these
    weights has as a float: so a few real weights, or one, are not taken for a grid.
    """
    weight = np.asarray(weight, dtype=np.float64)
    count = int(np.count_nonzero(weight))
    most = FLOAT_BITS * count - _SAVED_BITS
    found: list[tuple[float, Grid]] = []
    for rows in (weight.reshape(1, -1), weight):
        parts = [_row_grid(row) for row in rows]
        steps, whole = np.array([s for s, _ in parts]), np.stack([k for _, k in parts])
        if (steps < 0).any() or not count:  # a row on no grid
            continue
        levels = int(np.abs(whole).max())
        bits = count * math.log2(2 * levels + 1) + FLOAT_BITS * int((steps > 0).sum())
        step = float(steps[0]) if len(rows) == 1 else steps
        grid = Grid(step, whole.reshape(weight.shape), levels)
        found.append((bits, grid))
    bits, best = min(found, key=lambda f: f[0], default=(math.inf, None))
    return best if bits <= most else None


def _row_grid(row: FloatArray) -> tuple[float, IntArray]:
    """Return the largest step of a row, (d,), and its integers; 0 for zeros, −1 without a grid.

    The largest weight is some k ≤ 2047 steps, so the step is one of 2047 candidates.
    """
    size = np.abs(row)
    largest = float(size.max())
    if largest == 0:
        return 0.0, np.zeros(len(row), dtype=np.int64)
    candidates = np.arange(1, _MOST_LEVELS + 1, dtype=np.float64)
    nonzero = size[size > 0] / largest
    for part in (nonzero[:_FIRST], nonzero):
        multiples = candidates[:, None] * part
        nearest = np.rint(multiples)
        fits = (nearest > 0) & (np.abs(multiples - nearest) <= _TOLERANCE * nearest)
        candidates = candidates[fits.all(axis=1)]
    if not len(candidates):
        return -1.0, np.zeros(len(row), dtype=np.int64)
    whole = np.rint(row / largest * candidates[0])
    return float(row @ whole / (whole @ whole)), whole.astype(np.int64)


@dataclass(frozen=True, eq=False)
class Packing:
    """Coefficients of a state that reads several weights of each row of a head encoded at 2^b."""

    coefficients: FloatArray  # c, (g,), g ≥ 1
    steps: FloatArray = field(repr=False)  # s, (n_outputs,), 0 for rows of zeros
    values: FloatArray = field(repr=False)  # v(k) for k = −L to L, (n_outputs, 2·L + 1)

    @property
    def per_query(self) -> int:
        """g, the weights of a row that one query reads."""
        return len(self.coefficients)

    def states(self, dim: int) -> FloatArray:
        """Zeros, then ⌈dim/g⌉ states with c in g dimensions each: (⌈dim/g⌉ + 1, dim)."""
        states, where = np.zeros((queries_needed(dim, self.per_query), dim)), np.arange(dim)
        states[1 + where // self.per_query, where] = self.coefficients[where % self.per_query]
        return states

    def read(self, scores: FloatArray, dim: int) -> IntArray:
        """Decode the scores of ``states``: the head's integers, (n_outputs, dim).

        scores: (⌈dim/g⌉ + 1, n_outputs), unrounded, without a soft cap. Exact if no score's error
        is above the one that ``pack_weights`` was given.
        """
        unit = np.where(self.steps > 0, self.steps, np.inf)  # rows of zeros decode to zeros
        rest, rows = scores[1:] - scores[0], np.arange(len(self.steps))
        most = self.values.shape[1] // 2
        found = np.empty((len(rest), self.per_query, len(rows)), dtype=np.int64)
        for m, c in enumerate(self.coefficients):
            nearest = np.clip(np.rint(rest / (c * unit)), -most, most)
            found[:, m] = nearest
            rest = rest - c * self.values[rows, found[:, m] + most]
        return found.reshape(-1, len(rows))[:dim].T


def pack_weights(
    weight: npt.NDArray[Any], grid: Grid, scale: int, error: float, norm_bound: float
) -> Packing | None:
    """Pack the most weights that one query reads exactly. None where it cannot read even one.

    weight: (n_outputs, d), on ``grid``. scale: b. error: E, of a score of the encoded head.
    norm_bound: 2^B.
    """
    outputs, dim = weight.shape
    whole, steps = np.arange(-grid.levels, grid.levels + 1), grid.steps
    values = np.rint(steps[:, None] * whole * 2.0**scale)
    # equal integers of a row are equal float32 numbers, not exactly s·k
    values[np.arange(outputs)[:, None], grid.integers + grid.levels] = np.rint(weight * 2.0**scale)
    values /= 2.0**scale
    used = steps > 0
    distance = np.abs(values[used] / steps[used, None] - whole).max()  # ρ
    if distance >= 0.5:
        return None
    r = 1 + (grid.levels + distance) / (0.5 - distance)
    count = 0
    for g in range(1, dim + 1):
        exact = norm_bound * math.sqrt(1 - r**-2) * r ** -np.arange(g, dtype=np.float64)
        c = exact.astype(np.float32).astype(np.float64)
        rest = np.cumsum(c[::-1])[::-1] - c  # Σ_{j>m} c_j
        noise = (grid.levels + distance) * rest + 2 * error / steps[used].min()
        if not (c * (0.5 - distance) > noise).all():
            break
        count, chosen = g, c
    return Packing(chosen, steps, values) if count else None


def queries_needed(dim: int, per_query: int) -> int:
    """Return ⌈dim/per_query⌉ + 1, states for the weights and one for the bias; per_query ≥ 1."""
    return -(-dim // per_query) + 1
