"""Tokens per second: two models through a map, one by itself, and transformers' `generate`.

    python benchmarks/generate.py [--tokens 200] [--rounds 7] [--threads 1]

Same prompt, greedy, the same number of tokens, taken in turn in one process. Speed does not depend
on what the map says, so it is a random one, scaled to keep states at their length. Needs the real
models (LINALIGN_SHARED) and the extra `bench`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from common import SHARED, data, exported, publish, ratio, side_by_side

from linalign_lite import AffineMap, Model, load_model
from linalign_lite.generation import generate

PAIRS = (("stories260k", "tinystories-656k"), ("tinystories-656k", "stories260k"))
PROMPT = "Once upon a time"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    data("")  # stops here when the real models are absent
    models = {name: load_model(exported(name), threads=args.threads) for name, _ in PAIRS}
    rows = [_compare(models[a], models[b], args.tokens, args.rounds) for a, b in PAIRS]
    publish("generate", {"prompt": PROMPT, "tokens": args.tokens, "rounds": args.rounds,
                         "threads": args.threads, "pairs": rows})  # fmt: skip


def _compare(source: Model, target: Model, tokens: int, rounds: int) -> dict[str, Any]:
    """One direction. "native" and "transformers" are the source by itself, with its own head."""
    affine, seen = _random_map(source, target), {}

    def ours(name: str, speaks: Model, through: AffineMap | None) -> Callable[[], None]:
        head, endless = speaks.token_head(), _endless(speaks)  # loaded once, as theirs is

        def call() -> None:
            said = generate(source, endless, PROMPT, affine=through, max_tokens=tokens, head=head)
            seen[name] = [piece.token for piece in said if piece.token is not None]

        return call

    theirs, alone = _transformers(source, tokens)
    calls = {
        "hybrid": ours("hybrid", target, affine),
        "native": ours("native", source, None),
        "transformers": theirs,
    }
    for call in calls.values():
        call()
    made = {name: len(found) for name, found in seen.items()} | {"transformers": tokens}
    seconds = side_by_side(calls, rounds)
    median = {name: statistics.median(s) for name, s in seconds.items()}
    return {
        "source": source.card.name, "target": target.card.name,
        "tokens": made,
        "tokens_per_second": {name: made[name] / median[name] for name in calls},
        "native_times_transformers": ratio(seconds["transformers"], seconds["native"]),
        "hybrid_times_transformers": ratio(_each(seconds, made, "transformers"),
                                           _each(seconds, made, "hybrid")),
        "hybrid_times_native": ratio(_each(seconds, made, "native"),
                                     _each(seconds, made, "hybrid")),
        "native_is_transformers": seen["native"] == alone,
    }  # fmt: skip


def _each(seconds: dict[str, list[float]], made: dict[str, int], name: str) -> list[float]:
    return [s / made[name] for s in seconds[name]]


def _endless(model: Model) -> Model:
    """The model without an end of text: every call makes as many tokens."""
    return replace(model, card=replace(model.card, special={**model.card.special, "eos": None}))


def _random_map(source: Model, target: Model) -> AffineMap:
    ends = [m.card.space("tokens", normalize=False) for m in (source, target)]
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(ends[1].dim, ends[0].dim)) / np.sqrt(ends[1].dim)
    return AffineMap(weight.astype(np.float32), np.zeros(ends[1].dim, dtype=np.float32), *ends)


def _transformers(source: Model, tokens: int) -> tuple[Callable[[], Any], list[int]]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = SHARED / "models" / source.card.name
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt")
    prompt = {k: inputs[k] for k in ("input_ids", "attention_mask")}
    model.generation_config.eos_token_id = None  # every call makes as many tokens

    def call() -> Any:
        return model.generate(**prompt, do_sample=False, use_cache=True, max_new_tokens=tokens,
                              pad_token_id=source.card.special["pad"])  # fmt: skip

    length = prompt["input_ids"].shape[1]
    return call, call()[0, length:].tolist()


if __name__ == "__main__":
    main()
