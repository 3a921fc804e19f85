# python3.10 -m venv openfhe && openfhe/bin/pip install openfhe  (it has no build for Python 3.11)
"""Encrypted linear scoring with OpenFHE's CKKS: a JSON object in, a JSON object out.

    openfhe/bin/python openfhe_dot.py < query.json

In, one line: {"state": [...], "weight": [[...], ...], "bias": [...], "rounds": 5, "burst": 1}; then
a line before each round. Out: "ready" before each and after the last; times, scores, sizes.

The head is kept as encoded diagonals (packing.py), as a provider keeps it: hoisted baby steps,
giant steps, one rescaling, then the other rotations on the one prime that is left. Of what was
tried it is the fastest. `EvalInnerProduct` takes all of a sum's rotations again for every class,
and gives a ciphertext a class. Hybrid key switching, OpenFHE's default, needs ring 8192 and
rotates at a third of the speed; BV at ring 4096 is exact enough with digits of 19 bits. Depth 0,
with no prime to drop, is not to be had: decryption then refuses the result as too coarse.
"""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import openfhe as fhe
from packing import Packing, measure

FIRST, SCALE, DIGIT = 57, 51, 19  # bits of the prime that stays, of the one dropped, of a digit


def main() -> None:
    query = json.loads(sys.stdin.readline())
    peer = Peer(query["weight"], query["bias"])
    figures, sent, answer = measure(peer, query)
    result = {
        "peer": "openfhe",
        "version": fhe.__version__,
        "ring": peer.context.GetRingDimension(),
        "modulus_bits": round(math.log2(peer.context.GetModulus())),
        "security": "HEStd_128_classic",
        **figures,
        "key_bytes": len(fhe.SerializeEvalAutomorphismKeyString(fhe.BINARY)),
        "query_bytes": sum(len(fhe.Serialize(x, fhe.BINARY)) for x in sent),
        "response_bytes": len(fhe.Serialize(answer, fhe.BINARY)),
    }
    json.dump(result, sys.stdout)


class Peer:
    """Keys, the encoded head, and the three steps of a query."""

    def __init__(self, weight: list[list[float]], bias: list[float]) -> None:
        self.context = make_context()
        self.secret = self.context.KeyGen().secretKey
        self.packing = Packing(weight, self.context.GetRingDimension() // 2, cheap=3)
        self.context.EvalRotateKeyGen(self.secret, self.packing.steps)
        self.head = [
            (giant, [(baby, part, self.encode(x)) for baby, part, x in products])
            for giant, products in self.packing.products()
        ]
        self.bias = self.encode(self.packing.spread(bias), level=1)

    def encode(self, values: Any, level: int = 0) -> Any:
        return self.context.MakeCKKSPackedPlaintext(values, 1, level)

    def encrypt(self, state: Any) -> list[Any]:
        return [
            self.context.Encrypt(self.secret, self.encode(x)) for x in self.packing.repeat(state)
        ]

    def score(self, sent: list[Any]) -> Any:
        context, order = self.context, 4 * self.packing.slots
        turned = [sent]
        if self.packing.babies > 1:
            digits = [context.EvalFastRotationPrecompute(x) for x in sent]
            turned += [
                [
                    context.EvalFastRotation(x, baby, order, d)
                    for x, d in zip(sent, digits, strict=True)
                ]
                for baby in range(1, self.packing.babies)
            ]
        total = None
        for giant, products in self.head:
            inner = None
            for baby, part, factors in products:
                product = context.EvalMult(turned[baby][part], factors)
                if inner is None:
                    inner = product
                else:
                    context.EvalAddInPlace(inner, product)
            inner = context.Rescale(inner)
            if giant:
                inner = context.EvalRotate(inner, giant)
            if total is None:
                total = inner
            else:
                context.EvalAddInPlace(total, inner)
        for fold in self.packing.folds:
            context.EvalAddInPlace(total, context.EvalRotate(total, fold))
        context.EvalAddInPlace(total, self.bias)
        return total

    def decrypt(self, answer: Any) -> Any:
        plain = self.context.Decrypt(self.secret, answer)
        return plain.GetRealPackedValueArray()[self.packing.where]


def make_context() -> Any:
    """The smallest ring that 128-bit security allows to one product with a plaintext."""
    parameters = fhe.CCParamsCKKSRNS()
    parameters.SetSecurityLevel(fhe.SecurityLevel.HEStd_128_classic)
    parameters.SetMultiplicativeDepth(1)
    parameters.SetFirstModSize(FIRST)
    parameters.SetScalingModSize(SCALE)
    parameters.SetScalingTechnique(fhe.ScalingTechnique.FIXEDMANUAL)
    parameters.SetKeySwitchTechnique(fhe.KeySwitchTechnique.BV)
    parameters.SetDigitSize(DIGIT)
    context = fhe.GenCryptoContext(parameters)
    features = fhe.PKESchemeFeature
    for feature in (features.PKE, features.KEYSWITCH, features.LEVELEDSHE, features.ADVANCEDSHE):
        context.Enable(feature)
    return context


if __name__ == "__main__":
    main()
