"""Head-aware maps: how far past least squares, how long, how much memory, and what was tried.

    python benchmarks/kl.py [--quick] [--only tokens|classes|tried|large]

tokens: both directions of the two story models, fitted on tinystories_train, measured on
tinystories_valid at the positions where both tokenizations end. classes: CLINC150, maps fitted on
its unlabelled training texts, accuracy of the target's logistic head on test. tried: variants of
the fit in one direction, and the best possible affine map: fitted on the evaluation text itself.
large: a made head of 128,000 outputs and 4,096 dimensions. Peers: least squares (the paper's map)
in the same run on the same states.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from common import CACHE, RESULTS, cached, data, exported, publish

from linalign_lite import (
    AffineMap,
    Head,
    HiddenStates,
    Space,
    evaluate,
    extract,
    fit,
    load_model,
    read_texts,
    save,
    train_head,
)
from linalign_lite.alignment.kl.divergence_fit import fit_kl
from linalign_lite.alignment.kl.objective import Teaching
from linalign_lite.alignment.kl.validation import CLASSIFIER_TEACHING
from linalign_lite.core.metrics import cross_entropy
from linalign_lite.core.token_alignment import pair_states

STORIES = {"260k": "stories260k", "656k": "tinystories-656k"}
INTENTS = {**STORIES, "minilm": "all-minilm-l6-v2"}
PARTS = ("tokens", "classes", "tried", "large")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one direction, one pair")
    parser.add_argument("--only", choices=PARTS)
    args = parser.parse_args()
    wanted = (args.only,) if args.only else ("classes", "tried") if args.quick else PARTS
    found: dict[str, Any] = {}
    old = RESULTS / "kl.json"
    if args.only and old.exists():  # the other parts are as they were measured
        import json

        found = {k: v for k, v in json.loads(old.read_text()).items() if k in PARTS}
    for part in wanted:
        found[part] = {"tokens": tokens, "classes": classes, "tried": tried, "large": large}[part](
            args.quick
        )
    publish("kl", found)


def token_states(name: str, split: str) -> HiddenStates:
    """States of every token of the stories; made once and kept in the cache."""

    def make() -> HiddenStates:
        texts = read_texts(data(f"tinystories_{split}.txt"), separator="<|endoftext|>")
        return extract(load_model(exported(STORIES[name])), texts, pooling="tokens")

    return cached(f"{name}.{split}.tokens.states.npz", make)


def pairs(source: str, target: str, split: str, rule: str = "exact") -> Any:
    return pair_states(token_states(source, split), token_states(target, split), rule)


def token_head(name: str) -> Head:
    return load_model(exported(STORIES[name])).token_head()


def judged(affine: AffineMap, head: Head, x: HiddenStates, y: HiddenStates) -> dict[str, float]:
    """Next-token agreement with the target, and cross-entropy of the hybrid and of the target."""
    assert y.next_token is not None
    mapped, own = head(affine(x.states)), head(y.states)
    same = (mapped.argmax(axis=1) == own.argmax(axis=1)).mean()
    known = y.next_token >= 0
    truth = y.next_token[known]
    return {
        "agreement": float(same),
        "cross_entropy": cross_entropy(mapped[known], truth),
        "target_cross_entropy": cross_entropy(own[known], truth),
    }


def peak() -> float:
    """Most memory that this process had so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def tokens(_quick: bool) -> list[dict[str, Any]]:
    """Each direction in a process of its own, so that its peak memory is its own."""
    fresh = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    with fresh as runner:
        return list(runner.map(direction, ("656k", "260k"), ("260k", "656k")))


def direction(source: str, target: str) -> dict[str, Any]:
    x, y = pairs(source, target, "train")
    head, began = token_head(target), time.perf_counter()
    affine, report = fit_kl(x, y, head)
    seconds = time.perf_counter() - began
    here = peak()  # before the figures below, whose scores are held at once
    held = pairs(source, target, "valid")
    row = {
        "source": source, "target": target, "pairs": len(x), "judged": len(held[0]),
        "kl": judged(affine, head, *held), "ridge": judged(fit(x, y)[0], head, *held),
        "seconds": seconds, "peak_gb": here, "iterations": report.iterations,
        "penalty": report.penalty,
    }  # fmt: skip
    print(row, file=sys.stderr)
    return row


def intents(name: str, split: str) -> HiddenStates:
    def make() -> HiddenStates:
        texts = read_texts(data(f"clinc150_{split}.jsonl"))
        return extract(load_model(exported(INTENTS[name])), texts, pooling="mean")

    return cached(f"{name}.clinc150.{split}.states.npz", make)


