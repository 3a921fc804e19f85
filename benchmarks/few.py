"""Maps for few texts of the right kind, beside many public ones: six pairs, four data sets.

    python benchmarks/few.py [--quick]

Few: 128 and 512 seeded training texts without their labels. Public: 20,000 sentences. The head is
the target's own logistic head, made from its labelled training states. Measured: its accuracy on
the test texts, read through each map, and its agreement: how often it chooses as on the target's
own states, which is what a map without labels can be fitted for. Peers: the paper's map (ridge) on
either side alone and on both, and kl on either side alone. Rows that an interrupted run has made
are kept in the cache and not made again; --fresh makes all anew.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from common import CACHE, cached, data, exported, publish

from linalign_lite import (
    AffineMap,
    Head,
    HiddenStates,
    extract,
    fit,
    fit_kl,
    fit_with_few,
    load_model,
    read_texts,
    train_head,
)

MODELS = {"minilm": "all-minilm-l6-v2", "656k": "tinystories-656k", "260k": "stories260k"}
FILES = {
    "clinc150": ("clinc150_train", "clinc150_test"),
    "trec": ("trec_train", "trec_test"),
    "sst2": ("sst2_train", "sst2_test"),
    "agnews": ("agnews_train5600", "agnews_test2000"),
}
COUNTS = (128, 512)
ALONE = ("ridge_public", "ridge_few", "kl_public", "kl_few")
PUBLIC = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="CLINC150, MiniLM to 656K only")
    parser.add_argument("--fresh", action="store_true", help="take up no interrupted run")
    args = parser.parse_args()
    pairs = [(s, t) for s in MODELS for t in MODELS if s != t]
    wanted = [(d, s, t) for d in FILES for s, t in pairs]
    if args.quick:
        wanted = [("clinc150", "minilm", "656k")]
    kept = CACHE / "few.rows.json"
    made = json.loads(kept.read_text()) if kept.exists() and not args.fresh else {}
    rows = []
    for case in wanted:
        for count in COUNTS:
            key = " ".join([*case, str(count)])
            if key not in made:
                made[key] = measured(*case, count)
                kept.write_text(json.dumps(made))
                print(made[key], file=sys.stderr, flush=True)
            rows.append(made[key])
    publish("few-quick" if args.quick else "few", {"public": PUBLIC, "rows": rows})


@cache
def states(model: str, part: str) -> HiddenStates:
    """Mean-pooled states, made once and kept in the cache: part is DATA.train, .test or public."""
    name, _, split = part.partition(".")

    def make() -> HiddenStates:
        if split:
            texts = read_texts(data(f"{FILES[name][split == 'test']}.jsonl"))
        else:
            texts = read_texts(data("generic_sentences.jsonl"), limit=PUBLIC)
        return extract(load_model(exported(MODELS[model])), texts, pooling="mean")

    return cached(f"{model}.{part}.states.npz", make)


@cache
def head_of(model: str, name: str) -> Head:
    return cached(
        f"few.{model}.{name}.head.npz",
        lambda: train_head(states(model, f"{name}.train"), method="logistic")[0],
    )


@cache
def public_map(source: str, target: str, name: str) -> tuple[AffineMap, AffineMap]:
    """Evaluate maps of the public texts alone: by least squares, and for the head."""
    x, y = (states(m, f"generic{PUBLIC}") for m in (source, target))
    return fit(x, y)[0], fit_kl(x, y, head_of(target, name))[0]


def sample(model: str, name: str, count: int) -> HiddenStates:
    """The same few training texts for every model, without labels."""
    whole = states(model, f"{name}.train")
    chosen = np.sort(np.random.default_rng(0).permutation(len(whole))[:count])
    return replace(whole.rows(chosen), labels=(), label_ids=None)


def right(head: Head, test: HiddenStates, affine: AffineMap | None = None) -> Any:
    """Return True for each test text that the head classifies correctly, (n,)."""
    assert test.label_ids is not None
    guess = head.predict(test.states if affine is None else affine(test.states))
    return np.array(head.labels)[guess] == np.array(test.labels)[test.label_ids]


def gain(kinds: dict[str, Any], alone: tuple[str, ...]) -> dict[str, Any]:
    """Gain in accuracy of kl on both sides over the best of ``alone``: mean, standard error."""
    best = max(alone, key=lambda kind: kinds[kind].mean())
    more = kinds["kl_both"].astype(float) - kinds[best]
    return {"best": best, "mean": float(more.mean()),
            "error": float(more.std() / np.sqrt(len(more)))}  # fmt: skip


def measured(name: str, source: str, target: str, count: int) -> dict[str, Any]:
    head = head_of(target, name)
    public = states(source, f"generic{PUBLIC}"), states(target, f"generic{PUBLIC}")
    few = sample(source, name, count), sample(target, name, count)
    maps = dict(zip(("ridge_public", "kl_public"), public_map(source, target, name), strict=True))
    maps["ridge_few"] = fit(*few)[0]
    maps["ridge_both"], squares = fit_with_few(*public, *few)
    maps["kl_few"] = fit_kl(*few, head)[0]
    began = time.perf_counter()
    maps["kl_both"], report = fit_with_few(*public, *few, head=head)
    seconds = time.perf_counter() - began
    test = states(source, f"{name}.test")
    hits = {kind: right(head, test, affine) for kind, affine in maps.items()}
    own = head.predict(states(target, f"{name}.test").states)
    agree = {kind: head.predict(affine(test.states)) == own for kind, affine in maps.items()}
    return {
        "data": name,
        "source": source,
        "target": target,
        "few": count,
        "test": len(test),
        **{kind: float(found.mean()) for kind, found in hits.items()},
        "native": float(right(head, states(target, f"{name}.test")).mean()),
        "agreement": {kind: float(found.mean()) for kind, found in agree.items()},
        "over_ridge": gain(hits, ALONE[:2]),
        "over_alone": gain(hits, ALONE),
        "agreement_over_alone": gain(agree, ALONE),
        "seconds": seconds,
        "ridge_weight": squares.as_card()["few_weight"],
        "weight": report.as_card()["few_weight"],
        "losses": {k: v for k, v in report.as_card().items() if k.endswith(("loss", "error"))},
    }


if __name__ == "__main__":
    main()
