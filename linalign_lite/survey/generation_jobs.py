"""Tokenizers side by side, and text from two models: one reads, the other speaks."""

from __future__ import annotations

from functools import partial

from linalign_lite.alignment.kl.fitting import fit_kl
from linalign_lite.alignment.least_squares import fit
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.token_alignment import pair_states
from linalign_lite.extraction.tokenizer_compatibility import check_compatibility
from linalign_lite.generation.evaluation.judge_map import judge
from linalign_lite.survey.artefacts import Workshop
from linalign_lite.survey.config import Reading, Stories
from linalign_lite.survey.jobs import Job, Jobs, described
from linalign_lite.survey.results import GenerationRow, TokenizerRow

LOOKED = 2_000  # texts on which tokenizers are compared


def tokenizer_jobs(shop: Workshop) -> Jobs:
    for source, target in shop.config.pairs():
        yield Job(
            f"tokenizers: {source} and {target}",
            "tokenizers",
            TokenizerRow,
            described(shop, (source, target), texts=shop.marks(_looked_at(shop))),
            partial(_compare, shop, source, target),
        )


def _looked_at(shop: Workshop) -> Reading:
    """What would be generated, or else the public texts."""
    generation = shop.config.generation
    return generation.test if generation else shop.config.public


def _compare(shop: Workshop, source: str, target: str) -> list[TokenizerRow]:
    texts = shop.texts(_looked_at(shop)).texts[:LOOKED]
    folders = shop.config.models
    found = check_compatibility(folders[source], folders[target], texts)
    row = TokenizerRow(
        source, target, found.paired_target, found.exact_match, found.vocabulary_jaccard,
        found.fertility_ratio, "good" if found.promising else "poor",
    )  # fmt: skip
    return [row]


def speakers(shop: Workshop) -> list[tuple[str, str]]:
    """Pairs of which both read from left to right, and so can be asked for a next token."""
    able = {name for name, card in shop.cards.items() if card.task == "generate"}
    return [(a, b) for a, b in shop.config.pairs() if {a, b} <= able]


def speech_jobs(shop: Workshop) -> Jobs:
    stories = shop.config.generation
    if stories is None:
        return
    texts = shop.marks(stories.train, stories.test)
    for objective in shop.config.objectives:
        for source, target in speakers(shop):
            yield Job(
                f"{source} reads, {target} speaks: {objective}",
                "generation",
                GenerationRow,
                described(shop, (source, target), texts=texts, objective=objective),
                partial(_judge, shop, stories, source, target, objective),
            )


def _judge(
    shop: Workshop, stories: Stories, source: str, target: str, objective: str
) -> list[GenerationRow]:
    affine = _map(shop, stories, source, target, objective)
    found = judge(
        shop.model(source), shop.model(target), affine, shop.texts(stories.test), samples=0
    )
    row = GenerationRow(
        source, target, objective, found.agreement, found.top_overlap,
        found.hybrid.cross_entropy, found.target.cross_entropy, found.positions,
    )  # fmt: skip
    return [row]


def _map(shop: Workshop, stories: Stories, source: str, target: str, objective: str) -> AffineMap:
    inputs = described(shop, (source, target), texts=shop.marks(stories.train), objective=objective)

    def make() -> AffineMap:
        x, y = pair_states(
            shop.states(source, stories.train, "tokens"),
            shop.states(target, stories.train, "tokens"),
        )
        if objective == "ridge":
            return fit(x, y, seed=shop.config.seed)[0]
        return fit_kl(x, y, shop.model(target).token_head(), seed=shop.config.seed)[0]

    return shop.shelf.map(f"{objective} for generation: {source} to {target}", inputs, make)
