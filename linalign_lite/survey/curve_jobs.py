"""Maps of growing size and falling penalty, and mapped states in two dimensions."""

from __future__ import annotations

from functools import partial

import numpy as np

from linalign_lite.alignment.multi_target import fit_several
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.heads.evaluation import evaluate
from linalign_lite.survey.artefacts import Workshop
from linalign_lite.survey.classification_jobs import Way, mapped
from linalign_lite.survey.jobs import Job, Jobs, described
from linalign_lite.survey.results import CurveRow, Point, Projection

SIZES = (100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000)
SHOWN, SHOWN_LABELS = 240, 8  # texts and labels of a projection


def curve_jobs(shop: Workshop) -> Jobs:
    """Ridge maps from the public texts: all penalties, and growing parts of the texts."""
    for source in shop.cards:
        inputs = described(
            shop, tuple(shop.cards), source=source, texts=shop.marks(shop.config.public)
        )
        yield Job(f"penalties: from {source}", "curves", CurveRow, inputs,
                  partial(_penalties, shop, source))  # fmt: skip
    tests = shop.marks(
        shop.config.public, *(r for d in shop.data.values() for r in (d.train, d.test))
    )
    for source in shop.cards:
        for n in sizes(len(shop.texts(shop.config.public).texts)):
            inputs = described(
                shop, tuple(shop.cards), source=source, texts=tests, n=n, data=list(shop.data)
            )
            yield Job(f"{n} public texts: from {source}", "curves", CurveRow, inputs,
                      partial(_of_size, shop, source, n))  # fmt: skip


def sizes(n: int) -> list[int]:
    """Numbers of texts that a curve shows, the last one all of them."""
    return [*(s for s in SIZES if s < n), n]


def _penalties(shop: Workshop, source: str) -> list[CurveRow]:
    others = {m: shop.public(m) for m in shop.cards if m != source}
    found = fit_several(shop.public(source), others, seed=shop.config.seed)
    return [
        CurveRow(source, target, "", "penalty", penalty, r2)
        for target, (_, report) in found.items()
        for penalty, r2 in report.curve
    ]


def _of_size(shop: Workshop, source: str, n: int) -> list[CurveRow]:
    """R² by K folds of the n texts themselves; accuracies of the targets' heads on their tests."""
    some = np.random.default_rng(shop.config.seed).permutation(len(shop.public(source)))[:n]
    others = {m: shop.public(m).rows(some) for m in shop.cards if m != source}
    found = fit_several(shop.public(source).rows(some), others, seed=shop.config.seed)
    rows = []
    for target, (affine, report) in found.items():
        if not shop.data:
            rows.append(CurveRow(source, target, "", "size", n, report.held_out_r2))
        for data in shop.data:
            judged = evaluate(shop.head(target, data), shop.test(source, data), affine)
            rows.append(
                CurveRow(source, target, data, "size", n, report.held_out_r2, judged.accuracy.value)
            )
    return rows


def projection_jobs(shop: Workshop) -> Jobs:
    """One picture a pair, on the first data set."""
    for data in list(shop.data)[:1]:
        texts = shop.marks(shop.data[data].train, shop.data[data].test)
        for objective in shop.config.objectives:
            for source, target in shop.config.pairs():
                yield Job(
                    f"projection: {source} to {target}, {objective}",
                    "projections",
                    Projection,
                    described(shop, (source, target), texts=texts, objective=objective),
                    partial(_project, shop, source, target, data, objective),
                )


def _project(
    shop: Workshop, source: str, target: str, data: str, objective: str
) -> list[Projection]:
    native, other = shop.test(target, data), shop.test(source, data)
    shown = _shown(native, shop.config.seed)
    affine = mapped(shop, source, target, data, Way("all", objective))
    own = native.states[shown].astype(np.float64)
    centre = own.mean(axis=0)
    _, singular, axes = np.linalg.svd(own - centre, full_matrices=False)
    axes = axes[:2]
    axes = axes * np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    share = singular[:2] ** 2 / max(float((singular**2).sum()), np.finfo(float).tiny)
    ids = native.label_ids
    labels = () if ids is None else tuple(native.labels[i] for i in ids[shown])
    row = Projection(
        source, target, data, objective, (float(share[0]), float(share[1])),
        _points((own - centre) @ axes.T), _points((affine(other.states[shown]) - centre) @ axes.T),
        labels,
    )  # fmt: skip
    return [row]


def _shown(states: HiddenStates, seed: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Rows of a few labels, drawn."""
    rng = np.random.default_rng(seed)
    rows = np.arange(len(states))
    if states.label_ids is not None and len(states.labels) > SHOWN_LABELS:
        some = rng.permutation(len(states.labels))[:SHOWN_LABELS]
        rows = np.flatnonzero(np.isin(states.label_ids, some))
    return np.sort(rng.permutation(rows)[:SHOWN])


def _points(xy: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> tuple[Point, ...]:
    return tuple((round(float(x), 4), round(float(y), 4)) for x, y in xy)
