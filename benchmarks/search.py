"""Measure encrypted search of an index: one query at growing numbers of rows; a peer; Cranfield.

    python benchmarks/search.py [--quick] [--rows 1000,10000,...] [--rounds 3] [--akita PYTHON]
                                [--cranfield] [--again] [--dim 384] [--mbit 100] [--threads 1]
                                [--unproven] [--clusters 4]

Sizes: vectors around 2,000 centres, without a network. Each step runs in a process of its own,
--rounds times, each time for another query: the least seconds by processor time, those of the
clock, the peak of memory; bytes; the share of the first ten of exact search that is found.

--clusters: groups rows into about √rows clusters, of which a query names so many nearest ones
openly, with 0 none. docs/DESIGN.md has their costs.

--akita: the Python of an environment with akita-fhe 0.2.0, whose search of 12,288 plaintext rows is
taken in turn with ours, one thread each. --cranfield: nDCG@10 of MiniLM and EmbeddingGemma through
a map, encrypted and in the clear, where the client maps its queries or the provider its documents;
states are those of retrieval.py, in the cache. Needs LINALIGN_SHARED and LINALIGN_REAL.

Each result is kept in results/search.json as soon as it is there: a stopped run resumes. What is
there is not measured again, unless with --again. The sizes and the peer take some minutes each on
two cores. docs/SEARCH.md has the tables.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from common import RESULTS, ROOT, publish, ratio
from search_steps import STEPS, TOP, Clustered, Given, state_of, step

from linalign_lite import (
    AffineMap,
    Client,
    HiddenStates,
    Provider,
    PublicKey,
    SecretKey,
    fit_retrieval,
    keygen,
    open_index,
)
from linalign_lite import search as search_clear
from linalign_lite.encrypt.key_proof import load_proof, proven, save_proof
from linalign_lite.retrieval.index.building import build_index
from linalign_lite.retrieval.measures import ndcg, overlap
from linalign_lite.retrieval.search import comparable

SIZES = "1000,10000,100000,300000,1000000"
QUICK = "1000"
PEER, PEER_ROWS, PEER_DIM = "akita", 12_288, 384
PAIRS = (("MiniLM", "EmbeddingGemma"), ("EmbeddingGemma", "MiniLM"))  # client, provider
WAYS = ("queries", "documents")  # what is mapped: by the client, by the provider
Job = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one small size")
    parser.add_argument("--rows", help=f"numbers of rows; default: {SIZES}")
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--mbit", type=float, default=100.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clusters", type=int, help="nearest clusters that a query names")
    parser.add_argument("--unproven", action="store_true", help="a key without a proof")
    parser.add_argument("--akita", metavar="PYTHON")
    parser.add_argument("--cranfield", action="store_true")
    parser.add_argument("--again", action="store_true", help="also what was measured before")
    parser.add_argument("--step", nargs=2, metavar=("STEP", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(json.dumps(step(args.step[0], Path(args.step[1]), args)), flush=True)
        return
    path = RESULTS / "search.json"
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    jobs = plan(args)
    if args.again:
        runs = [found for found in runs if found["job"] not in jobs]
    known = [found["job"] for found in runs]
    for job in jobs:
        if job not in known:
            runs.append({"job": job, **run(job, args)})
            publish("search", {"runs": runs}, quiet=True)
            print(json.dumps(runs[-1]), flush=True)


def plan(args: argparse.Namespace) -> list[Job]:
    """List the jobs."""
    rows = map(int, (args.rows or (QUICK if args.quick else SIZES)).split(","))
    about: Job = {"mbit": args.mbit, "threads": args.threads, "proven": not args.unproven}
    size = about if args.clusters is None else {**about, "clusters": args.clusters}
    found: list[Job] = [{"kind": "size", "rows": n, "dim": args.dim, **size} for n in rows]
    if args.akita:
        found.append({"kind": PEER, "rows": PEER_ROWS, "dim": PEER_DIM, **about})
    if args.cranfield:
        found += [{"kind": "cranfield", "client": client, "provider": provider, "mapped": way}
                  for client, provider in PAIRS for way in WAYS]  # fmt: skip
    return found


def run(job: Job, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one job."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if job["kind"] == "cranfield":
            return cranfield(job, folder)
        began = time.perf_counter()
        made: Literal["auto"] | None = "auto" if "clusters" in job else None
        source = Clustered(job["rows"], job["dim"])
        card = build_index(source, folder / "index", clusters=made)
        size = sum(file.stat().st_size for file in (folder / "index").iterdir())
        built: dict[str, Any] = {"build_seconds": time.perf_counter() - began, "index_bytes": size,
                 "row_bits": card.row_bits}  # fmt: skip
        if card.clusters:
            built["recalls"] = {str(one.clusters): one.recall for one in card.clusters.recalls}
        make_keys(folder, proof=job["proven"])
        if job["kind"] == PEER:
            return built | beside_peer(job, folder, args)
        return built | in_steps(job, folder, args.rounds)


def make_keys(folder: Path, *, proof: bool) -> None:
    secret, public = keygen()
    secret.save(folder / "secret.key")
    public.save(folder / "public.key")
    if proof:
        save_proof(folder / "public.proof", proven(secret, public))


def in_steps(job: Job, folder: Path, rounds: int) -> dict[str, Any]:
    """Encrypt, score, decrypt, each in a process of its own; what each took, and what was found."""
    words = ["--rounds", str(rounds), "--mbit", str(job["mbit"]), "--threads", str(job["threads"])]
    if job.get("clusters") is not None:
        words += ["--clusters", str(job["clusters"])]
    took = {}
    for name in STEPS:
        command = [sys.executable, __file__, "--step", name, str(folder), *words]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        took[name] = json.loads(done.stdout.splitlines()[-1])
    about = took["encrypt"].pop("about")
    found = {name: took["decrypt"].pop(name) for name in ("overlap", "rows_scored")}
    keys = [folder / f"public.{end}" for end in ("key", "proof")]
    return {
        **about,
        **found,
        "steps": took,
        "cpu_seconds": sum(one["cpu_seconds"] for one in took.values()),
        "seconds": sum(one["seconds"] for one in took.values()),
        "query_bytes": (folder / "0.query").stat().st_size,
        "response_bytes": (folder / "0.response").stat().st_size,
        "key_bytes": sum(key.stat().st_size for key in keys if key.exists()),
    }


def beside_peer(job: Job, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The peer's search of the same vectors and ours, in turn, and the ratios of the turns."""
    script, given = ROOT / "benchmarks" / "peers" / "akita_search.py", folder / "given.npz"
    source = Clustered(job["rows"], job["dim"])
    rows = np.concatenate([batch.vectors for batch in source.batches()])
    state = state_of(0, job["dim"])
    np.savez(given, rows=comparable(rows, "cosine"), query=comparable(state, "cosine")[0])
    ours, theirs = [], []
    for _ in range(args.rounds):
        ours.append(in_steps(job, folder, 1))
        said = subprocess.run([args.akita, str(script), str(given), str(job["threads"])],
                              check=True, capture_output=True, text=True)  # fmt: skip
        theirs.append(json.loads(said.stdout.splitlines()[-1]))
    times = {
        name: ratio(*([one[name] for one in side] for side in (theirs, ours)))
        for name in ("cpu_seconds", "seconds")
    }
    least = [min(side, key=lambda one: one["cpu_seconds"]) for side in (ours, theirs)]
    return {"ours": least[0], "theirs": least[1], "ratios": times}


