"""Maps from a few pairs, or none, and texts that only one side has: how often the partner is first.

    python benchmarks/few_pairs.py [--draws 5] [--jobs 2] [--mini-vec2vec PYTHON NOTEBOOK]
                                   [--sayings FOLDER]

20,000 public sentences: 1,000 to judge by, some pairs, and the rest split so that no text is on
both sides. MiniLM and EmbeddingGemma, SmolLM2 and Gemma (mean-pooled), both directions, with and
without the unshared texts, and CLINC150's test texts through the target's head; states that have
nothing in common, which must be refused; and 100,000 made texts a side of 768 dimensions. Each
result is kept in results/few_pairs.json as soon as it is there: a stopped run resumes. States are
those of public_only.py. --mini-vec2vec: an environment's Python and the notebook, as its script
in benchmarks/peers states; it gets the same states without pairs. --sayings: the source's unshared
texts are sayings, English ones and German ones; the folder is /usr/share/games/fortunes, where
Debian's fortunes and fortunes-de are. Needs the models and data (LINALIGN_SHARED, LINALIGN_REAL)
and the extra `bench`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import PROMPTS, RESULTS, ROOT, cached, exported, publish
from public_only import FOLDERS, PUBLIC, head_of, states

from linalign_lite import (
    AlignmentError,
    HiddenStates,
    InputError,
    evaluate,
    extract,
    fit,
    fit_unpaired,
    load_model,
)
from linalign_lite.storage.arrays import unit_rows

JUDGED = 1_000
TEXTS, WIDTH = 100_000, 768  # of made texts
PAIRS = (16, 32, 64, 4, 8, 0)
ALONE = (16, 32, 64, 256, 1_024, 2_048)
MODELS = (("MiniLM", "EmbeddingGemma"), ("EmbeddingGemma", "MiniLM"), ("SmolLM2", "Gemma"),
          ("Gemma", "SmolLM2"))  # fmt: skip
HARD = (("SmolLM2", "MiniLM"), ("Gemma", "EmbeddingGemma"))  # language models to embedders
EMBEDDERS = {"MiniLM", "EmbeddingGemma"}
STORIES = (("656k", "260k"), ("260k", "656k"), ("656k", "MiniLM"))  # models of half a million
NOTHING = ("normal", "permuted", "other texts")
DIFFER = {"other texts": 1.0, "half other texts": 0.5}  # share of the source's texts
SHORTER = "half of each text"  # of the source's texts, their first words
SAYINGS = {"English sayings": "", "German sayings": "de"}  # folders of the source's texts
SAID, SAYING = 5_000, (20, 300)  # how many; characters of one
PEER = "mini-vec2vec"
Job = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--nothing", type=int, default=50, help="runs that must be refused")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--mini-vec2vec", nargs=2, metavar=("PYTHON", "NOTEBOOK"))
    parser.add_argument("--sayings", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    path = RESULTS / "few_pairs.json"
    done = json.loads(path.read_text())["runs"] if path.exists() else []
    known = {json.dumps(run["job"]) for run in done}
    jobs = [job for job in plan(args.draws, args.nothing) if json.dumps(job) not in known]
    jobs = [job for job in jobs if job["kind"] != PEER or args.mini_vec2vec]
    jobs = [job for job in jobs if job["kind"] not in SAYINGS or args.sayings]
    for model in {job[side] for job in jobs for side in ("source", "target")} - {""}:
        states(model, "public")
    for model in {job["source"] for job in jobs if job["kind"] == SHORTER}:
        states(model, "public, halved")
    for source, kind in {(job["source"], job["kind"]) for job in jobs if job["kind"] in SAYINGS}:
        sayings(source, kind, args.sayings)
    # one thread a job: two jobs on two cores do more than two threads on one
    threads = {"OPENBLAS_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // args.jobs))}
    os.environ.update(threads)
    fresh = multiprocessing.get_context("spawn")  # a process a job: its peak memory is its own
    with fresh.Pool(args.jobs, maxtasksperchild=1) as pool:
        for found in pool.imap_unordered(partial(run, notebook=args.mini_vec2vec), jobs):
            done.append(found)
            publish("few_pairs", {"public": PUBLIC, "judged": JUDGED, "runs": done}, quiet=True)
            print(json.dumps(done[-1]), file=sys.stderr)


def plan(draws: int, nothing: int) -> list[Job]:
    def one(kind: str, pair: tuple[str, str], pairs: int, draw: int) -> Job:
        return {"kind": kind, "source": pair[0], "target": pair[1], "pairs": pairs, "draw": draw}

    found = [one("unpaired", p, n, 0) for n in PAIRS for p in MODELS]
    found += [one("unpaired", p, n, 0) for n in (16, 64, 256, 0) for p in HARD]
    found += [one("alone", p, n, 0) for p in MODELS for n in ALONE]
    kinds = itertools.cycle(NOTHING)
    refused = [one(next(kinds), MODELS[d % 2], 0, d) for d in range(nothing)]
    found += [one("scale", ("", ""), 16, 0), *refused[:12]]
    differ = (*DIFFER, SHORTER, *SAYINGS)
    found += [one(kind, p, n, 0) for kind in differ for n in (16, 64) for p in MODELS[:2]]
    found += [one("unpaired", p, n, 0) for n in (16, 64, 0) for p in STORIES]
    found += [one("alone", p, n, 0) for p in STORIES for n in ALONE]
    found += [one(PEER, p, 0, 0) for p in MODELS[:2]]
    drawn = (*PAIRS[:3], 0)
    found += [one("unpaired", p, n, d) for d in range(1, draws) for n in drawn for p in MODELS[:2]]
    found += [one("alone", p, n, d) for d in range(1, draws) for n in ALONE for p in MODELS[:2]]
    return found + refused[12:]


def run(job: Job, notebook: Sequence[str] | None = None) -> dict[str, Any]:
    """One fit, judged; or its refusal. notebook: a Python, and the peer's notebook for it."""
    if job["kind"] == "scale":
        return scale(job)
    x, y = states(job["source"], "public"), states(job["target"], "public")
    order = np.random.default_rng(job["draw"]).permutation(PUBLIC)
    judged, shared, rest = np.split(order, [JUDGED, JUDGED + job["pairs"]])
    own, theirs = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    pairs = (x.rows(shared), y.rows(shared)) if len(shared) else None
    began, found = time.perf_counter(), {}
    try:
        if job["kind"] == PEER:
            assert notebook is not None
            return {"job": job, **peer(notebook, x, y, own, theirs, judged)}
        if job["kind"] == "alone":
            assert pairs is not None
            affine, _ = fit(*pairs)
        else:
            source = without_relation(job, x, own)
            affine, report = fit_unpaired(source, y.rows(theirs), pairs, seed=job["draw"])
            found = {k: v for k, v in report.as_card().items()
                     if k in {"closeness", "partner_first", "nearer", "starts"}}  # fmt: skip
    except (AlignmentError, InputError) as e:
        if isinstance(e, InputError) and "contradict" not in str(e):
            raise
        name, _, value = e.got.partition(" ")
        close = {"closeness": float(value)} if name == "closeness" else {}
        return {"job": job, "refused": str(e), **close, "seconds": time.perf_counter() - began}
    found["seconds"] = time.perf_counter() - began
    centre = y.states[theirs].mean(axis=0)
    found |= ranked(affine(x.states[judged]) - centre, y.states[judged] - centre)
    if {job["source"], job["target"]} == EMBEDDERS and job["kind"] in {"alone", "unpaired"}:
        test = states(job["source"], "test")
        found["clinc150"] = evaluate(head_of(job["target"]), test, affine=affine).accuracy.value
    return {"job": job, **found}


