"""Write the tables of README, docs/DESIGN.md and docs/FIGURES.md from benchmarks/results/*.json.

python benchmarks/tables.py            # write
python benchmarks/tables.py --check    # exit with 1 when one of them says something else
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from common import RESULTS, ROOT

PAGES = (ROOT / "README.md", ROOT / "docs" / "DESIGN.md", ROOT / "docs" / "FIGURES.md")
SHORT = {"all-minilm-l6-v2": "MiniLM-L6", "tinystories-656k": "TinyStories-656K",
         "stories260k": "stories260K"}  # fmt: skip


STORIES = {"260k": "stories260k", "656k": "tinystories-656k"}
NAMES = {**STORIES, "minilm": "all-minilm-l6-v2"}
SETS = {"clinc150": "CLINC150", "trec": "TREC", "sst2": "SST-2", "agnews": "AG News"}


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
    columns = []
    for found in load("clinc150")["encrypted"]:
        ms, bulk = found["median_ms"], found["bulk"]
        seconds = bulk["seconds"]
        columns.append([
            f"{found['same_argmax']:,} and {bulk['same_argmax']:,} of {found['queries']:,}",
            f"{max(found['max_abs_error'], bulk['max_abs_error']):.1e}"
            f" ({min(found['precision_bits'], bulk['precision_bits']):.0f} bits)",
            f"{ms['encrypt']:.1f} + {ms['score']:.1f} + {ms['decrypt']:.1f} ms",
            f"{found['query_bytes'] / 1e3:.0f} kB, {found['response_bytes'] / 1e3:.0f} kB",
            f"{seconds['encrypt']:.1f} + {seconds['score']:.1f} + {seconds['decrypt']:.1f} s"
            f" ({bulk['ms_per_query']:.2f} ms a query,"
            f" {bulk['times_faster_than_single']:.0f} times faster)",
            f"{bulk['score_seconds_two_processes']:.1f} s",
            f"{bulk['query_bytes_each'] / 1e3:.1f} kB, {bulk['response_bytes_each'] / 1e3:.1f} kB",
        ])  # fmt: skip
    names = ["same answer as without encryption, one by one and all at once",
             "largest error of a score", "one query: encrypt + score + decrypt, median",
             "one query: bytes asked, answered", "all at once: encrypt + score + decrypt",
             "all at once: score with two processes", "all at once: bytes a query"]  # fmt: skip
    found = load("clinc150")["encrypted"][0]
    title = f"{found['queries']:,} queries, {found['dim']} dimensions, {found['classes']} classes"
    rows = [[name, *cells] for name, *cells in zip(names, *columns, strict=True)]
    return table([title, "`private`", "`trusted`"], rows)


def private() -> str:
    """One private query against TenSEAL's own calls."""
    rows = []
    for r in load("encrypt")["shapes"]:
        ours, ms = r["ours"], r["tenseal"]["ms"]
        mine, theirs = ours["private"], ours["trusted"]
        faster = mine["times_faster"]
        rows.append([
            f"{r['dim']}, {r['classes']}", f"{mine['ms']:.1f} ms", f"{theirs['ms']:.1f} ms",
            f"{ms['matmul']:.0f} ms", f"{ms['dot']:.0f} ms", f"{ms['client_sum']:.0f} ms",
            f"{faster['matmul']:.0f}, {faster['dot']:.0f},"
            f" {faster['client_sum']:.1f}",
            f"{theirs['times_faster']['matmul']:.0f}",
        ])  # fmt: skip
    head = ["dimensions, classes", "ours, `private`", "ours, `trusted`", "TenSEAL `matmul`",
            "`dot` per class", "elementwise, client sums",
            "`private` times faster than these", "`trusted` than `matmul`"]  # fmt: skip
    return table(head, rows)


