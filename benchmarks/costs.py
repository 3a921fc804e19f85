"""Measure the operations of the planner's table of costs, and its predictions beside the clock.

    python benchmarks/costs.py [--rounds 20] [--profile] [--order]

Milliseconds of the operations that `linalign_lite.encrypt.planner.Costs` lists, medians,
alternating; printed, for the table in planner.py. --profile: the parts of one private query,
those of SEAL measured, those of products from the planner's table (docs/DESIGN.md). --order:
layouts by prediction and by the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import numpy as np
from common import side_by_side
from encrypt import Ours

from linalign_lite import (
    PRIVATE,
    TRUSTED,
    Client,
    Head,
    Layout,
    MismatchError,
    Parameters,
    Provider,
    keygen,
)
from linalign_lite.encrypt import planner
from linalign_lite.encrypt.keys import seal_context
from linalign_lite.encrypt.masks import Masks
from linalign_lite.encrypt.modular import (
    FloodingNoise,
    matmul_mod,
    modulus_fractions,
    switch_modulus,
)
from linalign_lite.encrypt.response_encoding import decode_products, decrypt_products, encode_words
from linalign_lite.encrypt.ring import Ring, spectrum
from linalign_lite.encrypt.seal.serialization import CIPHERTEXT_START, SEED_INFO, save_body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--profile", action="store_true", help="the parts of a query, too")
    parser.add_argument("--order", action="store_true", help="layouts by the clock, too")
    args = parser.parse_args()
    found: dict[str, Any] = {p.name: operations(p, args.rounds) for p in (PRIVATE, TRUSTED)}
    if args.profile:
        found["profile"] = [profile(*shape, args.rounds) for shape in ((384, 2), (384, 150))]
    if args.order:
        cases = ((384, 150, 1), (384, 20, 64), (64, 10, 500))
        found["order"] = [order(PRIVATE, d, c, n) for d, c, n in cases]
    print(json.dumps(found, indent=2))


def operations(parameters: Parameters, rounds: int) -> dict[str, float]:
    """Medians of what planner.Costs lists."""
    rng, n, primes = np.random.default_rng(0), parameters.degree, parameters.data_primes
    head = Head(rng.normal(size=(8, 256)), np.zeros(8))
    o = Ours(parameters, head, rng.normal(size=256) / 16)
    seal, ring = seal_context(parameters), Ring(n, primes, 23 if parameters.private else 17)
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
        parts = [modulus_fractions(x, primes) for x in (second, first)]
        return b"".join(encode_words(switch_modulus(x, 24), 24) for x in parts)

    answers = 8 * reply()
    second, first = decode_products(answers, 8, n, 24)
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
        "decrypt": lambda: decrypt_products(secret, second, first, some, 24),
    }
    ms = medians(calls, rounds)
    ms["decrypt"] /= 8
    few, many = 2 * ms.pop("combine_32") / 64, 2 * ms.pop("combine_288") / 64
    ms["matmul"] = (many - few) / 256
    ms["reduce"] = few - 32 * ms["matmul"]
    return ms


def medians(calls: dict[str, Any], rounds: int) -> dict[str, float]:
    """Milliseconds of each call, alternating."""
    side_by_side(calls, 2)
    times = side_by_side(calls, rounds, dict.fromkeys(calls, 5))
    return {k: 1e3 * statistics.median(v) for k, v in times.items()}


def profile(dim: int, classes: int, rounds: int) -> dict[str, float]:
    """Milliseconds of the parts of one private query, end to end, and of what is around them."""
    rng = np.random.default_rng(0)
    head = Head(rng.normal(size=(classes, dim)), np.zeros(classes))
    o = Ours(PRIVATE, head, rng.normal(size=dim) / np.sqrt(dim))
    layout, seal, side = o.query.info.layout, seal_context(PRIVATE), o.client._side
    chunks, products = layout.chunks, layout.products(classes)
    level, size = seal._level, CIPHERTEXT_START + 8 * PRIVATE.degree * len(PRIVATE.data_primes)
    zero, seed = side._encryptor.encrypt_zero_symmetric(level), o.query.payloads[0][-64:]
    first = list(seal._zeros)
    grown = seal.load(first, seed=seed)
    ms = medians(
        {
            "encrypt": lambda: o.client.encrypt(o.state[None], n_outputs=classes),
            "score": lambda: o.provider.score(o.query),
            "decrypt": lambda: o.client.decrypt(o.response, o.query),
            "SEAL encrypts": lambda: side._encryptor.encrypt_zero_symmetric(level),
            "SEAL saves a pair": lambda: save_body(zero, size + SEED_INFO),
            "SEAL grows a seed": lambda: seal.load(first, seed=seed),
            "SEAL saves what grew": lambda: seal.residues(grown),
        },
        rounds,
    )
    found = {k: (chunks if k.startswith("SEAL") else 1) * v for k, v in ms.items()}
    costs = planner.COSTS[PRIVATE.degree]
    multiply = products * chunks * costs.multiply
    found["products by FFT"] = chunks * costs.transform + multiply
    found["products by FFT"] += products * (costs.mask + costs.reply)
    found["words to scores"] = products * costs.decrypt
    named = [v for k, v in found.items() if k not in ("encrypt", "score", "decrypt")]
    found["all"] = found["encrypt"] + found["score"] + found["decrypt"]
    found["packing, digests, headers, checks"] = found["all"] - sum(named)
    return {"chunks": chunks, "products": products, **found}


def order(parameters: Parameters, dim: int, classes: int, n: int) -> list[dict[str, float]]:
    """Predicted and measured milliseconds of some layouts, cold, as `score` runs."""
    rng = np.random.default_rng(1)
    head = Head(rng.normal(size=(classes, dim)), np.zeros(classes))
    states = rng.normal(size=(n, dim)) / np.sqrt(dim)
    secret, public = keygen(parameters)
    client = Client(secret)
    rows = []
    for chunks, batch in ((1, 1), (3, 1), (8, 1), (24, min(n, 128)), (dim, 128)):
        if -(-dim // chunks) * batch > parameters.degree:
            continue
        layout = Layout(parameters.degree, dim, chunks, batch)

        def call(layout: Layout = layout) -> None:
            query = client.encrypt(states, layout=layout)
            provider = Provider(head, keys=[public], accept=[parameters])
            client.decrypt(provider.score(query), query)

        try:
            ms = 1e3 * statistics.median(side_by_side({"it": call}, 3)["it"])
        except MismatchError:  # a provider refuses layouts that take far longer than another
            continue
        predicted = planner.predict_cost(parameters, layout, n, classes).ms
        rows.append({"chunks": chunks, "batch": batch, "predicted_ms": predicted, "ms": ms})
    return sorted(rows, key=lambda row: row["ms"])


if __name__ == "__main__":
    main()
