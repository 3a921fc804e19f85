"""How alike the models' states are, before any map is used for anything."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from linalign_lite.alignment.similarity.comparison import compare_all
from linalign_lite.survey.artefacts import PUBLIC, ArtefactStore
from linalign_lite.survey.jobs import Job, job_inputs
from linalign_lite.survey.results import SimilarityRow


def list_similarity(store: ArtefactStore) -> Iterator[Job]:
    """One job a set of texts: every model's own sums are made once."""
    for texts in (PUBLIC, *store.data):
        inputs = job_inputs(
            store, tuple(store.cards), texts=store.text_digests(store.training_file(texts)),
            which=texts, permutations=store.config.permutations,
        )  # fmt: skip
        yield Job(f"similarity, {texts}", "similarity", SimilarityRow, inputs,
                  partial(_compare, store, texts))  # fmt: skip


def _compare(store: ArtefactStore, texts: str) -> list[SimilarityRow]:
    found = compare_all(
        {m: store.side(m, texts) for m in store.cards},
        permutations=store.config.permutations,
        seed=store.config.seed,
    )
    rows = []
    for source, target in store.config.pairs():
        for name, measured in found.between(source, target).measures.items():
            null = measured.null
            if null is None:  # never: a config has one permutation or more
                continue
            rows.append(SimilarityRow(source, target, texts, name, measured.value, measured.n,
                                      null.observed, null.mean, null.p, null.n))  # fmt: skip
    return rows
