"""Jobs of curves over the number of pairs, with and without texts that only one side has."""

import contextlib
from collections.abc import Iterator
from functools import partial

import numpy as np

from linalign_lite.alignment.least_squares import fit
from linalign_lite.alignment.unpaired.unpaired_fit import FEWEST_TEXTS, fit_unpaired
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import AlignmentError, InputError
from linalign_lite.heads.evaluation import evaluate
from linalign_lite.survey.artefacts import ArtefactStore
from linalign_lite.survey.jobs import Job
from linalign_lite.survey.results import CurveRow

PAIRS = (16, 64, 256)
JUDGED = 1000  # public texts at most, and a tenth of them
ALONE, WITH_UNSHARED = "pairs", "pairs+unshared"  # kinds of curves


def list_few_pairs(store: ArtefactStore) -> Iterator[Job]:
    """One job per pair of models and number of pairs; none where the public texts are too few."""
    public = store.config.public
    tests = store.text_digests(
        public, *(file for d in store.data.values() for file in (d.train, d.test))
    )
    count = len(store.texts(public).texts)
    for n in PAIRS:
        if (count - min(JUDGED, count // 10) - n) // 2 < FEWEST_TEXTS:
            continue
        for pair in store.config.pairs():
            label = f"{n} pairs and unshared texts: {pair[0]} to {pair[1]}"
            inputs = {"texts": tests, "pairs": n, "data": list(store.data)}
            yield Job("curves", label, pair, inputs, partial(_of_pairs, store, *pair, n))


def _of_pairs(store: ArtefactStore, source: str, target: str, n: int) -> list[CurveRow]:
    """R² on public texts kept aside, and accuracies of the target's heads, through both maps.

    No row of WITH_UNSHARED where no alignment was found.
    """
    x, y, seed = store.public(source), store.public(target), store.config.seed
    order = np.random.default_rng(seed).permutation(len(x))
    aside = min(JUDGED, len(x) // 10)
    judged, shared, rest = np.split(order, [aside, aside + n])
    own, theirs = np.array_split(rest, 2)
    pairs = x.rows(shared), y.rows(shared)
    maps = {ALONE: fit(*pairs, seed=seed)[0]}
    # refused: none was found, or the pairs seem to contradict each other
    with contextlib.suppress(AlignmentError, InputError):
        maps[WITH_UNSHARED], _ = fit_unpaired(x.rows(own), y.rows(theirs), pairs, seed=seed)
    rows = []
    for kind, affine in maps.items():
        r2 = _r2(affine, x.rows(judged), y.rows(judged))
        if not store.data:
            rows.append(CurveRow(source, target, "", kind, n, r2))
        for data in store.data:
            head, test = store.head(target, data), store.test(source, data)
            accuracy = evaluate(head, test, affine=affine).accuracy.value
            rows.append(CurveRow(source, target, data, kind, n, r2, accuracy))
    return rows


def _r2(affine: AffineMap, x: HiddenStates, y: HiddenStates) -> float:
    rest = ((affine(x.states) - y.states).astype(np.float64) ** 2).sum()
    spread = ((y.states - y.states.mean(axis=0)).astype(np.float64) ** 2).sum()
    return float(1 - rest / spread) if spread > 0 else 0.0
