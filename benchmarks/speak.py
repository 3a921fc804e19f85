"""One published model reads, another's token head speaks: SmolLM2-135M and Gemma 3 270M.

    python benchmarks/speak.py [--quick] [--costs]

Both directions, ridge and kl maps. Fitted on the exact token pairs of 1,600 public texts (AG News'
training texts and encyclopaedia); judged on texts that no map has seen: AG News' test texts, other
encyclopaedia texts and the instructions below, 17 prompts of each continued greedily, without and
with a repetition penalty. "bound": kl on 1,600 of AG News' test texts, the judged ones among them:
about the most that an affine map can do there. Each fit runs in a process of its own, so that its
peak memory is its own. Each map is kept in the cache and each direction in results/speak.json as
soon as it is there: a stopped run resumes. docs/SAMPLES.md gets samples, whole. --costs: time and
memory of both kl fits on 20,000 of the pairs, on a machine that does nothing else. Needs the models
and data (LINALIGN_SHARED, LINALIGN_REAL) and the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
from common import CACHE, PUBLISHED, RESULTS, ROOT, cached, data, exported, publish

from linalign_lite import (
    AffineMap,
    Model,
    Texts,
    extract,
    fit,
    load_map,
    load_model,
    read_texts,
    save,
)
from linalign_lite.alignment.kl.divergence_fit import fit_kl
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.token_alignment import pair_states
from linalign_lite.generation.evaluation.judge_map import judge
from linalign_lite.generation.evaluation.sampled_texts import draw_prompts, sample
from linalign_lite.generation.evaluation.teacher_forcing import make_hybrid

DIRECTIONS = (("Gemma", "SmolLM2"), ("SmolLM2", "Gemma"))
NEWS, PROSE = 900, 700  # public texts
PAIRS = 20_000  # of which the cost of a fit is measured
JUDGED = 60  # texts of each kind
PROMPTS, TOKENS = 17, 48
PROMPT = 60  # characters
PENALTY = 1.2  # of repetition, for samples beside the greedy ones
INSTRUCTIONS = (
    "Explain to a child of eight years why the sky is blue during the day and red in the evening.",
    "Write a short letter to a neighbour who has watered your plants while you were on holiday.",
    "List five things that one should check before buying a used bicycle from a stranger online.",
    "Describe how to make a simple vegetable soup for four people with what is in a usual kitchen.",
    "Give three reasons why a small company may want to keep its data on computers of its own.",
    "Summarise in two sentences what a library does for the people who live in the town around it.",
    "Tell a story of a lighthouse keeper who finds a message in a bottle on a winter morning.",
    "Compare travelling by train with travelling by plane for somebody who is not in a hurry.",
    "What should a student do in the last week before an examination in mathematics, and why?",
    "Name some common mistakes that people make when they learn to swim, and how to avoid them.",
    "Explain what a battery is, how it stores energy, and why it becomes weaker over the years.",
    "Suggest a plan for a rainy Sunday with two children, without a screen and without much money.",
    "How does a seed become a tree? Answer in simple words, step by step, from soil to leaves.",
    "Write the opening paragraph of a detective story that begins in the kitchen of a hotel.",
    "Describe the work of a nurse at night, in the words of somebody who has done it for years.",
    "Give advice to a friend who wants to learn to play the guitar but has little time for it.",
    "Why do ships made of steel float on the water, although a nail of steel sinks at once?",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few texts, for a look; not published")
    parser.add_argument("--costs", action="store_true", help="time and memory of the kl fits alone")
    args = parser.parse_args()
    quick, path = args.quick, RESULTS / "speak.json"
    kept = {"directions": []} if quick or not path.exists() else json.loads(path.read_text())
    done = kept["directions"]
    if args.costs:
        kept["costs"] = [in_own_process(cost, *pair) for pair in DIRECTIONS]
        publish("speak", {k: v for k, v in kept.items() if k != "machine"})
        return
    for source, target in DIRECTIONS:
        if not any((r["source"], r["target"]) == (source, target) for r in done):
            done.append(direction(source, target, quick))
            keep(kept, quick)
    for row in done:
        if "bound" not in row:
            row["bound"] = judged_map(row["source"], row["target"], "bound", quick)
            keep(kept, quick)


def keep(found: dict[str, Any], quick: bool) -> None:
    """Show what was found, and write results and samples."""
    print(json.dumps(found["directions"][-1], indent=2), file=sys.stderr)
    if not quick:
        publish("speak", {k: v for k, v in found.items() if k != "machine"})
        (ROOT / "docs" / "SAMPLES.md").write_text(
            samples_page(found["directions"]), encoding="utf-8"
        )


def direction(source: str, target: str, quick: bool) -> dict[str, Any]:
    maps = {name: judged_map(source, target, name, quick) for name in ("ridge", "kl")}
    return {"source": source, "target": target, "maps": maps}


def judged_map(source: str, target: str, name: str, quick: bool) -> dict[str, Any]:
    """A map of public texts ("ridge", "kl"), or kl of the judged kind ("bound"), judged."""
    models = [load_model(exported(PUBLISHED[n])) for n in (source, target)]
    stem = f"{source}-{target}.{name}{'.quick' if quick else ''}"
    if not (CACHE / f"{stem}.json").exists():
        fitted_with = in_own_process(fitted, source, target, name, stem, quick)
        (CACHE / f"{stem}.json").write_text(json.dumps(fitted_with))
    affine = load_map(CACHE / f"{stem}.map.npz")
    found: dict[str, Any] = json.loads((CACHE / f"{stem}.json").read_text())
    prompts = 0 if name == "ridge" else 2 if quick else PROMPTS
    for kind, texts in judged(quick).items():
        if name == "bound" and kind != "news":
            continue
        judgement = judge(
            *models, affine, texts, samples=prompts, sample_tokens=TOKENS, prompt_characters=PROMPT
        )
        found[kind] = asdict(judgement)
        if name == "kl":
            found[kind]["penalised"] = penalised(*models, affine, texts, prompts)
    return found


def penalised(
    source: Model, target: Model, affine: AffineMap, texts: Texts, prompts: int
) -> dict[str, Any]:
    """Quality of samples of the same prompts with a repetition penalty, the target's too."""
    opened = draw_prompts(texts.texts, prompts, PROMPT, 0)
    hybrid = make_hybrid(source, target, affine, None)
    return asdict(sample(hybrid, opened, TOKENS, PENALTY, lambda _: None))


