"""Retrieval jobs: queries and documents of collections, searched across all pairs of models."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import partial

from linalign_lite.core.choices import Use
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import InputError
from linalign_lite.extraction.pipeline import extract
from linalign_lite.retrieval.choosing import LEAST, fit_retrieval
from linalign_lite.retrieval.collection import Collection, read_collection_files
from linalign_lite.retrieval.evaluation import (
    DOCUMENTS,
    NATIVE_TARGET,
    QUERIES,
    CollectionStates,
    evaluate_retrieval,
)
from linalign_lite.survey.artefacts import PUBLIC, ArtefactStore
from linalign_lite.survey.config import OWN
from linalign_lite.survey.jobs import Job
from linalign_lite.survey.results import MapSettings, RetrievalRow

K = 10
OWN_TEXTS = "documents"  # a map fitted on documents and pseudo-queries of the collection
MAPS = (MapSettings(PUBLIC, "ridge"), MapSettings(OWN_TEXTS, "retrieval"))
_RANKING = {Use.queries: QUERIES, Use.documents: DOCUMENTS}


def list_retrieval(store: ArtefactStore) -> Iterator[Job]:
    """One job for each collection, pair and kind of map."""
    for files in store.config.retrieval:
        found = read_collection_files(files.corpus, files.queries, files.judgements)
        if len(found.documents) < LEAST:
            raise InputError(
                f"the collection {files.name} is too small",
                got=f"{len(found.documents)} documents",
                expected=f"{LEAST} or more",
            )
        inputs = {"collection": _digest(vars(found)), "name": files.name}
        inputs["public"] = store.text_digests(store.config.public)[0]
        for settings in MAPS:
            for pair in store.config.pairs():
                label = f"search {files.name}: {pair[0]} to {pair[1]}, {settings.label}"
                compute = partial(_search, store, pair, files.name, found, settings)
                yield Job("retrieval", label, pair, {**inputs, "way": settings.label}, compute)


def _search(
    store: ArtefactStore, pair: tuple[str, str], name: str, found: Collection, settings: MapSettings
) -> list[RetrievalRow]:
    seed = store.config.seed
    source, target = (
        CollectionStates(
            _states(store, m, name, "query", found.queries),
            _states(store, m, name, "document", found.documents),
        )
        for m in pair
    )
    if settings.texts == PUBLIC:
        maps = dict.fromkeys(Use, store.ridge(*pair, PUBLIC))
    else:
        texts = found.pseudo_queries(seed=seed)
        old, new = (_states(store, m, f"{name}, pseudo", "query", texts) for m in pair)
        sides = source.documents, target.documents
        maps = {u: fit_retrieval(*sides, pseudo=(old, new), use=u, seed=seed)[0] for u in Use}
    report = evaluate_retrieval(
        source, target, maps[Use.queries], found, documents_map=maps[Use.documents], k=K,
        seed=seed,
    )  # fmt: skip
    native = report.rankings[NATIVE_TARGET].measures[f"ndcg@{K}"].value
    rows = []
    for use, ranking in _RANKING.items():
        measures = report.rankings[ranking].measures
        gain, recall, overlap = (measures[f"{m}@{K}"] for m in ("ndcg", "recall", "overlap"))
        rows.append(RetrievalRow(
            *pair, name, settings.texts, settings.objective, use.value, gain.value, gain.low,
            gain.high, native, recall.value, overlap.value, report.n_queries, report.n_documents,
        ))  # fmt: skip
    return rows


def _states(
    store: ArtefactStore, model: str, name: str, kind: str, texts: Sequence[str]
) -> HiddenStates:
    """States of a collection's texts; kind: "query" or "document", a prompt of many models."""
    card, config = store.cards[model], store.config
    prompt = kind if kind in card.prompts else config.prompts.get(model)
    pooling = card.pooling if config.pooling == OWN else config.pooling
    inputs = {"of": [card.digest], "texts": _digest(texts), "pooling": pooling}
    if prompt is not None:
        inputs["prompt"] = prompt
    step = f"{model} reads {name}, {kind}"
    return store.cache.artefact(
        "states", step, inputs,
        lambda: extract(store.model(model), texts, pooling=pooling, prompt=prompt), step,
    )  # fmt: skip


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
