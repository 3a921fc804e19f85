"""Maps: what they keep, how they were fitted, what they make two models say."""

from __future__ import annotations

from typing import Any

from tabling.base import NAMES, SHORT, STORIES, load, table


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


def aware() -> str:
    """Accuracy of logistic heads after a map fitted for them."""
    rows = [
        [SHORT[NAMES[r["source"]]], SHORT[NAMES[r["target"]]], f"{r['ridge']:.3f}",
         f"{r['kl_plain']:.3f}", f"{r['kl']:.3f}", f"{r['native']:.3f}", f"{r['seconds']:.0f} s"]
        for r in load("kl")["classes"]
    ]  # fmt: skip
    head = ["states of", "head of", "ridge map", "kl", "kl, sharpened", "native", "fit"]
    return table(head, rows)


def kept() -> str:
    """Share of the lower native accuracy that maps from a data set's own texts keep."""
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


SETS = {"clinc150": "CLINC150", "trec": "TREC", "sst2": "SST-2", "agnews": "AG News"}
BRIEF = {"minilm": "MiniLM", "656k": "656K", "260k": "260K"}
CLEAR = 2  # standard errors


def few_alone() -> str:
    """Gain of kl on both sides over maps of one side, by data set: mean, and clear cases."""
    cases = load("few")["rows"]

    def shown(rows: list[dict[str, Any]], key: str) -> str:
        gains = [r[key] for r in rows]
        ahead = sum(g["mean"] > CLEAR * g["error"] for g in gains)
        behind = sum(g["mean"] < -CLEAR * g["error"] for g in gains)
        return f"{sum(g['mean'] for g in gains) / len(gains):+.3f} ({ahead}, {behind})"

    rows = [
        [name, *(shown([r for r in cases if r["data"] == data], key)
                 for key in ("over_ridge", "over_alone", "agreement_over_alone"))]
        for data, name in SETS.items()
    ]  # fmt: skip
    head = ["texts", "over ridge: accuracy", "over all four: accuracy", "over all four: agreement"]
    return table(head, rows)


def few_behind() -> str:
    """Cases in which the best map of one side is clearly better than kl on both."""
    rows = []
    for r in load("few")["rows"]:
        gains = [r["over_alone"], r["agreement_over_alone"]]
        if any(g["mean"] < -CLEAR * g["error"] for g in gains):
            rows.append([
                SETS[r["data"]], BRIEF[r["source"]], BRIEF[r["target"]], str(r["few"]),
                f"{r['kl_both']:.3f}", f"{r['native']:.3f}",
                *(f"{g['mean']:+.3f} ± {g['error']:.3f} ({g['best'].replace('_', ', ')})"
                  for g in gains),
            ])  # fmt: skip
    head = ["texts", "states of", "head of", "few", "kl, both", "native",
            "accuracy over the best alone", "agreement over the best alone"]  # fmt: skip
    return table(head, rows)


def few_tried() -> str:
    """Variants tried with few texts: accuracy, and the difference from the method as it is."""
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


def public_only() -> str:
    """Accuracy through maps from public texts and label sentences, in both directions."""
    pairs = load("public_only")["pairs"]
    names = pairs[0]["tried"]
    rows = [[n, *(f"{p['tried'][n]['accuracy']:.3f}" for p in pairs)] for n in names]
    rows += [
        ["for comparison: the target's own states", *(f"{p['native']:.3f}" for p in pairs)],
        ["for comparison: the source's own head", *(f"{p['own']:.3f}" for p in pairs)],
    ]
    return table(["fitted on", *(f"{p['source']} to {p['target']}" for p in pairs)], rows)


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


def tried() -> str:
    rows = [
        [r["variant"], f"{r['rows']:,}", f"{r['agreement']:.3f}", f"{r['cross_entropy']:.3f}"]
        for r in load("kl")["tried"]
    ]
    return table(["variant", "pairs", "agreement", "cross-entropy"], rows)


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
            f"{r['hybrid_share_of_floor']['median']:.0%}",
        ])  # fmt: skip
    head = ["reads", "speaks", "hybrid, tokens/s", "reader alone", "transformers, reader alone",
            "hybrid / alone", "alone / transformers", "hybrid / transformers",
            "hybrid / graph alone"]  # fmt: skip
    return table(head, rows)


def similarity() -> str:
    """Each measure of each pair; in brackets, on the null's rows, paired and shuffled."""
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
    pairs = [f"{SHORT[NAMES[p['first']]]}, {SHORT[NAMES[p['second']]]}" for p in found]
    return table([f"{result['texts']:,} sentences; every p ≤ {max(tried)}", *pairs], rows)


def dense() -> str:
    rows = [
        [f"`{r['measure']}`", r["peer"], f"{r['ours']:.4f}",
         f"{r['difference']:.0e}" if r["difference"] > 1e-15 else "< 1e-15",
         f"{r['times_faster']['median']:.1f}"]
        for r in load("similarity")["peers"]
    ]  # fmt: skip
    return table(["measure", "peer", "value", "difference", "times faster than it"], rows)


TABLES = (accuracy, aware, kept, surveyed, few, few_alone, few_behind, few_tried, public_only,
          hybrid, tried, decoding, similarity, dense)  # fmt: skip
