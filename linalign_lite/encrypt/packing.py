"""Inner products in the coefficients of polynomials, and coefficients in the slots of CKKS.

Modulo X^N + 1, with a state in x(X) = Σ xᵢ·Xⁱ and head rows, each reversed, end to end in
w(X) = Σⱼ X^(j·d) Σᵢ wⱼᵢ·X^(d−1−i), coefficient (j+1)·d − 1 of x(X)·w(X) is ⟨x, wⱼ⟩: no other
pair of terms reaches it, and what wraps around lands below coefficient d − 1. One product scores
⌊N/d⌋ rows; states are cut into chunks (always when d > N) whose products add up.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.errors import FormatError, InputError

Floats = npt.NDArray[np.float64]
Complexes = npt.NDArray[np.complex128]
Words = npt.NDArray[np.uint64]
MAX_CHUNKS = 64


@dataclass(frozen=True)
class Layout:
    """Where states and rows of dimension ``dim`` go, in polynomials of ``degree`` coefficients.

    A state is cut into ``chunks`` parts of ``width`` = ⌈dim/chunks⌉ coefficients, the last padded
    with zeros. Raises InputError when a chunk is wider than the ring.
    """

    degree: int
    dim: int
    chunks: int

    def __post_init__(self) -> None:
        fewest = -(-self.dim // self.degree)
        if self.dim < 1 or not fewest <= self.chunks <= min(self.dim, max(MAX_CHUNKS, fewest)):
            raise InputError(
                "a state cannot be cut like that",
                got=f"{self.dim} dimensions in {self.chunks} chunks",
                expected=f"at least {max(fewest, 1)} chunks at ring degree {self.degree}",
            )

    @property
    def width(self) -> int:
        return -(-self.dim // self.chunks)

    @property
    def rows(self) -> int:
        """Head rows that one product scores."""
        return self.degree // self.width

    def fold(self, n_outputs: int) -> int:
        """Head rows, by chunk, that share one product and so each other's noise."""
        return min(self.rows, n_outputs) * self.chunks

    def products(self, n_outputs: int) -> int:
        """Products, and so ciphertexts of a response, for a head of ``n_outputs`` rows."""
        return -(-n_outputs // self.rows)


def plan(degree: int, dim: int, n_outputs: int | None = None) -> Layout:
    """The layout that sends the fewest ciphertexts.

    A query of k chunks and its response, products(n_outputs) ciphertexts, take about the same
    bytes a ciphertext, so k + products is minimised. Without n_outputs: as few chunks as possible.
    """
    fewest = -(-dim // degree)
    if n_outputs is None:
        return Layout(degree, dim, fewest)
    most = min(dim, max(MAX_CHUNKS, fewest))
    layouts = [Layout(degree, dim, k) for k in range(fewest, most + 1)]
    return min(layouts, key=lambda layout: layout.chunks + layout.products(n_outputs))


def pack_state(layout: Layout, state: npt.ArrayLike) -> Floats:
    """Coefficients of one state: (dim,) → (chunks, degree)."""
    padded = np.zeros(layout.chunks * layout.width)
    padded[: layout.dim] = state
    out = np.zeros((layout.chunks, layout.degree))
    out[:, : layout.width] = padded.reshape(layout.chunks, layout.width)
    return out


def pack_rows(layout: Layout, weight: npt.NDArray[Any]) -> Iterator[Floats]:
    """Coefficients of a head: for each product, (chunks, degree). weight: (n_outputs, dim)."""
    used = layout.rows * layout.width
    for start in range(0, weight.shape[0], layout.rows):
        block = np.zeros((layout.rows, layout.chunks * layout.width))
        part = weight[start : start + layout.rows]
        block[: part.shape[0], : layout.dim] = part
        chunked = block.reshape(layout.rows, layout.chunks, layout.width)
        out = np.zeros((layout.chunks, layout.degree))
        out[:, :used] = chunked[:, :, ::-1].transpose(1, 0, 2).reshape(layout.chunks, used)
        yield out


def pack_bias(layout: Layout, bias: npt.NDArray[Any]) -> Iterator[Floats]:
    """Coefficients that add a bias: for each product, (degree,). bias: (n_outputs,)."""
    for start in range(0, bias.shape[0], layout.rows):
        part = bias[start : start + layout.rows]
        out = np.zeros(layout.degree)
        out[score_positions(layout, part.shape[0])] = part
        yield out


def score_positions(layout: Layout, count: int) -> npt.NDArray[np.intp]:
    """The coefficients (j+1)·width − 1 that hold the first ``count`` scores of a product."""
    return np.arange(1, count + 1, dtype=np.intp) * layout.width - 1


@functools.lru_cache(maxsize=8)
def _tables(degree: int) -> tuple[Complexes, npt.NDArray[np.intp]]:
    """ζ^i for i < N/2 with ζ = e^(iπ/N), and for slot j the k with 4k + 1 = ±3^j mod 2N.

    3^j is 1 modulo 4 for even j and 3 for odd j; there the conjugate root ζ^(−3^j) is taken.
    """
    half = degree // 2
    index = np.empty(half, dtype=np.intp)
    power = 1
    for j in range(half):
        index[j] = ((power if j % 2 == 0 else 2 * degree - power) - 1) // 4
        power = power * 3 % (2 * degree)
    return np.exp(1j * np.pi * np.arange(half) / degree), index


def to_slots(coefficients: Floats) -> Complexes:
    """Values of a real polynomial at the slot roots ζ^(3^j): (N,) → (N/2,).

    With ζ^(N/2·(4k+1)) = i, p(ζ^(4k+1)) = Σ_{i<N/2} (pᵢ + i·p_{i+N/2})·ζ^i · e^(2πi·ik/(N/2)): one
    inverse FFT of length N/2 without its factor. A real polynomial has conjugate values at
    conjugate roots.
    """
    half = coefficients.shape[-1] // 2
    twist, index = _tables(2 * half)
    values = np.fft.ifft((coefficients[:half] + 1j * coefficients[half:]) * twist)
    slots: Complexes = values[index] * half
    slots[1::2] = slots[1::2].conj()
    return slots


def from_slots(slots: Complexes) -> Floats:
    """The real polynomial with these values at the slot roots: (N/2,) → (N,)."""
    half = slots.shape[-1]
    twist, index = _tables(2 * half)
    values = np.empty(half, dtype=np.complex128)
    values[index[::2]] = slots[::2]
    values[index[1::2]] = slots[1::2].conj()
    folded = np.fft.fft(values) * (twist.conj() / half)
    return np.concatenate([folded.real, folded.imag])


def packed_size(degree: int, prime: int) -> int:
    """Bytes that pack_words makes of ``degree`` residues of ``prime``."""
    return degree * prime.bit_length() // 8


def pack_words(words: Words, prime: int) -> bytes:
    """Residues in as many bits as the prime has: whole low bytes, then the bits left, by plane.

    words: (N,), each below prime. With b bits: N times the low ⌊b/8⌋ bytes, then for each bit left
    N bits, the first residue in the lowest bit of the first byte.
    """
    whole, left = divmod(prime.bit_length(), 8)
    octets = words.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)
    planes = [octets[:, :whole].tobytes()]
    planes += [
        np.packbits((octets[:, whole] >> k) & 1, bitorder="little").tobytes() for k in range(left)
    ]
    return b"".join(planes)


def unpack_words(data: bytes | memoryview, degree: int, prime: int) -> Words:
    """What pack_words packed. Raises FormatError on a wrong length or a value not below prime."""
    if len(data) != packed_size(degree, prime):
        raise FormatError(
            "a polynomial has the wrong length",
            got=f"{len(data)} bytes",
            expected=str(packed_size(degree, prime)),
        )
    whole, left = divmod(prime.bit_length(), 8)
    octets = np.zeros((degree, 8), dtype=np.uint8)
    raw = np.frombuffer(data, dtype=np.uint8)
    octets[:, :whole] = raw[: degree * whole].reshape(degree, whole)
    for k in range(left):
        start = degree * whole + k * degree // 8
        bits = np.unpackbits(raw[start : start + degree // 8], bitorder="little")
        octets[:, whole] |= bits << k
    words = octets.view("<u8").reshape(degree).astype(np.uint64, copy=False)
    if words.max() >= prime:
        raise FormatError("a polynomial holds a value that is not below its prime")
    return words