def floors() -> str:
    """Ours against what SEAL alone needs, by step, with bytes and errors."""
    rows = []
    for r in load("encrypt")["shapes"]:
        for name, p in r["ours"].items():
            steps = p["steps_ms"]
            pooled = f"{steps['score_pooled']:.1f} ms" if "score_pooled" in steps else ""
            rows.append([
                f"{r['dim']}, {r['classes']}", f"`{name}`",
                f"{steps['encrypt']:.1f} + {steps['score']:.1f} + {steps['decrypt']:.1f} ms",
                pooled, f"{p['over_floor']['median']:.1f}", f"{p['max_abs_error']:.0e}",
                f"{p['query_bytes'] / 1e3:.0f} + {p['response_bytes'] / 1e3:.0f} kB",
            ])  # fmt: skip
    head = ["dimensions, classes", "profile", "encrypt + score + decrypt",
            "score, zeros made ahead", "times SEAL's bare operations", "error",
            "query + response"]  # fmt: skip
    return table(head, rows)


def peers() -> str:
    """Other libraries, each with its keys."""
    rows = []
    for r in load("encrypt")["shapes"]:
        t, ours = r["tenseal"], r["ours"]["private"]
        asked = f"{(ours['query_bytes'] + ours['response_bytes']) / 1e3:.0f} kB"
        rows.append([f"{r['dim']}, {r['classes']}", "linalign-lite `private`",
                     f"{ours['ms']:.1f} ms", "1", f"{ours['max_abs_error']:.0e}", "none", asked,
                     "yes"])  # fmt: skip
        rows += [
            ["", f"{p['peer']} {p['version']}", f"{p['median_ms']:.1f} ms",
             f"{p['times_faster']:.1f}", f"{p['max_abs_error']:.0e}",
             f"{p['key_bytes'] / 1e6:.1f} MB",
             f"{(p['query_bytes'] + p['response_bytes']) / 1e3:.0f} kB", "no"]
            for p in r["peers"]
        ]  # fmt: skip
        sent = t["query_bytes"] + t["response_bytes"]["dot"]
        rows.append(["", "tenseal `dot`", f"{t['ms']['dot']:.0f} ms",
                     f"{ours['times_faster']['dot']:.0f}",
                     f"{t['max_abs_error']['dot']:.0e}", f"{t['key_bytes'] / 1e6:.1f} MB",
                     f"{sent / 1e3:.0f} kB", "no"])  # fmt: skip
    head = ["dimensions, classes", "", "one query", "over ours", "error", "evaluation keys",
            "query + response", "hides the head"]  # fmt: skip
    return table(head, rows)


def few() -> str:
    """Accuracy of logistic heads after maps from public texts, a few of the right kind, or both."""

    def shown(row: dict[str, Any], kind: str) -> str:
        return ", ".join(f"{row['maps'][f'{kind} {n}']['accuracy']:.3f}" for n in row["few"])

    rows = [
        [r["data"], r["source"], r["target"],
         f"{r['maps']['ridge public']['accuracy']:.3f}", shown(r, "ridge few"),
         shown(r, "ridge public+few"), f"{r['maps']['kl public']['accuracy']:.3f}",
         shown(r, "kl public+few"), f"{r['maps']['kl all']['accuracy']:.3f}",
         f"{r['native_target']:.3f}"]
        for r in load("survey")["few"]
    ]  # fmt: skip
    head = ["texts", "states of", "head of", "ridge: public", "few", "both", "kl: public", "both",
            "all", "native"]  # fmt: skip
    return table(head, rows)


def few_behind() -> str:
    """Where ridge on either side alone does better than kl on both, and by how much."""
    rows = []
    for r in load("survey")["few"]:
        for n in r["few"]:
            alone = {k: r["maps"][k] for k in ("ridge public", f"ridge few {n}")}
            name, better = max(alone.items(), key=lambda kv: kv[1]["accuracy"])
            ours = r["maps"][f"kl public+few {n}"]
            if better["accuracy"] >= ours["accuracy"]:
                rows.append([
                    r["data"], r["source"], r["target"], str(n),
                    f"{better['accuracy']:.3f} ({name.split()[1]})",
                    f"{ours['accuracy']:.3f} ({ours['low']:.3f} to {ours['high']:.3f})",
                ])  # fmt: skip
    head = ["texts", "states of", "head of", "few", "better ridge alone", "kl, both (95 %)"]
    return table(head, rows)


