"""Pack inner products in coefficients of polynomials.

Modulo X^N + 1, with the states x_t of m queries in x(X) = Σ_i Σ_t x_ti·X^(i·m + t), t < m, and head
rows of dimension d, each reversed, end to end in w(X) = Σ_j Σ_i w_ji·X^((j·d + d−1−i)·m),
coefficient (j·d + d−1)·m + t of x(X)·w(X) is ⟨x_t, w_j⟩: no other pair of terms reaches it, and
what wraps around lands below coefficient (d−1)·m. One product scores ⌊N/(d·m)⌋ rows for m queries.
States are cut into chunks (always when d·m > N) whose products add up.

With m = 1 this packs single queries. With chunks of one dimension, each ciphertext holds one
feature of up to N queries and w(X) is a number: the packing called *columns*, where scoring is
a matrix product modulo the primes (modular.matmul_mod). Every other layout is called *inner*; its
products return at most 128 coefficients each, few enough that a mask under a public key that its
owner made up still hides the head. More need a key that is proven (docs/SECURITY.md): the packing
*many* is inner without that limit. Its products hold ⌊N/(w·m)⌋ rows of chunks of any width w,
down to w = 1, where a chunk is a number, w(X) = Σ_j w_j·X^(j·m), and every coefficient a score.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from linalign_lite.errors import InputError

Number = TypeVar("Number", bound=np.number[Any])
FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]
MAX_CHUNKS = 64  # of single queries; more only where the dimension or the batch needs them
MAX_RETURNED = 128  # coefficients that an inner product returns


@dataclass(frozen=True)
class Layout:
    """Placement of ``batch`` states, and of head rows, of dimension ``dim`` in polynomials.

    Polynomials have ``degree`` coefficients. A state is cut into ``chunks`` parts of ``width`` =
    ⌈dim/chunks⌉ coefficients, the last padded with zeros. many: a product returns as many
    coefficients as fit, for rows by the thousand. Raises InputError when a chunk of all states is
    wider than the ring, or more than 128 states share a product that is neither columns nor many.
    """

    degree: int
    dim: int
    chunks: int
    batch: int = 1
    many: bool = False

    def __post_init__(self) -> None:
        columns = self.dim == self.chunks
        most = self.degree if columns or self.many else min(self.degree, MAX_RETURNED)
        if not 1 <= self.batch <= most:
            raise InputError(
                "so many queries cannot share ciphertexts",
                got=f"{self.batch} at ring degree {self.degree}",
                expected=f"1 to {most}"
                + ("" if columns else f", or up to {self.degree} in {self.dim} chunks"),
            )
        fewest = fewest_chunks(self.degree, self.dim, self.batch) if self.dim > 0 else 1
        if not fewest <= self.chunks <= self.dim:
            raise InputError(
                "a state cannot be cut like that",
                got=f"{self.dim} dimensions in {self.chunks} chunks",
                expected=f"{fewest} to {self.dim} chunks for {self.batch} states a ciphertext",
            )

    @functools.cached_property
    def width(self) -> int:
        return -(-self.dim // self.chunks)

    @property
    def columns(self) -> bool:
        """True if rows are numbers, not polynomials: a chunk is one dimension, and not many."""
        return self.width == 1 and not self.many

    @property
    def packing(self) -> str:
        """One of "columns", "inner" and "many": docs/FORMAT.md, section 3."""
        return "columns" if self.columns else "many" if self.many else "inner"

    @functools.cached_property
    def rows(self) -> int:
        """Head rows that one product scores."""
        if self.columns:
            return 1
        fitting = self.degree // (self.width * self.batch)
        return fitting if self.many else min(fitting, MAX_RETURNED // self.batch)

    def fold(self, n_outputs: int) -> int:
        """Head rows that share one product and its noise."""
        return min(self.rows, n_outputs)

    @property
    def terms(self) -> int:
        """Coefficients of a product's rows in all chunks, each rounded to an integer."""
        return self.chunks if self.columns else self.chunks * self.degree

    def products(self, n_outputs: int) -> int:
        """Products (ciphertexts of a response) for a head of ``n_outputs`` rows."""
        return -(-n_outputs // self.rows)

    def blocks(self, n: int) -> int:
        """Records of a query of ``n`` states."""
        return -(-n // self.batch)

    def live(self, n: int, block: int) -> int:
        """States in one block: ``batch``, fewer in the last one."""
        return min(self.batch, n - block * self.batch)

    def window(self, n_outputs: int | None) -> tuple[int, int]:
        """(start, count): the coefficients of a query that reach a score, modulo the degree.

        With k rows to a product, of width w, for m states, scores are at (j·w + w−1)·m + t and rows
        below k·w·m, so coefficients from −(k−1)·w·m to k·w·m − 1 matter: (2k−1)·w·m, rounded up to
        a multiple of 8. All of them, (0, degree), where that is not fewer, in the packing columns,
        and for a head of unknown outputs.
        """
        if n_outputs is None or self.columns:
            return 0, self.degree
        k, step = self.fold(n_outputs), self.width * self.batch
        count = -(-(2 * k - 1) * step // 8) * 8
        return (-(k - 1) * step, count) if count < self.degree else (0, self.degree)


def fewest_chunks(degree: int, dim: int, batch: int) -> int:
    """Return the fewest chunks whose width times ``batch`` fits in the ring."""
    return -(-dim // (degree // batch))


def pack_states(layout: Layout, states: npt.NDArray[Any]) -> Iterator[FloatArray]:
    """Yield coefficients of up to ``batch`` states by chunk. states: (m, dim) → (degree,) each."""
    m, width, batch = len(states), layout.width, layout.batch
    for chunk in range(layout.chunks):
        part = states[:, chunk * width : (chunk + 1) * width]
        out = np.zeros(layout.degree)
        out[: width * batch].reshape(width, batch)[: part.shape[1], :m] = part.T
        yield out


def pack_rows(layout: Layout, weight: npt.NDArray[Any]) -> Iterator[FloatArray]:
    """Yield coefficients of a head by product: (chunks, degree). weight: (n_outputs, dim)."""
    for start in range(0, weight.shape[0], layout.rows):
        yield pack_product(layout, weight[start : start + layout.rows].astype(np.float64))


def pack_product(layout: Layout, rows: npt.NDArray[Number]) -> npt.NDArray[Number]:
    """Coefficients of the rows of one product, (n, dim) with n ≤ layout.rows: (chunks, degree)."""
    n, width, step = len(rows), layout.width, layout.batch
    padded = np.zeros((n, layout.chunks * width), rows.dtype)
    padded[:, : layout.dim] = rows
    out = np.zeros((layout.chunks, layout.degree), rows.dtype)
    chunked = padded.reshape(n, layout.chunks, width)[:, :, ::-1].transpose(1, 0, 2)
    out[:, : n * width * step : step] = chunked.reshape(layout.chunks, n * width)
    return out


@functools.lru_cache(maxsize=64)
def score_positions(layout: Layout, count: int) -> npt.NDArray[np.intp]:
    """Coefficients (j·width + width−1)·batch + t, which hold the scores of a product.

    For its first ``count`` rows: (count, batch). Cached, and so read-only.
    """
    rows = np.arange(1, count + 1, dtype=np.intp)[:, None] * layout.width - 1
    positions = rows * layout.batch + np.arange(layout.batch, dtype=np.intp)
    positions.flags.writeable = False
    return positions


def largest_norm(weight: npt.NDArray[Any], rows: int) -> float:
    """Compute the largest ‖W‖ of ``rows`` rows in sequence. weight: (n_outputs, dim)."""
    squares = np.einsum("ij,ij->i", weight, weight, dtype=np.float64)
    sums = np.add.reduceat(squares, np.arange(0, len(squares), rows))
    return float(np.sqrt(sums.max()))
