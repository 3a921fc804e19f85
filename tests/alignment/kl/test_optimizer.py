"""The coordinates of the descent, its penalty, and the minimum against SciPy's BFGS."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st
from kl_cases import CASES, SOURCE, Case, make_case, reference

from linalign_lite.alignment.kl import optimizer
from linalign_lite.alignment.kl.objective import Teaching, distillation_data, divergence
from linalign_lite.alignment.kl.optimizer import (
    ReducedMap,
    Reparametrization,
    compute_eigenbases,
    minimise_divergence,
    reduce_map,
    reparametrize,
)
from linalign_lite.alignment.kl.softmax import Softmax, reduce_head
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head


def make_problem(case: Case, penalty: float, seed: int = 3):
    """Arguments of `minimise_divergence`, and the curvature and u of its penalty."""
    softmax = reduce_head(case.head)
    data, curvature = distillation_data(
        softmax, case.x, case.y, case.weight, teaching=case.teaching, next_token=case.next_token
    )
    rng = np.random.default_rng(seed)
    dims = case.head.weight.shape[1]
    start = reduce_map(
        softmax, AffineMap(rng.normal(size=(dims, SOURCE)) / 3, rng.normal(size=dims))
    )
    x = case.x.astype(float)
    covariance = np.cov(x.T, bias=True)
    reparam = reparametrize(
        compute_eigenbases(x.mean(axis=0), covariance, curvature), start, penalty
    )
    return softmax, data, reparam, curvature, float(np.trace(covariance)) / SOURCE


def penalty_of(curvature, weight, start, strength: float) -> float:
    """λu/2 ‖F^½(W − W₀)‖²."""
    gap = weight - start
    return strength / 2 * float(np.trace(gap.T @ curvature @ gap))


def random_reparametrization(seed: int, rank: int, penalty: float) -> Reparametrization:
    rng = np.random.default_rng(seed)
    root, spread = rng.normal(size=(rank, rank)), rng.normal(size=(SOURCE, SOURCE))
    start = ReducedMap(rng.normal(size=(rank, SOURCE)), rng.normal(size=rank))
    eigenbases = compute_eigenbases(rng.normal(size=SOURCE) * 4, spread @ spread.T, root @ root.T)
    return reparametrize(eigenbases, start, penalty)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from([0.0, 1e-3, 1.0, 1e6]))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_coordinates_go_both_ways(seed, rank, penalty):
    reparam = random_reparametrization(seed, rank, penalty)
    theta = np.random.default_rng(seed + 1).normal(size=rank * (SOURCE + 1))
    np.testing.assert_allclose(reparam.theta(reparam.affine(theta)), theta, rtol=1e-5, atol=1e-5)
    origin = reparam.affine(np.zeros_like(theta))
    np.testing.assert_array_equal(origin.weight, reparam.start.weight)
    np.testing.assert_array_equal(origin.bias, reparam.start.bias)
    assert reparam.penalty(np.zeros_like(theta)) == 0


def test_the_last_part_moves_the_image_of_the_mean_and_nothing_else_does():
    reparam = random_reparametrization(5, 3, 0.1)
    theta = np.random.default_rng(6).normal(size=3 * (SOURCE + 1))
    before = reparam.start.weight @ reparam.mean + reparam.start.bias
    theta[-3:] = 0
    turned = reparam.affine(theta)
    np.testing.assert_allclose(turned.weight @ reparam.mean + turned.bias, before, atol=1e-8)
    theta[-3:] = 1
    shifted = reparam.affine(theta)
    np.testing.assert_array_equal(shifted.weight, turned.weight)
    np.testing.assert_allclose(shifted.bias - turned.bias, reparam.left.sum(axis=1), atol=1e-8)


@pytest.mark.parametrize("penalty", [0.0, 1e-3, 0.5, 30.0])
@pytest.mark.parametrize("name", ["tokens, all of it", "classes"])
def test_the_penalty_is_the_distance_in_the_heads_metric(name, penalty):
    _, _, reparam, curvature, unit = make_problem(CASES[name], penalty)
    theta = np.random.default_rng(8).normal(size=reparam.left.shape[0] * (SOURCE + 1))
    affine = reparam.affine(theta)
    least = penalty_of(curvature, affine.weight, reparam.start.weight, penalty * unit)
    largest = float(np.linalg.eigvalsh(curvature)[-1])
    floor = penalty_of(np.eye(len(curvature)), affine.weight, reparam.start.weight, penalty * unit)
    assert least - 1e-9 <= reparam.penalty(theta) <= least + 1e-3 * largest * floor + 1e-9
    assert (reparam.penalty(theta) > 0) == (penalty > 0)


@pytest.mark.parametrize("name", ["tokens, all of it", "classes, all of it", "capped, all of it"])
def test_the_gradient_in_the_coordinates_is_that_of_the_objective(name):
    """Central differences of the reference plus the penalty."""
    case = CASES[name]
    softmax, data, reparam, _, _ = make_problem(case, 0.3)
    seen = Case(
        Head(softmax.factor, softmax.bias, softcap=softmax.softcap),
        case.x, softmax.coordinates(case.y), case.weight, case.teaching, case.next_token,
    )  # fmt: skip

    def objective(theta):
        here = reparam.affine(theta)
        return reference(seen, here.weight, here.bias) + reparam.penalty(theta)

    theta = np.random.default_rng(9).normal(size=reparam.left.shape[0] * (SOURCE + 1)) / 2
    here = reparam.affine(theta)
    _, slope, shift = divergence(softmax, data, here.weight, here.bias)
    wanted = scipy.optimize.approx_fprime(theta, objective, 1e-6)
    found = reparam.gradient(slope, shift, theta)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("penalty", [0.003, 0.3])
@pytest.mark.parametrize(
    "case",
    [make_case(9, 4, n=60), make_case(3, 5, n=60, weighted=True, temperature=0.7),
     make_case(9, 3, n=60, softcap=4.0, truth=0.2)],
    ids=["tokens", "classes", "capped"],
)  # fmt: skip
def test_the_descent_ends_where_bfgs_ends(case, penalty):
    """In the map's own coordinates, from the same start, with a gradient by differences."""
    softmax, data, reparam, curvature, unit = make_problem(case, penalty)
    seen = Case(
        Head(softmax.factor, softmax.bias, softcap=softmax.softcap),
        case.x, softmax.coordinates(case.y), case.weight, case.teaching, case.next_token,
    )  # fmt: skip
    metric = curvature + 1e-4 * np.linalg.eigvalsh(curvature)[-1] * np.eye(len(curvature))

    def objective(flat):
        full = flat.reshape(len(metric), -1)
        value = reference(seen, full[:, :-1], full[:, -1])
        return value + penalty_of(metric, full[:, :-1], reparam.start.weight, penalty * unit)

    begin = np.column_stack([reparam.start.weight, reparam.start.bias]).ravel()
    best = scipy.optimize.minimize(objective, begin, method="BFGS", options={"gtol": 1e-5})
    losses = []

    def watch(count, loss, here):
        assert isinstance(here(), ReducedMap)
        losses.append((count, loss))
        return False

    at, value = minimise_divergence(
        softmax, data, reparam, reparam.start, iterations=300, tolerance=1e-9, watch=watch
    )
    flat = np.column_stack([at.weight, at.bias]).ravel()
    assert objective(flat) <= best.fun + 1e-4
    assert value == pytest.approx(objective(flat), abs=1e-5)
    assert value < objective(begin) - 1e-2
    assert [count for count, _ in losses] == list(range(1, len(losses) + 1))
    assert losses[-1][1] == pytest.approx(value)
    # begun elsewhere it ends there too, penalty and all; that one is convex
    if softmax.softcap is None:
        far = ReducedMap(reparam.start.weight + 1, reparam.start.bias - 1)
        _, again = minimise_divergence(
            softmax, data, reparam, far, iterations=300, tolerance=1e-9, watch=lambda *_: False
        )
        assert again == pytest.approx(value, abs=1e-4)


