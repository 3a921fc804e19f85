# python3.11 -m venv pyfhel && pyfhel/bin/pip install Pyfhel  (compiles SEAL, fetching parts of it)
"""Encrypted linear scoring with Pyfhel's CKKS (SEAL): a JSON object in, a JSON object out.

    pyfhel/bin/python pyfhel_dot.py < query.json

In, one line: {"state": [...], "weight": [[...], ...], "bias": [...], "rounds": 5, "burst": 1}; then
a line before each round. Out: "ready" before each and after the last; times, scores, sizes.

The head is kept as encoded diagonals (packing.py), as a provider keeps it. One prime holds the
product, with the state's scale and the weights' far apart, so that nothing is rescaled, and every
rotation is on the smallest modulus there is; `scalar_prod_plain` once a class takes all of a sum's
rotations again for every class. Pyfhel encrypts with the public key only and hoists no rotations.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

from packing import Packing, measure
from Pyfhel import Pyfhel, __version__

RING = 4096
PRIMES = (54, 55)  # bits of the ciphertext's prime and of the one that switches keys: 109 at most
STATE, WEIGHT = 2.0**31, 2.0**18  # scales


def main() -> None:
    query = json.loads(sys.stdin.readline())
    peer = Peer(query["weight"], query["bias"])
    figures, sent, answer = measure(peer, query)
    result = {
        "peer": "pyfhel",
        "version": __version__,
        "ring": peer.scheme.n,
        "modulus_bits": sum(PRIMES),
        "security": "HEStd_128_classic",
        **figures,
        "key_bytes": len(peer.scheme.to_bytes_rotate_key()),
        "query_bytes": sum(len(x.to_bytes("zstd")) for x in sent),
        "response_bytes": len(answer.to_bytes("zstd")),
    }
    json.dump(result, sys.stdout)


class Peer:
    """Keys, the encoded head, and the three steps of a query."""

    def __init__(self, weight: list[list[float]], bias: list[float]) -> None:
        self.scheme = scheme = Pyfhel()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that these primes leave nothing to rescale by
            scheme.contextGen("ckks", n=RING, scale=STATE, qi_sizes=list(PRIMES), sec=128)
        self.packing = Packing(weight, RING // 2, cheap=1)
        scheme.keyGen()
        scheme.rotateKeyGen(self.packing.steps)
        self.head = [
            (
                giant,
                [(baby, part, scheme.encodeFrac(x, scale=WEIGHT)) for baby, part, x in products],
            )
            for giant, products in self.packing.products()
        ]
        self.bias = scheme.encodeFrac(self.packing.spread(bias), scale=STATE * WEIGHT)

    def encrypt(self, state: Any) -> list[Any]:
        return [self.scheme.encryptFrac(x) for x in self.packing.repeat(state)]

    def score(self, sent: list[Any]) -> Any:
        scheme = self.scheme
        turned = [
            [scheme.rotate(x, baby, in_new_ctxt=True) if baby else x for x in sent]
            for baby in range(self.packing.babies)
        ]
        total = None
        for giant, products in self.head:
            inner = None
            for baby, part, factors in products:
                product = scheme.multiply_plain(turned[baby][part], factors, in_new_ctxt=True)
                inner = product if inner is None else scheme.add(inner, product)
            if giant:
                scheme.rotate(inner, giant)
            total = inner if total is None else scheme.add(total, inner)
        for fold in self.packing.folds:
            scheme.add(total, scheme.rotate(total, fold, in_new_ctxt=True))
        return scheme.add_plain(total, self.bias)

    def decrypt(self, answer: Any) -> Any:
        return self.scheme.decryptFrac(answer)[self.packing.where]


if __name__ == "__main__":
    main()
