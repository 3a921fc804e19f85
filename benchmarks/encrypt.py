"""One private query against TenSEAL's own calls: same states, same heads, same run.

    python benchmarks/encrypt.py [--rounds 20]

The peer runs at ring degree 8192 with primes of 60, 40 and 60 bits, which gives errors of the
order of ours, and at 4096 with 40, 28 and 40 bits, which is faster and coarser. It encrypts as
ours does, symmetrically. `matmul` once for all classes, `dot` once a class. Ours keeps the head
encoded between queries, as a provider does; TenSEAL's calls encode it each time.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import tenseal as ts
from common import publish, ratio, side_by_side

from linalign_lite import Client, Head, Provider, keygen

SHAPES = ((384, 2), (384, 10), (384, 150), (768, 20))
MATMUL_ROUNDS = 3  # seconds each
NAMES = ("ours", "dot", "dot_4096", "matmul")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    publish("encrypt", {"rounds": args.rounds, "shapes": [one(*s, args.rounds) for s in SHAPES]})


def peer(degree: int, primes: list[int], scale: int) -> Any:
    """A TenSEAL context with rotation keys, that encrypts with its secret key."""
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        poly_modulus_degree=degree,
        coeff_mod_bit_sizes=primes,
        encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
    )
    context.global_scale = 2.0**scale
    context.generate_galois_keys()
    return context


def one(dim: int, classes: int, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(dim + classes)
    state = rng.normal(size=dim)
    state /= np.linalg.norm(state)
    weight, bias = rng.normal(size=(classes, dim)), rng.normal(size=classes)
    client, provider = Client(keygen()[0]), Provider(Head(weight, bias))
    fine, coarse = peer(8192, [60, 40, 60], 40), peer(4096, [40, 28, 40], 28)
    columns, rows = weight.T.tolist(), weight.tolist()
    answers: dict[str, Any] = {}

    def ours() -> None:
        query = client.encrypt(state[None], n_outputs=classes)
        answers["query"], answers["response"] = query, provider.score(query)
        answers["ours"] = client.decrypt(answers["response"], query).values[0]

    def matmul() -> None:
        product = ts.ckks_vector(fine, state).matmul(columns)
        answers["matmul"] = (product + bias.tolist()).decrypt()

    def dots(name: str, context: Any) -> Callable[[], None]:
        def call() -> None:
            asked = ts.ckks_vector(context, state)
            answers[name] = [
                asked.dot(row).add([b]).decrypt()[0] for row, b in zip(rows, bias, strict=True)
            ]

        return call

    calls = {"ours": ours, "dot": dots("dot", fine), "dot_4096": dots("dot_4096", coarse)}
    fast = side_by_side(calls, rounds if classes <= 20 else 5)
    slow = side_by_side({"ours": ours, "matmul": matmul}, MATMUL_ROUNDS)
    exact = weight @ state + bias
    return {
        "dim": dim,
        "classes": classes,
        "ours_ms": 1e3 * statistics.median(fast["ours"]),
        "dot_ms": 1e3 * statistics.median(fast["dot"]),
        "dot_4096_ms": 1e3 * statistics.median(fast["dot_4096"]),
        "matmul_ms": 1e3 * statistics.median(slow["matmul"]),
        "dot_over_ours": ratio(fast["dot"], fast["ours"]),
        "matmul_over_ours": ratio(slow["matmul"], slow["ours"]),
        "max_abs_error": {k: float(np.abs(np.array(answers[k]) - exact).max()) for k in NAMES},
        "query_bytes": len(answers["query"].to_bytes()),
        "response_bytes": len(answers["response"].to_bytes()),
        "peer_query_bytes": len(ts.ckks_vector(fine, state).serialize()),
        "peer_context_bytes": len(fine.serialize(False, False, True, False)),
    }


if __name__ == "__main__":
    main()
