"""Maps from public texts alone for a classifier of intents: what helps, and what does not.

    python benchmarks/public_only.py

MiniLM and EmbeddingGemma (prompt "Classification"), both directions, CLINC150's test texts, and
logistic heads trained on the target's own training texts. Maps are fitted on at most 20,000 public
sentences (captions, encyclopaedia) and on sentences made of the names of the 150 labels, which
whoever may ask the classifier knows: six patterns each, repeated so that they count more. No text
of CLINC150 is used. States are kept in the cache. Needs the models and data (LINALIGN_SHARED,
LINALIGN_REAL) and the extra `bench`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from common import PROMPTS, PUBLISHED, cached, data, exported, publish

from linalign_lite import (
    AffineMap,
    Head,
    HiddenStates,
    Texts,
    evaluate,
    extract,
    fit,
    load_model,
    read_texts,
    train_head,
)
from linalign_lite.alignment.kl.divergence_fit import fit_kl

PUBLIC, FEWER = 20_000, 5_000
FOLDERS = {**PUBLISHED, "656k": "tinystories-656k", "260k": "stories260k"}
PATTERNS = ("{}", "help me with {}", "i want to know about {}", "tell me the {} please",
            "can you {}", "what is my {}")  # fmt: skip
NEAREST = 5  # label sentences that the nearness of a public text is the mean of


def main() -> None:
    publish("public_only", {
        "public": PUBLIC, "label_sentences": len(label_sentences()),
        "pairs": [pair("MiniLM", "EmbeddingGemma"), pair("EmbeddingGemma", "MiniLM")],
    })  # fmt: skip


def pair(source: str, target: str) -> dict[str, Any]:
    head, test = head_of(target), states(source, "test")
    row: dict[str, Any] = {
        "source": source, "target": target, "tried": {},
        "native": evaluate(head, states(target, "test")).accuracy.value,
        "own": evaluate(head_of(source), test).accuracy.value,
    }  # fmt: skip
    for name, make in variants(source, target, head).items():
        began = time.perf_counter()
        affine = make()
        seconds = time.perf_counter() - began
        found = evaluate(head, test, affine=affine).accuracy
        row["tried"][name] = {"accuracy": found.value, "low": found.low, "high": found.high,
                              "seconds": seconds}  # fmt: skip
        print(f"{source} to {target}, {name}: {found.value:.4f}", file=sys.stderr)
    return row


def variants(source: str, target: str, head: Head) -> dict[str, Callable[[], AffineMap]]:
    some = np.random.default_rng(0).permutation(PUBLIC)[:FEWER]
    near = nearness(source)
    nearest = np.argsort(-near)[:FEWER]

    def rows(kept: Any = slice(None), repeats: int = 0) -> tuple[HiddenStates, HiddenStates]:
        x, y = (
            HiddenStates(
                np.concatenate([states(m, "public").states[kept]]
                               + [states(m, "labels").states] * repeats),
                space=states(m, "public").space,
            )
            for m in (source, target)
        )  # fmt: skip
        return x, y

    return {
        "ridge, 5,000": lambda: fit(*rows(some))[0],
        "ridge": lambda: fit(*rows())[0],
        "ridge, penalty 0.1": lambda: fit(*rows(), penalty=0.1)[0],
        "Procrustes": lambda: fit(*rows(), method="procrustes")[0],
        "ridge, the 5,000 nearest to the label sentences": lambda: fit(*rows(nearest))[0],
        "ridge, label sentences": lambda: fit(*rows(repeats=1))[0],
        "ridge, label sentences 5 times": lambda: fit(*rows(repeats=5))[0],
        "ridge, label sentences 20 times": lambda: fit(*rows(repeats=20))[0],
        "ridge, nearest, label sentences 5 times": lambda: fit(*rows(nearest, 5))[0],
        "kl": lambda: fit_kl(*rows(), head)[0],
        "kl, weighted by nearness": lambda: fit_kl(*rows(), head, weights=np.exp(10 * near))[0],
        "kl, label sentences": lambda: fit_kl(*rows(repeats=1), head)[0],
        "kl, label sentences 5 times": lambda: fit_kl(*rows(repeats=5), head)[0],
        "kl, nearest, label sentences 5 times": lambda: fit_kl(*rows(nearest, 5), head)[0],
    }


def nearness(model: str) -> Any:
    """Mean cosine of each public text to its nearest label sentences, centred, (n,)."""
    public, labels = (states(model, part).states for part in ("public", "labels"))
    a, b = (x - public.mean(axis=0) for x in (public, labels))
    cosines = (a / np.linalg.norm(a, axis=1, keepdims=True)) @ (
        b / np.linalg.norm(b, axis=1, keepdims=True)
    ).T
    return np.sort(cosines, axis=1)[:, -NEAREST:].mean(axis=1)


def label_sentences() -> list[str]:
    names = [name.replace("_", " ") for name in head_of("MiniLM").labels]
    return [pattern.format(name) for name in names for pattern in PATTERNS]


@cache
def head_of(model: str) -> Head:
    return cached(
        f"{FOLDERS[model]}.clinc150.head.npz",
        lambda: train_head(states(model, "train"), method="logistic")[0],
    )


def first_half(text: str) -> str:
    """The first half of the words, at least one."""
    words = text.split()
    return " ".join(words[: (len(words) + 1) // 2])


@cache
def states(model: str, part: str) -> HiddenStates:
    def make() -> HiddenStates:
        if part == "labels":
            texts = Texts(tuple(label_sentences()))
        elif part.startswith("public"):
            texts = Texts(read_texts(data("generic_sentences.jsonl"), limit=PUBLIC).texts)
            if part == "public, halved":
                texts = Texts(tuple(first_half(text) for text in texts.texts))
        else:
            texts = read_texts(data(f"clinc150_{part}.jsonl"))
        return extract(load_model(exported(FOLDERS[model])), texts, prompt=PROMPTS.get(model))

    return cached(f"{FOLDERS[model]}.public_only.{part}.states.npz", make)


if __name__ == "__main__":
    main()
