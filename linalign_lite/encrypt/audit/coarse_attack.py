"""Run the attack of `coarse_heads` on a provider of a head, with honest queries, and count bits."""

import contextlib
from dataclasses import dataclass

import numpy as np

from linalign_lite.core.head import Head
from linalign_lite.encrypt.audit.coarse_heads import (
    IntArray,
    Packing,
    grid_of,
    pack_weights,
    queries_needed,
    weight_entropy,
)
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.encoded_heads import EncodedHeads
from linalign_lite.encrypt.keys import PublicKey
from linalign_lite.encrypt.packing import Layout
from linalign_lite.encrypt.parameters import Parameters
from linalign_lite.encrypt.planner import choose_layout
from linalign_lite.encrypt.precision import MAX_ERROR, MAX_NORM_BITS, Scales, score_error
from linalign_lite.encrypt.provider import Provider
from linalign_lite.encrypt.scored_rows import HeadRows
from linalign_lite.encrypt.scoring import Scorer
from linalign_lite.encrypt.wire import DIGEST
from linalign_lite.errors import PrecisionError


@dataclass(frozen=True)
class Reading:
    """Results of the attack on one head."""

    grid_bits: float | None  # of a weight; None if the weights are not on a coarse grid
    weights_per_query: int | None  # None without a grid, or if a score cannot carry one weight
    exact: bool | None  # True if every weight was read; None if nothing was sent
    weight_bits: float  # entropy of a weight, estimated
    coefficient_bits: float  # most that a returned coefficient reveals


def attack(
    head: Head, parameters: Parameters, client: Client, public: PublicKey, *, send: bool
) -> Reading:
    """Attack ``head`` with ``client``, whose public key is ``public``. send: ask the provider.

    The client chooses the bound 2^B on norms with which a query reads the most weights, among those
    that a provider of the default ``max_error`` answers (of any, where it answers none). A larger
    bound makes the absolute error larger, and so the provider takes words of 32 bits, not 24.
    """
    grid, dim = grid_of(head.weight), head.space.dim
    columns = Layout(parameters.degree, dim, dim)  # with the least flooding
    limit = MAX_ERROR if _answered(head, parameters, columns, MAX_ERROR) else np.inf
    packing, bound, exact = None, 0, None
    for _ in range(2):  # the layout depends on the number of queries, which depends on the layout
        n = queries_needed(dim, packing.per_query if packing else 1)
        layout = choose_layout(parameters, dim, head.n_outputs, n).layout
        answers = _answered(head, parameters, layout, limit)
        packing = None
        if grid is None:
            break
        for bits, scales in answers.items():
            fold, numbers = layout.fold(head.n_outputs), (scales.flood_bits, scales.word_bits)
            rounded = scales.head, scales.rounding_bits
            error = score_error(parameters, bits, *rounded, fold, *numbers, encoded=True)
            other = pack_weights(head.weight, grid, scales.weight_scale, error, 2.0**bits)
            if other and (packing is None or other.per_query > packing.per_query):
                packing, bound = other, bits
    if grid and packing and send:
        provider = Provider(head, keys=[public], accept=[parameters], max_error=limit)
        read = _read(client, provider, packing, layout, 2.0**bound)
        exact = bool((read == grid.integers).all())
    made = [*answers.values(), *_answered(head, parameters, columns, limit).values()]
    return Reading(
        grid_bits=None if grid is None else grid.bits,
        weights_per_query=packing.per_query if packing else None,
        exact=exact,
        weight_bits=weight_entropy(head.weight, grid, max(s.weight_scale for s in made)),
        coefficient_bits=max(min(s.word_bits, parameters.data_bits - s.flood_bits) for s in made),
    )


def _read(
    client: Client, provider: Provider, packing: Packing, layout: Layout, bound: float
) -> IntArray:
    """Ask the provider and decode: (n_outputs, d) integers."""
    query = client.encrypt(packing.states(layout.dim), layout=layout, norm_bound=bound)
    response = provider.score(query)
    scores = [  # the client's rounding is its own choice
        client._decrypted(response.info, memoryview(p)[DIGEST:], layout.live(query.info.n, i))
        for i, p in enumerate(response.payloads)
    ]
    return packing.read(np.concatenate(scores), layout.dim)


def _answered(
    head: Head, parameters: Parameters, layout: Layout, max_error: float
) -> dict[int, Scales]:
    """Scales of the answers of a provider, by the bounds 2^B that it answers: {B: scales}."""
    scorer = Scorer(HeadRows(head), parameters, EncodedHeads(0), max_error)
    found: dict[int, Scales] = {}
    for bits in range(MAX_NORM_BITS + 1):
        with contextlib.suppress(PrecisionError):
            scales = scorer.scales(layout, bits)
            if scales.error <= max_error:
                found[bits] = scales
    return found
