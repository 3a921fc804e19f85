"""Heads of coarse, sparse and real weights are read from fewer states than dimensions."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite.core.head import Head
from linalign_lite.encrypt.audit.coarse_attack import attack
from linalign_lite.encrypt.audit.coarse_heads import (
    Grid,
    grid_of,
    pack_weights,
    queries_needed,
    weight_entropy,
)
from linalign_lite.encrypt.audit.report import audit
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.keys import keygen
from linalign_lite.encrypt.messages import Query
from linalign_lite.encrypt.modular import add_mod, pack_seeded, unpack_seeded
from linalign_lite.encrypt.packing import Layout, score_positions
from linalign_lite.encrypt.parameters import PRIVATE
from linalign_lite.encrypt.provider import Provider
from linalign_lite.encrypt.response_encoding import decode_products, decrypt_products
from linalign_lite.encrypt.ring import spectrum

DIM, CLASSES = 384, 10
KINDS = {"int8": 127, "int4": 7, "ternary": 1}


def real_head(dim=DIM, classes=CLASSES, norm=5.0, seed=0):
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(classes, dim))
    weight *= norm / np.linalg.norm(weight, axis=1, keepdims=True)
    return Head(weight.astype(np.float32), rng.normal(size=classes))


def coarse_head(levels, per_row=False, **shape):
    """A real head rounded to ``levels`` steps either way, with a step of any float32."""
    head = real_head(**shape)
    size = np.abs(head.weight)
    step = (size.max(axis=1, keepdims=True) if per_row else size.max()) / np.float32(levels)
    whole = np.rint(head.weight / step)
    return Head((whole * step).astype(np.float32), head.bias), whole.astype(int)


@pytest.fixture(scope="module")
def keys():
    return keygen(PRIVATE)


# -- attacks -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "most"), [("int8", 193), ("int4", 78), ("ternary", 36)])
def test_coarse_heads_are_read_from_fewer_states_than_dimensions(keys, kind, most):
    """Honest queries of the profile private: a budget of d leaves such a head determined."""
    head, _ = coarse_head(KINDS[kind])
    secret, public = keys
    found = attack(head, PRIVATE, Client(secret), public, send=True)
    assert found.exact
    assert queries_needed(DIM, found.weights_per_query) <= most < DIM + 1
    # and no attack can need fewer states than hold the bits
    assert found.weights_per_query * found.weight_bits < found.coefficient_bits


def test_rows_with_steps_of_their_own_are_read_too(keys):
    head, _ = coarse_head(7, per_row=True)
    weight = head.weight.copy()
    weight[3] = 0
    head = Head(weight, head.bias)
    found = attack(head, PRIVATE, Client(keys[0]), keys[1], send=True)
    assert found.exact
    assert found.weights_per_query >= 3


def test_sparse_heads_are_read_from_fewer_states_than_dimensions(keys):
    """Real weights, 16 of 384 not zero: random honest states and orthogonal matching pursuit."""
    rng, states, nonzero = np.random.default_rng(1), 160, 16
    weight = np.zeros((CLASSES, DIM))
    for row in weight:
        where = rng.choice(DIM, nonzero, replace=False)
        row[where] = rng.choice([-1, 1], nonzero) * rng.uniform(0.5, 1.5, nonzero)
    head = Head(weight.astype(np.float32), rng.normal(size=CLASSES))
    asked = rng.normal(size=(states, DIM)).astype(np.float32)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    client, provider = Client(keys[0]), Provider(head, keys=[keys[1]])
    query = client.encrypt(np.concatenate([np.zeros((1, DIM), np.float32), asked]))
    scores = client.decrypt(provider.score(query)).values
    for y, row in zip((scores[1:] - scores[0]).T, head.weight, strict=True):
        chosen, rest = [], y
        for _ in range(nonzero):
            chosen.append(int(np.argmax(np.abs(asked.T @ rest))))
            values = np.linalg.lstsq(asked[:, chosen], y, rcond=None)[0]
            rest = y - asked[:, chosen] @ values
        assert set(chosen) == set(np.flatnonzero(row))
        assert np.abs(values - row[chosen]).max() < 1e-2


def test_real_weights_are_read_from_fewer_states_by_dishonest_queries(keys):
    """A head is encoded as integers of some 18 bits, and a coefficient returns more than 23.

    Four polynomials that wrap around modulo q read five weights of each row as they are encoded:
    each has one weight at the lowest 18 of 23 bits, and above it 5 bits of the fifth weight.
    """
    head, client, classes = real_head(classes=2), Client(keys[0]), 2
    provider, q, states = Provider(head, keys=[keys[1]]), PRIVATE.modulus, 4
    layout = Layout(4096, DIM, 1)
    query = client.encrypt(np.zeros((1 + states, DIM)), layout=layout, norm_bound=64.0)
    scale = (
        provider._scorers.whole(PRIVATE).scales(layout, 6).head
    )  # a client reads it in any response
    encoded = np.rint(head.weight.astype(float) * 2.0**scale).astype(int)
    width = 1 + int(np.abs(encoded).max()).bit_length()
    spare = 23 - width
    assert states * spare >= width
    payloads = [query.payloads[0]]  # the bias
    for t, payload in enumerate(query.payloads[1:]):
        zero, seed = unpack_seeded(payload, 4096, PRIVATE.data_primes)
        added = np.zeros(4096, dtype=object)
        added[t], added[states] = q >> 23, q >> spare * (t + 1)
        rows = [
            add_mod(row, (added % p).astype(np.uint64), p)
            for row, p in zip(zero, PRIVATE.data_primes, strict=True)
        ]
        payloads.append(pack_seeded(np.stack(rows), seed, PRIVATE.data_primes))
    response = provider.score(Query(query.info, tuple(payloads)))
    assert (response.info.word_bits, response.info.head_scale) == (32, scale)
    positions = score_positions(layout, classes).ravel()
    secret = spectrum(client._side.secret)
    parts = [decode_products(p[32:], 1, 4096, 32) for p in response.payloads]
    bias, *fractions = [decrypt_products(secret, a, b, positions, 32)[0] for a, b in parts]
    known, found = np.zeros(classes, dtype=int), []
    for t, fraction in enumerate(fractions):
        rest = fraction - bias - known / 2.0 ** (spare * (t + 1))
        digit = np.rint(rest * 2.0**spare).astype(int) % 2**spare
        rest -= digit / 2.0**spare
        found.append(np.rint((rest - np.rint(rest)) * 2.0**23).astype(int))
        known += digit << spare * t
    half = 1 << states * spare - 1
    found.append((known + half) % (2 * half) - half)
    np.testing.assert_array_equal(np.stack(found, axis=1), encoded[:, : states + 1])


# -- grids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [1, 7, 127, 2047])
@pytest.mark.parametrize("per_row", [False, True])
def test_a_grid_is_found_under_float32_rounding(levels, per_row):
    head, whole = coarse_head(levels, per_row)
    grid = grid_of(head.weight)
    assert grid.levels == levels
    np.testing.assert_array_equal(grid.integers, whole)
    np.testing.assert_allclose(grid.steps[:, None] * whole, head.weight, rtol=1e-6)
    assert (np.ndim(grid.step) == 1) == per_row
    assert grid.bits == math.log2(len(np.unique(whole)))
    assert 0 < grid.entropy <= grid.bits <= math.log2(2 * levels + 1)


def test_rows_of_zeros_have_step_0():
    head, whole = coarse_head(7, per_row=True)
    weight = head.weight.copy()
    weight[2] = 0
    grid = grid_of(weight)
    assert grid.steps[2] == 0
    assert not grid.integers[2].any()
    np.testing.assert_array_equal(np.delete(grid.integers, 2, 0), np.delete(whole, 2, 0))
    assert grid.zeros == (weight == 0).mean()


@pytest.mark.parametrize(
    "weight",
    [
        real_head().weight,
        real_head(dim=768, classes=2).weight,
        real_head(dim=4, classes=1).weight,
        np.array([[0.3]]),
        np.array([[1.0, 2.0]]),
        np.zeros((2, 8)),
        coarse_head(127)[0].weight + 1e-4 * real_head(seed=1).weight,
        coarse_head(4000)[0].weight,
    ],
    ids=["real", "long", "few", "one", "two", "zeros", "blurred", "fine"],
)
def test_other_heads_are_on_no_grid(weight):
    assert grid_of(weight) is None


def test_few_real_weights_are_seldom_taken_for_a_grid():
    rng = np.random.default_rng(0)
    assert not any(grid_of(rng.normal(size=(2, 2)).astype(np.float32)) for _ in range(200))


def test_bits_of_a_weight():
    head, _ = coarse_head(1)
    grid = grid_of(head.weight)
    assert weight_entropy(head.weight, grid, 16) == grid.entropy < math.log2(3)
    real = real_head().weight
    assert weight_entropy(real, None, 60) == 24  # significands of float32
    assert weight_entropy(real, None, 16) == math.log2(2 * float(np.abs(real).max()) * 2**16 + 1)
    half = real.copy()
    half[:, ::2] = 0
    assert weight_entropy(half, None, 60) == 12 + 1
    assert weight_entropy(np.zeros((2, 8)), None, 60) == 0


# -- decoding ------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    levels=st.integers(1, 300),
    dim=st.integers(1, 12),
    digits=st.floats(1.0, 8.0),
    step=st.floats(1e-3, 10.0),
    bound=st.sampled_from([1.0, 64.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_decoding_is_exact_under_the_worst_error(levels, dim, digits, step, bound, seed):
    """Extreme weights and errors of full size, at a scale where encoding rounds visibly."""
    rng = np.random.default_rng(seed)
    extreme = rng.integers(0, 2, (3, dim)) * 2 - 1
    whole = np.where(
        rng.random((3, dim)) < 0.7, extreme * levels, rng.integers(-levels, levels + 1)
    )
    steps = step * np.array([1.0, 0.5, 0.0])
    whole[2] = 0
    weight = (steps[:, None] * whole).astype(np.float32)
    error = step * bound * 10.0**-digits
    scale = round(-math.log2(step)) + 14
    packing = pack_weights(weight, Grid(steps, whole, levels), scale, error, bound)
    if packing is None:
        assert error * levels > step * bound / 100
        return
    states = packing.states(dim)
    assert len(states) == queries_needed(dim, packing.per_query)
    assert np.linalg.norm(states, axis=1).max() <= bound * (1 + 1e-6)
    np.testing.assert_array_equal(states, states.astype(np.float32))
    encoded = np.rint(weight.astype(float) * 2.0**scale) / 2.0**scale
    signs = rng.integers(0, 2, (len(states), 3)) * 2 - 1
    scores = states @ encoded.T + rng.normal(size=3) + 0.999 * error * signs
    np.testing.assert_array_equal(packing.read(scores, dim), whole)


def test_nothing_is_read_below_the_error():
    head, _ = coarse_head(7, dim=8)
    grid = grid_of(head.weight)
    assert pack_weights(head.weight, grid, 16, 100.0, 1.0) is None
    assert pack_weights(head.weight, grid, 0, 1e-9, 1.0) is None  # encoded to nothing


# -- audits --------------------------------------------------------------------------------------


def test_an_audit_reads_a_coarse_head():
    head, _ = coarse_head(127, dim=64, classes=70)  # of which 64 are attacked
    ticks = []
    report = audit(head, PRIVATE, ticks.append)
    assert ticks == [1] * 5
    assert report.coarse_exact
    assert report.coarse_queries <= 33
    assert 7 < report.grid_bits < 8
    assert report.entropy_bits <= 70 * 64 * report.grid_bits
    assert report.bits_per_state >= 70 * 24
    assert report.whole_states <= report.coarse_queries
    text = "\n".join(report.lines())
    assert f"{report.coarse_queries} honest queries reveal the head exactly" in text
    assert "budget in bits, not states" in text
    assert not report.leaks
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["coarse_exact"] is True


@pytest.mark.parametrize("shape", [(3, 32), (1, 1)])
def test_an_audit_of_a_real_head_finds_no_grid(shape):
    report = audit(real_head(dim=shape[1], classes=shape[0]), PRIVATE)
    assert report.coarse_queries is report.coarse_exact is report.grid_bits is None
    assert "not on a coarse grid" in "\n".join(report.lines())
    assert report.entropy_bits > 10 * shape[0] * shape[1]
