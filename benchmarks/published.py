"""Published models of 135 to 300 million parameters: extraction and generation beside transformers.

    python benchmarks/published.py [--only extract|generate] [--rounds 3] [--quick]

extract: AG News and CLINC150 test texts, mean pooling; transformers (torch, float32) runs them
sorted by length, 16 at a time, without a cache. Shares of the GEMM rate: useful operations (2 times
the weights outside the embedding, for each token; attention and padding not counted) over those of
products of the model's own shapes with 1,024 rows, by onnxruntime and by torch.
generate: both directions through a ridge map of 300 AG News training texts (made once and kept),
greedy, beside transformers' `generate`; alternating in one process, as in `generate.py`.
Needs LINALIGN_SHARED and LINALIGN_REAL, and the extra `bench`. Parts not asked for keep the
figures they have.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from common import (
    PUBLISHED,
    REAL,
    RESULTS,
    cached,
    data,
    exported,
    product_session,
    publish,
    ratio,
    side_by_side,
    timed,
)
from generate import compare

from linalign_lite import AffineMap, Model, extract, fit, load_model, read_texts
from linalign_lite.core.executor import cores
from linalign_lite.core.token_alignment import pair_states

SMOLLM, GEMMA, EMBEDDING = (PUBLISHED[n] for n in ("SmolLM2", "Gemma", "EmbeddingGemma"))
DIRECTIONS = ((GEMMA, SMOLLM), (SMOLLM, GEMMA))
SETS = {"AG News": ("agnews_test2000.jsonl", 64), "CLINC150": ("clinc150_test.jsonl", 160)}
FITTED_ON = 300  # texts
BATCH = 16  # texts that transformers runs together
ROWS = 1024  # of the products that measure the GEMM rate
OPENING = 60  # characters of a text that are a prompt, up to the end of a word
WANTED = 1.5  # times transformers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("extract", "generate"), help="keep the other's figures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="little of each; not published")
    args = parser.parse_args()
    import torch

    threads = cores(physical=True)
    torch.set_num_threads(threads)
    path, figures = RESULTS / "published.json", dict[str, Any]()
    if args.only and path.exists():
        figures = json.loads(path.read_text(encoding="utf-8"))
        figures.pop("machine")
    rounds = 1 if args.quick else args.rounds
    figures |= {"threads": threads, "rounds": rounds}
    if args.only != "generate":
        figures["extract"] = [
            row for name in (SMOLLM, GEMMA, EMBEDDING)
            for row in extraction(name, threads, rounds, quick=args.quick)
        ]  # fmt: skip
    if args.only != "extract":
        figures["generate"] = generation(threads, rounds, quick=args.quick)
    if args.quick:
        print(json.dumps(figures, indent=2))
    else:
        publish("published", figures)


def extraction(name: str, threads: int, rounds: int, *, quick: bool) -> list[dict[str, Any]]:
    """Tokens a second on each text set, and the shares of the GEMM rates."""
    model = load_model(exported(name), threads=threads)
    theirs, shapes = transformers_encoder(name, causal=bool(model.card.past))
    rates = gemm_rates(shapes, threads)
    operations = sum(2 * count * k * n for (k, n), count in shapes.items())  # of a token
    rows = []
    for label, (file, n) in SETS.items():
        texts = read_texts(data(file), limit=BATCH if quick else n).texts
        tokens = sum(len(encoded.ids) for encoded in model.encode(texts))
        calls: dict[str, Callable[[], Any]] = {
            "ours": lambda t=texts: extract(model, t, pooling="mean", normalize=False, prompt=""),
            "transformers": lambda t=texts: theirs(t),
        }
        ours, other = calls["ours"]().states, calls["transformers"]()  # and warm
        cosines = (ours * other).sum(1) / np.linalg.norm(ours, axis=1)
        seconds = side_by_side(calls, rounds)
        per_second = {who: tokens / statistics.median(s) for who, s in seconds.items()}
        rows.append({
            "model": name, "set": label, "texts": len(texts), "tokens": tokens,
            "tokens_per_second": per_second,
            "times_transformers": ratio(seconds["transformers"], seconds["ours"]),
            "least_cosine": float((cosines / np.linalg.norm(other, axis=1)).min()),
            "gemm_gflops": {who: rate / 1e9 for who, rate in rates.items()},
            "gemm_share": {
                "ours": operations * per_second["ours"] / rates["onnxruntime"],
                "transformers": operations * per_second["transformers"] / rates["torch"],
                "wanted": WANTED * operations * per_second["transformers"] / rates["onnxruntime"],
            },
        })  # fmt: skip
    return rows


def transformers_encoder(
    name: str, *, causal: bool
) -> tuple[Callable[[Sequence[str]], Any], Counter[tuple[int, int]]]:
    """A function of texts to mean states, and the number of weights of each shape (in, out)."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(REAL / name, padding_side="right")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    kind = AutoModelForCausalLM if causal else AutoModel  # AutoModel leaves Gemma's weights unread
    whole = kind.from_pretrained(REAL / name, dtype=torch.float32).eval()
    model = whole.model if causal else whole
    options = {"use_cache": False} if causal else {}

    def encode(texts: Sequence[str]) -> Any:
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out: dict[int, Any] = {}
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                rows = order[start : start + BATCH]
                feeds = tokenizer([texts[i] for i in rows], padding=True, truncation=True,
                                  return_tensors="pt")  # fmt: skip
                states = model(**feeds, **options).last_hidden_state
                mask = feeds["attention_mask"][..., None].float()
                pooled = (states * mask).sum(1) / mask.sum(1)
                out.update(zip(rows, pooled.numpy(), strict=True))
        return np.stack([out[i] for i in range(len(texts))])

    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    return encode, Counter((m.in_features, m.out_features) for m in linear)