def kept() -> str:
    """What maps from a data set's own texts keep of the lower of the two native accuracies."""
    rows = [
        [r["data"], r["source"], r["target"], f"{r['kl']:.3f}", f"{r['kl_keeps']:.2f}",
         f"{r['ridge']:.3f}", f"{r['ridge_keeps']:.2f}"]
        for r in load("survey")["retention"]
    ]  # fmt: skip
    head = ["texts", "states of", "head of", "kl", "keeps", "ridge", "keeps"]
    return table(head, rows)


def surveyed() -> str:
    found = load("survey")
    whole, part = found["whole"], found["least_squares"]
    rows = [
        ["everything, from text", f"{whole['seconds'] / 60:.1f} min", f"{whole['steps']:,}"],
        ["least squares, from kept states and heads", f"{part['seconds']:.0f} s",
         f"{part['steps'] - part['from_before']:,}"],
    ]  # fmt: skip
    return table(["survey of three models, four data sets", "two cores", "steps made"], rows)


def few_tried() -> str:
    """What else was tried with few texts: accuracy, and the difference to what is done."""
    found: dict[str, list[dict[str, Any]]] = {}
    for r in load("few_tried")["rows"]:
        found.setdefault(r["variant"], []).append(r)
    rows = [
        [
            variant,
            *(f"{r['accuracy']:.3f} ({r['gain']:+.3f} ± {r['gain_error']:.3f})" for r in both),
        ]
        for variant, both in found.items()
    ]
    return table(["", "CLINC150", "TREC"], rows)


def hybrid() -> str:
    """Next-token agreement and cross-entropy through a map, least squares and head-aware."""
    rows = [
        [SHORT[STORIES[r["source"]]], SHORT[STORIES[r["target"]]],
         f"{r['ridge']['agreement']:.3f}", f"{r['ridge']['cross_entropy']:.2f}",
         f"{r['kl']['agreement']:.3f}", f"{r['kl']['cross_entropy']:.2f}",
         f"{r['kl']['target_cross_entropy']:.2f}", f"{r['seconds']:.0f} s",
         f"{1e3 * r['peak_gb']:.0f} MB"]
        for r in load("kl")["tokens"]
    ]  # fmt: skip
    head = ["reads", "speaks", "ridge: agreement", "cross-entropy", "kl: agreement",
            "cross-entropy", "speaker's own", "fit", "memory"]  # fmt: skip
    return table(head, rows)


def aware() -> str:
    """Accuracy of logistic heads after a map fitted for them."""
    rows = [
        [SHORT[NAMES[r["source"]]], SHORT[NAMES[r["target"]]], f"{r['ridge']:.3f}",
         f"{r['kl_plain']:.3f}", f"{r['kl']:.3f}", f"{r['native']:.3f}", f"{r['seconds']:.0f} s"]
        for r in load("kl")["classes"]
    ]  # fmt: skip
    head = ["states of", "head of", "ridge map", "kl", "kl, sharpened", "native", "fit"]
    return table(head, rows)


def tried() -> str:
    rows = [
        [r["variant"], f"{r['rows']:,}", f"{r['agreement']:.3f}", f"{r['cross_entropy']:.3f}"]
        for r in load("kl")["tried"]
    ]
    return table(["variant", "pairs", "agreement", "cross-entropy"], rows)


