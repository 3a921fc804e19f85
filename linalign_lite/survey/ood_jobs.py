"""Out-of-distribution jobs: detectors of each model on its own states and on mapped ones."""

from collections.abc import Iterator
from functools import partial

from linalign_lite.heads.ood.detectors import METHODS
from linalign_lite.heads.ood.report import evaluate_detector
from linalign_lite.survey.artefacts import ArtefactStore
from linalign_lite.survey.classification_jobs import fit_map
from linalign_lite.survey.config import TextFile
from linalign_lite.survey.jobs import Job
from linalign_lite.survey.results import MapSettings, OodRow

NATIVE = MapSettings("native", "native")


def list_ood(store: ArtefactStore) -> Iterator[Job]:
    """Jobs of every data set that has out-of-distribution texts; detectors are the target's."""
    config = store.config
    maps = [MapSettings(t, o) for o in config.objectives for t in ("public", "all")]
    for data, files in store.data.items():
        if files.outside is None:
            continue
        texts = store.text_digests(config.public, files.train, files.test, files.outside)
        for model in store.cards:
            compute = partial(_detect, store, (model, model), data, files.outside, NATIVE)
            yield Job("ood", f"outside {data}: {model}", (model,), {"texts": texts}, compute)
        for settings in maps:
            for pair in config.pairs():
                label = f"outside {data}: {pair[0]} to {pair[1]}, {settings.label}"
                compute = partial(_detect, store, pair, data, files.outside, settings)
                yield Job("ood", label, pair, {"texts": texts, "way": settings.label}, compute)


def _detect(
    store: ArtefactStore, pair: tuple[str, str], data: str, outside: TextFile, settings: MapSettings
) -> list[OodRow]:
    source, target = pair
    affine = None if settings is NATIVE else fit_map(store, source, target, data, settings)
    inside, beyond = store.test(source, data), store.states(source, outside)
    rows = []
    for method in METHODS:
        found = evaluate_detector(store.detector(target, data, method), inside, beyond, affine)
        rows.append(OodRow(
            source, target, data, settings.texts, settings.objective, method, found.auroc.value,
            found.aupr_in, found.aupr_out, found.fpr_at_95, found.roc,
        ))  # fmt: skip
    return rows
