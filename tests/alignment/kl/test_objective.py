"""The divergence, its gradient and the head's curvature, against the definitions in float64."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kl_cases import CASES, SOURCE, Case, make_case, reference, scores_of, softmax_of, taught

from linalign_lite.alignment.kl import softmax as softmax_module
from linalign_lite.alignment.kl.divergence_fit import fit_kl
from linalign_lite.alignment.kl.objective import agreement, distillation_data, divergence
from linalign_lite.alignment.kl.optimizer import reduce_map
from linalign_lite.alignment.kl.softmax import FEWEST, Softmax, reduce_head
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.errors import InputError

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def learnt(case: Case):
    softmax = reduce_head(case.head)
    data, curvature = distillation_data(
        softmax, case.x, case.y, case.weight, teaching=case.teaching, next_token=case.next_token
    )
    return softmax, data, curvature


def random_map(case: Case, seed=1, scale=0.6) -> AffineMap:
    rng = np.random.default_rng(seed)
    dims = case.head.weight.shape[1]
    return AffineMap(rng.normal(size=(dims, SOURCE)) * scale, rng.normal(size=dims) * scale)


def measured(case: Case, affine: AffineMap):
    softmax, data, _ = learnt(case)
    here = reduce_map(softmax, affine)
    return divergence(softmax, data, here.weight, here.bias)


@every_case
def test_the_divergence_is_its_definition(case):
    for seed in range(3):
        affine = random_map(case, seed)
        value, _, _ = measured(case, affine)
        assert value == pytest.approx(reference(case, affine.weight, affine.bias), rel=2e-5)


@every_case
def test_the_gradient_is_that_of_the_definition(case):
    """Central differences of the reference, in the map's own coordinates."""
    affine = random_map(case)
    softmax = reduce_head(case.head)
    _, slope, shift = measured(case, affine)
    if softmax.basis is not None:  # the head sees nothing else, so nothing else has a slope
        slope, shift = softmax.basis @ slope, softmax.basis @ shift
    found = np.column_stack([slope, shift])
    plain = np.column_stack([affine.weight, affine.bias])
    wanted, step = np.empty_like(plain), 1e-5
    for place in np.ndindex(plain.shape):
        ends = []
        for sign in (1, -1):
            moved = plain.copy()
            moved[place] += sign * step
            ends.append(reference(case, moved[:, :-1], moved[:, -1]))
        wanted[place] = (ends[0] - ends[1]) / (2 * step)
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max() + 1e-6)


@pytest.mark.parametrize("outputs", [23, 4, 2])
def test_the_same_model_diverges_nowhere(outputs):
    made = make_case(outputs, SOURCE)
    case = replace(made, y=made.x)
    value, slope, shift = measured(case, AffineMap(np.eye(SOURCE), np.zeros(SOURCE)))
    assert abs(value) < 1e-6
    assert max(np.abs(slope).max(), np.abs(shift).max()) < 1e-6
    moved, _, _ = measured(case, AffineMap(np.eye(SOURCE) * 1.1, np.zeros(SOURCE)))
    assert moved > 1e-4


@every_case
def test_blocks_change_nothing(case, monkeypatch):
    affine = random_map(case)
    softmax, whole, curvature = learnt(case)
    here = reduce_map(softmax, affine)
    value, slope, shift = divergence(softmax, whole, here.weight, here.bias)
    same = agreement(softmax, whole, case.y, here.weight, here.bias)
    assert len(list(softmax.blocks(len(whole)))) == 1

    monkeypatch.setattr(softmax_module, "BLOCK", 1)
    monkeypatch.setattr(softmax_module, "FEWEST", 7)
    assert [b.stop - b.start for b in softmax.blocks(len(whole))] == [7, 7, 7, 7, 7, 5]
    _, parts, in_parts = learnt(case)
    np.testing.assert_allclose(in_parts, curvature, atol=1e-5)
    np.testing.assert_allclose(parts.summary, whole.summary, atol=1e-5)
    found = divergence(softmax, parts, here.weight, here.bias)
    assert found[0] == pytest.approx(value, abs=1e-6)
    np.testing.assert_allclose(found[1], slope, atol=1e-5)
    np.testing.assert_allclose(found[2], shift, atol=1e-5)
    assert agreement(softmax, parts, case.y, here.weight, here.bias) == same