def _areas(rows: list[dict[str, Any]]) -> tuple[list[str], list[str], dict[tuple[str, str], Any]]:
    """Methods and columns in the order they were measured, and the row of each pair of them."""
    names = {**STORIES, "minilm": "all-minilm-l6-v2"}
    found = {}
    for r in rows:
        of = SHORT[names[r["target"]]]
        if "map" in r:
            of = f"{SHORT[names[r['source']]]} to {of}, {r['map']}"
        found[r["method"], of] = r
    return list(dict.fromkeys(m for m, _ in found)), list(dict.fromkeys(c for _, c in found)), found


def outlying() -> str:
    """AUROC and FPR at 95 % of every detector on its own model's states."""
    methods, models, found = _areas(load("ood")["native"])
    cells = [
        [m, *(f"{found[m, c]['auroc']:.3f}, {found[m, c]['fpr_at_95']:.2f}" for c in models)]
        for m in methods
    ]
    return table(["AUROC, FPR at 95 %", *models], cells)


def outlying_mapped() -> str:
    """AUROC of every detector on states that a map carried over."""
    methods, pairs, found = _areas(load("ood")["mapped"])
    shown = [p for p in pairs if not p.startswith("stories260K")]
    cells = [[m, *(f"{found[m, p]['auroc']:.3f}" for p in shown)] for m in methods]
    return table(["AUROC", *shown], cells)


def similarity() -> str:
    """Each measure of each pair; in brackets, on the null's rows, paired and shuffled."""
    names = {**STORIES, "minilm": "all-minilm-l6-v2"}
    result = load("similarity")
    found, tried = result["pairs"], []

    def cell(one: dict[str, Any]) -> str:
        null = one["null"]
        tried.append(null["p"])
        return f"{one['value']:.3f} ({null['observed']:.3f}, {null['mean']:.3f})"

    rows = [
        [title, *(cell(p["measures"][name]) for p in found)]
        for name, title in (("cka", "CKA"), ("cka_debiased", "CKA, debiased"), ("svcca", "SVCCA"),
                            ("mutual_knn", "mutual 10-NN"))
    ]  # fmt: skip
    for name, title in (("r2", "held-out R² of the map"), ("cosine", "held-out cosine"),
                        ("cycle", "cycle error")):  # fmt: skip
        rows.append([f"{title}, there", *(cell(p["measures"][name]) for p in found)])
        rows.append([f"{title}, back", *(cell(p["back"][name]) for p in found)])
    pairs = [f"{SHORT[names[p['first']]]}, {SHORT[names[p['second']]]}" for p in found]
    return table([f"{result['texts']:,} sentences; every p ≤ {max(tried)}", *pairs], rows)


def dense() -> str:
    rows = [
        [f"`{r['measure']}`", r["peer"], f"{r['ours']:.4f}",
         f"{r['difference']:.0e}" if r["difference"] > 1e-15 else "< 1e-15",
         f"{r['times_faster']['median']:.1f}"]
        for r in load("similarity")["peers"]
    ]  # fmt: skip
    return table(["measure", "peer", "value", "difference", "times faster than it"], rows)


def decoding() -> str:
    rows = []
    for r in load("generate")["pairs"]:
        rate = r["tokens_per_second"]
        rows.append([
            SHORT[r["source"]], SHORT[r["target"]], f"{rate['hybrid']:,.0f}",
            f"{rate['native']:,.0f}", f"{rate['transformers']:,.0f}",
            f"{r['hybrid_times_native']['median']:.2f}",
            f"{r['native_times_transformers']['median']:.1f}",
            f"{r['hybrid_times_transformers']['median']:.1f}",
        ])  # fmt: skip
    head = ["reads", "speaks", "hybrid, tokens/s", "reader alone", "transformers, reader alone",
            "hybrid / alone", "alone / transformers", "hybrid / transformers"]  # fmt: skip
    return table(head, rows)


