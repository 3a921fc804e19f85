"""Tokenizers side by side, and text from two models: one reads, the other speaks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from linalign_lite.alignment.kl.fitting import fit_kl
from linalign_lite.alignment.least_squares import fit
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.token_alignment import pair_states
from linalign_lite.extraction.tokenizer_compatibility import check_compatibility
from linalign_lite.generation.evaluation.judge_map import judge
from linalign_lite.survey.artefacts import ArtefactStore
from linalign_lite.survey.config import GenerationTexts, TextFile
from linalign_lite.survey.jobs import Job, job_inputs
from linalign_lite.survey.results import GenerationRow, TokenizerRow

MAX_COMPARED = 2_000  # texts on which tokenizers are compared


def list_tokenizers(store: ArtefactStore) -> Iterator[Job]:
    for source, target in store.config.pairs():
        yield Job(
            f"tokenizers: {source} and {target}",
            "tokenizers",
            TokenizerRow,
            job_inputs(store, (source, target), texts=store.text_digests(_compared_texts(store))),
            partial(_compare, store, source, target),
        )


def _compared_texts(store: ArtefactStore) -> TextFile:
    """What would be generated, or else the public texts."""
    generation = store.config.generation
    return generation.test if generation else store.config.public


def _compare(store: ArtefactStore, source: str, target: str) -> list[TokenizerRow]:
    texts = store.texts(_compared_texts(store)).texts[:MAX_COMPARED]
    folders = store.config.models
    found = check_compatibility(folders[source], folders[target], texts)
    row = TokenizerRow(
        source, target, found.paired_target, found.exact_match, found.vocabulary_jaccard,
        found.fertility_ratio, "good" if found.promising else "poor",
    )  # fmt: skip
    return [row]


def generating_pairs(store: ArtefactStore) -> list[tuple[str, str]]:
    """Pairs of which both read from left to right, and so can be asked for a next token."""
    able = {name for name, card in store.cards.items() if card.task == "generate"}
    return [(a, b) for a, b in store.config.pairs() if {a, b} <= able]


def list_generation(store: ArtefactStore) -> Iterator[Job]:
    stories = store.config.generation
    if stories is None:
        return
    texts = store.text_digests(stories.train, stories.test)
    for objective in store.config.objectives:
        for source, target in generating_pairs(store):
            yield Job(
                f"{source} reads, {target} speaks: {objective}",
                "generation",
                GenerationRow,
                job_inputs(store, (source, target), texts=texts, objective=objective),
                partial(_judge, store, stories, source, target, objective),
            )


def _judge(
    store: ArtefactStore, stories: GenerationTexts, source: str, target: str, objective: str
) -> list[GenerationRow]:
    affine = _map(store, stories, source, target, objective)
    found = judge(
        store.model(source), store.model(target), affine, store.texts(stories.test), samples=0
    )
    row = GenerationRow(
        source, target, objective, found.agreement, found.top_overlap,
        found.hybrid.cross_entropy, found.target.cross_entropy, found.positions,
    )  # fmt: skip
    return [row]


def _map(
    store: ArtefactStore, stories: GenerationTexts, source: str, target: str, objective: str
) -> AffineMap:
    inputs = job_inputs(
        store, (source, target), texts=store.text_digests(stories.train), objective=objective
    )

    def make() -> AffineMap:
        x, y = pair_states(
            store.states(source, stories.train, "tokens"),
            store.states(target, stories.train, "tokens"),
        )
        if objective == "ridge":
            return fit(x, y, seed=store.config.seed)[0]
        return fit_kl(x, y, store.model(target).token_head(), seed=store.config.seed)[0]

    return store.cache.map(f"{objective} for generation: {source} to {target}", inputs, make)