def ranked(image: Any, partner: Any) -> dict[str, float]:
    """Shares of texts whose partner is the nearest by centred cosine, and among the ten nearest."""
    scores = unit_rows(image) @ unit_rows(partner).T
    rank = (scores > np.diag(scores)[:, None]).sum(axis=1)
    return {"first": float((rank == 0).mean()), "ten": float((rank < 10).mean())}


def peer(
    notebook: Sequence[str], x: HiddenStates, y: HiddenStates, own: Any, theirs: Any, judged: Any
) -> dict[str, float]:
    """mini-vec2vec's own notebook on the same states, in its own environment."""
    script = ROOT / "benchmarks" / "peers" / "mini_vec2vec_notebook.py"
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "given.npz", Path(folder) / "made.npy"
        np.savez(given, x=x.states[own], y=y.states[theirs], x_judged=x.states[judged],
                 y_judged=y.states[judged])  # fmt: skip
        command = [notebook[0], str(script), notebook[1], str(given), str(made)]
        said = subprocess.run(command, check=True, capture_output=True, text=True)
        image = np.load(made)
    partner = y.states[judged] - y.states[theirs].mean(axis=0)
    return {**json.loads(said.stdout), **ranked(image, partner)}


def scale(job: Job) -> dict[str, Any]:
    """Time and memory with many made texts, and the R² of the map on the pairs."""
    rng = np.random.default_rng(job["draw"])
    centres, sides = 2 * rng.normal(size=(500, 64)).astype(np.float32), []
    turns = [rng.normal(size=(64, WIDTH)).astype(np.float32) / 8 for _ in range(2)]
    shared = centres[rng.integers(500, size=16)] + rng.standard_normal((16, 64), np.float32)
    for turn in turns:
        latent = centres[rng.integers(500, size=TEXTS)]
        latent += rng.standard_normal(latent.shape, np.float32)
        sides.append(latent @ turn + 0.1 * rng.standard_normal((TEXTS, WIDTH), np.float32))
    pairs = shared @ turns[0], shared @ turns[1]
    began = time.perf_counter()
    affine, _ = fit_unpaired(*sides, pairs)
    seconds = time.perf_counter() - began
    rest = ((affine(pairs[0]) - pairs[1]) ** 2).sum() / (pairs[1] - pairs[1].mean(axis=0)).var()
    return {"job": job, "texts": TEXTS, "dimensions": WIDTH, "seconds": seconds,
            "r2": 1 - float(rest) / pairs[1].size,
            "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}  # fmt: skip


def sayings(model: str, kind: str, folder: Path | None = None) -> HiddenStates:
    """States of sayings in a language; folder: where they are read from the first time."""

    def make() -> HiddenStates:
        assert folder is not None
        found: dict[str, None] = {}  # in order, each once
        for path in sorted((folder / SAYINGS[kind]).iterdir()):
            if path.is_file() and not path.is_symlink() and not path.suffix:
                parts = re.split("^%$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
                found |= dict.fromkeys(" ".join(part.split()) for part in parts)
        texts = [text for text in found if SAYING[0] <= len(text) <= SAYING[1]]
        some = np.random.default_rng(0).permutation(len(texts))[:SAID]
        loaded = load_model(exported(FOLDERS[model]))
        return extract(loaded, [texts[i] for i in some], prompt=PROMPTS.get(model))

    return cached(f"{FOLDERS[model]}.few_pairs.{kind}.states.npz", make)


def without_relation(job: Job, x: HiddenStates, own: Any) -> HiddenStates:
    """The source's unshared states; made, or of other texts, where the job says so."""
    kind, rng = job["kind"], np.random.default_rng(job["draw"])
    rows = x.states[own]
    if kind == "normal":
        rows = rng.multivariate_normal(rows.mean(axis=0), np.cov(rows.T), len(rows), method="eigh")
    elif kind == "permuted":
        rows = rng.permuted(rows, axis=0)
    elif kind == SHORTER:
        rows = states(job["source"], "public, halved").states[own]
    elif kind in SAYINGS:
        rows = sayings(job["source"], kind).states
        return replace(x.rows(np.arange(len(rows))), states=rows)
    elif kind in DIFFER:
        train, count = states(job["source"], "train"), round(DIFFER[kind] * len(rows))
        others = train.states[rng.permutation(len(train))[:count]]
        rows = np.concatenate([others, rows[count:]])
    return replace(x.rows(own), states=rows.astype(np.float32))


if __name__ == "__main__":
    main()
