"""Compare the hidden states of two or more models, with a null of shuffled pairs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from linalign_lite.alignment.moments import Float64, fold_index
from linalign_lite.alignment.similarity.measures import Ints
from linalign_lite.alignment.similarity.model_statistics import ModelStatistics, statistics_of
from linalign_lite.alignment.similarity.pair_statistics import MeasureValues, pair_measures
from linalign_lite.alignment.similarity.results import (
    ERRORS,
    MEASURES,
    Measured,
    Null,
    Similarities,
    Similarity,
)
from linalign_lite.core.affine_map import Array
from linalign_lite.core.choices import MAP_FOLDS
from linalign_lite.core.hidden_states import HiddenStates, as_states
from linalign_lite.core.token_alignment import pair_states
from linalign_lite.errors import InputError

NULL_ROWS = 1_000
KNN_ROWS = 10_000
LEAST = 4  # minimum rows of unbiased HSIC
MAX_PERMUTATIONS = 1_000_000
_TIE = 1e-8  # relative difference that is rounding
_Nulls = tuple[dict[str, Null], dict[str, Null]]  # there and back


def compare(
    x: HiddenStates | Array,
    y: HiddenStates | Array,
    *,
    measures: Sequence[str] = MEASURES,
    permutations: int = 100,
    k: int = 10,
    share: float = 0.99,
    folds: int = MAP_FOLDS,
    null_rows: int = NULL_ROWS,
    knn_rows: int = KNN_ROWS,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Similarity:
    """Compare two models' states of the same texts: x (n, d_x), y (n, d_y), row i of both.

    See `compare_all` for measures, null and options. The two are called "first" and "second".
    """
    return compare_all(
        {"first": as_states(x), "second": as_states(y)}, measures=measures,
        permutations=permutations, k=k, share=share, folds=folds, null_rows=null_rows,
        knn_rows=knn_rows, seed=seed, progress=progress,
    ).pairs[0]  # fmt: skip


def compare_all(
    states: Mapping[str, HiddenStates],
    *,
    measures: Sequence[str] = MEASURES,
    permutations: int = 100,
    k: int = 10,
    share: float = 0.99,
    folds: int = MAP_FOLDS,
    null_rows: int = NULL_ROWS,
    knn_rows: int = KNN_ROWS,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Similarities:
    """Compare every pair of N models, on states of the same texts, by name.

    Measures, exact from sums of products except where rows are named:

    - ``cka``: ‖X_cᵀY_c‖² / (‖X_cᵀX_c‖ ‖Y_cᵀY_c‖) (Kornblith et al. 2019, linear).
    - ``cka_debiased``: with unbiased HSIC in all three places (Song et al. 2012, Murphy et al.
      2024); needs each row's squared length too. About 0 for unrelated states, whatever n and d.
    - ``svcca``: mean canonical correlation of the directions that hold ``share`` of each side's
      variance (Raghu et al. 2017).
    - ``mutual_knn``: mean share of common ``k`` nearest neighbours by cosine (Huh et al. 2024), of
      at most ``knn_rows`` rows, drawn by ``seed``; it falls as rows grow.
    - ``r2``: held-out R² of the ridge map, as `fit` reports it, over ``folds`` folds.
    - ``cosine``: mean cosine of mapped and true held-out states (rows); means count, so even
      unrelated models have a high one where states share a direction: read it beside its null.
    - ``cycle``: ‖X − B A X‖² / ‖X_c‖² held out, A and B the ridge maps there and back; small when
      similar.

    Null: ``permutations`` times, pairs are shuffled within each fold, so no model's own sums
    change, and the measure is computed again with its penalty search. It takes one row of each text
    (token states have many, which are not independent), at most ``null_rows`` texts, drawn by
    ``seed``; p compares with the measure on the same rows (`Null.observed`). 0 makes no null.

    progress is called with the number of permutations done since the last call.
    Raises MismatchError for states of different texts, InputError for states that are all the
    same, fewer than 4 rows, or options that do not fit.
    """
    options = _Options(tuple(measures), permutations, k, share, folds, null_rows, knn_rows, seed)
    sets = {name: as_states(value) for name, value in states.items()}
    if len(sets) < 2:
        raise InputError("a comparison needs states of two models", got=str(len(sets)))
    first, *others = sets.values()
    for other in others:
        first.require_same_texts(other)
    n = len(first)
    if n < LEAST:
        raise InputError("these are too few rows to compare", got=str(n), expected="4 or more")
    options.require_fitting_k(min(n, knn_rows))
    full = _statistics(sets, fold_index(first.groups, folds, seed), slice(None), options)
    near = full
    if "mutual_knn" in measures and knn_rows < n:
        some = _some(n, knn_rows, seed)
        near = _statistics(sets, np.zeros(len(some), int), some, options)  # needs no folds
    null: dict[str, ModelStatistics] = {}
    if permutations:
        drawn = _independent(first.groups, null_rows, seed)
        options.require_fitting_k(len(drawn))
        index = fold_index(np.arange(len(drawn)), folds, seed)
        null = full if len(drawn) == n else _statistics(sets, index, drawn, options)
    tally = progress or (lambda _: None)
    pairs = []
    for a, b in combinations(sets, 2):
        values = pair_measures(full[a], full[b], [m for m in measures if m != "mutual_knn"])
        if "mutual_knn" in measures:
            values[0].update(pair_measures(near[a], near[b], ["mutual_knn"])[0])
        nulls: _Nulls = ({}, {})
        if permutations:
            observed = values if null is full and near is full else None
            nulls = _nulls(null[a], null[b], options, observed, tally)
        rows = {name: len((near if name == "mutual_knn" else full)[a]) for name in measures}
        forth, back = (
            {m: Measured(found[m], rows[m], chance.get(m)) for m in measures if m in found}
            for found, chance in zip(values, nulls, strict=True)
        )
        warnings = _warnings(full[a], full[b]) if "svcca" in measures else ()
        pairs.append(Similarity(a, b, forth, back, warnings))
    return Similarities(tuple(sets), tuple(pairs))


def common_rows(states: Mapping[str, HiddenStates]) -> dict[str, HiddenStates]:
    """Token states at the positions where a token of every model ends; other states as they are.

    Raises MismatchError when some have token positions and some have not, or texts differ,
    InputError when no position is common.
    """
    sets = dict(states)
    if all(value.text_index is None for value in sets.values()):
        return sets
    name, *others = sets
    anchor = sets[name]
    for other in others:
        anchor, _ = pair_states(anchor, sets[other])
    return {name: anchor, **{other: pair_states(anchor, sets[other])[1] for other in others}}


@dataclass(frozen=True)
class _Options:
    measures: tuple[str, ...]
    permutations: int
    k: int
    share: float
    folds: int
    null_rows: int
    knn_rows: int
    seed: int

    def __post_init__(self) -> None:
        unknown = [name for name in self.measures if name not in MEASURES]
        if unknown or not self.measures:
            raise InputError(
                "unknown measure" if unknown else "no measure is given",
                got=str(unknown[0])[:40] if unknown else "",
                expected=f"some of {', '.join(MEASURES)}",
            )
        if not 0 < self.share <= 1:
            raise InputError(
                "the share of variance is not usable",
                got=str(self.share),
                expected="above 0, at most 1",
            )
        for name, least, most in (
            ("permutations", 0, MAX_PERMUTATIONS),
            ("seed", 0, None),
            ("null_rows", LEAST, None),
            ("knn_rows", LEAST, None),
        ):
            value = getattr(self, name)
            if value < least or (most is not None and value > most):
                limits = f"{least} or more" if most is None else f"{least} to {most}"
                raise InputError(f"{name} is not usable", got=str(value), expected=limits)

    def require_fitting_k(self, n: int) -> None:
        """Raise InputError unless a row of n has k neighbours, where they are wanted."""
        if "mutual_knn" in self.measures and not 1 <= self.k < n:
            problem = "the number of neighbours does not fit the rows"
            raise InputError(problem, got=str(self.k), expected=f"1 to {n - 1}")


def _some(n: int, most: int, seed: int) -> Ints:
    """Draw at most ``most`` of n rows, in order."""
    return np.sort(np.random.default_rng(seed).permutation(n)[:most])


def _independent(groups: Ints, most: int, seed: int) -> Ints:
    """Draw one row of each group, of at most ``most`` groups, in order."""
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    _, place = np.unique(groups[shuffled], return_index=True)
    rows = shuffled[place]
    return np.sort(rows[_some(len(rows), most, seed)])


def _statistics(
    sets: Mapping[str, HiddenStates], index: Ints, rows: Ints | slice, options: _Options
) -> dict[str, ModelStatistics]:
    folds = [np.flatnonzero(index == i) for i in range(options.folds)]
    return {
        name: statistics_of(
            name, x.states[rows], folds, dim=x.space.dim, k=options.k, share=options.share
        )
        for name, x in sets.items()
    }


def shuffles(folds: Sequence[Ints], permutations: int, seed: int) -> Iterator[Ints]:
    """Yield permutations of the rows within their folds."""
    rng = np.random.default_rng([seed, 1])
    for _ in range(permutations):
        order = np.empty(sum(map(len, folds)), dtype=np.int64)
        for fold in folds:
            order[fold] = rng.permutation(fold)
        yield order


def _nulls(
    x: ModelStatistics,
    y: ModelStatistics,
    options: _Options,
    observed: tuple[MeasureValues, MeasureValues] | None,
    tally: Callable[[int], None],
) -> _Nulls:
    found = observed or pair_measures(x, y, options.measures)
    drawn = []
    for order in shuffles(x.folds, options.permutations, options.seed):
        drawn.append(pair_measures(x, y, options.measures, order))
        tally(1)
    forth, back = (
        {
            name: _null(name, value, np.array([one[side][name] for one in drawn]), len(x))
            for name, value in values.items()
        }
        for side, values in enumerate(found)
    )
    return forth, back


def _null(name: str, observed: float, drawn: Float64, n: int) -> Null:
    sign = -1.0 if name in ERRORS else 1.0
    alike = sign * drawn >= sign * observed - _TIE * max(1.0, abs(observed))
    return Null(
        observed=observed,
        mean=float(drawn.mean()),
        extreme=float(sign * (sign * drawn).max()),
        p=float(1 + alike.sum()) / (1 + len(drawn)),
        n=n,
        permutations=len(drawn),
    )


def _warnings(x: ModelStatistics, y: ModelStatistics) -> tuple[str, ...]:
    kept = [side.whitener.shape[1] for side in (x, y)]
    if sum(kept) < len(x) - 1:
        return ()
    return (
        f"svcca keeps {kept[0]} and {kept[1]} directions of {len(x)} rows: "
        "so many correlate whatever the states",
    )
