"""Search across models: maps chosen from held-out texts beside plain ones and isotrieve's.

    python benchmarks/retrieval.py [--collection NAME=FOLDER ...] [--isotrieve PYTHON]

MiniLM (256 tokens at most) and EmbeddingGemma (512, prompts of queries and documents), Cranfield,
every grade counted as 1. Maps are fitted on the corpus's own documents and, for ours, two
pseudo-queries of each; or on public sentences alone: 5,000 and 10,000 with the prompt of queries,
20,000 with that of classification (`public_only.py`). No method sees a query or a judgement. Mapped
queries search the other model's documents; mapped documents are searched by its queries.

--collection: another collection in BEIR's layout, for which nothing was tuned. The published
figures have construction-faq: the 503 English questions and answers of the package
zaragoza-construction-faq 1.2.1 (CC BY 4.0, DOI 10.5281/zenodo.19630803), questions as queries, each
judged to be answered by its own answer. --isotrieve: the Python of an environment with isotrieve
0.4.0, whose ridge and low-rank maps are fitted on the same arrays, with its own defaults; its
Procrustes refuses different dimensions. Its gate judges a map of 80 % of the documents on the rest.

States are kept in the cache; EmbeddingGemma takes half an hour on two cores. Each pair of models is
kept in results/retrieval.json as soon as it is there: a stopped run resumes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from common import PUBLISHED, RESULTS, ROOT, cached, data, exported, publish

import linalign_lite as la
from linalign_lite.retrieval.evaluation import DOCUMENTS, NATIVE_TARGET, QUERIES

PAIRS = (("MiniLM", "EmbeddingGemma"), ("EmbeddingGemma", "MiniLM"))
LENGTHS = {"MiniLM": 256, "EmbeddingGemma": 512}
# public texts by kind: prompt, and how many
PUBLIC = {"public 5,000, query prompt": 5_000, "public 10,000, query prompt": 10_000,
          "public 20,000, classification prompt": 20_000}  # fmt: skip
USES = ("queries", "documents")
K = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collection", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--isotrieve", metavar="PYTHON")
    args = parser.parse_args()
    folders = {"cranfield": data("cranfield")} | dict(c.split("=", 1) for c in args.collection)
    path = RESULTS / "retrieval.json"
    kept = json.loads(path.read_text()) if path.exists() else {"native": {}, "rows": []}
    native, rows = kept["native"], kept["rows"]
    for name, folder in folders.items():
        native[name] = native.get(name) or {m: of_native(name, folder, m) for m in LENGTHS}
    jobs = [(n, "documents", pair) for n in folders for pair in PAIRS]
    jobs += [("cranfield", kind, pair) for kind in PUBLIC for pair in PAIRS]
    for name, kind, (source, target) in jobs:
        about = {"collection": name, "fitted_on": kind, "source": source, "target": target}
        if any(about.items() <= row.items() for row in rows):
            continue
        for row in of_pair(name, folders[name], kind, (source, target), args.isotrieve):
            rows.append(about | row)
            values = (f"{row[use]['ndcg']['value']:.4f}" for use in USES)
            print(*about.values(), row["method"], *values, file=sys.stderr)
        publish("retrieval", {"native": native, "rows": rows})  # after each: they take minutes


def of_pair(
    name: str, folder: str, kind: str, pair: tuple[str, str], peer: str | None
) -> list[dict[str, Any]]:
    """Ridge, Procrustes, isotrieve's maps and the chosen ones, measured on a collection."""
    pseudo = None
    if kind == "documents":
        x, y = (states(m, name, folder, "documents").states for m in pair)
        pseudo = tuple(states(m, name, folder, "pseudo").states for m in pair)
    else:
        x, y = (public(m, kind).states for m in pair)
    q, d = (states(pair[0], name, folder, part).states for part in USES)
    found: list[tuple[dict[str, Any], Any, Any]] = []
    for method in ("ridge", "procrustes"):
        affine, _ = la.fit(x, y, method=method)
        found.append(({"method": method}, affine(q), affine(d)))
    if peer is not None:
        found += theirs(peer, x, y, q, d)
    began = time.perf_counter()
    maps = {use: la.fit_retrieval(x, y, pseudo=pseudo, use=use) for use in USES}
    chosen = {use: report.as_card() for use, (_, report) in maps.items()}
    about = {"method": "chosen", "chosen": chosen, "seconds": time.perf_counter() - began}
    found.append((about, maps["queries"][0](q), maps["documents"][0](d)))
    return [a | measured(name, folder, pair[1], (mq, md)) for a, mq, md in found]


