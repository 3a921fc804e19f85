"""Jobs of curves over penalty and number of texts, and of projections of mapped states."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from linalign_lite.alignment.multi_target import fit_several
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.heads.evaluation import evaluate
from linalign_lite.survey.artefacts import ArtefactStore
from linalign_lite.survey.cache import Inputs
from linalign_lite.survey.classification_jobs import fit_map
from linalign_lite.survey.jobs import Job
from linalign_lite.survey.results import CurveRow, MapSettings, Point, Projection

SIZES = (100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000)
SHOWN, SHOWN_LABELS = 240, 8  # texts and labels of a projection


def list_curves(store: ArtefactStore) -> Iterator[Job]:
    """Jobs of ridge maps from public texts, over the penalty and over the number of texts."""
    public, models = store.config.public, tuple(store.cards)
    texts = store.text_digests(public)
    for source in models:
        inputs, compute = {"source": source, "texts": texts}, partial(_penalties, store, source)
        yield Job("curves", f"penalties: from {source}", models, inputs, compute)
    tests = public_and_tests(store)
    for source in models:
        for n in sizes(len(store.texts(public).texts)):
            label = f"{n} public texts: from {source}"
            of_size: Inputs = {"source": source, "texts": tests, "n": n, "data": list(store.data)}
            yield Job("curves", label, models, of_size, partial(_of_size, store, source, n))


def public_and_tests(store: ArtefactStore) -> list[str]:
    """Digests of what the points of curves of accuracy depend on."""
    files = (file for d in store.data.values() for file in (d.train, d.test))
    return store.text_digests(store.config.public, *files)


def points_of(
    store: ArtefactStore,
    source: str,
    target: str,
    kind: str,
    x: float,
    r2: float,
    affine: AffineMap,
) -> list[CurveRow]:
    """A point for each data set, with the accuracy of the target's head; one without any."""
    rows = [] if store.data else [CurveRow(source, target, "", kind, x, r2)]
    for data in store.data:
        found = evaluate(store.head(target, data), store.test(source, data), affine=affine).accuracy
        rows.append(CurveRow(source, target, data, kind, x, r2, found.value))
    return rows


def sizes(n: int) -> list[int]:
    """Numbers of texts of a curve, up to all ``n``."""
    return [*(s for s in SIZES if s < n), n]


def _penalties(store: ArtefactStore, source: str) -> list[CurveRow]:
    others = {m: store.public(m) for m in store.cards if m != source}
    found = fit_several(store.public(source), others, seed=store.config.seed)
    return [
        CurveRow(source, target, "", "penalty", penalty, r2)
        for target, (_, report) in found.items()
        for penalty, r2 in report.curve
    ]


def _of_size(store: ArtefactStore, source: str, n: int) -> list[CurveRow]:
    """Held-out R² of maps from ``n`` texts, and accuracies of the targets' heads on test texts."""
    some = np.random.default_rng(store.config.seed).permutation(len(store.public(source)))[:n]
    others = {m: store.public(m).rows(some) for m in store.cards if m != source}
    maps = fit_several(store.public(source).rows(some), others, seed=store.config.seed)
    return [
        row
        for target, (affine, report) in maps.items()
        for row in points_of(store, source, target, "size", n, report.held_out_r2, affine)
    ]


def list_projections(store: ArtefactStore) -> Iterator[Job]:
    """Jobs of one projection per pair and objective, on the first data set."""
    for data, files in list(store.data.items())[:1]:
        texts = store.text_digests(files.train, files.test)
        for objective in store.config.objectives:
            for pair in store.config.pairs():
                label = f"projection: {pair[0]} to {pair[1]}, {objective}"
                inputs = {"texts": texts, "objective": objective}
                compute = partial(_project, store, *pair, data, objective)
                yield Job("projections", label, pair, inputs, compute)


def _project(
    store: ArtefactStore, source: str, target: str, data: str, objective: str
) -> list[Projection]:
    """Project native and mapped states on the two principal axes of the native states."""
    native, other = store.test(target, data), store.test(source, data)
    shown = _shown(native, store.config.seed)
    affine = fit_map(store, source, target, data, MapSettings("all", objective))
    own = native.states[shown].astype(np.float64)
    centre = own.mean(axis=0)
    _, singular, axes = np.linalg.svd(own - centre, full_matrices=False)
    axes = axes[:2]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    share = singular[:2] ** 2 / max(float((singular**2).sum()), np.finfo(float).tiny)
    ids = native.label_ids
    labels = () if ids is None else tuple(native.labels[i] for i in ids[shown])
    return [Projection(
        source, target, data, objective, (float(share[0]), float(share[1])),
        _points((own - centre) @ axes.T), _points((affine(other.states[shown]) - centre) @ axes.T),
        labels,
    )]  # fmt: skip


def _shown(states: HiddenStates, seed: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Draw rows of at most SHOWN_LABELS labels."""
    rng = np.random.default_rng(seed)
    rows = np.arange(len(states))
    if states.label_ids is not None and len(states.labels) > SHOWN_LABELS:
        some = rng.permutation(len(states.labels))[:SHOWN_LABELS]
        rows = np.flatnonzero(np.isin(states.label_ids, some))
    return np.sort(rng.permutation(rows)[:SHOWN])


def _points(xy: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> tuple[Point, ...]:
    return tuple((round(float(x), 4), round(float(y), 4)) for x, y in xy)
