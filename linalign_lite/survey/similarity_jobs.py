"""How alike the models' states are, before any map is used for anything."""

from __future__ import annotations

from functools import partial

from linalign_lite.alignment.similarity.comparison import compare_all
from linalign_lite.survey.artefacts import PUBLIC, Workshop
from linalign_lite.survey.jobs import Job, Jobs, described
from linalign_lite.survey.results import SimilarityRow


def similarity_jobs(shop: Workshop) -> Jobs:
    """One job a set of texts: every model's own sums are made once."""
    for texts in (PUBLIC, *shop.data):
        inputs = described(
            shop, tuple(shop.cards), texts=shop.marks(shop.reading(texts)), which=texts,
            permutations=shop.config.permutations,
        )  # fmt: skip
        yield Job(f"similarity, {texts}", "similarity", SimilarityRow, inputs,
                  partial(_compare, shop, texts))  # fmt: skip


def _compare(shop: Workshop, texts: str) -> list[SimilarityRow]:
    found = compare_all(
        {m: shop.side(m, texts) for m in shop.cards},
        permutations=shop.config.permutations,
        seed=shop.config.seed,
    )
    rows = []
    for source, target in shop.config.pairs():
        for name, measured in found.between(source, target).measures.items():
            null = measured.null
            if null is None:  # never: a config has one permutation or more
                continue
            rows.append(SimilarityRow(source, target, texts, name, measured.value, measured.n,
                                      null.observed, null.mean, null.p, null.n))  # fmt: skip
    return rows
