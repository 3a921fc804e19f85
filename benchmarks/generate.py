"""Tokens per second: two models through a map, one by itself, and transformers' `generate`.

    python benchmarks/generate.py [--tokens 100] [--prompts 4] [--rounds 7] [--threads 1]

Prompts from validation stories, greedy, the same number of tokens, alternating in one process.
The map is fitted for the target's token head on the training stories (`kl.py` measures its
quality; made once and kept): the text decides how many source tokens one target token is, and so
the speed. Needs the real models (LINALIGN_SHARED) and the extra `bench`.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import SHARED, cached, data, exported, publish, ratio, side_by_side
from kl import STORIES, pairs, token_head

from linalign_lite import AffineMap, Model, load_model, read_texts
from linalign_lite.alignment.kl.divergence_fit import fit_kl
from linalign_lite.generation.hybrid import generate

DIRECTIONS = (("260k", "656k"), ("656k", "260k"))
OPENING = 60  # characters of a story that are a prompt, up to the end of a word


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    import torch

    stories = read_texts(data("tinystories_valid.txt"), separator="<|endoftext|>").texts
    prompts = [story[: story.rindex(" ", 0, OPENING)] for story in stories[: args.prompts]]
    torch.set_num_threads(args.threads)
    models = {n: load_model(exported(STORIES[n]), threads=args.threads) for n in STORIES}
    rows = [
        compare(
            models[a],
            models[b],
            fitted(a, b),
            prompts,
            args.tokens,
            args.rounds,
            SHARED / "models" / STORIES[a],
        )
        for a, b in DIRECTIONS
    ]
    publish("generate", {"prompts": len(prompts), "tokens": args.tokens, "rounds": args.rounds,
                         "threads": args.threads, "pairs": rows})  # fmt: skip


def fitted(source: str, target: str) -> AffineMap:
    """The map for the target's token head; made once and kept in the cache."""
    return cached(
        f"{source}-{target}.kl.map.npz",
        lambda: fit_kl(*pairs(source, target, "train"), token_head(target))[0],
    )


def compare(
    source: Model,
    target: Model,
    affine: AffineMap,
    prompts: Sequence[str],
    tokens: int,
    rounds: int,
    original: Path,
) -> dict[str, Any]:
    """One direction. "native" and "transformers" are the source by itself, with its own head.

    original: the source's folder of transformers.
    """
    made: dict[str, list[int]] = {}
    read: dict[str, int] = {}

    def ours(
        name: str, reads: Model, speaks: Model, through: AffineMap | None
    ) -> Callable[[], None]:
        head, endless = speaks.token_head(), _endless(speaks)  # loaded once, as theirs is

        def call() -> None:
            made[name], read[name] = [], 0
            for prompt in prompts:
                said = generate(
                    reads, endless, prompt, affine=through, max_tokens=tokens, head=head
                )
                made[name] += [piece.token for piece in said if piece.token is not None]
                read[name] += said.summary.tokens_read if said.summary else 0

        return call

    theirs, alone = _transformers(source, prompts, tokens, original)
    calls = {
        "hybrid": ours("hybrid", source, target, affine),
        "native": ours("native", source, source, None),
        "transformers": theirs,
    }
    runs = Runs(source.session)
    ours("hybrid", replace(source, session=runs), target, affine)()
    calls["floor"] = runs.again
    for call in calls.values():
        call()
    count = {**{name: len(found) for name, found in made.items()}, "transformers": len(alone),
             "floor": len(made["hybrid"])}  # fmt: skip
    seconds = side_by_side(calls, rounds)
    each = {name: [s / count[name] for s in found] for name, found in seconds.items()}
    return {
        "source": source.card.name, "target": target.card.name, "made": count, "read": read,
        "tokens_per_second": {n: 1 / statistics.median(each[n]) for n in calls},
        "native_times_transformers": ratio(each["transformers"], each["native"]),
        "hybrid_times_transformers": ratio(each["transformers"], each["hybrid"]),
        "hybrid_times_native": ratio(each["native"], each["hybrid"]),
        "hybrid_share_of_floor": ratio(each["floor"], each["hybrid"]),
        "native_is_transformers": made["native"] == alone,
    }  # fmt: skip


class Runs:
    """A session that remembers what it was asked, to be asked again."""

    def __init__(self, session: Any) -> None:
        self._session, self._asked = session, list[Any]()

    def get_outputs(self) -> Any:
        return self._session.get_outputs()

    def run_with_ort_values(self, outputs: Any, feeds: Any) -> Any:
        self._asked.append((outputs, feeds))
        return self._session.run_with_ort_values(outputs, feeds)

    def again(self) -> None:
        for outputs, feeds in self._asked:
            self._session.run_with_ort_values(outputs, feeds)


def _endless(model: Model) -> Model:
    """The model without an end of text: every call makes as many tokens."""
    special = {**model.card.special, "eos": None}
    return replace(model, card=replace(model.card, special=special, eos_token_ids=()))


def _transformers(
    source: Model, prompts: Sequence[str], tokens: int, folder: Path
) -> tuple[Callable[[], list[int]], list[int]]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = [tokenizer(prompt, return_tensors="pt") for prompt in prompts]
    model.generation_config.eos_token_id = None  # every call makes as many tokens

    def call() -> list[int]:
        made: list[int] = []
        for each in inputs:
            prompt = {k: each[k] for k in ("input_ids", "attention_mask")}
            said = model.generate(**prompt, do_sample=False, use_cache=True, max_new_tokens=tokens,
                                  pad_token_id=source.card.special.get("pad"),
                                  top_p=None, top_k=None, temperature=None)  # fmt: skip
            made += said[0, prompt["input_ids"].shape[1] :].tolist()
        return made

    return call, call()


if __name__ == "__main__":
    main()
