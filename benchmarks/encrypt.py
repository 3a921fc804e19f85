"""One private query in both profiles, against TenSEAL's own calls and other libraries.

    python benchmarks/encrypt.py [--rounds 20] [--quick] [--peers FOLDER]

Same states, same heads, same run, calls alternating; every figure is a median of 20 rounds or more.
A round makes TenSEAL's calls (47 ms to 22 s each) once; this library's, the floors and NumPy, which
take milliseconds, 10 times in a row. All of it takes 17 minutes. TenSEAL runs at ring degree 8192
with primes of 60, 40 and 60 bits, its usual ones, which give smaller errors, and encrypts
symmetrically, as this library does: `matmul` once for all classes, `dot` once per class, and
elementwise products that the client decrypts and sums. This library keeps the head encoded between
queries, as a provider does; TenSEAL's calls encode it each time. The other peers (benchmarks/peers)
keep theirs encoded too; each runs in an environment of its own, FOLDER/NAME/bin/python; a missing
one is named.

Two floors: a plain NumPy product, and what SEAL needs in the same layout for the bare encryptions,
products, masks and decryptions, without anything being saved, loaded or sent.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tenseal as ts
import tenseal.sealapi as api
from common import RESULTS, ROOT, publish, ratio, side_by_side, timed

from linalign_lite import PRIVATE, TRUSTED, Client, Head, Parameters, Provider, keygen

SHAPES = ((384, 2), (384, 150), (768, 20), (1024, 4), (2048, 20), (4096, 20))
PEERS = ("openfhe", "pyfhel", "concrete")
BURST = 10  # ours, the floors and NumPy: calls timed together in each round


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="two shapes, three slow rounds")
    parser.add_argument("--peers", type=Path, default=os.environ.get("LINALIGN_PEERS"))
    parser.add_argument("--shape", help="one of the shapes, as 384,2; the others' figures stay")
    parser.add_argument("--peers-only", action="store_true", help="all other figures stay")
    args = parser.parse_args()
    shapes = SHAPES[:1] + SHAPES[2:3] if args.quick else SHAPES
    found: list[dict[str, Any]] = []
    if args.peers_only:
        for shape in json.loads((RESULTS / "encrypt.json").read_text(encoding="utf-8"))["shapes"]:
            state, head = question_of(shape["dim"], shape["classes"])
            ours = {"private": Ours(PRIVATE, head, state)}
            found.append(
                {**shape, "peers": other_peers(state, head, args.rounds, args.peers, ours)}
            )
        publish("encrypt", {"rounds": args.rounds, "shapes": found})
        return
    if args.shape:
        shapes = tuple(s for s in SHAPES if f"{s[0]},{s[1]}" == args.shape)
        kept = json.loads((RESULTS / "encrypt.json").read_text(encoding="utf-8"))["shapes"]
        found = [s for s in kept if (s["dim"], s["classes"]) not in shapes]
    for dim, classes in shapes:
        print(f"{dim} dimensions, {classes} classes", file=sys.stderr)
        slow = 3 if args.quick else args.rounds
        found.append(one(dim, classes, args.rounds, slow, args.peers))
    found.sort(key=lambda s: SHAPES.index((s["dim"], s["classes"])))
    publish("encrypt", {"rounds": args.rounds, "shapes": found})


class Ours:
    """One profile's client and provider, and a query's three steps."""

    def __init__(self, parameters: Parameters, head: Head, state: Any) -> None:
        secret, self.public = keygen(parameters)
        self.client, self.parameters = Client(secret), parameters
        self.provider = Provider(head, keys=[self.public], accept=[parameters])
        self.state, self.classes = state, head.n_outputs
        self.answers()

    def answers(self) -> None:
        self.query = self.client.encrypt(self.state[None], n_outputs=self.classes)
        self.response = self.provider.score(self.query)
        self.scores = self.client.decrypt(self.response, self.query).values[0]

    def steps(self) -> dict[str, Callable[[], Any]]:
        """Each step alone."""
        return {
            "encrypt": lambda: self.client.encrypt(self.state[None], n_outputs=self.classes),
            "score": lambda: self.provider.score(self.query),
            "decrypt": lambda: self.client.decrypt(self.response, self.query),
        }

    def floor(self) -> Callable[[], Any]:
        """SEAL's own work, in CKKS, for the same layout and nothing around it."""
        layout, settings = self.query.info.layout, api.EncryptionParameters(api.SCHEME_TYPE.CKKS)
        settings.set_poly_modulus_degree(layout.degree)
        settings.set_coeff_modulus([api.Modulus(p) for p in self.parameters.primes])
        context = api.SEALContext(settings, True, api.SEC_LEVEL_TYPE.TC128)
        generator, public, asked = api.KeyGenerator(context), api.PublicKey(), api.Ciphertext()
        generator.create_public_key(public)
        encoder = api.CKKSEncoder(context)
        encryptor = api.Encryptor(context, generator.secret_key())
        evaluator = api.Evaluator(context)
        decryptor, masker = (
            api.Decryptor(context, generator.secret_key()),
            api.Encryptor(context, public),
        )
        slots = np.random.default_rng(0).normal(size=layout.degree // 2).tolist()
        plain, row, out = api.Plaintext(), api.Plaintext(), api.Plaintext()
        scale = 2.0 ** (self.parameters.query_bits // 2)
        encoder.encode(slots, 2.0**10, row)
        row.scale = 1.0
        encoder.encode(slots, scale, plain)
        encryptor.encrypt_symmetric(plain, asked)
        products = layout.products(self.classes)

        def call() -> None:
            for _ in range(layout.chunks):
                encoder.encode(slots, scale, plain)
                encryptor.encrypt_symmetric(plain)
            for _ in range(products):
                total, term, zero = api.Ciphertext(), api.Ciphertext(), api.Ciphertext()
                evaluator.multiply_plain(asked, row, total)
                for _ in range(layout.chunks - 1):
                    evaluator.multiply_plain(asked, row, term)
                    evaluator.add_inplace(total, term)
                total.scale = 1.0
                if self.parameters.private:
                    masker.encrypt_zero(zero)
                    zero.scale = 1.0
                    evaluator.add_inplace(total, zero)
                decryptor.decrypt(total, out)
                encoder.decode_complex(out)

        return call


def tenseal_calls(state: Any, head: Head) -> tuple[Any, dict[str, Any]]:
    """A context at 8192, and what it is asked to do. Answers come back under each call's name."""
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        poly_modulus_degree=8192,
        coeff_mod_bit_sizes=[60, 40, 60],
        encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
    )
    context.global_scale = 2.0**40
    context.generate_galois_keys()
    columns, rows, bias = head.weight.T.tolist(), head.weight.tolist(), head.bias.tolist()
    answers: dict[str, Any] = {"context": context}

    def matmul() -> None:
        answers["matmul"] = (ts.ckks_vector(context, state).matmul(columns) + bias).decrypt()

    def dot() -> None:
        asked = ts.ckks_vector(context, state)
        answers["dot"] = [
            asked.dot(row).add([b]).decrypt()[0] for row, b in zip(rows, bias, strict=True)
        ]

    def client_sum() -> None:
        asked = ts.ckks_vector(context, state)
        answers["client_sum"] = [
            sum((asked * row).decrypt()) + b for row, b in zip(rows, bias, strict=True)
        ]

    return answers, {"dot": dot, "client_sum": client_sum, "matmul": matmul}


def question_of(dim: int, classes: int) -> tuple[Any, Head]:
    """A state of norm 1, and a head."""
    rng = np.random.default_rng(dim + classes)
    state = rng.normal(size=dim)
    state /= np.linalg.norm(state)
    return state, Head(rng.normal(size=(classes, dim)), rng.normal(size=classes))


def one(dim: int, classes: int, rounds: int, slow: int, peers: Path | None) -> dict[str, Any]:
    state, head = question_of(dim, classes)
    exact = head.weight @ state + head.bias
    ours = {p.name: Ours(p, head, state) for p in (PRIVATE, TRUSTED)}
    answers, theirs = tenseal_calls(state, head)
    calls: dict[str, Callable[[], Any]] = {name: o.answers for name, o in ours.items()}
    calls |= {f"{name}_floor": o.floor() for name, o in ours.items()}
    calls["numpy"] = lambda: head.weight @ state + head.bias
    side_by_side(calls, 2)  # the head is encoded, caches are warm
    number = dict.fromkeys(calls, BURST)
    times = side_by_side({**calls, **theirs}, slow, number)
    fast = side_by_side(calls, max(rounds, 20), number)
    medians = {name: 1e3 * statistics.median(found) for name, found in (times | fast).items()}
    profiles = {}
    for name, o in ours.items():
        steps = side_by_side(o.steps(), max(rounds, 20), dict.fromkeys(o.steps(), BURST))
        profiles[name] = {
            "ms": medians[name],
            "floor_ms": medians[f"{name}_floor"],
            "over_floor": ratio(fast[name], fast[f"{name}_floor"]),
            "steps_ms": {k: 1e3 * statistics.median(v) for k, v in steps.items()},
            "times_faster": {k: medians[k] / medians[name] for k in theirs},
            "times_faster_in_turn": {k: ratio(times[k], times[name]) for k in theirs},
            "max_abs_error": float(np.abs(o.scores - exact).max()),
            "query_bytes": len(o.query.to_bytes()),
            "response_bytes": len(o.response.to_bytes()),
            "public_key_bytes": len(o.public.to_bytes()),
            "chunks": o.query.info.chunks,
            "products": o.query.info.layout.products(classes),
        }
    context = answers["context"]
    asked = ts.ckks_vector(context, state)
    return {
        "dim": dim,
        "classes": classes,
        "tenseal_rounds": slow,
        "ours": profiles,
        "numpy_ms": medians["numpy"],
        "tenseal": {
            "ms": {k: medians[k] for k in theirs},
            "max_abs_error": {k: float(np.abs(np.array(answers[k]) - exact).max()) for k in theirs},
            "query_bytes": len(asked.serialize()),
            "key_bytes": len(context.serialize(False, False, True, False)),
            "response_bytes": {
                "matmul": len(asked.matmul(head.weight.T.tolist()).serialize()),
                "dot": classes * len(asked.dot(head.weight[0].tolist()).serialize()),
                "client_sum": classes * len((asked * head.weight[0].tolist()).serialize()),
            },
        },
        "peers": other_peers(state, head, rounds, peers, ours),
    }


def other_peers(
    state: Any, head: Head, rounds: int, peers: Path | None, ours: dict[str, Ours]
) -> list[dict[str, Any]]:
    """Each in its own process; its rounds and ours in turn, with as many queries in each."""
    found = []
    question = {
        "state": state.tolist(),
        "weight": head.weight.tolist(),
        "bias": head.bias.tolist(),
        "rounds": max(rounds, 20),
        "burst": BURST,
    }
    for name in PEERS:
        python = Path(peers) / name / "bin" / "python" if peers else None
        if python is None or not python.exists():
            print(f"  {name} is left out: no environment for it", file=sys.stderr)
            continue
        command = [python, ROOT / "benchmarks" / "peers" / f"{name}_dot.py"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, **pipes, text=True) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            here: list[float] = []
            process.stdin.write(json.dumps(question) + "\n")
            process.stdin.flush()
            while (line := process.stdout.readline()) == "ready\n":
                ours["private"].answers()
                here.append(timed(ours["private"].answers, BURST))
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write("\n")
                    process.stdin.flush()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            rest = line + process.stdout.read()
        if process.returncode:
            print(f"  {name} failed", file=sys.stderr)
            continue
        answer = json.loads(rest)
        answer.pop("scores")
        theirs = answer.pop("ms")
        answer |= {"median_ms": statistics.median(theirs), "ours_ms": 1e3 * statistics.median(here)}
        in_turn = [t / (1e3 * h) for t, h in zip(theirs, here, strict=False)]
        found.append({**answer, "times_faster": statistics.median(in_turn)})
    return found


if __name__ == "__main__":
    main()
