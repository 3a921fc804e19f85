"""Extraction speed against every peer: same texts, same run, same vectors.

    python benchmarks/extract.py [--texts 2000] [--rounds 7] [--only "AG News"|accuracy] [--quick]

sentence-transformers (torch and ONNX), fastembed and Optimum run with their own defaults; the ONNX
ones get the same float32 graph. A peer that is not installed or fails is named as failed, and the
others continue. Results are written after each text set: an interrupted run keeps what it has, and
``--only`` measures one text set, or the int8 model's accuracy, and keeps the others. Needs the real
models and data (LINALIGN_SHARED) and the extra `bench`; leave OMP_NUM_THREADS unset, or torch
has fewer threads than this library.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    CACHE,
    RESULTS,
    SHARED,
    data,
    exported,
    product_session,
    publish,
    ratio,
    side_by_side,
    timed,
)

from linalign_lite import Texts, extract, load_model, read_texts
from linalign_lite.extraction.session import Model
from linalign_lite.onnx.quantization import cosines

MODEL = "all-minilm-l6-v2"
SETS = {"CLINC150": "clinc150_test.jsonl", "AG News": "agnews_test2000.jsonl",
        "WikiText": "generic_sentences.jsonl"}  # fmt: skip
ONLY = {"WikiText": "wikitext2"}  # the label of the rows that are meant
ACCURACY = "accuracy"
Encode = Callable[[Sequence[str]], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=(*SETS, ACCURACY), help="keep the other parts' figures")
    parser.add_argument("--quick", action="store_true", help="few texts, for a look; not published")
    args = parser.parse_args()
    n, rounds = (64, 2) if args.quick else (args.texts, args.rounds)
    ours, small = load_model(exported(MODEL)), load_model(quantised())
    figures = kept() if args.only and not args.quick else {"accuracy": None, "sets": []}
    figures |= {"model": MODEL, "rounds": rounds, "threads": ours.threads}
    wanted = [name for name in SETS if args.only in {None, name}]
    if wanted:
        measured(figures, wanted, n, rounds, (ours, small), quick=args.quick)
    if args.only == ACCURACY or (args.only is None and not args.quick):
        figures["accuracy"] = accuracy(ours, small)
        save(figures, quick=args.quick)
    print("\n".join(table(figures)), file=sys.stderr)


def measured(figures: dict[str, Any], wanted: Sequence[str], n: int, rounds: int,
             models: tuple[Model, Model], *, quick: bool) -> None:  # fmt: skip
    """Measure the text sets, each saved when it is done."""
    ours, small = models
    with tempfile.TemporaryDirectory() as folder:
        calls: dict[str, Encode] = {
            "ours": lambda texts: extract(ours, texts).states,
            "ours_int8": lambda texts: extract(small, texts).states,
        }
        loaded, failed = peers(Path(folder))
        calls |= loaded
        figures["gemm_gflops"] = gemm_rate() / 1e9
        for name in wanted:
            texts = drawn(name, SETS[name], n)
            done = row(name, texts, calls, failed, ours, rounds, figures["gemm_gflops"] * 1e9)
            others = [r for r in figures["sets"] if r["set"] != name]
            figures["sets"] = sorted([*others, done], key=lambda r: list(SETS).index(r["set"]))
            save(figures, quick=quick)


def kept() -> dict[str, Any]:
    """Return the results of an earlier run, if their format is current."""
    path = RESULTS / "extract.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    sets = [r for r in found.get("sets", []) if "per_second" in r]
    return {"accuracy": None, **found, "sets": sets} if sets else {"accuracy": None, "sets": []}


def save(figures: dict[str, Any], *, quick: bool) -> None:
    if quick:
        print(json.dumps(figures, indent=2))
    else:
        publish("extract", {k: v for k, v in figures.items() if k != "machine"})


def quantised() -> Path:
    """The int8 export, made once and kept in the cache; its cosines are of CLINC150's own texts."""
    from linalign_lite.onnx.model_export import export_model

    folder = CACHE / f"{MODEL}-int8"
    if not folder.is_dir():
        texts = read_texts(data("clinc150_val.jsonl"), limit=300).texts
        export_model(str(SHARED / "models" / MODEL), folder, quantize=texts)
    return folder