def test_blocks_stay_small_for_a_large_vocabulary():
    softmax = Softmax(np.zeros((50_000, 2), np.float32), np.zeros(50_000, np.float32))
    taken = list(softmax.blocks(1000))
    assert [s.start for s in taken] == list(range(0, 1000, FEWEST))
    assert taken[-1].stop == 1000


@every_case
def test_the_curvature_is_the_heads_own_row_by_row(case):
    softmax, _, curvature = learnt(case)
    v = softmax.factor.astype(float)
    rows = [v.T @ (np.diag(p) - np.outer(p, p)) @ v for p in taught(case)]
    wanted = np.average(rows, axis=0, weights=case.weight)
    np.testing.assert_allclose(curvature, wanted, atol=2e-5 * np.abs(wanted).max())


def test_the_curvature_takes_outputs_in_blocks():
    """More outputs than are widened at once."""
    case = make_case(8192 + 300, 4, n=12)
    softmax, _, curvature = learnt(case)
    v, p = softmax.factor.astype(float), taught(case)
    wanted = v.T @ (v * p.mean(axis=0)[:, None]) - (p @ v).T @ (p @ v) / len(p)
    np.testing.assert_allclose(curvature, wanted, atol=2e-5 * np.abs(wanted).max())


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_reduced_head_says_the_same(outputs, dims, seed):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(outputs, dims)) * 3
    if outputs > 1 and seed % 2:
        weight[0] = weight[1]  # less freedom than outputs
    head = Head(weight.astype(np.float32), rng.normal(size=outputs).astype(np.float32))
    softmax, z = reduce_head(head), rng.normal(size=(8, dims)).astype(np.float32)
    found, _ = softmax.probabilities(softmax.coordinates(z))
    np.testing.assert_allclose(found, softmax_of(scores_of(head, z)), atol=5e-6)
    if outputs <= dims:
        assert softmax.rank <= max(1, outputs - 1)
        np.testing.assert_allclose(softmax.basis.T @ softmax.basis, np.eye(softmax.rank), atol=1e-9)
    else:
        assert softmax.basis is None


def test_a_capped_head_is_not_reduced():
    """Adding the same to every score is not the same before the cap."""
    assert reduce_head(CASES["capped, few outputs"].head).basis is None


def test_probabilities_and_log_partition_of_scores_out_of_range():
    """Scores whose powers float32 cannot hold."""
    factor = np.array([[1.0], [0.0], [-1.0]], dtype=np.float32)
    softmax = Softmax(factor, np.zeros(3, np.float32))
    p, partition = softmax.probabilities(np.array([[500.0], [-500.0]], dtype=np.float32))
    np.testing.assert_allclose(p, [[1, 0, 0], [0, 0, 1]], atol=1e-25)
    assert p.min() > np.finfo(np.float32).tiny * 1e6  # products with subnormal numbers are slow
    np.testing.assert_allclose(partition, [500, 500])


