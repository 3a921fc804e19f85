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
from linalign_lite.encrypt import planner
from linalign_lite.encrypt.keys import seal_context
from linalign_lite.encrypt.masks import Masks
from linalign_lite.encrypt.modular import (
    FloodingNoise,
    matmul_mod,
    modulus_fractions,
    switch_modulus,
)
from linalign_lite.encrypt.response_encoding import decode_product, decrypt_product, encode_product
from linalign_lite.encrypt.ring import Ring, spectrum


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
    rng, n, primes = np.random.default_rng(0), parameters.degree, parameters.data_primes
    head = Head(rng.normal(size=(8, 256)), np.zeros(8))
    o = Ours(parameters, head, rng.normal(size=256) / 16)
    seal, ring = seal_context(parameters), Ring(n, primes, 15)
    whole = o.client.encrypt(o.state[None], layout=Layout(n, 256, 1))
    both = np.stack([rng.integers(0, p, (2, n), dtype=np.uint64) for p in primes], axis=1)
    spectra, row = ring.spectra(both), spectrum(np.rint(rng.normal(size=n) * 1000))
    term, masks = np.empty_like(spectra), Masks(o.public)
    secret = spectrum(rng.integers(-1, 2, n).astype(float))
    stacks = {f: rng.integers(0, 1 << 38, (f, n), dtype=np.uint64) for f in (32, 288)}
    weights = {f: np.rint(rng.normal(size=(64, f)) * 1000) for f in stacks}
    some = np.arange(10)

    def reply() -> bytes:
        first, second = ring.residues(spectra[0], some), ring.residues(spectra[1])
        if parameters.private:
            for prime in primes:
                FloodingNoise(10, 70).modulo(prime)
        values = [modulus_fractions(second, primes), modulus_fractions(first, primes)]
        return encode_product(switch_modulus(np.concatenate(values), 24), 24)

    second, first = decode_product(reply(), n, 24)
    calls = {
        "encrypt": lambda: o.client.encrypt(o.state[None], layout=whole.info.layout),
        "grow": lambda: seal.grown(whole.payloads[0][-64:]),
        "transform": lambda: ring.spectra(both),
        "encode": lambda: spectrum(np.rint(np.ones(n) * 2.0**10)),
        "multiply": lambda: np.add(spectra, np.multiply(spectra, row, out=term), out=term),
        **{
            f"combine_{f}": lambda f=f: [matmul_mod(weights[f], stacks[f], p) for p in primes]
            for f in stacks
        },
        "mask": lambda: masks.draw(ring),
        "reply": reply,
        "decrypt": lambda: decrypt_product(secret, second, first, some, 24),
    }
    side_by_side(calls, 2)
    times = side_by_side(calls, rounds, dict.fromkeys(calls, 5))
    ms = {k: 1e3 * statistics.median(v) for k, v in times.items()}
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
    for chunks, batch in ((1, 1), (3, 1), (8, 1), (24, min(n, 128)), (dim, parameters.degree)):
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
