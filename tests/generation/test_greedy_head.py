"""The highest score of a large head by its int8 copy: the same token as from all scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite import AffineMap, Head, demo, load_model
from linalign_lite.generation.decoding import greedy_head, token_scores
from linalign_lite.generation.decoding.greedy_head import GreedyHead, int8_pays
from linalign_lite.generation.decoding.token_scores import TokenScores
from linalign_lite.generation.hybrid import generate


def made(rng, outputs, dim, scale=1.0):
    weight = rng.standard_normal((outputs, dim)) * np.exp(rng.normal(size=(outputs, 1)))
    return (weight * scale).astype(np.float32), rng.normal(size=outputs).astype(np.float32) * scale


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    outputs=st.integers(1, 600),
    dim=st.integers(1, 80),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
    outlier=st.sampled_from([1.0, 100.0]),
    close=st.floats(0, 0.01),
)
def test_the_output_found_has_the_highest_score(seed, outputs, dim, scale, outlier, close):
    rng = np.random.default_rng(seed)
    weight, bias = made(rng, outputs, dim, scale)
    state = rng.standard_normal(dim).astype(np.float32) / np.float32(scale)
    state[0] *= outlier
    best = int(np.argmax(weight.astype(np.float64) @ state + bias))
    weight[rng.integers(outputs)] = weight[best] * np.float32(1 - close)  # one that is close to it
    exact = weight.astype(np.float64) @ state.astype(np.float64) + bias
    found = GreedyHead(weight, bias, 1)(state)
    rounding = dim * 2.0**-22 * np.linalg.norm(weight, axis=1).max() * np.linalg.norm(state)
    if found is None:
        assert outputs < 2000  # too many are close: never with many outputs that differ
    else:
        assert exact[found] >= exact.max() - rounding


def test_few_of_many_outputs_are_scored_in_float32(rng):
    weight, bias = made(rng, 20_000, 64)
    fast = GreedyHead(weight, bias, 2)
    states = rng.standard_normal((50, 64)).astype(np.float32)
    assert [fast(z) for z in states] == (states @ weight.T + bias).argmax(axis=1).tolist()


def test_the_first_of_equal_scores_is_taken(rng):
    weight, bias = made(rng, 5_000, 32)
    state = rng.standard_normal(32).astype(np.float32)
    best = int((weight @ state + bias).argmax())
    for other in (4_999, 7):
        weight[other], bias[other] = weight[best], bias[best]
    assert GreedyHead(weight, bias, 1)(state) == min(best, 7)


@pytest.mark.parametrize("value", [0.0, 1e-30, np.nan, np.inf])
def test_a_state_without_digits_is_left_to_the_full_product(rng, value):
    weight, bias = made(rng, 5_000, 8)
    assert GreedyHead(weight, bias, 1)(np.full(8, value, np.float32)) is None


def test_a_head_that_is_not_finite_is_left_to_the_full_product(rng):
    weight, bias = made(rng, 5_000, 8)
    weight[3, 2] = np.inf
    assert GreedyHead(weight, bias, 1)(np.ones(8, np.float32)) is None


def test_too_many_close_outputs_are_left_to_the_full_product():
    same = np.ones((4_000, 8), np.float32)
    assert GreedyHead(same, np.zeros(4_000, np.float32), 1)(same[0]) is None


def test_digits_do_not_saturate():
    weight = np.full((4_000, 64), -1, np.float32)
    weight[1234] = 1
    assert GreedyHead(weight, np.zeros(4_000, np.float32), 1)(np.ones(64, np.float32)) == 1234
    assert GreedyHead(-weight, np.zeros(4_000, np.float32), 1)(-np.ones(64, np.float32)) == 1234


def test_small_heads_and_capped_ones_are_computed_whole():
    large = np.zeros((greedy_head.MIN_SIZE // 8, 8), np.float32)
    bias = np.zeros(len(large), np.float32)
    assert int8_pays(Head(large, bias))
    assert not int8_pays(Head(large, bias, softcap=30.0))
    assert not int8_pays(Head(large[1:], bias[1:]))


@pytest.mark.parametrize("through_a_map", [False, True])
def test_generation_takes_the_tokens_of_the_full_product(monkeypatch, through_a_map):
    model = load_model(demo.model_folder("ash"), threads=1)
    space = model.card.space("tokens", normalize=False)
    weight = np.eye(space.dim) + np.random.default_rng(1).normal(size=(space.dim, space.dim)) / 50
    affine = AffineMap(weight, np.zeros(space.dim), space, space) if through_a_map else None

    def tokens():
        head = model.token_head()
        return [
            p.token
            for p in generate(
                model, model, "Once upon a time", affine=affine, max_tokens=60, head=head
            )
        ]

    whole, used = tokens(), []
    best = TokenScores.best
    monkeypatch.setattr(TokenScores, "best", lambda *a: used.append(best(*a)) or used[-1])
    monkeypatch.setattr(greedy_head, "MIN_SIZE", 0)
    monkeypatch.setattr(greedy_head, "MAX_SHARE", 1.0)
    assert tokens() == whole
    assert sum(token is not None for token in used) > 50


def test_the_copy_of_a_head_is_made_once(monkeypatch, rng):
    monkeypatch.setattr(greedy_head, "MIN_SIZE", 0)
    made_of = []
    monkeypatch.setattr(token_scores, "GreedyHead", lambda *a: made_of.append(a) or GreedyHead(*a))
    head = Head(*made(rng, 3_000, 8))
    for greedy in (True, True, False):
        TokenScores(head, None, greedy=greedy)
    assert len(made_of) == 1
