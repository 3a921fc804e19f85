"""Maps from few pairs or none: right ones are found, wrong ones are refused."""

import dataclasses

import numpy as np
import pytest
from alignment.unpaired.two_models import partner_first, two_models

from linalign_lite import (
    AlignmentError,
    HiddenStates,
    InputError,
    MismatchError,
    Space,
    fit,
    fit_unpaired,
)
from linalign_lite.alignment.unpaired import evidence
from linalign_lite.alignment.unpaired.unpaired_fit import rounds


@pytest.fixture(scope="module")
def models():
    return two_models(pairs=16)


@pytest.mark.parametrize("pairs", [0, 4, 16])
def test_unshared_texts_find_what_the_pairs_alone_do_not(models, pairs):
    some = tuple(rows[:pairs] for rows in models.pairs)
    ticks = []
    affine, report = fit_unpaired(
        models.source, models.target, some if pairs else None, watch=ticks.append
    )
    assert partner_first(affine, models.judged) >= 0.99
    assert 0 < len(ticks) <= rounds(pairs)
    assert (report.n_source, report.n_target, report.n_pairs) == (1500, 1500, pairs)
    assert report.closeness > 0.8
    assert (report.partner_first is None) == (pairs < evidence.ENOUGH_PAIRS)
    assert affine.card["method"] == "unpaired"
    if pairs == 4:
        alone, _ = fit(*some, penalty=1e-3, folds=2)
        assert partner_first(alone, models.judged) < 0.5


def test_the_map_is_affine_and_in_raw_coordinates(models):
    """Other scales and shifts of the states give the same images."""
    one, _ = fit_unpaired(models.source, models.target, models.pairs)
    other, _ = fit_unpaired(
        100 * models.source + 5, models.target, (100 * models.pairs[0] + 5, models.pairs[1])
    )
    x, y = models.judged
    expected = one(x)
    np.testing.assert_allclose(other(100 * x + 5), expected, atol=0.02 * np.abs(expected).max())
    residue = ((one(x) - y) ** 2).sum() / ((y - y.mean(axis=0)) ** 2).sum()
    assert residue < 0.1


def test_the_seed_decides(models):
    maps = [fit_unpaired(models.source, models.target, models.pairs, seed=s)[0] for s in (1, 1, 2)]
    np.testing.assert_array_equal(maps[0].weight, maps[1].weight)
    assert not np.array_equal(maps[0].weight, maps[2].weight)


@pytest.mark.parametrize("pairs", [0, 6])
@pytest.mark.parametrize("how", ["normal", "permuted"])
def test_states_without_common_structure_are_refused(models, how, pairs):
    rng = np.random.default_rng(3)
    target = models.target
    if how == "normal":
        target = rng.multivariate_normal(target.mean(axis=0), np.cov(target.T), len(target))
    else:
        target = rng.permuted(target, axis=0)
    some = tuple(rows[:pairs] for rows in models.pairs) if pairs else None
    with pytest.raises(AlignmentError, match="no alignment was found: got closeness"):
        fit_unpaired(models.source, target.astype(np.float32), some)


def test_pairs_of_other_texts_are_refused(models):
    shuffled = np.roll(models.pairs[1], 3, axis=0)
    with pytest.raises(AlignmentError, match="held-out partner"):
        fit_unpaired(
            np.random.default_rng(0).normal(size=(600, 28)).astype(np.float32),
            models.target,
            (models.pairs[0], shuffled),
        )


def test_a_few_shuffled_pairs_are_named(models):
    many = two_models(pairs=40)
    moved = many.pairs[1].copy()
    wrong = [3, 11, 20, 33]
    moved[wrong] = moved[np.roll(wrong, 1)]
    with pytest.raises(InputError, match="some pairs contradict the others") as caught:
        fit_unpaired(many.source, many.target, (many.pairs[0], moved))
    named = {int(row) for row in caught.value.got.removeprefix("rows ").split(", ")[:-1]}
    assert len(named & set(wrong)) >= 3
    assert named <= set(wrong)


def test_inputs_that_cannot_be_fitted_are_refused(models):
    x, y, (p, q) = models.source, models.target, models.pairs
    with pytest.raises(InputError, match="the pairs are too few: got 3"):
        fit_unpaired(x, y, (p[:3], q[:3]))
    with pytest.raises(InputError, match="texts of the target are too few: got 499"):
        fit_unpaired(x, y[:499], (p, q))
    with pytest.raises(InputError, match="the states are all the same"):
        fit_unpaired(np.ones_like(x), y, (p, q))
    with pytest.raises(MismatchError):
        fit_unpaired(x, y, (p, q[:9]))
    tokens = HiddenStates(x, text_index=np.zeros(len(x), np.int32))
    with pytest.raises(InputError, match="the source has a state a token"):
        fit_unpaired(tokens, y)
    named = HiddenStates(x, space=Space(x.shape[1], model="a" * 64))
    other = dataclasses.replace(named.space, model="b" * 64)
    with pytest.raises(MismatchError, match="the pairs' source states are not like"):
        fit_unpaired(named, y, (HiddenStates(p, space=other), q))
    same = [HiddenStates(rows, text_digest="c" * 64) for rows in (x, y)]
    with pytest.raises(InputError, match="are the same texts"):
        fit_unpaired(*same)
    parts = [side.rows(np.arange(k, len(x), 2)) for k, side in enumerate(same)]
    with pytest.raises(InputError, match="the pairs are too few"):  # not: the same texts
        fit_unpaired(*parts, (p[:3], q[:3]))