def classes(quick: bool) -> list[dict[str, Any]]:
    rows = []
    directions = [("260k", "656k"), ("656k", "260k"), ("656k", "minilm"), ("260k", "minilm"),
                  ("minilm", "656k")]  # fmt: skip
    heads = {}
    for source, target in directions[:1] if quick else directions:
        if target not in heads:
            heads[target] = train_head(intents(target, "train"), method="logistic")[0]
        head, x, y = heads[target], intents(source, "train"), intents(target, "train")
        began = time.perf_counter()
        affine, report = fit_kl(x, y, head)
        seconds = time.perf_counter() - began
        test = intents(source, "test")
        plain, _ = fit_kl(x, y, head, teaching=Teaching())
        rows.append({
            "source": source, "target": target, "seconds": seconds, "penalty": report.penalty,
            "kl": evaluate(head, test, affine=affine).accuracy.value,
            "kl_plain": evaluate(head, test, affine=plain).accuracy.value,
            "ridge": evaluate(head, test, affine=fit(x, y)[0]).accuracy.value,
            "native": evaluate(head, intents(target, "test")).accuracy.value,
            "temperature": CLASSIFIER_TEACHING.temperature,
        })  # fmt: skip
        print(rows[-1], file=sys.stderr)
    return rows


def tried(_quick: bool) -> list[dict[str, Any]]:
    """One direction, one penalty, many variants."""
    source, target, penalty = "656k", "260k", 0.03
    x, y = pairs(source, target, "train")
    held, head = pairs(source, target, "valid"), token_head(target)
    rows: list[dict[str, Any]] = []

    def note(name: str, a: HiddenStates, b: HiddenStates, **options: Any) -> None:
        options = {"penalty": penalty, **options}
        affine, _ = fit_kl(a, b, head, **options)
        rows.append({"variant": name, "rows": len(a), **judged(affine, head, *held)})
        print(rows[-1], file=sys.stderr)

    rows.append({"variant": "ridge", "rows": len(x), **judged(fit(x, y)[0], head, *held)})
    for temperature, truth in ((1.0, 0.0), (0.7, 0.0), (0.5, 0.0), (0.3, 0.0), (1.0, 0.2),
                               (1.0, 1.0), (0.5, 0.2), (0.5, 0.5)):  # fmt: skip
        name = f"temperature {temperature}, truth {truth}"
        note(name, x, y, teaching=Teaching(temperature, truth))
    note("penalty 1", x, y, penalty=1.0)
    note("penalty 1e-5", x, y, penalty=1e-5)
    note("paired at first end after", *pairs(source, target, "train", "after"))
    some = np.random.default_rng(0).permutation(len(x))
    for part in (10_000, 40_000):
        note(f"{part} pairs", x.rows(some[:part]), y.rows(some[:part]), penalty="auto")
    sure = head(y.states[: len(y)]).astype(np.float32)
    sure = np.exp(sure.max(axis=1) - np.logaddexp.reduce(sure, axis=1))
    note("weighted by the target's confidence", x, y, weights=sure)
    note("bound: fitted on the evaluation text", *held, penalty=1e-6, iterations=500)
    note(
        "bound, first choice only", *held, penalty=1e-6, iterations=500, teaching=Teaching(0.3, 0.0)
    )
    note("bound, truth only", *held, penalty=1e-6, iterations=500, teaching=Teaching(1.0, 1.0))
    return rows


def large(quick: bool) -> dict[str, Any]:
    """d = 4,096, 128,000 outputs as float16 in a mapped file, 20,000 pairs; one penalty, given."""
    n, d, outputs = (2_000, 512, 16_000) if quick else (20_000, 4_096, 128_000)
    rng, path = np.random.default_rng(0), CACHE / "large.head.npz"
    weight = np.empty((outputs, d), dtype=np.float16)
    for start in range(0, outputs, 8_000):
        weight[start : start + 8_000] = rng.normal(size=(8_000, d)) * (2 / np.sqrt(d))
    CACHE.mkdir(parents=True, exist_ok=True)
    save(path, Head(weight, np.zeros(outputs, dtype=np.float16), space=Space(d)))
    del weight
    from linalign_lite import load_head

    y = rng.normal(size=(n, d)).astype(np.float32)
    turned = y @ (rng.normal(size=(d, d)) / np.sqrt(d)).astype(np.float32)
    x = (turned + rng.normal(size=(n, d))).astype(np.float16)
    y = y.astype(np.float16)
    del turned
    began, worked = time.perf_counter(), time.process_time()
    _, report = fit_kl(HiddenStates(x), HiddenStates(y), load_head(path, mapped=True),
                       penalty=0.1, iterations=1, teaching=Teaching(0.5))  # fmt: skip
    seconds, here = time.perf_counter() - began, peak()
    worked = time.process_time() - worked  # of all threads: other processes change it little
    Path(path).unlink()
    return {"n": n, "d": d, "outputs": outputs, "seconds": seconds, "peak_gb": here,
            "processor_seconds": worked,
            "iterations": report.iterations, "start_divergence": report.start_divergence,
            "held_out_divergence": report.held_out_divergence}  # fmt: skip


if __name__ == "__main__":
    main()
