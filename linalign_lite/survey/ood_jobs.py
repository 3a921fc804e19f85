"""Out-of-distribution detection: each model's detectors on its own states and on mapped ones."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.heads.ood.detectors import METHODS
from linalign_lite.heads.ood.report import evaluate_detector
from linalign_lite.survey.artefacts import ArtefactStore
from linalign_lite.survey.classification_jobs import fit_map
from linalign_lite.survey.config import TextFile
from linalign_lite.survey.jobs import Job, job_inputs
from linalign_lite.survey.results import MapSettings, OodRow

NATIVE = MapSettings("native", "native")


def list_ood(store: ArtefactStore) -> Iterator[Job]:
    """For every data set with texts outside of it; the target's detectors judge mapped states."""
    for data, found in store.data.items():
        if found.outside is None:
            continue
        texts = store.text_digests(store.config.public, found.train, found.test, found.outside)
        for model in store.cards:
            yield Job(
                f"outside {data}: {model}",
                "ood",
                OodRow,
                job_inputs(store, (model,), texts=texts),
                partial(_detect, store, model, model, data, found.outside, NATIVE),
            )
        for settings in _map_settings(store):
            for source, target in store.config.pairs():
                yield Job(
                    f"outside {data}: {source} to {target}, {settings.label}",
                    "ood",
                    OodRow,
                    job_inputs(store, (source, target), texts=texts, way=settings.label),
                    partial(_detect, store, source, target, data, found.outside, settings),
                )


def _map_settings(store: ArtefactStore) -> list[MapSettings]:
    """Maps that are worth it: from public texts, and from the data set's own, by each objective."""
    return [MapSettings(t, o) for o in store.config.objectives for t in ("public", "all")]


def _detect(
    store: ArtefactStore,
    source: str,
    target: str,
    data: str,
    outside: TextFile,
    settings: MapSettings,
) -> list[OodRow]:
    affine: AffineMap | None = None
    if settings is not NATIVE:
        affine = fit_map(store, source, target, data, settings)
    inside, beyond = store.test(source, data), store.states(source, outside)
    rows = []
    for method in METHODS:
        found = evaluate_detector(store.detector(target, data, method), inside, beyond, affine)
        rows.append(OodRow(
            source, target, data, settings.texts, settings.objective, method, found.auroc.value,
            found.aupr_in, found.aupr_out, found.fpr_at_95, found.roc,
        ))  # fmt: skip
    return rows
