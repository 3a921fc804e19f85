"""CLINC150: accuracy native, through a map, and encrypted.

    python benchmarks/clinc150.py

Needs the real models and data (LINALIGN_SHARED) and the extra `export`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import data, exported, publish

from linalign_lite import (
    PRIVATE,
    TRUSTED,
    Client,
    Head,
    HiddenStates,
    Parameters,
    Provider,
    Query,
    evaluate,
    extract,
    fit,
    keygen,
    load_model,
    read_texts,
    train_head,
)
from linalign_lite.encrypt.key_proof import proven
from linalign_lite.encrypt.precision import precision_bits

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
        "encrypted": [
            _encrypted(heads[MODELS[0]]["logistic"], states[MODELS[0]]["test"], profile)
            for profile in (PRIVATE, TRUSTED)
        ],
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
                row[method] = evaluate(head, states[source]["test"], affine=affine).accuracy.value
            rows.append(row)
    return rows


def _encrypted(head: Head, queries: HiddenStates, profile: Parameters) -> dict[str, Any]:
    """Every test query: one at a time, as a client with one question sends it, and all at once."""
    secret, public = keygen(profile)
    if profile.private:  # all at once share ciphertexts under a proven key alone
        public = proven(secret, public)
    client = Client(secret, proven=profile.private)
    provider = Provider(head, keys=[public], accept=[profile])
    plain = head(queries.states)
    times: dict[str, list[float]] = {"encrypt": [], "score": [], "decrypt": []}
    scores, best, sizes = [], [], (0, 0)
    for row in queries.states:
        clock = [time.perf_counter()]
        query = client.encrypt(HiddenStates(row[None], queries.space), n_outputs=head.n_outputs)
        clock.append(time.perf_counter())
        response = provider.score(query)
        clock.append(time.perf_counter())
        decrypted = client.decrypt(response, query)
        clock.append(time.perf_counter())
        scores.append(decrypted.values[0])
        best.append(decrypted.predictions()[0])
        for name, seconds in zip(times, np.diff(clock), strict=True):
            times[name].append(1e3 * float(seconds))
        sizes = len(query.to_bytes()), len(response.to_bytes())
    total = [sum(t) for t in zip(*times.values(), strict=True)]
    return {
        "profile": profile.name, "queries": len(plain), "dim": int(queries.states.shape[1]),
        "classes": head.n_outputs,
        **_agreement(np.array(scores), np.array(best), plain),
        "median_ms": {k: statistics.median(v) for k, v in times.items()},
        "median_total_ms": statistics.median(total),
        "mean_total_ms": statistics.mean(total),
        "query_bytes": sizes[0], "response_bytes": sizes[1],
        "bulk": _bulk(client, provider, head, queries, statistics.mean(total), sizes[1]),
    }  # fmt: skip


def _bulk(
    client: Client, provider: Provider, head: Head, queries: HiddenStates, single: float, sent: int
) -> dict[str, Any]:
    """All queries in shared ciphertexts, through files; the median of three rounds."""
    n, rounds = len(queries), []
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "all.query", Path(folder) / "all.response"
        for workers in (1, 1, 1, 2, 2, 2):
            clock = [time.perf_counter()]
            client.encrypt_to(asked, queries, n_outputs=head.n_outputs)
            clock.append(time.perf_counter())
            provider.score_file(asked, answered, workers=workers)
            clock.append(time.perf_counter())
            scores = client.decrypt_from(answered, asked)
            clock.append(time.perf_counter())
            rounds.append((workers, *np.diff(clock).tolist()))
        query_bytes, response_bytes = asked.stat().st_size, answered.stat().st_size
        layout = Query.load(asked).info.layout
    steps = np.array([r[1:] for r in rounds if r[0] == 1])
    best = sorted(steps.tolist(), key=sum)[1]
    two = statistics.median(r[2] for r in rounds if r[0] == 2)
    return {
        "packing": layout.packing, "batch": layout.batch, "chunks": layout.chunks,
        **_agreement(scores.values, scores.predictions(), head(queries.states)),
        "seconds": dict(zip(("encrypt", "score", "decrypt"), best, strict=True)),
        "score_seconds_two_processes": two,
        "ms_per_query": 1e3 * sum(best) / n,
        "times_faster_than_single": single * n / (1e3 * sum(best)),
        "query_bytes_each": query_bytes / n, "response_bytes_each": response_bytes / n,
        "response_bytes_of_single": response_bytes / n / sent,
    }  # fmt: skip


def _agreement(got: Any, best: Any, plain: Any) -> dict[str, Any]:
    return {
        "same_argmax": int((best == plain.argmax(1)).sum()),
        "max_abs_error": float(np.abs(got - plain).max()),
        "precision_bits": precision_bits(plain, got),
    }


if __name__ == "__main__":
    main()
