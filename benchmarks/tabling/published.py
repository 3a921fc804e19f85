"""Published models beside transformers: extraction and generation."""

from __future__ import annotations

from tabling.base import load, table

NAMES = {"smollm2-135m-instruct": "SmolLM2-135M", "gemma-3-270m": "Gemma 3 270M",
         "embeddinggemma-300m": "EmbeddingGemma-300M"}  # fmt: skip


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


TABLES = (published_extraction, published_generation)
