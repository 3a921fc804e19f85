"""Each measure against its dense oracle, and under what must not change it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from similarity_cases import ORACLES, centred, unbiased_hsic
from support import aligned_states

from linalign_lite import compare
from linalign_lite.alignment.moments import fold_index
from linalign_lite.alignment.similarity import measures
from linalign_lite.alignment.similarity.comparison import shuffles
from linalign_lite.alignment.similarity.measures import hsic, nearest, overlap
from linalign_lite.alignment.similarity.model_statistics import ModelStatistics, statistics_of
from linalign_lite.alignment.similarity.pair_statistics import pair_measures
from linalign_lite.alignment.similarity.results import DIRECTED, MEASURES, SYMMETRIC

SHAPES = {
    "square": (150, 8, 8), "wide source": (150, 20, 5), "wide target": (150, 5, 20),
    "fewer rows than dimensions": (40, 60, 45), "tiny": (12, 3, 2),
}  # fmt: skip


def made(shape, noise=1.0, seed=0):
    n, d_x, d_y = shape
    x, y = aligned_states(np.random.default_rng(seed), n, d_x, d_y, noise)
    return x.states, y.states


def values(x, y, **options):
    found = compare(x, y, permutations=0, **options)
    forth = {name: one.value for name, one in found.measures.items()}
    return forth, {name: one.value for name, one in found.back.items()}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("measure", MEASURES)
def test_as_the_papers_write_it(measure, shape):
    x, y = made(shape)
    options = {"k": 4} if measure == "mutual_knn" else {}
    forth, back = values(x, y, measures=[measure], **options)
    assert forth[measure] == pytest.approx(ORACLES[measure](x, y, **options), rel=1e-6, abs=1e-9)
    if measure in DIRECTED:
        assert back[measure] == pytest.approx(ORACLES[measure](y, x), rel=1e-6, abs=1e-9)
    else:
        assert not back


@pytest.mark.parametrize("share", [0.5, 0.9, 1.0])
def test_svcca_at_other_shares(share):
    x, y = made((200, 12, 9))
    assert values(x, y, measures=["svcca"], share=share)[0]["svcca"] == pytest.approx(
        ORACLES["svcca"](x, y, share), rel=1e-6
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_means_far_from_zero_and_half_precision_cost_no_digits(dtype):
    x, y = made((300, 10, 7))
    x, y = (x + 100).astype(dtype), (y - 300).astype(dtype)
    found = values(x, y, measures=["cka", "cka_debiased", "svcca", "r2"])[0]
    assert found["cka"] == pytest.approx(ORACLES["cka"](x, y), rel=1e-7)
    # the oracle keeps its digits only where the kernels are small
    assert found["cka_debiased"] == pytest.approx(
        ORACLES["cka_debiased"](centred(x), centred(y)), rel=1e-7
    )
    assert found["svcca"] == pytest.approx(ORACLES["svcca"](x, y), rel=1e-7)
    assert found["r2"] == pytest.approx(ORACLES["r2"](x, y), rel=1e-9)


def test_the_unbiased_estimator_needs_no_kernel(rng):
    x, y = rng.normal(size=(30, 4)) + 2, rng.normal(size=(30, 6)) - 1
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    rows_a, rows_b = (a**2).sum(axis=1), (b**2).sum(axis=1)
    cross = np.linalg.norm(a.T @ b) ** 2
    found = hsic(cross, rows_a @ rows_b, rows_a.sum(), rows_b.sum(), 30) / (30 * 27)
    assert found == pytest.approx(unbiased_hsic(x @ x.T, y @ y.T), rel=1e-10)


def test_the_unbiased_estimator_is_unbiased():
    """Its mean over draws of unrelated states is 0 within its standard error; CKA's is not."""
    rng = np.random.default_rng(5)
    both = []
    for _ in range(300):
        x, y = rng.normal(size=(20, 15)), rng.normal(size=(20, 15))
        found = values(x, y, measures=["cka", "cka_debiased"])[0]
        both.append((found["cka"], found["cka_debiased"]))
    biased, debiased = np.mean(both, axis=0)
    assert abs(debiased) < 4 * np.std([b for _, b in both]) / np.sqrt(len(both))
    assert biased > 0.3


# --- what must not change it ----------------------------------------------------------------------

SEEDS = st.integers(0, 2**32 - 1)
SCALES = st.floats(1e-3, 1e3)


