"""Extraction speed against sentence-transformers (torch), same texts, same run, same vectors.

    python benchmarks/extract.py [--texts 2000] [--rounds 5]

Needs the real models and data (LINALIGN_SHARED) and the extra `bench`.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np
from common import SHARED, data, exported, publish, ratio, side_by_side

from linalign_lite import extract, load_model, read_texts
from linalign_lite.metrics import mean_cosine

MODEL = "all-minilm-l6-v2"
SETS = {"CLINC150": "clinc150_test.jsonl", "AG News": "agnews_test2000.jsonl"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    from sentence_transformers import SentenceTransformer

    ours, theirs = load_model(exported(MODEL)), SentenceTransformer(
        str(SHARED / "models" / MODEL), device="cpu"
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    for name, file in SETS.items():
        texts = list(read_texts(data(file), limit=args.texts).texts)
        calls = {
            "ours": lambda texts=texts: extract(ours, texts),
            "theirs": lambda texts=texts: theirs.encode(texts, show_progress_bar=False),
        }
        a, b = extract(ours, texts).states, np.asarray(theirs.encode(texts))
        cosines = (
            np.einsum("ij,ij->i", a, b) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        )
        seconds = side_by_side(calls, args.rounds)
        rows.append({
            "set": name, "texts": len(texts),
            "ours_per_second": len(texts) / statistics.median(seconds["ours"]),
            "sentence_transformers_per_second": len(texts) / statistics.median(seconds["theirs"]),
            "ratio": ratio(seconds["theirs"], seconds["ours"]),
            "mean_cosine": mean_cosine(a, b), "min_cosine": float(cosines.min()),
        })  # fmt: skip
    publish("extract", {"model": MODEL, "rounds": args.rounds, "sets": rows})


if __name__ == "__main__":
    main()
