"""Out-of-distribution detection: each model's detectors on its own states and on mapped ones."""

from __future__ import annotations

from functools import partial

from linalign_lite.core.affine_map import AffineMap
from linalign_lite.heads.ood.fitting import METHODS
from linalign_lite.heads.ood.report import evaluate_detector
from linalign_lite.survey.artefacts import Workshop
from linalign_lite.survey.classification_jobs import Way, mapped
from linalign_lite.survey.config import Reading
from linalign_lite.survey.jobs import Job, Jobs, described
from linalign_lite.survey.results import OodRow

NATIVE = Way("native", "native")


def ood_jobs(shop: Workshop) -> Jobs:
    """For every data set with texts outside of it; the target's detectors judge mapped states."""
    for data, found in shop.data.items():
        if found.outside is None:
            continue
        texts = shop.marks(shop.config.public, found.train, found.test, found.outside)
        for model in shop.cards:
            yield Job(
                f"outside {data}: {model}",
                "ood",
                OodRow,
                described(shop, (model,), texts=texts),
                partial(_detect, shop, model, model, data, found.outside, NATIVE),
            )
        for way in _ways(shop):
            for source, target in shop.config.pairs():
                yield Job(
                    f"outside {data}: {source} to {target}, {way.name}",
                    "ood",
                    OodRow,
                    described(shop, (source, target), texts=texts, way=way.name),
                    partial(_detect, shop, source, target, data, found.outside, way),
                )


def _ways(shop: Workshop) -> list[Way]:
    """Maps that are worth it: from public texts, and from the data set's own, by each objective."""
    return [Way(t, o) for o in shop.config.objectives for t in ("public", "all")]


def _detect(
    shop: Workshop, source: str, target: str, data: str, outside: Reading, way: Way
) -> list[OodRow]:
    affine: AffineMap | None = None
    if way is not NATIVE:
        affine = mapped(shop, source, target, data, way)
    inside, beyond = shop.test(source, data), shop.states(source, outside)
    rows = []
    for method in METHODS:
        found = evaluate_detector(shop.detector(target, data, method), inside, beyond, affine)
        rows.append(OodRow(
            source, target, data, way.texts, way.objective, method, found.auroc.value,
            found.aupr_in, found.aupr_out, found.fpr_at_95, found.roc,
        ))  # fmt: skip
    return rows