def rotation(rng, d):
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, scale=SCALES)
def test_rotations_and_scales_change_nothing(seed, scale):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(60, 6)), rng.normal(size=(60, 4))
    y[:, :3] += x[:, :3] + 1
    turned = scale * (x @ rotation(rng, 6))
    views = [
        [ModelStatistics("a", s, folds_of(60), s.shape[1], 5, 0.99) for s in pair]
        for pair in ((x, y), (turned, y))
    ]
    for one, other in zip(*(pair_measures(*pair, MEASURES) for pair in views), strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert other[name] == pytest.approx(one[name], rel=1e-6, abs=1e-8), name


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_shifts_change_nothing_that_centres(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(60, 6)), rng.normal(size=(60, 4))
    y[:, :3] += x[:, :3]
    wanted = [name for name in MEASURES if name not in {"mutual_knn", "cosine"}]
    moved = x + 10 * rng.normal(size=6)
    found = [
        pair_measures(
            *(ModelStatistics("a", s, folds_of(60), s.shape[1], 5, 0.99) for s in pair), wanted
        )[0]
        for pair in ((x, y), (moved, y))
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-6, abs=1e-8)


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_invertible_maps_change_no_canonical_correlation(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(60, 6)), rng.normal(size=(60, 4))
    y[:, :2] += x[:, :2]
    skew = rotation(rng, 6) @ np.diag(rng.uniform(0.1, 10, size=6)) @ rotation(rng, 6)
    # a skew may leave CKA where it was by chance; what y does not vary with only lowers it
    alone = np.linalg.svd((y - y.mean(axis=0)).T @ (x - x.mean(axis=0)))[2][-1]
    stretch = np.eye(6) + 9 * np.outer(alone, alone)
    found = [
        pair_measures(
            *(ModelStatistics("a", s, folds_of(60), s.shape[1], 5, 1.0) for s in pair),
            ["svcca", "cka"],
        )[0]
        for pair in ((x, y), (x @ skew, y), (x @ stretch, y))
    ]
    for other in found[1:]:
        assert other["svcca"] == pytest.approx(found[0]["svcca"], rel=1e-6)
    assert found[2]["cka"] != pytest.approx(found[0]["cka"], rel=1e-3)  # which is no such thing


@settings(max_examples=15, deadline=None)
@given(seed=SEEDS)
def test_the_same_states_are_as_alike_as_can_be(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(50, 5)).astype(np.float32)
    turned = (3 * x @ rotation(rng, 5)).astype(np.float32)
    forth, back = values(x, turned, k=5, folds=3)
    for name in ("cka", "cka_debiased", "svcca"):
        assert forth[name] == pytest.approx(1, abs=1e-5)
    assert forth["mutual_knn"] > 0.97  # float32 may swap two neighbours equally near
    for side in (forth, back):
        assert side["r2"] > 0.999999
        assert side["cosine"] > 0.999999
        assert side["cycle"] < 1e-6


def test_symmetric_measures_are_symmetric():
    x, y = made((100, 9, 6))
    one, other = values(x, y), values(y, x)
    for name in SYMMETRIC:
        assert one[0][name] == pytest.approx(other[0][name], rel=1e-9)
    for name in DIRECTED:
        assert one[0][name] == pytest.approx(other[1][name], rel=1e-9)
        assert one[0][name] != pytest.approx(one[1][name], rel=1e-6)


# --- states that are not of full rank -------------------------------------------------------------


def test_dimensions_that_never_change_and_copies_of_others_count_for_nothing():
    x, y = made((200, 8, 6))
    dull = np.hstack([np.full((200, 3), 7.25, np.float32), x])
    copied = np.hstack([x, x])
    for share in (0.99, 1.0):
        options = {"measures": ["cka", "cka_debiased", "svcca"], "share": share}
        plain = values(x, y, **options)[0]
        assert values(dull, y, **options)[0] == pytest.approx(plain, rel=1e-9)
        assert values(copied, y, **options)[0] == pytest.approx(plain, rel=1e-9)
    found = values(dull, y, measures=["r2", "cycle"])
    assert found[0]["r2"] == pytest.approx(ORACLES["r2"](dull, y), rel=1e-9)
    assert found[1]["cycle"] == pytest.approx(ORACLES["cycle"](y, dull), rel=1e-6)


def folds_of(n, folds=5):
    index = fold_index(np.arange(n), folds)
    return tuple(np.flatnonzero(index == i) for i in range(folds))


def test_with_few_rows_states_are_rotated_and_nothing_else_changes():
    x, y = made((40, 60, 45))
    short = [statistics_of("a", s, folds_of(40), dim=s.shape[1], k=5, share=0.9) for s in (x, y)]
    assert [s.states.shape for s in short] == [(40, 40), (40, 40)]
    long = [ModelStatistics("a", s, folds_of(40), s.shape[1], 5, 0.9) for s in (x, y)]
    for order in (None, next(shuffles(folds_of(40), 1, 0))):
        for a, b in zip(
            pair_measures(*short, MEASURES, order),
            pair_measures(*long, MEASURES, order),
            strict=True,
        ):
            assert a == pytest.approx(b, rel=1e-6, abs=1e-9)


# --- neighbours -----------------------------------------------------------------------------------


def test_neighbours_in_blocks_are_the_same(rng, monkeypatch):
    states = rng.normal(size=(101, 4))
    whole = np.sort(nearest(states, 7), axis=1)
    monkeypatch.setattr(measures, "BLOCK", 101 * 9)
    assert np.array_equal(np.sort(nearest(states, 7), axis=1), whole)
    assert not (whole == np.arange(101)[:, None]).any()


def test_a_zero_row_is_no_ones_neighbour_before_others_and_no_failure():
    states = np.array([[1.0, 0], [1, 0.1], [1, 0.2], [0, 0], [1, 0.3]])
    found = nearest(states, 2)
    assert not (found[[0, 1, 2, 4]] == 3).any()


def test_overlap_counts_pairs(rng):
    a, b = (np.argsort(rng.random((30, 30)), axis=1)[:, :6] for _ in range(2))
    order = rng.permutation(30)
    place = np.argsort(order)
    expected = np.mean([len({*a[i]} & {*place[b[order[i]]]}) / 6 for i in range(30)])
    assert overlap(a, b, order) == pytest.approx(expected)
    assert overlap(a, a) == 1.0
