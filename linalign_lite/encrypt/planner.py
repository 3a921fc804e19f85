"""Predict the cost of layouts and choose the layout of a query.

A layout is m, the number of states that share ciphertexts, and the chunks that a state is cut into.
Bytes are exact. Time, the sum over operations on one core (benchmarks/costs.py), compares layouts.
The best layout has the least time plus bytes over bandwidth.
"""

import functools
import math
from dataclasses import dataclass
from typing import Any

from linalign_lite.encrypt.messages import response_size
from linalign_lite.encrypt.modular import MAX_FEATURES, seeded_size
from linalign_lite.encrypt.packing import MAX_CHUNKS, MAX_RETURNED, Layout, fewest_chunks
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.precision import MIN_NORM_BITS, choose_scales
from linalign_lite.encrypt.response_encoding import WORD_BITS
from linalign_lite.encrypt.wire import DIGEST, MAX_RECORD
from linalign_lite.errors import InputError, MismatchError

ASSUMED_OUTPUTS = 10  # classes of the provider's head, when the client does not know them
MBIT = 100.0  # the link's speed, unless stated
WORDS = min(WORD_BITS)  # bits of a response's words, for heads of usual norms
# A provider refuses a layout that takes longer than this many times the fastest one, and a while.
_WASTE, _WHILE = 8, 100.0  # times; milliseconds
MAX_SPECTRA = 1 << 30  # bytes of the spectra of one record
_LIMBS = 3  # of residues at most, as a client plans
_WIDEST_OF_MANY = 64  # dimensions of a chunk: wider ones hold too few rows to be worth a proof


@dataclass(frozen=True)
class Costs:
    """Milliseconds of one operation; of ``matmul`` per feature and class, ``reduce`` per class.

    ``encrypt``, ``grow`` and ``transform`` are per chunk, ``multiply`` per chunk and product,
    ``encode`` per chunk of a product of the head, ``mask``, ``reply`` and ``decrypt`` per product.
    """

    encrypt: float
    grow: float
    transform: float
    encode: float
    multiply: float
    matmul: float
    reduce: float
    mask: float
    reply: float
    decrypt: float


# Medians on an AMD EPYC, from `benchmarks/costs.py`, operations taken in turn.
COSTS = {
    4096: Costs(1.33, 0.90, 0.22, 0.04, 0.028, 0.0025, 0.63, 0.12, 0.38, 0.030),
    2048: Costs(0.69, 0.25, 0.10, 0.02, 0.011, 0.0016, 0.10, 0.00, 0.16, 0.017),
}


def bytes_per_second(mbit: float) -> float:
    """Convert Mbit/s; infinity is a link that takes no time. Raises InputError below 0.001."""
    if not mbit >= 1e-3:
        raise InputError("the link's speed is not usable", got=f"{mbit:g}", expected="Mbit/s")
    return mbit * 1e6 / 8


HEADINGS = ["packing", "together", "chunks", "products", "query kB", "response kB", "ms", "total s"]


@dataclass(frozen=True)
class Prediction:
    """Cost of one layout for ``n`` states and a head of ``n_outputs`` rows."""

    layout: Layout
    n: int
    n_outputs: int
    query_bytes: int
    response_bytes: int
    products: int
    encrypt_ms: float
    score_ms: float
    decrypt_ms: float

    @property
    def ms(self) -> float:
        return self.encrypt_ms + self.score_ms + self.decrypt_ms

    def seconds(self, bandwidth: float) -> float:
        """Total time in seconds, transfer included. bandwidth: bytes per second."""
        return self.ms / 1e3 + (self.query_bytes + self.response_bytes) / bandwidth

    def as_dict(self, bandwidth: float, error: float) -> dict[str, Any]:
        """Values for JSON. bandwidth: bytes per second; error: see `relative_error`."""
        milliseconds = ("encrypt_ms", "score_ms", "decrypt_ms")
        return {
            "packing": self.layout.packing,
            "states_per_ciphertext": self.layout.batch,
            "chunks": self.layout.chunks,
            "products": self.products,
            "query_bytes": self.query_bytes,
            "response_bytes": self.response_bytes,
            **{name: round(getattr(self, name), 3) for name in milliseconds},
            "seconds_with_transfer": round(self.seconds(bandwidth), 6),
            "error_over_range": error,
            "precision_bits": round(-math.log2(error), 1),
        }

    def cells(self, bandwidth: float) -> list[str]:
        """Values as text, under `HEADINGS`. bandwidth: bytes per second."""
        layout, sizes = self.layout, (self.query_bytes / 1e3, self.response_bytes / 1e3)
        counts = (layout.batch, layout.chunks, self.products)
        times = (f"{self.ms:.1f}", f"{self.seconds(bandwidth):.3f}")
        return [layout.packing, *map(str, counts), *(f"{kb:.0f}" for kb in sizes), *times]


