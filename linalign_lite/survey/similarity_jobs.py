"""Similarity jobs: all measures between the states of all pairs."""

from collections.abc import Iterator
from functools import partial

from linalign_lite.alignment.similarity.comparison import compare_all
from linalign_lite.survey.artefacts import PUBLIC, ArtefactStore
from linalign_lite.survey.jobs import Job
from linalign_lite.survey.results import SimilarityRow


def list_similarity(store: ArtefactStore) -> Iterator[Job]:
    """One job per set of texts, so that sums over one model are computed once."""
    for which in (PUBLIC, *store.data):
        texts = store.text_digests(store.training_file(which))
        inputs = {"texts": texts, "which": which, "permutations": store.config.permutations}
        compute = partial(_compare, store, which)
        yield Job("similarity", f"similarity, {which}", tuple(store.cards), inputs, compute)


def _compare(store: ArtefactStore, texts: str) -> list[SimilarityRow]:
    found = compare_all(
        {m: store.map_states(m, texts) for m in store.cards},
        permutations=store.config.permutations,
        seed=store.config.seed,
    )
    rows = []
    for source, target in store.config.pairs():
        for name, measured in found.between(source, target).measures.items():
            null = measured.null
            if null is None:  # never: permutations are at least 1
                continue
            rows.append(SimilarityRow(source, target, texts, name, measured.value, measured.n,
                                      null.observed, null.mean, null.p, null.n))  # fmt: skip
    return rows