def gemm_rates(shapes: Mapping[tuple[int, int], int], threads: int) -> dict[str, float]:
    """FLOP/s of products (ROWS, k) x (k, n) of the shapes, by onnxruntime and by torch."""
    import torch

    rng, spent, operations = np.random.default_rng(0), Counter[str](), 0.0
    for (k, n), count in shapes.items():
        weight, x = (rng.standard_normal(s, dtype=np.float32) for s in ((k, n), (ROWS, k)))
        run, w, t = (
            product_session(weight, ROWS, threads),
            torch.from_numpy(weight),
            torch.from_numpy(x),
        )
        calls: dict[str, Callable[[], Any]] = {
            "onnxruntime": lambda run=run, x=x: run.run(None, {"x": x}),
            "torch": lambda w=w, t=t: torch.mm(t, w),
        }
        for who, call in calls.items():
            timed(call, 3)
            spent[who] += count * min(timed(call, 10) for _ in range(5))
        operations += count * 2 * ROWS * k * n
    return {who: operations / seconds for who, seconds in spent.items()}


def generation(threads: int, rounds: int, *, quick: bool) -> dict[str, Any]:
    """Tokens a second in both directions."""
    tokens, count = (8, 1) if quick else (32, 2)
    texts = read_texts(data("agnews_test2000.jsonl"), limit=count).texts
    prompts = [text[: text.rindex(" ", 0, OPENING)] for text in texts]
    models = {n: load_model(exported(n), threads=threads) for n in (SMOLLM, GEMMA)}
    rows = [
        compare(models[a], models[b], fitted(models[a], models[b]), prompts, tokens, rounds,
                REAL / a)
        for a, b in DIRECTIONS
    ]  # fmt: skip
    return {"prompts": count, "tokens": tokens, "pairs": rows}


def fitted(source: Model, target: Model) -> AffineMap:
    """A ridge map of token states of AG News training texts; made once and kept in the cache."""

    def make() -> AffineMap:
        texts = read_texts(data("agnews_train5600.jsonl"), limit=FITTED_ON)
        states = [extract(m, texts, pooling="tokens") for m in (source, target)]
        return fit(*pair_states(*states, "exact"))[0]

    return cached(f"{source.card.name}-{target.card.name}.{FITTED_ON}.map.npz", make)


if __name__ == "__main__":
    main()