def peers(folder: Path) -> tuple[dict[str, Encode], dict[str, str]]:
    """Each peer's usual call, or why there is none. ``folder`` gets the model as they want it."""
    source = SHARED / "models" / MODEL
    graph = exported(MODEL) / "model.onnx"
    for path in source.iterdir():
        (folder / path.name).symlink_to(path.resolve())
    (folder / "onnx").unlink(missing_ok=True)
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").symlink_to(graph.resolve())
    found: dict[str, Encode] = {}
    failed: dict[str, str] = {}
    for name, make in PEERS.items():
        try:
            found[name] = make(folder)
            found[name](["A text to see whether it works.", "And one more."])
        except Exception as e:  # noqa: BLE001 (whatever it is, the others are to be measured)
            found.pop(name, None)
            failed[name] = why(name, e)
    return found, failed


def why(name: str, e: Exception) -> str:
    text = f"{type(e).__name__}: {str(e)[:200]}"
    print(f"{name} failed: {text}", file=sys.stderr)
    return text


def sentence_transformers(_folder: Path) -> Encode:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(SHARED / "models" / MODEL), device="cpu")
    return lambda texts: model.encode(list(texts), show_progress_bar=False)


def sentence_transformers_onnx(folder: Path) -> Encode:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(folder), device="cpu", backend="onnx", local_files_only=True,
        model_kwargs={"file_name": "onnx/model.onnx", "provider": "CPUExecutionProvider"},
    )  # fmt: skip
    return lambda texts: model.encode(list(texts), show_progress_bar=False)


def optimum(folder: Path) -> Encode:
    """ORTModelForFeatureExtraction as its documentation shows it, 32 texts at a time, mean."""
    from optimum.onnxruntime import ORTModelForFeatureExtraction
    from transformers import AutoTokenizer

    model = ORTModelForFeatureExtraction.from_pretrained(
        str(folder), subfolder="onnx", file_name="model.onnx", local_files_only=True
    )
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)

    def encode(texts: Sequence[str]) -> Any:
        out = []
        for start in range(0, len(texts), 32):
            feeds = tokenizer(list(texts[start : start + 32]), padding=True, truncation=True,
                              max_length=256, return_tensors="np")  # fmt: skip
            states = model(**feeds).last_hidden_state
            mask = feeds["attention_mask"][..., None].astype(np.float32)
            pooled = (states * mask).sum(axis=1) / mask.sum(axis=1)
            out.append(pooled / np.linalg.norm(pooled, axis=1, keepdims=True))
        return np.concatenate(out)

    return encode