def theirs(python: str, x: Any, y: Any, q: Any, d: Any) -> list[tuple[dict[str, Any], Any, Any]]:
    """isotrieve's maps, fitted in its own environment, of queries and documents; its gate."""
    script = ROOT / "benchmarks" / "peers" / "isotrieve_maps.py"
    with tempfile.TemporaryDirectory() as folder:
        given, made = Path(folder) / "in.npz", Path(folder) / "out.npz"
        np.savez(given, x=x, y=y, queries=q, documents=d)
        said = subprocess.run([python, str(script), str(given), str(made)],
                              check=True, capture_output=True, text=True).stdout  # fmt: skip
        gate = json.loads(said.splitlines()[-1])
        with np.load(made) as arrays:
            return [
                ({"method": f"isotrieve {m}", "gate": gate},
                 arrays[f"{m} queries"], arrays[f"{m} documents"])
                for m in ("ridge", "low-rank")
            ]  # fmt: skip


def measured(name: str, folder: str, model: str, mapped: tuple[Any, Any]) -> dict[str, Any]:
    """nDCG, its difference from the target's own, overlap and recall, of both directions."""
    target = tuple(states(model, name, folder, part).states for part in USES)
    report = la.evaluate_retrieval(mapped, target, unchanged(target[0].shape[1]),
                                   collection(folder).binary(), k=K)  # fmt: skip
    return {
        use: {
            "ndcg": asdict(r.measures[f"ndcg@{K}"]),
            "difference": asdict(r.difference) if r.difference else None,
            "overlap": r.measures[f"overlap@{K}"].value,
            "recall": r.measures[f"recall@{K}"].value,
        }
        for use, r in zip(USES, (report.rankings[QUERIES], report.rankings[DOCUMENTS]), strict=True)
    }


def unchanged(dim: int) -> la.AffineMap:
    return la.AffineMap(np.eye(dim), np.zeros(dim))


def of_native(name: str, folder: str, model: str) -> dict[str, Any]:
    """nDCG of a model alone."""
    q, d = (states(model, name, folder, part).states for part in ("queries", "documents"))
    graded = collection(folder).binary()
    report = la.evaluate_retrieval((q, d), (q, d), unchanged(d.shape[1]), graded, k=K)
    return asdict(report.rankings[NATIVE_TARGET].measures[f"ndcg@{K}"])


@cache
def collection(folder: str) -> la.Collection:
    return la.read_collection(folder)


@cache
def states(model: str, name: str, folder: str, part: str) -> la.HiddenStates:
    found = collection(folder)
    texts = {"queries": found.queries, "documents": found.documents}.get(part)
    texts = found.pseudo_queries() if texts is None else texts
    return extracted(model, f"retrieval.{name}.{part}", texts,
                     "document" if part == "documents" else "query")  # fmt: skip


@cache
def public(model: str, kind: str) -> la.HiddenStates:
    if "classification" in kind:  # of public_only.py
        from public_only import states as public_states

        return public_states(model, "public")
    texts = la.read_texts(data("generic_sentences.jsonl"), limit=PUBLIC[kind]).texts
    return extracted(model, f"retrieval.public.{len(texts)}", texts, "query")


def extracted(model: str, name: str, texts: tuple[str, ...], prompt: str) -> la.HiddenStates:
    def make() -> la.HiddenStates:
        loaded = la.load_model(exported(PUBLISHED[model]))
        wanted = prompt if prompt in loaded.card.prompts else None
        return la.extract(loaded, texts, prompt=wanted, max_length=LENGTHS[model])

    return cached(f"{PUBLISHED[model]}.{name}.states.npz", make)


if __name__ == "__main__":
    main()
