"""Affine maps and heads: application, composition, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite.errors import InputError, MismatchError
from linalign_lite.linear import AffineMap, Head, Space

DIMS = st.integers(1, 9)


def make_map(rng, d_out, d_in, **kwargs):
    return AffineMap(rng.normal(size=(d_out, d_in)), rng.normal(size=d_out), **kwargs)


@given(DIMS, DIMS, DIMS, DIMS, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_composition_is_application_in_turn(a, b, c, k, seed):
    rng = np.random.default_rng(seed)
    first, second = make_map(rng, b, a), make_map(rng, c, b)
    head = Head(rng.normal(size=(k, c)), rng.normal(size=k), softcap=3.0)
    z = rng.normal(size=(5, a))
    np.testing.assert_allclose((second @ first)(z), second(first(z)), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        (head @ (second @ first))(z), head(second(first(z))), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_allclose(
        ((head @ second) @ first)(z), (head @ (second @ first))(z), rtol=1e-9, atol=1e-9
    )


def test_one_state_and_many_agree(rng):
    affine = make_map(rng, 4, 3)
    z = rng.normal(size=(6, 3))
    np.testing.assert_allclose(affine(z)[2], affine(z[2]))


def test_half_precision_weights_are_applied_in_float32(rng):
    weight = rng.normal(size=(4, 3)).astype(np.float16)
    head = Head(weight, np.zeros(4, dtype=np.float16))
    scores = head(rng.normal(size=(2, 3)).astype(np.float16))
    assert scores.dtype == np.float32


def test_softcap_is_bounded_and_monotone(rng):
    head = Head(rng.normal(size=(5, 3)) * 100, np.zeros(5), softcap=2.0)
    raw = Head(head.weight, head.bias)
    z = rng.normal(size=(20, 3)) * 0.01
    assert np.abs(head(z * 1e4)).max() <= 2.0
    np.testing.assert_array_equal(head.predict(z), raw.predict(z))


def test_a_map_of_another_model_is_refused_by_name(rng):
    a, b = Space(3, "a" * 64, "ash", "mean"), Space(4, "b" * 64, "birch", "mean")
    other = Space(4, "c" * 64, "cedar", "mean")
    affine = make_map(rng, 4, 3, source=a, target=b)
    head = Head(rng.normal(size=(2, 4)), np.zeros(2), space=other)
    with pytest.raises(MismatchError, match=r"got birch bbbbbbbb mean .* expected cedar cccccccc"):
        head @ affine
    pooled_differently = Head(
        rng.normal(size=(2, 4)), np.zeros(2), space=Space(4, "b" * 64, "birch", "last")
    )
    with pytest.raises(MismatchError, match="birch bbbbbbbb last"):
        pooled_differently @ affine
    with pytest.raises(MismatchError, match="follow one another"):
        affine @ affine


def test_an_unknown_space_agrees_when_the_dimensions_do():
    known = Space(4, "b" * 64, "birch", "mean")
    assert Space(4).agrees(known)
    assert known.agrees(Space(4))
    assert not Space(5).agrees(known)
    assert not known.agrees(Space(4, "b" * 64, "birch", "mean", normalize=True))


@pytest.mark.parametrize(
    ("weight", "bias", "words"),
    [
        (np.zeros((2, 3)), np.zeros(3), r"bias \(3,\), weight \(2, 3\)"),
        (np.zeros(3), np.zeros(3), "wrong shape"),
        (np.zeros((0, 3)), np.zeros(0), "none of them empty"),
        (np.full((2, 2), np.nan), np.zeros(2), "not finite: got 4 of 4"),
        (np.zeros((2, 2)), np.array([0, np.inf]), "not finite: got 1 of 2"),
    ],
)
def test_what_does_not_fit_is_refused(weight, bias, words):
    with pytest.raises(InputError, match=words):
        AffineMap(weight, bias)
    with pytest.raises(InputError, match=words):
        Head(weight, bias)


def test_states_of_another_dimension_are_refused(rng):
    with pytest.raises(InputError, match=r"got shape \(2, 5\), expected \(n, 3\) or \(3,\)"):
        make_map(rng, 4, 3)(np.zeros((2, 5)))


def test_maps_do_not_change(rng):
    affine = make_map(rng, 4, 3)
    with pytest.raises(ValueError, match="read-only"):
        affine.weight[0, 0] = 1
    with pytest.raises(AttributeError):
        affine.weight = affine.weight


def test_labels_must_fit():
    with pytest.raises(InputError, match="got 1 labels, expected 2"):
        Head(np.zeros((2, 3)), np.zeros(2), labels=("a",))
    with pytest.raises(InputError, match="soft cap"):
        Head(np.zeros((2, 3)), np.zeros(2), softcap=-1.0)


def test_scores_that_float32_cannot_hold_are_refused():
    head = Head(np.eye(2, dtype=np.float32) * np.float32(3e38), np.zeros(2, dtype=np.float32))
    with pytest.raises(InputError, match="float32 cannot hold"):
        head(np.full((1, 2), 1e3, dtype=np.float32))
    assert np.isfinite(head(np.full((1, 2), 1e3))).all()


def test_what_both_sides_know_must_agree_though_the_model_is_unknown():
    assert not Space(3, pooling="mean").agrees(Space(3, pooling="cls"))
