"""Published models: beside transformers, the survey of four, generation across two."""

from __future__ import annotations

from typing import Any

from tabling.base import load, table

NAMES = {"smollm2-135m-instruct": "SmolLM2-135M", "gemma-3-270m": "Gemma 3 270M",
         "embeddinggemma-300m": "EmbeddingGemma-300M"}  # fmt: skip
FULL = {"SmolLM2": "SmolLM2-135M", "Gemma": "Gemma 3 270M", "MiniLM": "MiniLM-L6",
        "EmbeddingGemma": "EmbeddingGemma-300M"}  # fmt: skip
SHOWN = (("MiniLM", "EmbeddingGemma"), ("EmbeddingGemma", "MiniLM"), ("SmolLM2", "Gemma"),
         ("Gemma", "SmolLM2"), ("SmolLM2", "MiniLM"))  # fmt: skip


def published_extraction() -> str:
    """Tokens a second, and shares of the rates of products."""
    rows = [
        [NAMES[r["model"]], r["set"], f"{r['tokens'] / r['texts']:.0f}",
         f"{r['tokens_per_second']['ours']:,.0f}", f"{r['tokens_per_second']['transformers']:,.0f}",
         f"{r['times_transformers']['median']:.2f}", f"{r['least_cosine']:.6f}",
         *(f"{r['gemm_gflops'][k]:.0f}" for k in ("onnxruntime", "torch")),
         *(f"{r['gemm_share'][k]:.0%}" for k in ("ours", "transformers", "wanted"))]
        for r in load("published")["extract"]
    ]  # fmt: skip
    head = ["model", "texts", "tokens a text", "linalign-lite, tokens/s", "transformers", "ratio",
            "least cosine", "GEMM, onnxruntime, GFLOP/s", "GEMM, torch",
            "share of onnxruntime's", "transformers, of torch's",
            "1.5 times transformers, of onnxruntime's"]  # fmt: skip
    return table(head, rows)


def published_generation() -> str:
    """Tokens a second of the two language models, both directions."""
    rows = []
    for r in load("published")["generate"]["pairs"]:
        rate = r["tokens_per_second"]
        rows.append([
            NAMES[r["source"]], NAMES[r["target"]],
            *(f"{rate[k]:.1f}" for k in ("hybrid", "native", "transformers")),
            f"{r['hybrid_times_native']['median']:.2f}",
            f"{r['native_times_transformers']['median']:.2f}",
            f"{r['hybrid_share_of_floor']['median']:.0%}",
        ])  # fmt: skip
    head = ["reads", "speaks", "hybrid, tokens/s", "reader alone", "transformers, reader alone",
            "hybrid / alone", "alone / transformers", "hybrid / graph alone"]  # fmt: skip
    return table(head, rows)


def published_kept() -> str:
    """Accuracy through maps of each kind, of every pair of the four models."""
    rows = []
    for r in load("survey_published")["few"]:
        maps, lower = r["maps"], min(r["native_source"], r["native_target"])

        def shown(kind: str, maps: Any = maps, counts: Any = r["few"]) -> str:
            return ", ".join(f"{maps[f'{kind} {n}']['accuracy']:.3f}" for n in counts)

        kl = maps["kl all"]["accuracy"]
        rows.append([
            r["data"], r["source"], r["target"],
            *(f"{maps[k]['accuracy']:.3f}" for k in ("ridge public", "kl public")),
            shown("ridge public+few"), f"{maps['ridge all']['accuracy']:.3f}", f"{kl:.3f}",
            f"{r['native_target']:.3f}", f"{r['native_source']:.3f}", f"{kl / lower:.2f}",
        ])  # fmt: skip
    head = ["texts", "states of", "head of", "ridge: public", "kl: public",
            "ridge: public and 64, 128", "ridge: all", "kl: all", "native", "source's own",
            "kl keeps"]  # fmt: skip
    return table(head, rows)


