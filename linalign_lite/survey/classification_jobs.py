"""Classification jobs: accuracy of each model's head on its own states and on mapped ones."""

from collections.abc import Iterator
from functools import partial

from linalign_lite.alignment.few_shot.joint_fit import fit_with_few
from linalign_lite.alignment.least_squares import fit
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.heads.evaluation import evaluate
from linalign_lite.survey.artefacts import PUBLIC, ArtefactStore, without_labels
from linalign_lite.survey.jobs import Job, job_inputs
from linalign_lite.survey.results import ClassRow, MapSettings, NativeRow


def map_settings(store: ArtefactStore) -> list[MapSettings]:
    """Every settings, the cheap ones first."""
    found = [MapSettings("public", "ridge"), MapSettings("all", "ridge")]
    for n in store.config.few:
        found += [MapSettings("few", "ridge", n), MapSettings("public+few", "ridge", n)]
    if "kl" in store.config.objectives:
        found += [MapSettings("public", "kl"), MapSettings("all", "kl")]
        found += [MapSettings("public+few", "kl", n) for n in store.config.few]
    return found


def fit_map(
    store: ArtefactStore, source: str, target: str, data: str, settings: MapSettings
) -> AffineMap:
    """The map of one settings, made now or earlier."""
    if settings.texts in {"public", "all"}:
        texts = PUBLIC if settings.texts == "public" else data
        if settings.objective == "ridge":
            return store.ridge(source, target, texts)
        return store.kl(source, target, texts, data)
    inputs = job_inputs(
        store, (source, target), few=settings.n_few, way=settings.label,
        texts=store.text_digests(store.config.public, store.data[data].train),
    )  # fmt: skip
    step = f"{settings.label}: {source} to {target}, {data}"
    fit_few = partial(_few, store, source, target, data, settings)
    return store.cache.artefact("map", step, inputs, fit_few)


def _few(
    store: ArtefactStore, source: str, target: str, data: str, settings: MapSettings
) -> AffineMap:
    rows, seed = store.few(data, settings.n_few), store.config.seed
    x, y = (without_labels(store.train(m, data).rows(rows)) for m in (source, target))
    if settings.texts == "few":
        return fit(x, y, seed=seed)[0]
    head = store.head(target, data) if settings.objective == "kl" else None
    public = store.public(source), store.public(target)
    return fit_with_few(*public, x, y, head=head, seed=seed)[0]


def list_classification(store: ArtefactStore) -> Iterator[Job]:
    """Jobs of native heads on every data set, then of every map."""
    for data, files in store.data.items():
        texts = store.text_digests(files.train, files.test)
        for model in store.cards:
            compute = partial(_evaluate_native, store, model, data)
            yield Job("native", f"native: {model}, {data}", (model,), {"texts": texts}, compute)
    for data, files in store.data.items():
        texts = store.text_digests(store.config.public, files.train, files.test)
        for settings in map_settings(store):
            for pair in store.config.pairs():
                label = f"{pair[0]} to {pair[1]}, {data}: {settings.label}"
                inputs = {"texts": texts, "way": settings.label}
                mapped = partial(_evaluate_mapped, store, *pair, data, settings)
                yield Job("classification", label, pair, inputs, mapped)


def _evaluate_native(store: ArtefactStore, model: str, data: str) -> list[NativeRow]:
    found = store.native(model, data).accuracy
    return [NativeRow(model, data, found.value, found.low, found.high)]


def _evaluate_mapped(
    store: ArtefactStore, source: str, target: str, data: str, settings: MapSettings
) -> list[ClassRow]:
    affine = fit_map(store, source, target, data, settings)
    found = evaluate(store.head(target, data), store.test(source, data), affine=affine).accuracy
    own = min(store.native(m, data).accuracy.value for m in (source, target))
    n_public = 0 if settings.texts in {"all", "few"} else len(store.public(source))
    n_own = len(store.train(source, data)) if settings.texts == "all" else settings.n_few
    return [ClassRow(
        source, target, data, settings.texts, settings.objective, n_public, n_own,
        found.value, found.low, found.high, found.value / own if own else 0.0,
    )]  # fmt: skip