def test_the_descent_stops_when_told_to_and_at_its_limit():
    softmax, data, reparam, _, _ = make_problem(CASES["tokens"], 1e-3)
    seen = []

    def stop_at(limit):
        seen.clear()
        return lambda count, loss, here: bool(seen.append(here())) or count >= limit

    at, _ = minimise_divergence(
        softmax, data, reparam, reparam.start, iterations=50, tolerance=0, watch=stop_at(3)
    )
    assert len(seen) == 3
    np.testing.assert_allclose(at.weight, seen[-1].weight, atol=1e-12)
    minimise_divergence(
        softmax, data, reparam, reparam.start, iterations=4, tolerance=0, watch=stop_at(99)
    )
    assert len(seen) == 4


@pytest.mark.parametrize("rows", ["the same", "along a line"])
def test_where_the_source_does_not_vary_the_map_does_not_move(rows):
    """There the slope is rounding, and the penalty may be next to nothing."""
    case = make_case(4, 7, n=50)
    x = np.repeat(case.x[:1] * 1000 + np.float32(1 / 3), 50, axis=0)
    along = np.arange(SOURCE) == 2
    if rows == "along a line":
        x[:, along] = case.x[:, along]
    softmax = reduce_head(case.head)
    data, curvature = distillation_data(softmax, x, case.y)
    start = ReducedMap(np.ones((softmax.rank, SOURCE)), np.zeros(softmax.rank))
    covariance, mean = np.cov(x.T.astype(float), bias=True), x.mean(axis=0, dtype=float)
    for penalty in (0.0, 1.0):
        reparam = reparametrize(compute_eigenbases(mean, covariance, curvature), start, penalty)
        at, _ = minimise_divergence(
            softmax, data, reparam, start, iterations=100, tolerance=1e-6, watch=lambda *_: False
        )
        assert np.abs(at.weight - 1)[:, ~along].max() < 1e-6
        assert (np.abs(at.weight - 1)[:, along].max() > 1e-3) == (rows == "along a line")
        back = reparam.affine(reparam.theta(at))
        np.testing.assert_allclose(back.weight, at.weight, atol=1e-9)
        np.testing.assert_allclose(back.bias, at.bias, rtol=1e-9)