def across() -> str:
    """The same in short, for the README: CLINC150, the embedders and the language models."""
    kinds = ("ridge public", "kl public", "ridge all", "kl all")
    rows = [
        [FULL[r["source"]], FULL[r["target"]],
         *(f"{r['maps'][k]['accuracy']:.3f}" for k in kinds), f"{r['native_target']:.3f}"]
        for pair in SHOWN for r in load("survey_published")["few"]
        if (r["data"], r["source"], r["target"]) == ("CLINC150", *pair)
    ]  # fmt: skip
    head = ["states of", "head of", "public: ridge", "kl", "own: ridge", "kl", "native"]
    return table(head, rows)


def spoken() -> str:
    """Teacher-forced figures and samples of both directions: ridge, kl and the bound."""
    rows = []
    for r in load("speak")["directions"]:
        maps = {**r["maps"], **({"bound": r["bound"]} if "bound" in r else {})}
        for kind in ("news", "prose", "instructions"):
            for name, one in ((k, m[kind]) for k, m in maps.items() if kind in m):
                hybrid, target = one["hybrid"], one["target"]
                rows.append([
                    FULL[r["source"]], FULL[r["target"]], kind, name,
                    f"{one['agreement']:.3f}", f"{one['top_overlap']:.3f}",
                    f"{hybrid['cross_entropy']:.3f}", f"{target['cross_entropy']:.3f}",
                    *(f"{side['bits_per_character']:.2f}" for side in (hybrid, one["source"])),
                ])  # fmt: skip
    head = ["reads", "speaks", "texts", "map", "agreement", "top-5 overlap", "nats a token",
            "speaker alone", "bits a character", "reader alone"]  # fmt: skip
    return table(head, rows)


def sampled() -> str:
    """Repetition and perplexity of continuations, greedy and with a repetition penalty."""
    rows = []
    for r in load("speak")["directions"]:
        for kind in ("news", "prose", "instructions"):
            greedy = r["maps"]["kl"][kind]
            cells = [
                f"{one[side][k]:.{digits}f}"
                for k, digits in (("repetition", 2), ("perplexity", 1))
                for one in (greedy, greedy["penalised"]) for side in ("hybrid", "target")
            ]  # fmt: skip
            rows.append([FULL[r["source"]], FULL[r["target"]], kind, *cells])
    head = ["reads", "speaks", "prompts"]
    for k in ("repetition", "perplexity"):
        head += [f"{k}: hybrid", "speaker alone", "with the penalty: hybrid", "speaker alone"]
    return table(head, rows)


def spoken_cost() -> str:
    """Time and memory of the kl fits of both directions."""
    rows = [
        [FULL[r["source"]], FULL[r["target"]], f"{r['outputs']:,}", f"{r['pairs']:,}",
         *(f"{r[k] / 60:.1f} min" for k in ("seconds", "cpu_seconds")), f"{r['peak_gb']:.1f} GB",
         *(f"{r[k]:.3f}" for k in ("ridge", "held_out"))]
        for r in load("speak")["costs"]
    ]  # fmt: skip
    head = ["reads", "speaks", "outputs", "pairs", "time", "processor time", "memory",
            "held-out divergence, ridge", "kl"]  # fmt: skip
    return table(head, rows)


def kl_course() -> str:
    """Loss on held-out rows by processor time: of a fit, of its steps alone, of exact passes."""
    found = load("kl_steps")
    curves = {k: found[k] for k in ("fit", "stochastic", "exact")}
    ends = {k: rows[-1][0] for k, rows in curves.items()}
    rows = []
    for minute in range(1, int(max(ends.values()) // 60) + 1):
        cells = [_at(rows_of, 60 * minute) for rows_of in curves.values()]
        rows.append([f"{minute} min", *cells])
    last = [f"{rows_of[-1][1]:.4f} ({ends[k] / 60:.1f} min)" for k, rows_of in curves.items()]
    rows.append(["at the end", *last])
    head = [
        "processor time",
        "steps, then exact iterations",
        "steps alone",
        "exact iterations alone",
    ]
    return table(head, rows)


def _at(curve: list[list[float]], seconds: float) -> str:
    """The last loss that was known by then; nothing once the run had ended long before."""
    known = [loss for t, loss in curve if t <= seconds + 5]
    return f"{known[-1]:.4f}" if known and curve[-1][0] > seconds - 60 else ""


TABLES = (
    published_extraction,
    published_generation,
    published_kept,
    across,
    spoken,
    sampled,
    spoken_cost,
    kl_course,
)
