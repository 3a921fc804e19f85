# python3.11 -m venv concrete && concrete/bin/pip install concrete-ml-extensions numpy
"""Encrypted linear scoring with Concrete ML's matrix product: a JSON object in, a JSON object out.

    concrete/bin/python concrete_dot.py < query.json

In, one line: {"state": [...], "weight": [[...], ...], "bias": [...], "rounds": 5, "burst": 1}; then
a line before each round. Out: "ready" before each and after the last; times, scores, sizes.

The library multiplies an encrypted matrix of whole numbers by a clear one, one dot product after
another, then packs them with a key of its own. It keeps 27 bits of a product, so state and weights
get 12 bits each, every class with a scale of its own: errors near 2e-3, coarser than the other
peers. It has no call for adding a bias; scales and bias are applied after decryption, uncharged.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

import concrete_ml_extensions as concrete
import numpy as np
from packing import measure

LARGEST = 2**11 - 1  # of a state's and of the weights' whole numbers


def main() -> None:
    query = json.loads(sys.stdin.readline())
    peer = Peer(query["weight"], query["bias"])
    figures, sent, answer = measure(peer, query)
    result = {
        "peer": "concrete-ml-extensions",
        "version": version("concrete-ml-extensions"),
        "ring": peer.ring,
        "modulus_bits": peer.modulus_bits,
        "security": "TFHE-rs defaults, 128 bits",
        **figures,
        "key_bytes": len(peer.packing_key.serialize()),
        "query_bytes": len(sent.serialize()),
        "response_bytes": len(answer.serialize()),
    }
    json.dump(result, sys.stdout)


class Peer:
    """Keys, the head in whole numbers, and the three steps of a query."""

    def __init__(self, weight: list[list[float]], bias: list[float]) -> None:
        defaults = concrete.default_params()
        self.ring = json.loads(defaults)["polynomial_size"]
        self.modulus_bits = json.loads(defaults)["ciphertext_modulus_bit_count"]
        self.settings = concrete.MatmulCryptoParameters.deserialize(defaults)
        self.secret, self.packing_key = concrete.create_private_key(self.settings)
        rows, self.scale = whole(np.array(weight))
        self.head = np.ascontiguousarray(rows.T)
        self.bias = np.array(bias)
        self.state_scale = 1.0

    def encrypt(self, state: Any) -> Any:
        values, scale = whole(state[None])
        self.state_scale = scale[0]  # the client keeps it
        return concrete.encrypt_matrix(self.secret, self.settings, values)

    def score(self, sent: Any) -> Any:
        return concrete.matrix_multiplication(sent, self.head, self.packing_key)

    def decrypt(self, answer: Any) -> Any:
        found = concrete.decrypt_matrix(
            answer,
            self.secret,
            self.settings,
            num_valid_glwe_values_in_last_ciphertext=(len(self.bias) - 1) % self.ring + 1,
        )
        values = np.array(found).ravel().astype(np.int64)
        return values * (self.scale * self.state_scale) + self.bias


def whole(matrix: Any) -> tuple[Any, Any]:
    """A matrix in whole numbers, modulo 2**64 as the library takes them, and its rows' scales."""
    scale = np.abs(matrix).max(axis=1) / LARGEST
    return np.round(matrix / scale[:, None]).astype(np.int64).astype(np.uint64), scale


if __name__ == "__main__":
    main()
