"""Pack inner products in coefficients of polynomials, and coefficients in the slots of CKKS.

Modulo X^N + 1, with the states x_t of m queries in x(X) = Σ_i Σ_t x_ti·X^(i·m + t), t < m, and head
rows of dimension d, each reversed, end to end in w(X) = Σ_j Σ_i w_ji·X^((j·d + d−1−i)·m),
coefficient (j·d + d−1)·m + t of x(X)·w(X) is ⟨x_t, w_j⟩: no other pair of terms reaches it, and
what wraps around lands below coefficient (d−1)·m. One product scores ⌊N/(d·m)⌋ rows for m queries.
States are cut into chunks (always when d·m > N) whose products add up.

With m = 1 this packs single queries. With chunks of one dimension, each ciphertext holds one
feature of up to N queries and w(X) is a number: the packing called *columns*, where scoring is
a matrix product modulo the primes (modular.matmul_mod). Every other layout is called *inner*.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.errors import InputError

FloatArray = npt.NDArray[np.float64]
ComplexArray = npt.NDArray[np.complex128]
MAX_CHUNKS = 64  # of single queries; more only where the dimension or the batch needs them


@dataclass(frozen=True)
class Layout:
    """Placement of ``batch`` states, and of head rows, of dimension ``dim`` in polynomials.

    Polynomials have ``degree`` coefficients. A state is cut into ``chunks`` parts of ``width`` =
    ⌈dim/chunks⌉ coefficients, the last padded with zeros. Raises InputError when a chunk of all
    states is wider than the ring.
    """

    degree: int
    dim: int
    chunks: int
    batch: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= self.degree:
            raise InputError(
                "so many queries cannot share ciphertexts",
                got=f"{self.batch} at ring degree {self.degree}",
                expected=f"1 to {self.degree}",
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
        """True if a chunk is one dimension: rows are numbers then, not polynomials."""
        return self.width == 1

    @property
    def packing(self) -> str:
        """Either "columns" or "inner": docs/FORMAT.md, section 3."""
        return "columns" if self.columns else "inner"

    @functools.cached_property
    def rows(self) -> int:
        """Head rows that one product scores."""
        return 1 if self.columns else self.degree // (self.width * self.batch)

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
    used = layout.rows * layout.width
    for start in range(0, weight.shape[0], layout.rows):
        block = np.zeros((layout.rows, layout.chunks * layout.width))
        part = weight[start : start + layout.rows]
        block[: part.shape[0], : layout.dim] = part
        chunked = block.reshape(layout.rows, layout.chunks, layout.width)
        out = np.zeros((layout.chunks, layout.degree))
        values = chunked[:, :, ::-1].transpose(1, 0, 2).reshape(layout.chunks, used)
        out[:, : used * layout.batch : layout.batch] = values
        yield out


@functools.lru_cache(maxsize=64)
def score_positions(layout: Layout, count: int) -> npt.NDArray[np.intp]:
    """Coefficients (j·width + width−1)·batch + t, which hold the scores of a product.

    For its first ``count`` rows: (count, batch). Cached, and so read-only.
    """
    rows = np.arange(1, count + 1, dtype=np.intp)[:, None] * layout.width - 1
    positions = rows * layout.batch + np.arange(layout.batch, dtype=np.intp)
    positions.flags.writeable = False
    return positions


def product_norm(layout: Layout, weight: npt.NDArray[Any]) -> float:
    """Compute the largest ‖W‖ of the rows that share a product. weight: (n_outputs, dim)."""
    squares = np.einsum("ij,ij->i", weight, weight)
    sums = np.add.reduceat(squares, np.arange(0, len(squares), layout.rows))
    return float(np.sqrt(sums.max()))


@functools.lru_cache(maxsize=8)
def _tables(degree: int) -> tuple[ComplexArray, npt.NDArray[np.intp]]:
    """Return ζ^i for i < N/2 with ζ = e^(iπ/N), and for slot j the k with 4k + 1 = ±3^j mod 2N.

    3^j is 1 modulo 4 for even j and 3 for odd j; there the conjugate root ζ^(−3^j) is taken.
    """
    half = degree // 2
    index = np.empty(half, dtype=np.intp)
    power = 1
    for j in range(half):
        index[j] = ((power if j % 2 == 0 else 2 * degree - power) - 1) // 4
        power = power * 3 % (2 * degree)
    return np.exp(1j * np.pi * np.arange(half) / degree), index


def to_slots(coefficients: FloatArray) -> ComplexArray:
    """Evaluate a real polynomial at the slot roots ζ^(3^j): (N,) → (N/2,).

    With ζ^(N/2·(4k+1)) = i, p(ζ^(4k+1)) = Σ_{i<N/2} (pᵢ + i·p_{i+N/2})·ζ^i · e^(2πi·ik/(N/2)): one
    inverse FFT of length N/2 without its factor. A real polynomial has conjugate values at
    conjugate roots.
    """
    half = coefficients.shape[-1] // 2
    twist, index = _tables(2 * half)
    folded = np.empty(half, dtype=np.complex128)
    folded.real, folded.imag = coefficients[:half], coefficients[half:]
    folded *= twist
    slots: ComplexArray = np.fft.ifft(folded, norm="forward")[index]
    np.conjugate(slots[1::2], out=slots[1::2])
    return slots


def from_slots(slots: ComplexArray) -> FloatArray:
    """Interpolate the real polynomial with these values at the slot roots: (N/2,) → (N,)."""
    half = slots.shape[-1]
    twist, index = _tables(2 * half)
    values = np.empty(half, dtype=np.complex128)
    values[index[::2]] = slots[::2]
    values[index[1::2]] = slots[1::2].conj()
    folded = np.fft.fft(values) * (twist.conj() / half)
    return np.concatenate([folded.real, folded.imag])