def cranfield(job: Job, folder: Path) -> dict[str, Any]:
    """nDCG@10 through a map, encrypted and in the clear, every query and document of Cranfield."""
    from common import data
    from retrieval import collection, states

    at = data("cranfield")
    judged = collection(at).binary()

    def of(party: str, part: str) -> HiddenStates:
        return states(job[party], "cranfield", at, part)

    queries, documents = of("client", "queries"), of("provider", "documents")
    own, theirs = of("client", "documents"), of("provider", "documents")
    affine: AffineMap | None = None
    if job["mapped"] == "queries":
        affine, _ = fit_retrieval(own, theirs)
        vectors, asked = documents.states, affine.apply(queries.states)
        space = affine.target
    else:
        back, _ = fit_retrieval(theirs, own, use="documents")
        vectors, asked, space = back.apply(documents.states), queries.states, back.target
    build_index(Given(np.asarray(vectors, np.float32), space), folder / "index")
    index = open_index(folder / "index")
    make_keys(folder, proof=True)
    secret, public = SecretKey.load(folder / "secret.key"), PublicKey.load(folder / "public.key")
    provider = Provider(index, keys=[load_proof(folder / "public.proof", public)])
    client = Client(secret, proven=True)
    began = time.process_time()
    # as an array: queries of EmbeddingGemma have another prompt than the map's and index's texts
    query = client.encrypt(queries.states, affine, index=index.card)
    response = provider.score(query)
    found = client.decrypt(response, query).top(TOP)
    took = time.process_time() - began
    rankings = {
        "encrypted": found,
        "clear": search_clear(asked, vectors, TOP)[0],
        "native": search_clear(of("provider", "queries").states, documents.states, TOP)[0],
    }
    return {
        "queries": len(queries),
        "documents": len(index),
        "row_bits": index.card.row_bits,
        "ndcg": {k: float(ndcg(r, judged.judgements, TOP).mean()) for k, r in rankings.items()},
        "overlap": float(overlap(found, rankings["clear"], TOP).mean()),
        "cpu_seconds": took,
        "query_bytes": sum(map(len, query.payloads)),
        "response_bytes": sum(map(len, response.payloads)),
    }


if __name__ == "__main__":
    main()
