"""The paper's claims against the measurements; each verdict follows from the figures beside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from tabling.base import has, load, table

# points of accuracy that the paper's worst map from a data set's own texts loses
LOST = {"AG News": 1.0, "SST-2": 1.4, "TREC": 5.8}
EMBEDDERS = {"MiniLM", "EmbeddingGemma"}
CONFIRMED, PARTLY, REFUTED = "confirmed", "partly", "not confirmed"
UNTESTABLE, MISSING = "not testable here", "not measured"
Row = tuple[str, str, str, str]  # claim, the paper's figures, those found here, verdict


def classified(data: str) -> list[dict[str, Any]]:
    return [r for r in load("survey_published")["few"] if r["data"] == data]


def own_texts() -> Row:
    """Loss of maps from the data's own texts against the lower of both native accuracies."""
    found, within = [], {"all": [], "embedders": []}  # type: ignore[var-annotated]
    for data, allowed in LOST.items():
        cells = []
        for objective in ("ridge", "kl"):
            losses = {
                (r["source"], r["target"]):
                100 * (min(r["native_source"], r["native_target"])
                       - r["maps"][f"{objective} all"]["accuracy"])
                for r in classified(data)
            }  # fmt: skip
            two = [v for pair, v in losses.items() if set(pair) == EMBEDDERS]
            if objective == "ridge":
                within["all"] += [v <= allowed for v in losses.values()]
                within["embedders"] += [v <= allowed for v in two]
            cells.append(
                f"{objective} {median(losses.values()):.1f}, worst {max(losses.values()):.1f},"
                f" embedders' worst {max(two):.1f}"
            )
        found.append(f"{data}: {'; '.join(cells)}")
    return (
        "Ridge maps from a data set's own texts keep classification (points lost)",
        "AG News ≤ 1.0, SST-2 ≤ 1.4, TREC ≤ 5.8 (embedding models of up to 7B)",
        ". ".join(found) + f". Ridge within the paper's loss: {sum(within['all'])} of"
        f" {len(within['all'])} pairs and sets",
        verdict(all(within["all"]), all(within["embedders"]) or median(within["all"]) == 1),
    )


def public_only() -> Row:
    """Maps from public texts against those from the data's own."""
    cells, lower = [], []
    for data in ("TREC", "AG News"):
        rows = classified(data)
        ridge = [r["maps"]["ridge public"]["accuracy"] for r in rows]
        own = [r["maps"]["ridge all"]["accuracy"] for r in rows]
        lower += [a < b - 0.02 for a, b in zip(ridge, own, strict=True)]
        cells.append(f"{data} {span(ridge)} (own texts {span(own)})")
    return (
        "Maps from public texts alone lose much",
        "TREC .558–.754 (own texts .912–.966), AG News .64–.87 (.916–.924)",
        f"{', '.join(cells)}; lower by more than 2 points in {sum(lower)} of {len(lower)}",
        verdict(all(lower), sum(lower) > len(lower) / 2),
    )


def few_texts() -> Row:
    """The share of the gap between public and own texts that a few texts close."""
    cells, shares = [], []
    for data in ("TREC", "AG News"):
        rows = classified(data)
        counts = rows[0]["few"]
        kinds = ["ridge public", *(f"ridge public+few {n}" for n in counts), "ridge all"]
        values = [[r["maps"][k]["accuracy"] for k in kinds] for r in rows]
        shares += [(v[-2] - v[0]) / (v[-1] - v[0]) for v in values if v[-1] - v[0] > 0.02]
        cells.append(f"{data} {', '.join(f'{median(c):.3f}' for c in zip(*values, strict=True))}")
    closed = median(shares)
    return (
        "64 or 128 texts of the right kind bring much of it back (ridge: public, with 64, with"
        " 128, all)",
        "TREC .558–.754, .74–.84, .78–.88; AG News .64–.87, .80–.89, .84–.89",
        f"medians: {'; '.join(cells)}; 128 close {closed:.0%} of the gap (median)",
        verdict(closed >= 0.5, closed >= 0.25),
    )


def similar() -> Row:
    """CKA of the models' states on public sentences."""
    rows = [r for r in load("survey_published")["similarity"] if r["texts"] == "public"]
    cka, debiased = (
        [r["value"] for r in rows if r["measure"] == m] for m in ("cka", "cka_debiased")
    )
    null = max(r["null"] for r in rows if r["measure"] == "cka")
    return (
        "Models represent texts alike (CKA)",
        ".595–.881 between embedders",
        f"{span(cka)} of all pairs, debiased {span(debiased)}; shuffled pairs at most {null:.3f}",
        verdict(min(debiased) >= 0.5, max(debiased) >= 0.5),
    )


def outlying() -> Row:
    """Energy scores before and after maps, and the best detector."""
    found = load("survey_published")
    rows = [r for r in found["energy"] if r["data"] in {"SST-2", "AG News"}]
    native = [r["auroc"] for r in rows if r["texts"] == "native"]
    own, public = (
        [r["auroc"] for r in rows if (r["texts"], r["objective"]) == (texts, "ridge")]
        for texts in ("all", "public")
    )
    best = median(
        r["auroc"] for r in found["best"]
        if r["data"] in {"SST-2", "AG News"} and r["texts"] == "all" and r["objective"] == "ridge"
    )  # fmt: skip
    lost = median(native) - median(own)
    return (
        "Energy scores survive a map from own texts, and suffer from one from public texts (AUROC)",
        "SST-2 against AG News .859 → .848; much worse with public texts, below chance in places",
        f"medians of SST-2 against AG News and the reverse: native {median(native):.3f}, own texts"
        f" {median(own):.3f}, public {median(public):.3f} (lowest {min(public):.3f}); best detector"
        f" through maps from own texts {best:.3f}",
        verdict(lost <= 0.04 and median(public) < median(own), median(public) < median(own)),
    )


