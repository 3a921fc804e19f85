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
from linalign_lite.encrypt.packing import MAX_CHUNKS, Layout, fewest_chunks
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.precision import MIN_NORM_BITS, choose_scales
from linalign_lite.encrypt.wire import DIGEST, MAX_RECORD
from linalign_lite.errors import InputError

ASSUMED_OUTPUTS = 10  # classes of the provider's head, when the client does not know them
BANDWIDTH = 12.5e6  # bytes per second: 100 Mbit/s


@dataclass(frozen=True)
class Costs:
    """Milliseconds of one operation; of ``matmul`` per feature and class, ``reduce`` per class."""

    encrypt: float
    load: float
    expand: float
    encode: float
    multiply: float
    matmul: float
    reduce: float
    reply: float
    zero: float
    decrypt_few: float
    decrypt_all: float


# Medians on an AMD EPYC, from `benchmarks/costs.py`, operations taken in turn.
COSTS = {
    4096: Costs(2.20, 0.70, 1.60, 0.65, 0.12, 0.0055, 0.80, 2.30, 0.70, 0.12, 0.57),
    2048: Costs(1.04, 0.36, 0.61, 0.31, 0.034, 0.0020, 0.23, 0.85, 0.00, 0.12, 0.48),
}

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


def predict_cost(parameters: Parameters, layout: Layout, n: int, n_outputs: int) -> Prediction:
    """Predict bytes of records and digests (without headers, below 2 KB), and milliseconds."""
    costs = COSTS[parameters.degree]
    blocks, products = layout.blocks(n), layout.products(n_outputs)
    record = layout.chunks * seeded_size(parameters.degree, parameters.data_primes)
    score = products * (costs.reply + (costs.zero if parameters.private else 0))
    encode = 0.0
    if layout.columns:
        score += layout.chunks * (costs.expand + n_outputs * costs.matmul)
        score += n_outputs * costs.reduce * -(-layout.chunks // MAX_FEATURES)
    else:
        score += layout.chunks * (costs.load + products * costs.multiply)
        encode = products * layout.chunks * costs.encode
    answers = layout.rows * layout.batch
    decrypt = products * (costs.decrypt_few if answers <= 64 else costs.decrypt_all)
    return Prediction(
        layout=layout,
        n=n,
        n_outputs=n_outputs,
        query_bytes=blocks * (record + DIGEST),
        response_bytes=blocks * (response_size(layout, n_outputs) + DIGEST),
        products=blocks * products,
        encrypt_ms=blocks * layout.chunks * costs.encrypt,
        score_ms=blocks * score + encode,
        decrypt_ms=blocks * decrypt,
    )


def candidate_layouts(
    parameters: Parameters, dim: int, n_outputs: int, n: int
) -> tuple[Prediction, ...]:
    """Predict the cost of every layout worth considering that fits in a file.

    m over powers of two, n shared evenly among full records, and N; chunks from the fewest that
    fit; columns.
    """
    degree = parameters.degree
    even = -(-n // -(-n // degree))
    batches = {even} | {1 << k for k in range(degree.bit_length()) if 1 << k <= n}
    found = []
    for batch in sorted(batches):
        fewest = fewest_chunks(degree, dim, batch)
        most = min(dim, max(MAX_CHUNKS, fewest + 8))
        found += [Layout(degree, dim, k, batch) for k in range(fewest, most + 1)]
        if most < dim and batch == even:  # columns gain from full ciphertexts
            found.append(Layout(degree, dim, dim, batch))
    size = seeded_size(degree, parameters.data_primes)
    fitting = [x for x in found if max(x.chunks * size, response_size(x, n_outputs)) <= MAX_RECORD]
    return tuple(predict_cost(parameters, layout, n, n_outputs) for layout in fitting)


@functools.lru_cache(maxsize=256)
def choose_layout(
    parameters: Parameters, dim: int, n_outputs: int | None, n: int, bandwidth: float = BANDWIDTH
) -> Prediction:
    """Choose the layout of least time, transfer included. Raises InputError when none fits."""
    found = candidate_layouts(parameters, dim, n_outputs or ASSUMED_OUTPUTS, n)
    if not found:
        raise InputError(
            "no layout for these dimensions and classes fits in a file",
            got=f"{dim} dimensions, {n_outputs} classes",
            hint="score fewer classes at once",
        )
    return min(found, key=lambda p: (p.seconds(bandwidth), p.layout.batch, p.layout.chunks))


def alternative_layouts(
    parameters: Parameters, dim: int, n_outputs: int, n: int, bandwidth: float = BANDWIDTH
) -> tuple[Prediction, ...]:
    """The chosen layout, then the best of each other kind: single states, several, columns."""
    best = choose_layout(parameters, dim, n_outputs, n, bandwidth)
    found = candidate_layouts(parameters, dim, n_outputs, n)
    kinds: dict[tuple[str, bool], Prediction] = {}  # the fastest first
    for p in sorted(found, key=lambda p: p.seconds(bandwidth)):
        kinds.setdefault((p.layout.packing, p.layout.batch > 1), p)
    return (best, *(p for p in kinds.values() if p.layout != best.layout))


def relative_error(parameters: Parameters, layout: Layout, n_outputs: int) -> float:
    """Bound the error of a score, over the largest score, for rows of one norm and no bias."""
    norm = math.sqrt(layout.fold(n_outputs))
    scales = choose_scales(
        parameters, layout, n_outputs, MIN_NORM_BITS, row_norm=1.0, bias=0.0, product_norm=norm
    )
    return scales.error / 2.0**MIN_NORM_BITS
