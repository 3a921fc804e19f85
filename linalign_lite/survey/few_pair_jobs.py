"""Jobs of curves over the number of pairs, with and without texts that only one side has."""

import contextlib
from collections.abc import Iterator
from functools import partial

import numpy as np

from linalign_lite.alignment.least_squares import fit
from linalign_lite.alignment.unpaired.evidence import count_aside
from linalign_lite.alignment.unpaired.unpaired_fit import FEWEST_TEXTS, fit_unpaired
from linalign_lite.core.metrics import r2
from linalign_lite.errors import AlignmentError, InputError
from linalign_lite.survey.artefacts import ArtefactStore
from linalign_lite.survey.curve_jobs import points_of, public_and_tests
from linalign_lite.survey.jobs import Job
from linalign_lite.survey.results import CurveRow

PAIRS = (16, 64, 256)
ALONE, WITH_UNSHARED = "pairs", "pairs+unshared"  # kinds of curves


def list_few_pairs(store: ArtefactStore) -> Iterator[Job]:
    """One job per pair of models and number of pairs; none where the public texts are too few."""
    tests, count = public_and_tests(store), len(store.texts(store.config.public).texts)
    for n in PAIRS:
        if (count - count_aside(count) - n) // 2 < FEWEST_TEXTS:
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
    aside = count_aside(len(x))
    judged, shared, rest = np.split(order, [aside, aside + n])
    own, theirs = np.array_split(rest, 2)
    pairs = x.rows(shared), y.rows(shared)
    maps = {ALONE: fit(*pairs, seed=seed)[0]}
    # refused: none was found, or the pairs seem to contradict each other
    with contextlib.suppress(AlignmentError, InputError):
        maps[WITH_UNSHARED], _ = fit_unpaired(x.rows(own), y.rows(theirs), pairs, seed=seed)
    return [
        row
        for kind, affine in maps.items()
        for row in points_of(
            store, source, target, kind, n, r2(y.states[judged], affine(x.states[judged])), affine
        )
    ]