def test_a_large_head_is_taken_as_it_is_stored(rng, monkeypatch):
    """Half precision stays so in memory; what comes of it is what comes of the same in float32."""
    monkeypatch.setattr(softmax_module, "CHUNK", 10)
    case = make_case(23, 6)
    half = Head(case.head.weight.astype(np.float16), case.head.bias.astype(np.float16))
    wide = Head(half.weight.astype(np.float32), half.bias.astype(np.float32))
    kept, same = reduce_head(half), reduce_head(wide)
    assert kept.factor is half.weight
    data_sets = [distillation_data(s, case.x, case.y) for s in (kept, same)]
    np.testing.assert_allclose(
        data_sets[0][0].summary, data_sets[1][0].summary, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(data_sets[0][1], data_sets[1][1], rtol=1e-4, atol=1e-6)
    weight, bias = rng.normal(size=(6, SOURCE)), rng.normal(size=6)
    for a, b in zip(*(divergence(s, data, weight, bias)
                      for s, (data, _) in zip((kept, same), data_sets, strict=True)),
                    strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 3, 8, 23, 1000])
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_a_part_of_the_outputs_at_a_time_gives_what_all_give(chunk, scale, rng, monkeypatch):
    monkeypatch.setattr(softmax_module, "CHUNK", chunk)
    factor = (scale * rng.normal(size=(23, 6))).astype(np.float32)
    softmax = Softmax(factor, rng.normal(size=23).astype(np.float32))
    rows = rng.normal(size=(9, 6)).astype(np.float32)
    found, partition = softmax.expected(rows)
    scores = rows.astype(float) @ factor.T.astype(float) + softmax.bias
    tops = scores.max(axis=1)
    np.testing.assert_allclose(
        partition, tops + np.log(np.exp(scores - tops[:, None]).sum(axis=1)), rtol=1e-5
    )
    np.testing.assert_allclose(found, softmax_of(scores) @ factor, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_log_partition_is_that_of_the_scores_divided(temperature, rng):
    softmax = reduce_head(make_case(9, 4).head)
    z = rng.normal(size=(5, 4)).astype(np.float32)
    _, partition = softmax.probabilities(z, temperature)
    wanted = np.log(np.exp(softmax.scores(z).astype(float) / temperature).sum(axis=1))
    np.testing.assert_allclose(partition, wanted, rtol=1e-5)


def test_rows_without_weight_might_as_well_not_be_there():
    case = CASES["tokens, all of it"]
    softmax, data, curvature = learnt(case)
    kept = np.flatnonzero(case.weight)
    fewer = replace(
        case, x=case.x[kept], y=case.y[kept], weight=case.weight[kept],
        next_token=case.next_token[kept],
    )  # fmt: skip
    assert len(kept) < len(case.x)
    _, rest, bare = learnt(fewer)
    here = reduce_map(softmax, random_map(case))
    for a, b in zip(
        divergence(softmax, data, here.weight, here.bias),
        divergence(softmax, rest, here.weight, here.bias),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(curvature, bare, rtol=1e-4, atol=1e-6)


def test_a_row_twice_is_a_row_of_weight_two():
    case = make_case(23, 6)
    weight = np.ones(len(case.x), dtype=np.float32)
    weight[:10] = 2
    again = np.r_[np.arange(len(case.x)), np.arange(10)]
    softmax, heavy, once = learnt(replace(case, weight=weight))
    _, doubled, twice = learnt(replace(case, x=case.x[again], y=case.y[again]))
    here = reduce_map(softmax, random_map(case))
    for a, b in zip(
        divergence(softmax, heavy, here.weight, here.bias),
        divergence(softmax, doubled, here.weight, here.bias),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(once, twice, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["tokens, all of it", "capped, all of it", "classes, all of it"])
def test_some_rows_are_those_rows(name):
    case = CASES[name]
    softmax, data, _ = learnt(case)
    keep = np.array([7, 3, 30, 3])
    fewer = replace(
        case, x=case.x[keep], y=case.y[keep], weight=case.weight[keep],
        next_token=case.next_token[keep],
    )  # fmt: skip
    affine = random_map(case)
    here = reduce_map(softmax, affine)
    value, _, _ = divergence(softmax, data.rows(keep), here.weight, here.bias)
    assert value == pytest.approx(reference(fewer, affine.weight, affine.bias), rel=2e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_half_precision_states_are_taken_as_the_numbers_they_are(dtype):
    case = make_case(23, 6)
    halves = replace(case, x=case.x.astype(np.float16), y=case.y.astype(np.float16))
    same = replace(case, x=halves.x.astype(dtype), y=halves.y.astype(dtype))
    affine = random_map(case)
    value, slope, _ = measured(same, affine)
    assert value == pytest.approx(reference(halves, affine.weight, affine.bias), rel=2e-5)
    assert slope.dtype == np.float64


def test_agreement_counts_equal_first_choices():
    case = make_case(9, 5, n=200)
    affine = random_map(case)
    for made in (case, replace(case, head=replace(case.head, softcap=1.0))):
        softmax, data, _ = learnt(made)
        here = reduce_map(softmax, affine)
        found = agreement(softmax, data, made.y, here.weight, here.bias)
        mine = made.head.predict(made.y)
        assert found == np.mean(made.head.predict(affine(made.x)) == mine)
        assert 0 < found < 1


def test_a_head_that_float32_cannot_hold_is_refused():
    case = make_case(9, 5, n=30)
    head = Head(case.head.weight * np.float32(1e38), case.head.bias)
    with pytest.raises(InputError, match="float32"):
        fit_kl(case.x, case.y * np.float32(100), head)