def fastembed(folder: Path) -> Encode:
    """TextEmbedding with the same model file, by its own way to name a local folder."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    name = "linalign/minilm"
    TextEmbedding.add_custom_model(
        model=name, pooling=PoolingType.MEAN, normalization=True, dim=384,
        sources=ModelSource(hf=name), model_file="onnx/model.onnx",
    )  # fmt: skip
    model = TextEmbedding(name, specific_model_path=str(folder), cuda=False)
    return lambda texts: np.stack(list(model.embed(list(texts))))


PEERS: dict[str, Callable[[Path], Encode]] = {
    "sentence_transformers": sentence_transformers,
    "sentence_transformers_onnx": sentence_transformers_onnx,
    "optimum": optimum,
    "fastembed": fastembed,
}


def drawn(name: str, file: str, n: int) -> Texts:
    """``n`` texts at random, the same each time, in random order."""
    read = read_texts(data(file))
    wanted = ONLY.get(name)
    kept = [i for i, label in enumerate(read.labels) if wanted in (None, label)]
    order = np.random.default_rng(0).permutation(len(kept))[:n]
    return Texts(tuple(read.texts[kept[i]] for i in order))


def row(name: str, texts: Texts, calls: dict[str, Encode], failed: dict[str, str], ours: Model,
        rounds: int, rate: float) -> dict[str, Any]:  # fmt: skip
    """One text set: speeds, ratios, vectors compared, and the share of the GEMM rate."""
    held, failed = texts.texts, dict(failed)
    vectors: dict[str, Any] = {}
    for who, call in calls.items():
        try:
            vectors[who] = np.asarray(call(held))  # and warm
        except Exception as e:
            if who.startswith("ours"):
                raise
            failed[who] = why(who, e)
    timing = {who: lambda c=calls[who]: c(held) for who in vectors}
    seconds = side_by_side(timing, rounds)
    by_length = sorted(held, key=len)
    ordered = side_by_side({who: lambda c=calls[who]: c(by_length) for who in vectors}, 2)
    lengths = [len(e.ids) for e in ours.encode(held)]
    useful = flops(lengths, ours)
    median = {who: statistics.median(s) for who, s in seconds.items()}
    others = [who for who in vectors if not who.startswith("ours")]
    return {
        "set": name, "texts": len(held), "tokens": sum(lengths), "rounds": rounds,
        "per_second": {who: len(held) / s for who, s in median.items()},
        "sorted_per_second": {who: len(held) / min(s) for who, s in ordered.items()},
        "ratio": {who: ratio(seconds[who], seconds["ours"]) for who in vectors if who != "ours"},
        "int8_ratio": ratio(seconds["ours"], seconds["ours_int8"]),
        "best_peer": min(others, key=lambda who: median[who], default=None),
        "gemm_share": useful / median["ours"] / rate,
        "cosine": {who: cosines(vectors["ours"], v) for who, v in vectors.items() if who != "ours"},
        "largest_difference": {who: float(np.abs(vectors[who] - vectors["ours"]).max())
                               for who in vectors if who != "ours"},
        "failed": failed,
    }  # fmt: skip


def flops(lengths: Sequence[int], model: Model) -> float:
    """Operations of the products, without padding: 2 (12 d² + 2 n d) per token and layer."""
    d, layers = model.card.hidden_size, 6
    return float(sum(2 * n * layers * (12 * d * d + 2 * n * d) for n in lengths))


def gemm_rate() -> float:
    """FLOP/s of a float32 product (1024, d) x (d, 4 d) by onnxruntime on the cores we use."""
    m, k, n = 1024, 384, 1536
    weight = np.random.default_rng(0).standard_normal((k, n)).astype(np.float32)
    session = product_session(weight, m)
    x = np.random.default_rng(1).standard_normal((m, k)).astype(np.float32)
    seconds = [timed(lambda: session.run(None, {"x": x}), 20) for _ in range(9)]
    return 2 * m * k * n / min(seconds)


def accuracy(ours: Model, small: Model) -> dict[str, float]:
    """CLINC150 test accuracy of a head trained on each model's own states."""
    from linalign_lite import train_head

    train, test = (read_texts(data(f"clinc150_{part}.jsonl")) for part in ("train", "test"))
    found = {}
    for name, model in (("fp32", ours), ("int8", small)):
        head, _ = train_head(extract(model, train))
        states = extract(model, test)
        said = np.argmax(head.apply(states.states), axis=1)
        found[name] = float(
            np.mean([head.labels[k] == states.labels[i]
                     for k, i in zip(said, states.label_ids, strict=True)])
        )  # fmt: skip
    return found


def table(figures: dict[str, Any]) -> list[str]:
    """The README's table: texts a second, and how many times ours is each peer."""
    names = {"ours": "linalign-lite", "ours_int8": "linalign-lite, int8",
             "sentence_transformers": "sentence-transformers (torch)",
             "sentence_transformers_onnx": "sentence-transformers (ONNX)",
             "optimum": "Optimum", "fastembed": "fastembed"}  # fmt: skip

    def cell(found: dict[str, Any], who: str) -> str:
        if who not in found["per_second"]:
            return "failed"
        rate = f"{found['per_second'][who]:,.0f}"
        return rate if who.startswith("ours") else f"{rate} ({found['ratio'][who]['median']:.2f})"

    sets = figures["sets"]
    lines = ["| | " + " | ".join(s["set"] for s in sets) + " |", "| --- |" + " --- |" * len(sets)]
    lines += [
        f"| {name} | " + " | ".join(cell(s, who) for s in sets) + " |"
        for who, name in names.items()
        if any(who in s["per_second"] for s in sets)
    ]
    shares = " | ".join(f"{100 * s['gemm_share']:.0f} %" for s in sets)
    return [*lines, f"| share of the GEMM rate | {shares} |"]


if __name__ == "__main__":
    main()