def in_own_process(call: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """Call a function in a fresh process, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as runner:
        return runner.submit(call, *args).result()


def fitted(source: str, target: str, objective: str, stem: str, quick: bool) -> dict[str, Any]:
    """Fit and save one map; the number of its pairs."""
    part = "judged" if objective == "bound" else "public"
    x, y = pair_states(*(token_states(n, part, quick) for n in (source, target)))
    head = load_model(exported(PUBLISHED[target])).token_head()
    affine, report = fit(x, y) if objective == "ridge" else fit_kl(x, y, head)
    save(CACHE / f"{stem}.map.npz", affine)
    return {"pairs": len(x), "outputs": head.n_outputs, "penalty": report.penalty}


def cost(source: str, target: str) -> dict[str, Any]:
    """Time and memory of a kl fit, states and head in memory, from a fresh process."""
    x, y = pair_states(*(token_states(n) for n in (source, target)))
    some = np.random.default_rng(0).permutation(len(x))[:PAIRS]
    x, y = x.rows(some), y.rows(some)
    head = load_model(exported(PUBLISHED[target])).token_head()
    began, cpu = time.perf_counter(), time.process_time()
    _, report = fit_kl(x, y, head)
    return {
        "source": source, "target": target, "pairs": PAIRS, "outputs": head.n_outputs,
        "seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu,
        "held_out": report.held_out_divergence, "ridge": report.start_divergence,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }  # fmt: skip


def token_states(name: str, part: str = "public", quick: bool = False) -> HiddenStates:
    """States of every token of the public texts, or of the judged kind; kept in the cache."""

    def make() -> HiddenStates:
        model = load_model(exported(PUBLISHED[name]))
        texts = public(quick) if part == "public" else own(quick)
        return extract(model, texts, pooling="tokens", max_length=256)

    part = f"{part}.quick" if quick else part
    return cached(f"{PUBLISHED[name]}.{part}.tokens.states.npz", make)


def own(quick: bool) -> Texts:
    """AG News' test texts, those that are judged among them: what no map may see but the bound."""
    return read_texts(data("agnews_test2000.jsonl"), limit=40 if quick else NEWS + PROSE)


def public(quick: bool) -> Texts:
    news = read_texts(data("agnews_train5600.jsonl"), limit=40 if quick else NEWS).texts
    return Texts((*news, *prose()[: 20 if quick else PROSE]))


def prose() -> list[str]:
    """Encyclopaedia texts, the captions left out."""
    rows = read_texts(data("generic_sentences.jsonl"))
    found = zip(rows.texts, rows.labels, strict=True)
    texts = [text for text, label in found if label != "snli" and len(text) > 2 * PROMPT]
    return [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]


def judged(quick: bool) -> dict[str, Texts]:
    count = 4 if quick else JUDGED
    return {
        "news": read_texts(data("agnews_test2000.jsonl"), limit=count),
        "prose": Texts(tuple(prose()[PROSE : PROSE + count])),
        "instructions": Texts(INSTRUCTIONS[:count]),
    }


def samples_page(directions: list[dict[str, Any]]) -> str:
    """docs/SAMPLES.md: the first samples of each kind, whole."""
    lines = [
        "# Samples of generation across models",
        "",
        "Greedy continuations by `benchmarks/speak.py`, the first ones of each kind of prompt, not",
        f"chosen; at most {TOKENS} tokens. Hybrid: one model reads, an affine map fitted for the",
        "other's token head (kl) lets that head speak. The first two lines of each are greedy, the",
        f"others have `--repetition-penalty {PENALTY}`. The figures are in [FIGURES](FIGURES.md).",
    ]
    for row in directions:
        lines += ["", f"## {row['source']} reads, {row['target']} speaks"]
        for kind in ("news", "prose", "instructions"):
            greedy = row["maps"]["kl"][kind]
            for pair in zip(greedy["examples"], greedy["penalised"]["examples"], strict=True):
                lines += ["", f"**{kind}:** {' '.join(pair[0]['prompt'].split())}", ""]
                lines += [
                    f"- {who}{how}: {' '.join(e[which].split())}"
                    for how, e in zip(("", ", with the penalty"), pair, strict=True)
                    for who, which in (("hybrid", "hybrid"), (f"{row['target']} alone", "target"))
                ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
