"""Jobs of tokenizer compatibility and of generation across two models."""

from collections.abc import Iterator
from functools import partial

from linalign_lite.alignment.kl.divergence_fit import fit_kl
from linalign_lite.alignment.least_squares import fit
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.token_alignment import pair_states
from linalign_lite.extraction.tokenizer_compatibility import check_compatibility
from linalign_lite.generation.evaluation.judge_map import judge
from linalign_lite.survey.artefacts import ArtefactStore
from linalign_lite.survey.config import GenerationTexts, TextFile
from linalign_lite.survey.jobs import Job, job_inputs
from linalign_lite.survey.results import GenerationRow, TokenizerRow

MAX_COMPARED = 2_000  # texts that tokenizers are compared on


def list_tokenizers(store: ArtefactStore) -> Iterator[Job]:
    """Jobs that compare the tokenizers of every pair, on generation texts or else public ones."""
    generation = store.config.generation
    file = generation.test if generation else store.config.public
    inputs = {"texts": store.text_digests(file)}
    for pair in store.config.pairs():
        label = f"tokenizers: {pair[0]} and {pair[1]}"
        yield Job("tokenizers", label, pair, inputs, partial(_compare, store, *pair, file))


def _compare(store: ArtefactStore, source: str, target: str, file: TextFile) -> list[TokenizerRow]:
    folders = store.config.models
    texts = store.texts(file).texts[:MAX_COMPARED]
    found = check_compatibility(folders[source], folders[target], texts)
    return [TokenizerRow(
        source, target, found.paired_target, found.exact_match, found.vocabulary_jaccard,
        found.fertility_ratio, "good" if found.promising else "poor",
    )]  # fmt: skip


def list_generation(store: ArtefactStore) -> Iterator[Job]:
    """Jobs of the pairs in which both models generate text."""
    files = store.config.generation
    if files is None:
        return
    able = {name for name, card in store.cards.items() if card.task == "generate"}
    texts = store.text_digests(files.train, files.test)
    for objective in store.config.objectives:
        for pair in store.config.pairs():
            if able.issuperset(pair):
                # the label names entries of the cache: another one would compute all again
                label = f"{pair[0]} reads, {pair[1]} speaks: {objective}"
                inputs = {"texts": texts, "objective": objective}
                compute = partial(_evaluate, store, files, *pair, objective)
                yield Job("generation", label, pair, inputs, compute)


def _evaluate(
    store: ArtefactStore, files: GenerationTexts, source: str, target: str, objective: str
) -> list[GenerationRow]:
    affine = _fit_map(store, files, source, target, objective)
    found = judge(
        store.model(source), store.model(target), affine, store.texts(files.test), samples=0
    )
    return [GenerationRow(
        source, target, objective, found.agreement, found.top_overlap,
        found.hybrid.cross_entropy, found.target.cross_entropy, found.positions,
    )]  # fmt: skip


def _fit_map(
    store: ArtefactStore, files: GenerationTexts, source: str, target: str, objective: str
) -> AffineMap:
    texts = store.text_digests(files.train)
    inputs = job_inputs(store, (source, target), texts=texts, objective=objective)

    def make() -> AffineMap:
        a, b = (store.states(m, files.train, "tokens") for m in (source, target))
        x, y = pair_states(a, b)
        if objective == "ridge":
            return fit(x, y, seed=store.config.seed)[0]
        return fit_kl(x, y, store.model(target).token_head(), seed=store.config.seed)[0]

    step = f"{objective} for generation: {source} to {target}"
    return store.cache.artefact("map", step, inputs, make)
