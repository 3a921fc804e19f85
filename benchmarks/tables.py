"""Write the README's tables from benchmarks/results/*.json.

python benchmarks/tables.py            # write
python benchmarks/tables.py --check    # exit with 1 when the README says something else
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from common import RESULTS, ROOT

README = ROOT / "README.md"
SHORT = {"all-minilm-l6-v2": "MiniLM-L6", "tinystories-656k": "TinyStories-656K",
         "stories260k": "stories260K"}  # fmt: skip


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def accuracy() -> str:
    """Native and mapped accuracy: each model's head, and each other model's states before it."""
    found = load("clinc150")
    native = {(r["model"], r["method"]): r["accuracy"] for r in found["native"]}
    rows = [
        [SHORT[r["source"]], SHORT[r["target"]], f"{r['ridge']:.3f}",
         f"{native[r['target'], 'ridge']:.3f}", f"{r['logistic']:.3f}",
         f"{native[r['target'], 'logistic']:.3f}", f"{r['held_out_r2']:.2f}"]
        for r in found["mapped"]
    ]  # fmt: skip
    head = ["states of", "head of", "ridge head, mapped", "native", "logistic head, mapped",
            "native", "held-out R² of the map"]  # fmt: skip
    return table(head, rows)


def encrypted() -> str:
    found = load("clinc150")["encrypted"]
    ms = found["median_ms"]
    rows = [
        ["queries, dimensions, classes",
         f"{found['queries']:,}, {found['dim']}, {found['classes']}"],
        ["same answer as without encryption", f"{found['same_argmax']:,} of {found['queries']:,}"],
        ["largest error of a score",
         f"{found['max_abs_error']:.1e} ({found['precision_bits']:.0f} bits of precision)"],
        ["encrypt + score + decrypt one query, median",
         f"{ms['encrypt']:.1f} + {ms['score']:.1f} + {ms['decrypt']:.1f} ms"],
        ["query, response", f"{found['query_bytes'] / 1e3:.0f} kB, "
                            f"{found['response_bytes'] / 1e3:.0f} kB"],
        ["evaluation keys", "none"],
    ]  # fmt: skip
    return table(["CLINC150 test set, MiniLM-L6 and its logistic head", ""], rows)


def private() -> str:
    """One private query against TenSEAL's own calls."""
    rows = [
        [f"{r['dim']}, {r['classes']}", f"{r['ours_ms']:.1f} ms", f"{r['dot_ms']:.0f} ms",
         f"{r['matmul_ms']:.0f} ms",
         f"{r['dot_4096_ms']:.0f} ms ({r['max_abs_error']['dot_4096']:.0e})",
         f"{min(r['dot_over_ours']['median'], r['matmul_over_ours']['median']):.0f}",
         f"{r['query_bytes'] / 1e3:.0f} + {r['response_bytes'] / 1e3:.0f} kB",
         f"{r['peer_query_bytes'] / 1e3:.0f} kB, keys of {r['peer_context_bytes'] / 1e6:.1f} MB"]
        for r in load("encrypt")["shapes"]
    ]  # fmt: skip
    head = ["dimensions, classes", "linalign-lite", "TenSEAL `dot` per class", "TenSEAL `matmul`",
            "`dot` at 4096 (error)", "times faster than the better at 8192", "query + response",
            "TenSEAL's query"]  # fmt: skip
    return table(head, rows)


def speed() -> str:
    rows = [
        [r["set"], f"{r['ours_per_second']:,.0f}", f"{r['sentence_transformers_per_second']:,.0f}",
         f"{r['ratio']['median']:.1f} ({r['ratio']['min']:.1f} to {r['ratio']['max']:.1f})",
         f"{r['min_cosine']:.6f}"]
        for r in load("extract")["sets"]
    ]  # fmt: skip
    head = ["texts", "linalign-lite, texts/s", "sentence-transformers (torch), texts/s",
            "ratio (range)", "smallest cosine between the two"]  # fmt: skip
    return table(head, rows)


def start() -> str:
    medians = load("start")["median_seconds"]
    return table(["", "seconds, median"], [[f"`{k}`", f"{v:.2f}"] for k, v in medians.items()])


def machine() -> str:
    found = load("clinc150")["machine"]
    versions = found["versions"]
    names = ("numpy", "onnxruntime", "tenseal", "torch", "sentence-transformers")
    listed = ", ".join(f"{n} {versions[n]}" for n in names if n in versions)
    cpu = f"{found['cores']} cores of an {found['cpu']}"
    return f"Measured on {cpu}, Python {found['python']}, {listed}."


TABLES = {f.__name__: f for f in (accuracy, encrypted, private, speed, start, machine)}


def render(text: str) -> str:
    """The README with every table made anew."""

    def one(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", one, text, flags=re.DOTALL)


def main() -> int:
    text = README.read_text(encoding="utf-8")
    made = render(text)
    if "--check" in sys.argv:
        print("README agrees with the results" if made == text else "README is out of date")
        return int(made != text)
    README.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