def directions() -> list[dict[str, Any]]:
    """Both directions of benchmarks/speak.py; none before it has run."""
    found: list[dict[str, Any]] = load("speak")["directions"] if has("speak") else []
    return found


def spoken() -> Row:
    """Agreement of hybrids with the target; nobody judges quality here."""
    cells = []
    for r in directions():
        news = {k: m["news"] for k, m in r["maps"].items()}
        cells.append(
            f"{r['source']} → {r['target']} agreement {news['ridge']['agreement']:.3f} (ridge),"
            f" {news['kl']['agreement']:.3f} (kl)"
        )
    return (
        "Text generation works across some pairs; sources under 4B parameters fail",
        "Qwen 7B → 14B judged 4.68 of 10 by a model; 34 pairs",
        f"{'; '.join(cells)}, news; [samples](SAMPLES.md) of 135M and 270M models. No judge, no"
        " large model"
        if cells
        else "no judge, no large model",
        UNTESTABLE,
    )


def perplexed() -> Row:
    """Perplexity of the target under the hybrid, and repetition."""
    rises: dict[str, list[float]] = {"ridge": [], "kl": []}
    loops = []
    for r in directions():
        for objective, m in r["maps"].items():
            for kind in ("news", "prose", "instructions"):
                one = m[kind]
                lost = one["hybrid"]["cross_entropy"] - one["target"]["cross_entropy"]
                rises[objective].append(math.expm1(lost))
                if objective == "kl":
                    loops.append(one["hybrid"]["repetition"] - one["target"]["repetition"])
    claim = "Perplexity rises, and hybrids fall into loops", "perplexity + 26 to 37 %; loops occur"
    if not loops:
        return *claim, "`benchmarks/speak.py` has not been run on this version", MISSING
    return (
        *claim,
        f"perplexity on held-out texts {', '.join(f'{k} + {spread(v)}' for k, v in rises.items())};"
        f" repetition above the target's own by {median(loops):.2f} (median, kl), at most"
        f" {max(loops):.2f}",
        verdict(min(rises["ridge"]) > 0.26 and max(loops) > 0.05, min(rises["ridge"]) > 0),
    )


def vocabulary() -> Row:
    """Exact tokens and vocabularies; two pairs of language models prove no correlation."""
    rows = load("survey_published")["tokenizers"]
    pair = [r for r in rows if {r["source"], r["target"]} == {"SmolLM2", "Gemma"}]
    cells = [f"{r['source']} → {r['target']} {r['exact']:.2f}, {r['jaccard']:.2f}" for r in pair]
    return (
        "Exact token match and vocabulary overlap predict the quality of generation",
        "r = .898 and .822 over 34 pairs; good pairs match ≥ .67",
        f"exact match and Jaccard: {'; '.join(cells)}; one pair of language models",
        UNTESTABLE,
    )


def enough_texts() -> Row:
    """Gain of held-out R² from ever more public texts."""
    sizes: dict[tuple[str, str], dict[float, float]] = {}
    for r in load("survey_published")["curves"]:
        sizes.setdefault((r["source"], r["target"]), {})[r["x"]] = r["r2"]  # of every data set
    largest = max(max(v) for v in sizes.values())
    steps = [n for n in sorted(next(iter(sizes.values()))) if n >= 1_000]
    shown = [f"{n:,.0f}: {median(v[n] for v in sizes.values()):.3f}" for n in steps]
    near = [n for n in steps if n <= 5_000]
    left = median(v[largest] - v[near[-1]] for v in sizes.values())
    return (
        "The fit levels off at 1,000 to 4,000 texts",
        "loss curves of generation, ridge",
        f"median held-out R² of ridge by number of texts: {', '.join(shown)}",
        verdict(left < 0.01, left < 0.03),
    )


def private() -> Row:
    """The slowest and largest encrypted query."""
    rows = [r["ours"]["private"] for r in load("encrypt")["shapes"]]
    slowest = max(r["ms"] for r in rows)
    largest = max(r["query_bytes"] + r["response_bytes"] for r in rows)
    return (
        "An encrypted query takes less than 1 s and 1 MB",
        "< 1 s, < 1 MB",
        f"at most {slowest:.0f} ms and {largest / 1e3:.0f} kB, up to 4,096 dimensions or 150"
        " classes",
        verdict(slowest < 1_000 and largest < 1e6, False),
    )


def layers() -> Row:
    return (
        "Only the last layer's states carry generation",
        "0 % at a quarter, half and three quarters of the depth",
        "exported models give their last states alone",
        UNTESTABLE,
    )


def encrypted_fit() -> Row:
    return (
        "The map can be fitted from encrypted states",
        "sketched, no cost given",
        "not built yet",
        UNTESTABLE,
    )


CLAIMS: tuple[Callable[[], Row], ...] = (
    own_texts, public_only, few_texts, similar, outlying, spoken, perplexed, vocabulary,
    enough_texts, layers, private, encrypted_fit,
)  # fmt: skip


def replication() -> str:
    """Every claim with its figures and its verdict."""
    head = ["claim", "in the paper", "found here", "verdict"]
    return table(head, [list(claim()) for claim in CLAIMS])


def verdict(holds: bool, partly: bool) -> str:
    return CONFIRMED if holds else PARTLY if partly else REFUTED


def span(values: Iterable[float]) -> str:
    kept = list(values)
    return f"{min(kept):.3f}–{max(kept):.3f}"


def spread(values: list[float]) -> str:
    return f"{min(values):.0%} to {max(values):.0%}"


TABLES = (replication,)
