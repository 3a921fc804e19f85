"""Coordinates, soft matches, schedules, profiles and closeness, each against its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite.alignment.unpaired import evidence
from linalign_lite.alignment.unpaired.coordinates import POWER, affine, coordinates_of
from linalign_lite.alignment.unpaired.profiles import profiles
from linalign_lite.alignment.unpaired.refinement import (
    HEATS,
    LAST,
    POLISH,
    Sides,
    refine,
    rotation_of,
)
from linalign_lite.alignment.unpaired.transport import SCALINGS, matches


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.005, 1.0), st.integers(0, 99))
def test_soft_matches_are_those_of_the_formula(n, m, temperature, seed):
    scores = np.random.default_rng(seed).uniform(-1, 1, size=(n, m))
    kernel = np.exp(np.maximum((scores - 1) / temperature, -80))
    columns = np.full(m, 1 / m)
    for _ in range(SCALINGS):
        rows = 1 / (kernel @ columns)
        columns = n / m / (rows @ kernel)
    expected = rows[:, None] * kernel * columns
    found = matches(scores.astype(np.float32), temperature)
    np.testing.assert_allclose(found, expected, rtol=2e-2, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=0), n / m, rtol=1e-3)


def test_cold_matches_of_a_turned_set_are_its_own_points():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 30))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    order = rng.permutation(50)
    found = matches((points @ points[order].T).astype(np.float32), 0.02)
    assert (found.argmax(axis=1) == np.argsort(order)).all()
    assert found.max(axis=1).min() > 0.99


def test_coordinates_and_the_affine_map_of_a_rotation():
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(400, 12)) * np.linspace(3, 0.1, 12) + 7).astype(np.float32)
    found = coordinates_of(x, 8)
    values, vectors = np.linalg.eigh(np.cov(x.T.astype(np.float64), bias=True))
    values, vectors = values[::-1][:8], vectors[:, ::-1][:, :8]
    expected = np.abs((x - x.mean(axis=0)) @ vectors / values**POWER)
    np.testing.assert_allclose(np.abs(found.project(x)), expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(found(x), axis=1), 1, rtol=1e-5)
    weight, bias = affine(found, found, np.eye(8))  # of a space onto itself: its projection
    kept = (x - x.mean(axis=0)) @ vectors @ vectors.T + x.mean(axis=0)
    np.testing.assert_allclose(x @ weight.T + bias, kept, atol=1e-3)


def test_a_mean_far_from_zero_costs_no_precision():
    x = np.random.default_rng(3).normal(size=(300, 6)) * np.linspace(2, 0.5, 6)
    near, far = coordinates_of(x, 6), coordinates_of(x + 1e6, 6)
    np.testing.assert_allclose(np.abs(far(x + 1e6)), np.abs(near(x)), atol=1e-4)


def test_profiles_do_not_depend_on_directions():
    rng = np.random.default_rng(2)
    spread = np.linspace(2, 0.5, 80)
    rows = rng.standard_t(5, size=(300, 80)) * spread
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    signs = rng.choice([-1.0, 1.0], 80).astype(np.float32)
    np.testing.assert_allclose(profiles(rows * signs), profiles(rows), atol=1e-4)


@pytest.mark.parametrize("schedule", [*HEATS, LAST, POLISH])
def test_schedules_end_cold_and_with_all_dimensions(schedule):
    assert schedule.temperature(0.0) == pytest.approx(schedule.warm)
    assert schedule.temperature(1.0) == pytest.approx(schedule.cold)
    assert schedule.rank(0.0, 384) == min(384, schedule.first_rank)
    assert schedule.rank(1.0, 384) == 384
    assert schedule.rank(0.5, 5) == 5


def clustered(n, d, rng):
    centres = rng.normal(size=(30, d))
    rows = centres[rng.integers(0, 30, n)] + 0.3 * rng.normal(size=(n, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_a_rotation_that_is_right_stays():
    rng = np.random.default_rng(4)
    x = clustered(1000, 10, rng)
    turn = np.linalg.qr(rng.normal(size=(10, 10)))[0].astype(np.float32)
    sides = Sides(x[::2], x[1::2] @ turn, x[:0], x[:0])
    found = refine(sides, turn, (LAST,), rng)
    np.testing.assert_allclose(found.T @ found, np.eye(10), atol=1e-4)
    assert np.trace(found.T @ turn) / 10 > 0.95


def test_closeness_is_1_for_a_model_with_itself_and_0_without_structure():
    rng = np.random.default_rng(5)
    rows = clustered(4000, 16, rng)
    fitted = Sides(rows[:1500], rows[1500:3000], rows[:0], rows[:0])
    judged = Sides(rows[3000:3500], rows[3500:], rows[:0], rows[:0])
    same = evidence.closeness(np.eye(16, dtype=np.float32), fitted, judged, rng)
    assert same == pytest.approx(1, abs=0.05)
    turn = rotation_of(rng.normal(size=(16, 16)).astype(np.float32), 16)
    assert evidence.closeness(turn, fitted, judged, rng) < evidence.CLOSE
    normal = rng.normal(size=rows.shape).astype(np.float32)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    other = Sides(judged.source, normal[:500], rows[:0], rows[:0])
    without = Sides(fitted.source, normal[500:2000], rows[:0], rows[:0])
    assert evidence.closeness(turn, without, other, rng) < 0.1