def test_a_head_that_says_the_same_of_everything_leaves_the_map_alone():
    softmax = Softmax(np.zeros((3, 2), np.float32), np.array([1, 2, 3], np.float32))
    case = make_case(3, 2)
    data, curvature = distillation_data(softmax, case.x, case.y)
    start = ReducedMap(np.ones((2, SOURCE)), np.zeros(2))
    eigenbases = compute_eigenbases(np.zeros(SOURCE), np.eye(SOURCE), curvature)
    reparam = reparametrize(eigenbases, start, 0.1)
    at, value = minimise_divergence(
        softmax, data, reparam, start, iterations=9, tolerance=1e-6, watch=lambda *_: False
    )
    assert abs(value) < 1e-6
    np.testing.assert_array_equal(at.weight, start.weight)


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if "cap" not in n])
def test_rows_in_the_charts_coordinates_give_the_same_descent(name, monkeypatch):
    softmax, data, reparam, _, _ = make_problem(CASES[name], 1e-2)
    ends = []
    for size in (1 << 28, 0):  # turned once, and through the map in every pass
        monkeypatch.setattr(optimizer, "LOCAL", size)
        ends.append(
            minimise_divergence(
                softmax,
                data,
                reparam,
                reparam.start,
                iterations=200,
                tolerance=1e-9,
                watch=lambda *_: False,
            )
        )
    assert ends[0][1] == pytest.approx(ends[1][1], abs=1e-5)
    near, far = (e[0] for e in ends)
    scale = np.abs(far.weight).max()
    np.testing.assert_allclose(near.weight, far.weight, atol=0.03 * scale)


def test_one_slow_step_is_not_the_end():
    slow = optimizer._converged
    assert not slow([5.0, 4.0] + [3.0] * optimizer.WINDOW, 1e-4)  # not yet looked back far enough
    assert slow([5.0, 4.0] + [3.0] * (optimizer.WINDOW + 1), 1e-4)
    steady = [3.0 - 2e-3 * i for i in range(20)]
    assert slow(steady, 1e-3)
    assert not slow(steady, 1e-4)
    assert not slow(steady[: optimizer.WINDOW], 1e-3)


def test_a_descent_that_goes_on_from_another_penalty_gets_as_far_as_one_of_its_own():
    """First steps are small near the minimum of another penalty."""
    rng = np.random.default_rng(0)
    n, wide, deep, outputs = 200, 32, 64, 60
    y = rng.normal(size=(n, deep)).astype(np.float32)
    mix = rng.normal(size=(deep, wide)) * np.logspace(0, -2, wide)
    x = (y @ mix + 3 * rng.normal(size=(n, wide))).astype(np.float32)
    head = Head(6 * rng.normal(size=(outputs, deep)).astype(np.float32), np.zeros(outputs))
    softmax = reduce_head(head)
    data, curvature = distillation_data(softmax, x, y, teaching=Teaching(0.7))
    eigenbases = optimizer.eigenbases_of(data, curvature)
    start = ReducedMap(np.zeros((softmax.rank, wide)), np.zeros(softmax.rank))

    def down(begin, penalty, tolerance, most):
        reparam = reparametrize(eigenbases, start, penalty)
        return minimise_divergence(
            softmax,
            data,
            reparam,
            begin,
            iterations=most,
            tolerance=tolerance,
            watch=lambda *_: False,
        )

    at = start
    for penalty in (100.0, 30.0, 10.0, 3.0, 1.0, 0.3):
        at, value = down(at, penalty, 1e-4, 60)
    _, wanted = down(start, penalty, 1e-9, 1000)
    assert wanted < value < 1.02 * wanted  # 1.04 where one slow step ended it