def speed() -> str:
    found = load("extract")
    if "per_second" in found["sets"][0]:
        from extract import table as extraction

        return "\n".join(extraction(found))
    rows = [
        [r["set"], f"{r['ours_per_second']:,.0f}", f"{r['sentence_transformers_per_second']:,.0f}",
         f"{r['ratio']['median']:.1f} ({r['ratio']['min']:.1f} to {r['ratio']['max']:.1f})",
         f"{r['min_cosine']:.6f}"]
        for r in found["sets"]
    ]  # fmt: skip
    head = ["texts", "linalign-lite, texts/s", "sentence-transformers (torch), texts/s",
            "ratio (range)", "smallest cosine between the two"]  # fmt: skip
    return table(head, rows)


def carrying() -> str:
    """Bundles; the README's table comes with the results: <!-- table: carrying -->."""
    found = load("bundle")
    rates, memory = found["mb_per_second"], found["memory_mb_above_import"]
    names = {"create": "`bundle create`", "verify": "`bundle verify`",
             "install": "`bundle install`", "sha256": "for comparison: SHA-256 alone",
             "copy": "for comparison: a copy, on the disk"}  # fmt: skip
    rows = [
        [title, f"{rates[n]['median']:.0f} ({rates[n]['min']:.0f} to {rates[n]['max']:.0f})",
         f"{memory[n]:.0f} MB" if n in memory else ""]
        for n, title in names.items()
    ]  # fmt: skip
    head = [f"{found['bytes'] / 1e6:.0f} MB", "MB/s, median (range)", "memory above the import"]
    return table(head, rows)


def start() -> str:
    medians = load("start")["median_seconds"]
    return table(["", "seconds, median"], [[f"`{k}`", f"{v:.2f}"] for k, v in medians.items()])


def fits() -> str:
    """A fit beside the products that it cannot do without, and from disk."""
    found = load("fit")
    memory, disk = found["memory"], found["disk"]
    run = disk["verified"]
    rows = [
        [f"over float64 XᵀX and XᵀY alone, {memory['n']:,} rows of {memory['d']:,}",
         f"{memory['over_bare']['median']:.2f} times their time"],
        ["over RidgeCV with 20 penalties", f"{memory['ridgecv']['times_slower']:.0f} times faster"],
        ["held-out R², ours and RidgeCV's",
         f"{memory['r2']['ours']:.4f}, {memory['r2']['ridgecv']:.4f}"],
        ["over Ridge with one penalty", f"{memory['ridge_over_one']['median']:.1f} times faster"],
        [f"{disk['rows']:,} rows of {disk['d']} from disk, peak memory",
         f"{run['peak_bytes'] / 1e9:.2f} GB"],
        ["share of the slower of disk and products",
         f"{run['share_of_slower']:.0%},"
         f" {disk['crc_alone']['share_of_slower']:.0%} without SHA-256"],
    ]  # fmt: skip
    return table(["a fit", ""], rows)


def machine() -> str:
    found = load("clinc150")["machine"]
    versions = found["versions"]
    names = ("numpy", "onnxruntime", "tenseal", "torch", "sentence-transformers")
    listed = ", ".join(f"{n} {versions[n]}" for n in names if n in versions)
    cpu = f"{found['cores']} cores of an {found['cpu']}"
    return f"Measured on {cpu}, Python {found['python']}, {listed}."


TABLES = {
    f.__name__: f
    for f in (accuracy, aware, kept, surveyed, few, few_behind, few_tried, outlying,
              outlying_mapped, hybrid, tried, decoding, similarity, dense, encrypted, private,
              floors, peers, speed, carrying, start, fits, machine)
}  # fmt: skip


def render(text: str) -> str:
    """The text with every table made anew."""

    def one(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", one, text, flags=re.DOTALL)


def main() -> int:
    stale = []
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        made = render(text)
        if made != text:
            stale.append(path.name)
        if "--check" not in sys.argv:
            path.write_text(made, encoding="utf-8")
    if "--check" in sys.argv:
        print(f"out of date: {', '.join(stale)}" if stale else "the tables agree with the results")
        return int(bool(stale))
    return 0


if __name__ == "__main__":
    sys.exit(main())
