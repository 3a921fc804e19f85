"""Products of a provider's states with an offer's ciphertexts, exactly, modulo the primes.

With c the chunks of a fold and y_t a provider's number for text t, all products of a fold are one
matrix product of integers: row t of the residues is X^(−i·m)·c, t being text i of its chunk. So the
provider's states need no encoding but rounding, and BLAS does the work (modular.matmul_mod).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.moments import Float64
from linalign_lite.encrypt.fitting.descriptions import SCALE
from linalign_lite.encrypt.fitting.shape import FitShape
from linalign_lite.encrypt.modular import Residues, add_mod, matmul_mod

# Exact: rows of norm 2^18 or so, times √4096·2^24 for limbs of 24 bits, stay below 2^52
TOGETHER = 2048  # texts of one matrix product
MAX_BYTES = 1 << 29  # of the sums of a block of dimensions
MAX_HELD = 1 << 29  # bytes of ciphertexts and numbers that wait to be multiplied, of all folds
Ciphertext = tuple[Residues, Residues]  # (primes, w·m) as sent, and (primes, N)


def block_dims(shape: FitShape, primes: int, target_dim: int) -> int:
    """Dimensions of the provider whose sums of all folds are held at once."""
    size = 8 * primes * shape.folds * (shape.degree + shape.columns)
    most = max(1, MAX_BYTES // size)
    return -(-target_dim // -(-target_dim // most))  # shared evenly


@dataclass
class FoldSums:
    """Sums of products of one fold, for a block of dimensions: (b, primes, m) and (b, primes, N).

    Only the first m coefficients of first components are computed: nothing else is returned.
    """

    shape: FitShape
    primes: tuple[int, ...]
    dims: int

    def __post_init__(self) -> None:
        count = self.dims, len(self.primes)
        self.first: Residues = np.zeros((*count, self.shape.columns), dtype=np.uint64)
        self.second: Residues = np.zeros((*count, self.shape.degree), dtype=np.uint64)
        self._held: list[tuple[Ciphertext, Float64]] = []
        self._texts = 0
        self.held = 0  # bytes

    def add(self, ciphertext: Ciphertext, weights: Float64) -> None:
        """Add a chunk; weights: the provider's integers for its texts, (texts, b)."""
        self._held.append((ciphertext, weights))
        self._texts += len(weights)
        self.held += sum(part.nbytes for part in (*ciphertext, weights))
        if self._texts + self.shape.width > TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Multiply what is held."""
        if not self._held:
            return
        m = self.shape.columns
        weights = np.ascontiguousarray(np.concatenate([w for _, w in self._held]).T)
        for i, prime in enumerate(self.primes):
            firsts = np.empty((self._texts, m), dtype=np.uint64)
            seconds = np.empty((self._texts, self.shape.degree), dtype=np.uint64)
            at = 0
            for (first, second), rows in self._held:
                some = slice(at, at + len(rows))
                firsts[some] = first[i, : len(rows) * m].reshape(-1, m)
                seconds[some] = shifted(second[i], len(rows), m, prime)
                at += len(rows)
            for total, residues in ((self.first, firsts), (self.second, seconds)):
                product = matmul_mod(weights, residues, prime)
                total[:, i] = add_mod(total[:, i], product, prime)
        self._held.clear()
        self._texts = self.held = 0


def limit_held(sums: Sequence[FoldSums]) -> None:
    """Multiply what the fullest folds hold until all hold MAX_HELD bytes at most.

    The client chooses folds and columns, and with them how much would wait in every fold.
    """
    while sum(one.held for one in sums) > MAX_HELD:
        max(sums, key=lambda one: one.held).flush()


def texts_together(shape: FitShape, primes: int, dims: int) -> int:
    """Estimate the texts of one matrix product; fewer where many folds share MAX_HELD."""
    chunk = 8 * (primes * (shape.degree + shape.sent) + shape.width * dims)
    most = max(1, MAX_HELD // (chunk * shape.folds)) * shape.width
    return max(shape.width, min(TOGETHER, most))


def shifted(second: Residues, count: int, step: int, prime: int) -> npt.NDArray[np.uint64]:
    """Compute X^(−i·step) times a polynomial, i < count, modulo X^N + 1 and ``prime``: (count, N).

    Coefficient k is c_(k + i·step), and −c_(k + i·step − N) beyond N.
    """
    negative = np.where(second, np.uint64(prime) - second, second)
    both = np.concatenate([second, negative])
    return np.lib.stride_tricks.sliding_window_view(both, len(second))[: count * step : step]


@dataclass(frozen=True, eq=False)
class TargetMoments:
    """Means and sums of squares of a provider's dimensions in each fold, (folds, d_target).

    ``distinct``: texts of each fold whose states occur nowhere before.
    """

    mean: Float64
    squares: Float64
    distinct: tuple[int, ...] = field(default=())

    def encoded(self, fold: int, rows: npt.NDArray[np.floating], dims: slice) -> Float64:
        """Integers (y − mean)/‖·‖·2^b of some texts of a fold, ‖·‖ the column's: (texts, b).

        A column that does not vary is zeros.
        """
        centred = rows[:, dims].astype(np.float64) - self.mean[fold, dims]
        squares = self.squares[fold, dims]
        factor = np.divide(
            2.0**SCALE, np.sqrt(squares), out=np.zeros_like(squares), where=squares > 0
        )
        whole: Float64 = np.rint(centred * factor)
        return whole
