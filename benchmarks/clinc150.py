"""CLINC150: accuracy native, through a map, and encrypted.

    python benchmarks/clinc150.py

Needs the real models and data (LINALIGN_SHARED) and the extra `export`.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
from common import data, exported, publish

from linalign_lite import (
    Client,
    Head,
    HiddenStates,
    Provider,
    evaluate,
    extract,
    fit,
    keygen,
    load_model,
    read_texts,
    train_head,
)
from linalign_lite.encrypt.parameters import precision_bits

MODELS = ("all-minilm-l6-v2", "tinystories-656k", "stories260k")
Parts = dict[str, HiddenStates]


def main() -> None:
    texts = {p: read_texts(data(f"clinc150_{p}.jsonl")) for p in ("train", "test")}
    states: dict[str, Parts] = {}
    heads: dict[str, dict[str, Head]] = {}
    native: list[dict[str, Any]] = []
    for name in MODELS:
        model = load_model(exported(name))
        states[name] = {p: extract(model, t) for p, t in texts.items()}
        heads[name] = {}
        for method in ("ridge", "logistic"):
            started = time.perf_counter()
            head, report = train_head(states[name]["train"], method=method)
            seconds = time.perf_counter() - started
            heads[name][method] = head
            found = evaluate(head, states[name]["test"]).accuracy
            native.append({"model": name, "method": method, "penalty": report.penalty,
                           "held_out": report.held_out_accuracy, "accuracy": found.value,
                           "low": found.low, "high": found.high, "seconds": seconds})  # fmt: skip
            print(native[-1], file=sys.stderr)
    publish("clinc150", {
        "native": native,
        "mapped": _mapped(states, heads),
        "encrypted": _encrypted(heads[MODELS[0]]["logistic"], states[MODELS[0]]["test"]),
    })  # fmt: skip


def _mapped(states: dict[str, Parts], heads: dict[str, dict[str, Head]]) -> list[dict[str, Any]]:
    """Each ordered pair: a map fit on the training texts without their labels."""
    rows = []
    for source in MODELS:
        for target in MODELS:
            if source == target:
                continue
            bare = [
                replace(states[m]["train"], labels=(), label_ids=None) for m in (source, target)
            ]
            affine, report = fit(*bare)
            row: dict[str, Any] = {
                "source": source,
                "target": target,
                "held_out_r2": report.held_out_r2,
                "penalty": report.penalty,
            }
            for method, head in heads[target].items():
                row[method] = evaluate(head, states[source]["test"], affine).accuracy.value
            rows.append(row)
    return rows


def _encrypted(head: Head, queries: HiddenStates) -> dict[str, Any]:
    """Every test query, one at a time, as a client with one question sends it."""
    client, provider = Client(keygen()[0]), Provider(head)
    plain = head(queries.states)
    times: dict[str, list[float]] = {"encrypt": [], "score": [], "decrypt": []}
    scores, sizes = [], (0, 0)
    for row in queries.states:
        clock = [time.perf_counter()]
        query = client.encrypt(HiddenStates(row[None], queries.space), n_outputs=head.n_outputs)
        clock.append(time.perf_counter())
        response = provider.score(query)
        clock.append(time.perf_counter())
        scores.append(client.decrypt(response, query).values[0])
        clock.append(time.perf_counter())
        for name, seconds in zip(times, np.diff(clock), strict=True):
            times[name].append(1e3 * float(seconds))
        sizes = len(query.to_bytes()), len(response.to_bytes())
    got = np.array(scores)
    total = [sum(t) for t in zip(*times.values(), strict=True)]
    return {
        "queries": len(got), "dim": int(queries.states.shape[1]), "classes": head.n_outputs,
        "same_argmax": int((got.argmax(1) == plain.argmax(1)).sum()),
        "max_abs_error": float(np.abs(got - plain).max()),
        "precision_bits": precision_bits(plain, got),
        "median_ms": {k: statistics.median(v) for k, v in times.items()},
        "median_total_ms": statistics.median(total),
        "query_bytes": sizes[0], "response_bytes": sizes[1],
    }  # fmt: skip


if __name__ == "__main__":
    main()
