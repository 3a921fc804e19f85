"""Measure the operations of the planner's table of costs, and its predictions beside the clock.

    python benchmarks/costs.py [--rounds 20] [--order]

Milliseconds of the operations that `linalign_lite.encrypt.planner.Costs` lists, medians,
alternating; printed, for the table in planner.py. --order: layouts by prediction and by the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import numpy as np
from common import side_by_side
from encrypt import Ours

from linalign_lite import PRIVATE, TRUSTED, Client, Head, Layout, Parameters, Provider, keygen
from linalign_lite.encrypt import planner, response_encoding
from linalign_lite.encrypt.modular import matmul_mod
from linalign_lite.encrypt.scheme import ReturnedCoefficients
from linalign_lite.encrypt.seal.scheme import SealScheme
from linalign_lite.encrypt.seal.server_side import SealServerSide


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--order", action="store_true", help="layouts by the clock, too")
    args = parser.parse_args()
    found: dict[str, Any] = {p.name: operations(p, args.rounds) for p in (PRIVATE, TRUSTED)}
    if args.order:
        cases = ((384, 150, 1), (384, 20, 64), (64, 10, 500))
        found["order"] = [order(PRIVATE, d, c, n) for d, c, n in cases]
    print(json.dumps(found, indent=2))


def operations(parameters: Parameters, rounds: int) -> dict[str, float]:
    """Medians of what planner.Costs lists."""
    rng, n = np.random.default_rng(0), parameters.degree
    o = Ours(parameters, Head(rng.normal(size=(8, 256)), np.zeros(8)), rng.normal(size=256) / 16)
    scheme = SealScheme(parameters)
    side, mine = SealServerSide(scheme), scheme.secret_side(o.secret_bytes)
    payload = o.query.payloads[0][: scheme.query_size]
    row, cipher = side.encode(rng.normal(size=n), 10), side.load_ciphertext(payload)
    masker, secret = side.load_public_key(o.public.payload), mine.secret
    stacks = {f: rng.integers(0, 1 << 38, (f, n), dtype=np.uint64) for f in (32, 288)}
    weights = {f: np.rint(rng.normal(size=(64, f)) * 1000) for f in stacks}
    primes = parameters.data_primes
    some, every = np.arange(10), np.arange(n)
    returned = ReturnedCoefficients(some, np.zeros(10), 70 if parameters.private else 0)
    second, first = response_encoding.decode_product(
        side.finalize(side.inner_product([cipher], [row]), returned, None), n
    )
    calls = {
        "encrypt": lambda: mine.encrypt(np.ones(n), 20),
        "load": lambda: side.load_ciphertext(payload),
        "expand": lambda: side._expanded(payload),
        "encode": lambda: side.encode(np.ones(n), 10),
        "multiply": lambda: side.inner_product([cipher] * 9, [row] * 9),
        **{
            f"combine_{f}": lambda f=f: [matmul_mod(weights[f], stacks[f], p) for p in primes]
            for f in stacks
        },
        "reply": lambda: side.finalize(side.inner_product([cipher], [row]), returned, None),
        "zero": lambda: side.encrypt_zero(masker),
        "decrypt_few": lambda: response_encoding.decrypt_product(secret, second, first, some),
        "decrypt_all": lambda: response_encoding.decrypt_product(
            secret, second, np.zeros(n, np.uint32), every
        ),
    }
    side_by_side(calls, 2)
    times = side_by_side(calls, rounds)
    ms = {k: 1e3 * statistics.median(v) for k, v in times.items()}
    ms["multiply"] /= 9
    few, many = 2 * ms.pop("combine_32") / 64, 2 * ms.pop("combine_288") / 64
    ms["matmul"] = (many - few) / 256
    ms["reduce"] = few - 32 * ms["matmul"]
    return ms


def order(parameters: Parameters, dim: int, classes: int, n: int) -> list[dict[str, float]]:
    """Predicted and measured milliseconds of some layouts, cold, as `score` runs."""
    rng = np.random.default_rng(1)
    head = Head(rng.normal(size=(classes, dim)), np.zeros(classes))
    states = rng.normal(size=(n, dim)) / np.sqrt(dim)
    secret, public = keygen(parameters)
    client = Client(secret)
    rows = []
    for chunks, batch in ((1, 1), (3, 1), (8, 1), (24, min(n, 256)), (dim, parameters.degree)):
        if -(-dim // chunks) * batch > parameters.degree:
            continue
        layout = Layout(parameters.degree, dim, chunks, batch)

        def call(layout: Layout = layout) -> None:
            query = client.encrypt(states, layout=layout)
            provider = Provider(head, keys=[public], accept=[parameters])
            client.decrypt(provider.score(query), query)

        ms = 1e3 * statistics.median(side_by_side({"it": call}, 3)["it"])
        predicted = planner.predict_cost(parameters, layout, n, classes).ms
        rows.append({"chunks": chunks, "batch": batch, "predicted_ms": predicted, "ms": ms})
    return sorted(rows, key=lambda row: row["ms"])


if __name__ == "__main__":
    main()