def predict_cost(
    parameters: Parameters, layout: Layout, n: int, n_outputs: int, *, known: bool = True
) -> Prediction:
    """Predict bytes of records and digests (without headers, below 2 KB), and milliseconds.

    known: whether the client knows n_outputs, and so sends only the coefficients that reach them.
    """
    costs = COSTS[parameters.degree]
    blocks, products = layout.blocks(n), layout.products(n_outputs)
    count = layout.window(n_outputs if known else None)[1]
    record = layout.chunks * seeded_size(count, parameters.data_primes)
    score = products * (costs.reply + (costs.mask if parameters.private else 0))
    encode = 0.0
    if layout.columns:
        score += layout.chunks * (costs.grow + n_outputs * costs.matmul)
        score += n_outputs * costs.reduce * -(-layout.chunks // MAX_FEATURES)
    else:
        score += layout.chunks * (costs.grow + costs.transform + products * costs.multiply)
        encode = products * layout.chunks * costs.encode
    return Prediction(
        layout=layout,
        n=n,
        n_outputs=n_outputs,
        query_bytes=blocks * (record + DIGEST),
        response_bytes=blocks * (response_size(layout, n_outputs, WORDS) + DIGEST),
        products=blocks * products,
        encrypt_ms=blocks * layout.chunks * costs.encrypt,
        score_ms=blocks * score + encode,
        decrypt_ms=blocks * products * costs.decrypt,
    )


def candidate_layouts(
    parameters: Parameters,
    dim: int,
    n_outputs: int,
    n: int,
    *,
    known: bool = True,
    proven: bool = False,
) -> tuple[Prediction, ...]:
    """Predict the cost of every layout worth considering that fits in a file.

    m over powers of two, n shared evenly among full records, and N; chunks from the fewest that
    fit; columns, and where 128 scores are not all, many, down to chunks of one dimension. Only a
    proven key's products may return more than 128 coefficients.
    """
    degree, free = parameters.degree, proven or not parameters.private
    most = min(degree, MAX_RETURNED)
    even, full = -(-n // -(-n // most)), -(-n // -(-n // degree))
    batches = {even} | {1 << k for k in range(most.bit_length()) if 1 << k <= min(n, most)}
    found = []
    for batch in sorted(batches):
        fewest = fewest_chunks(degree, dim, batch)
        last = min(dim - 1, max(MAX_CHUNKS, fewest + 8))
        found += [Layout(degree, dim, k, batch) for k in range(fewest, last + 1)]
        if free and n_outputs * batch > MAX_RETURNED:
            widths = range(1, min(-(-dim // fewest), _WIDEST_OF_MANY) + 1)
            cuts = sorted({-(-dim // width) for width in widths})
            found += [Layout(degree, dim, k, batch, many=True) for k in cuts]
    together = full if free else even
    found.append(Layout(degree, dim, dim, together))  # columns gain from full ciphertexts
    size = seeded_size(degree, parameters.data_primes)
    fitting = [
        x
        for x in found
        if max(x.chunks * size, response_size(x, n_outputs, max(WORD_BITS))) <= MAX_RECORD
        and (not x.many or spectra_size(parameters, x, _LIMBS) <= MAX_SPECTRA)
    ]
    return tuple(predict_cost(parameters, x, n, n_outputs, known=known) for x in fitting)


@functools.lru_cache(maxsize=256)
def choose_layout(
    parameters: Parameters,
    dim: int,
    n_outputs: int | None,
    n: int,
    bandwidth: float = MBIT * 1e6 / 8,
    *,
    proven: bool = False,
) -> Prediction:
    """Choose the layout of least time, transfer included. Raises InputError when none fits."""
    known, outputs = n_outputs is not None, n_outputs or ASSUMED_OUTPUTS
    found = candidate_layouts(parameters, dim, outputs, n, known=known, proven=proven)
    if not found:
        raise InputError(
            "no layout for these dimensions and classes fits in a file",
            got=f"{dim} dimensions, {n_outputs} classes",
            hint="score fewer classes at once",
        )
    return min(found, key=lambda p: (p.seconds(bandwidth), p.layout.batch, p.layout.chunks))


@functools.lru_cache(maxsize=256)
def require_reasonable(
    parameters: Parameters, layout: Layout, n: int, n_outputs: int, proven: bool = False
) -> None:
    """Raise MismatchError for a layout that costs a provider far more than the best one.

    The best: of least work for both parties.
    """
    shape = parameters, layout.dim, n_outputs, n
    best = choose_layout(*shape, math.inf, proven=proven).score_ms
    if predict_cost(parameters, layout, n, n_outputs).score_ms > _WASTE * best + _WHILE:
        raise MismatchError(
            "this query is refused: its layout would take far longer than another",
            got=f"{layout.chunks} chunks, {layout.batch} states together",
            hint="encrypt it for the head's number of classes (plan shows layouts)",
        )


def alternative_layouts(
    parameters: Parameters,
    dim: int,
    n_outputs: int,
    n: int,
    bandwidth: float = MBIT * 1e6 / 8,
    *,
    proven: bool = False,
) -> tuple[Prediction, ...]:
    """The chosen layout, then the best of each other kind: single states, several, columns."""
    best = choose_layout(parameters, dim, n_outputs, n, bandwidth, proven=proven)
    found = candidate_layouts(parameters, dim, n_outputs, n, proven=proven)
    kinds: dict[tuple[str, bool], Prediction] = {}  # the fastest first
    for p in sorted(found, key=lambda p: p.seconds(bandwidth)):
        kinds.setdefault((p.layout.packing, p.layout.batch > 1), p)
    return (best, *(p for p in kinds.values() if p.layout != best.layout))


def spectra_size(parameters: Parameters, layout: Layout, limbs: int) -> int:
    """Bytes that a record's spectra take while it is scored; none in the packing columns."""
    both = 2 * len(parameters.data_primes) * limbs * parameters.degree // 2
    return 0 if layout.columns else 16 * both * layout.chunks


def require_memory(parameters: Parameters, layout: Layout, limbs: int) -> None:
    """Raise MismatchError for a record whose spectra are larger than MAX_SPECTRA."""
    if (size := spectra_size(parameters, layout, limbs)) > MAX_SPECTRA:
        raise MismatchError(
            "this query is refused: its layout takes too much memory",
            got=f"{size} bytes for {layout.chunks} chunks",
            expected=f"at most {MAX_SPECTRA}",
            hint="encrypt it for the head's number of classes (plan shows layouts)",
        )


def relative_error(
    parameters: Parameters,
    layout: Layout,
    n_outputs: int,
    *,
    row_bits: int | None = None,
    row_norm: float = 1.0,
) -> float:
    """Bound the error of a score, over the largest score, for rows of one norm and no bias.

    row_bits: of an index, whose rows are rounded to multiples of 2^-row_bits. row_norm: of its
    longest row, over 2^exponent.
    """
    norm = math.sqrt(layout.fold(n_outputs)) * row_norm
    scales = choose_scales(
        parameters,
        layout,
        n_outputs,
        MIN_NORM_BITS,
        row_norm=row_norm,
        bias=0.0,
        product_norm=norm,
        row_scale=row_bits,
    )
    return scales.error / (2.0**MIN_NORM_BITS * row_norm)
