"""One private query against TenSEAL's own calls: same states, same heads, same run.

    python benchmarks/encrypt.py [--rounds 20]

The peer runs at ring degree 8192 with primes of 60, 40 and 60 bits, the smallest set at which its
rotations work; `matmul` once for all classes, `dot` once a class.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np
import tenseal as ts
from common import publish, ratio, side_by_side

from linalign_lite import Client, Head, Provider, keygen

SHAPES = ((384, 2), (384, 10), (384, 150), (768, 20))
MATMUL_ROUNDS = 3  # seconds each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    publish("encrypt", {"rounds": args.rounds, "shapes": [one(*s, args.rounds) for s in SHAPES]})


def one(dim: int, classes: int, rounds: int) -> dict[str, Any]:
    rng = np.random.default_rng(dim + classes)
    state = rng.normal(size=dim)
    state /= np.linalg.norm(state)
    weight, bias = rng.normal(size=(classes, dim)), rng.normal(size=classes)
    client, provider = Client(keygen()[0]), Provider(Head(weight, bias))
    context = ts.context(
        ts.SCHEME_TYPE.CKKS, poly_modulus_degree=8192, coeff_mod_bit_sizes=[60, 40, 60]
    )
    context.global_scale = 2.0**40
    context.generate_galois_keys()
    columns, rows = weight.T.tolist(), weight.tolist()
    answers: dict[str, Any] = {}

    def ours() -> None:
        query = client.encrypt(state[None], n_outputs=classes)
        answers["query"], answers["response"] = query, provider.score(query)
        answers["ours"] = client.decrypt(answers["response"], query).values[0]

    def matmul() -> None:
        answers["matmul"] = (
            ts.ckks_vector(context, state).matmul(columns) + bias.tolist()
        ).decrypt()

    def dot() -> None:
        asked = ts.ckks_vector(context, state)
        answers["dot"] = [
            asked.dot(row).add([b]).decrypt()[0] for row, b in zip(rows, bias, strict=True)
        ]

    fast = side_by_side({"ours": ours, "dot": dot}, rounds if classes <= 20 else 5)
    slow = side_by_side({"ours": ours, "matmul": matmul}, MATMUL_ROUNDS)
    exact = weight @ state + bias
    public = context.copy()
    public.make_context_public()
    return {
        "dim": dim,
        "classes": classes,
        "ours_ms": 1e3 * statistics.median(fast["ours"]),
        "dot_ms": 1e3 * statistics.median(fast["dot"]),
        "matmul_ms": 1e3 * statistics.median(slow["matmul"]),
        "dot_over_ours": ratio(fast["dot"], fast["ours"]),
        "matmul_over_ours": ratio(slow["matmul"], slow["ours"]),
        "max_abs_error": {
            k: float(np.abs(np.array(answers[k]) - exact).max()) for k in ("ours", "dot", "matmul")
        },
        "query_bytes": len(answers["query"].to_bytes()),
        "response_bytes": len(answers["response"].to_bytes()),
        "peer_query_bytes": len(ts.ckks_vector(context, state).serialize()),
        "peer_context_bytes": len(public.serialize(save_galois_keys=True, save_secret_key=False)),
    }


if __name__ == "__main__":
    main()
