"""Compare the hidden states of two or more models, with a null of shuffled pairs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from linalign_lite.alignment.moments import Float64, fold_index
from linalign_lite.alignment.similarity.model_statistics import Ints, ModelStatistics, statistics_of
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
from linalign_lite.core.hidden_states import HiddenStates, as_states
from linalign_lite.errors import InputError

NULL_ROWS = 1_000
KNN_ROWS = 10_000
LEAST = 4  # minimum rows of unbiased HSIC
MAX_PERMUTATIONS = 1_000_000
_TIE = 1e-8  # relative difference that is rounding


def compare(
    x: HiddenStates | Array,
    y: HiddenStates | Array,
    *,
    measures: Sequence[str] = MEASURES,
    permutations: int = 100,
    k: int = 10,
    share: float = 0.99,
    folds: int = 5,
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
    folds: int = 5,
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
    _check(sets)
    first = next(iter(sets.values()))
    options.check_rows(len(first))
    drawn = _independent(first.groups, null_rows, seed)
    full = _statistics(sets, fold_index(first.groups, folds, seed), None, options)
    near = full
    if "mutual_knn" in measures and knn_rows < len(first):
        some = _some(len(first), knn_rows, seed)
        near = _statistics(sets, np.zeros(len(some), int), some, options)  # needs no folds
    null: dict[str, ModelStatistics] = {}
    if permutations:
        if k >= len(drawn) and "mutual_knn" in measures:
            raise _unfit_k(k, len(drawn))
        whole = len(drawn) == len(first)
        index = fold_index(np.arange(len(drawn)), folds, seed)
        null = full if whole else _statistics(sets, index, drawn, options)
    tally = progress or (lambda _: None)
    pairs = []
    for a, b in combinations(sets, 2):
        value = _values((full[a], full[b]), (near[a], near[b]), options)
        same = null and null[a] is full[a] and near[a] is full[a]
        nulls = _nulls(null[a], null[b], options, value if same else None, tally) if null else None
        pairs.append(_similarity((a, b), value, nulls, (full, near), options))
    return Similarities(tuple(sets), tuple(pairs))


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
        for name, most in (("permutations", MAX_PERMUTATIONS), ("seed", None)):
            value = getattr(self, name)
            if value < 0 or (most is not None and value > most):
                limits = "0 or more" if most is None else f"0 to {most}"
                raise InputError(f"{name} is not usable", got=str(value), expected=limits)
        for name in ("null_rows", "knn_rows"):
            if getattr(self, name) < LEAST:
                raise InputError(
                    f"{name} is not usable",
                    got=str(getattr(self, name)),
                    expected=f"{LEAST} or more",
                )

    def check_rows(self, n: int) -> None:
        if n < LEAST:
            raise InputError("these are too few rows to compare", got=str(n), expected="4 or more")
        if "mutual_knn" in self.measures and not 1 <= self.k < min(n, self.knn_rows):
            raise _unfit_k(self.k, min(n, self.knn_rows))


def _unfit_k(k: int, rows: int) -> InputError:
    return InputError(
        "the number of neighbours does not fit the rows", got=str(k), expected=f"1 to {rows - 1}"
    )


def _check(sets: Mapping[str, HiddenStates]) -> None:
    if len(sets) < 2:
        raise InputError("a comparison needs states of two models", got=str(len(sets)))
    first, *others = sets.values()
    for other in others:
        first.require_same_texts(other)


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
    sets: Mapping[str, HiddenStates], index: Ints, rows: Ints | None, options: _Options
) -> dict[str, ModelStatistics]:
    folds = [np.flatnonzero(index == i) for i in range(options.folds)]
    return {
        name: statistics_of(
            name, value.states if rows is None else value.states[rows], folds,
            dim=value.space.dim, k=options.k, share=options.share,
        )
        for name, value in sets.items()
    }  # fmt: skip


def _values(
    full: tuple[ModelStatistics, ModelStatistics],
    near: tuple[ModelStatistics, ModelStatistics],
    options: _Options,
) -> tuple[MeasureValues, MeasureValues]:
    """Compute the measures on all rows; neighbours on those of ``near``."""
    rest = [name for name in options.measures if name != "mutual_knn"]
    forth, back = pair_measures(*full, rest)
    if "mutual_knn" in options.measures:
        forth |= pair_measures(*near, ["mutual_knn"])[0]
    return forth, back


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
) -> tuple[dict[str, Null], dict[str, Null]]:
    found = pair_measures(x, y, options.measures) if observed is None else observed
    drawn = []
    for order in shuffles(x.folds, options.permutations, options.seed):
        drawn.append(pair_measures(x, y, options.measures, order))
        tally(1)
    sides = [
        {
            name: _null(name, value, np.array([one[side][name] for one in drawn]), len(x))
            for name, value in found[side].items()
        }
        for side in (0, 1)
    ]
    return sides[0], sides[1]


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


def _similarity(
    names: tuple[str, str],
    values: tuple[MeasureValues, MeasureValues],
    nulls: tuple[dict[str, Null], dict[str, Null]] | None,
    views: tuple[Mapping[str, ModelStatistics], Mapping[str, ModelStatistics]],
    options: _Options,
) -> Similarity:
    full, near = views

    def side(i: int) -> dict[str, Measured]:
        return {
            name: Measured(
                values[i][name],
                len((near if name == "mutual_knn" else full)[names[0]]),
                nulls[i][name] if nulls else None,
            )
            for name in options.measures
            if name in values[i]
        }

    warnings = []
    if "svcca" in options.measures:
        kept = [full[name].whitener.shape[1] for name in names]
        if sum(kept) >= len(full[names[0]]) - 1:
            warnings.append(
                f"svcca keeps {kept[0]} and {kept[1]} directions of {len(full[names[0]])} rows: "
                "so many correlate whatever the states"
            )
    return Similarity(*names, side(0), side(1), tuple(warnings))
