"""Packing against dense oracles, and slots against TenSEAL's own encoder."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite.encrypt.noop import negacyclic
from linalign_lite.encrypt.packing import (
    Layout,
    from_slots,
    pack_bias,
    pack_rows,
    pack_state,
    pack_words,
    packed_size,
    plan,
    score_positions,
    to_slots,
    unpack_words,
)
from linalign_lite.encrypt.parameters import DEFAULT, SMALL
from linalign_lite.errors import FormatError, InputError

seeded = settings(derandomize=True, deadline=None, max_examples=40)


def exact_product(left, right):
    """Schoolbook product of integer polynomials modulo X^N + 1."""
    degree = len(left)
    full = np.convolve(left, right)
    out = full[:degree].copy()
    out[: degree - 1] -= full[degree:]
    return out


def scores_by(product, layout, weight, state):
    chunks = pack_state(layout, state)
    got = []
    for rows in pack_rows(layout, weight):
        total = sum(product(x, w) for x, w in zip(chunks, rows, strict=True))
        got.append(total[score_positions(layout, layout.rows)])
    return np.concatenate(got)[: weight.shape[0]]


@seeded
@given(
    degree=st.sampled_from([4, 8, 16, 32]),
    dim=st.integers(1, 70),
    extra=st.integers(0, 3),
    n_outputs=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_product_holds_every_inner_product(degree, dim, extra, n_outputs, seed):
    chunks = min(-(-dim // degree) + extra, dim)
    layout = Layout(degree, dim, chunks)
    rng = np.random.default_rng(seed)
    weight = rng.integers(-50, 50, (n_outputs, dim)).astype(float)
    state = rng.integers(-50, 50, dim).astype(float)
    assert np.array_equal(scores_by(exact_product, layout, weight, state), weight @ state)
    assert len(list(pack_rows(layout, weight))) == layout.products(n_outputs)


@pytest.mark.parametrize(("dim", "n"), [(1, 3), (64, 10), (384, 150), (768, 7), (5000, 2)])
def test_full_size_products(dim, n):
    rng = np.random.default_rng(dim)
    weight, state = rng.normal(size=(n, dim)), rng.normal(size=dim)
    for outputs in (None, n):
        layout = plan(4096, dim, outputs)
        np.testing.assert_allclose(
            scores_by(negacyclic, layout, weight, state), weight @ state, atol=1e-9
        )


def test_negacyclic_agrees_with_schoolbook():
    rng = np.random.default_rng(1)
    left, right = rng.integers(-99, 99, (2, 64)).astype(float)
    np.testing.assert_allclose(negacyclic(left, right), exact_product(left, right), atol=1e-6)


def test_bias_stands_where_scores_stand():
    layout = Layout(16, 5, 1)
    bias = np.arange(1.0, 8.0)
    rows = [b[score_positions(layout, layout.rows)] for b in pack_bias(layout, bias)]
    assert np.array_equal(np.concatenate(rows)[:7], bias)
    assert sum(np.count_nonzero(b) for b in pack_bias(layout, bias)) == 7


@pytest.mark.parametrize(("dim", "chunks"), [(0, 1), (10, 0), (10, 11), (33, 2), (4096, 65)])
def test_layouts_that_cannot_be(dim, chunks):
    with pytest.raises(InputError, match="cannot be cut"):
        Layout(16, dim, chunks)


def test_plan_sends_the_fewest_ciphertexts():
    assert plan(4096, 384).chunks == 1
    assert plan(4096, 5000).chunks == 2
    best = plan(4096, 384, 150)
    cost = best.chunks + best.products(150)
    assert cost == min(
        k + Layout(4096, 384, k).products(150) for k in range(1, 65)
    )  # and far below one chunk's 1 + 15
    assert cost <= 8
    assert plan(4096, 384, 10).chunks == 1


@pytest.mark.parametrize("degree", [8, 2048, 4096])
def test_slots_round_trip(degree):
    p = np.random.default_rng(degree).normal(size=degree)
    np.testing.assert_allclose(from_slots(to_slots(p)), p, atol=1e-12)


def test_slots_are_values_at_the_roots():
    degree = 16
    p = np.random.default_rng(3).normal(size=degree)
    roots = np.exp(1j * np.pi * np.array([3**j for j in range(degree // 2)]) / degree)
    np.testing.assert_allclose(to_slots(p), np.polyval(p[::-1], roots), atol=1e-10)


@pytest.mark.parametrize("parameters", [DEFAULT, SMALL], ids=lambda p: p.name)
def test_slots_agree_with_tenseals_encoder(parameters):
    """Encode two polynomials given by coefficients, multiply in SEAL's ring, read coefficients."""
    from linalign_lite.encrypt import seal

    scheme = seal.SealScheme(parameters)
    encoder, plain = seal.api.CKKSEncoder(scheme.context), seal.api.Plaintext()
    n, rng = parameters.degree, np.random.default_rng(5)
    p = np.round(rng.normal(size=n) * 1000)
    encoder.encode(to_slots(p).tolist(), 1.0, plain)
    # a constant polynomial has the same residue at every point, so it must encode to a constant
    constant, one = seal.api.Plaintext(), np.zeros(n)
    one[0] = 7.0
    encoder.encode(to_slots(one).tolist(), 1.0, constant)
    assert {constant.data(i) for i in range(0, n, 97)} == {7}
    back = from_slots(np.array(encoder.decode_complex(plain)))
    assert np.array_equal(np.round(back), p)


@seeded
@given(prime=st.sampled_from(DEFAULT.primes + SMALL.primes), seed=st.integers(0, 2**32 - 1))
def test_words_round_trip(prime, seed):
    words = np.random.default_rng(seed).integers(0, prime, 64, dtype=np.uint64)
    words[:2] = 0, prime - 1
    data = pack_words(words, prime)
    assert len(data) == packed_size(64, prime) == 64 * prime.bit_length() // 8
    assert np.array_equal(unpack_words(data, 64, prime), words)


def test_packed_words_known_answer():
    words = np.array([0x155, 0x0AA, 0, 1, 2, 3, 4, 0x1FF], dtype=np.uint64)  # 9 bits of prime
    data = pack_words(words, 0x1FF + 2 - 2)
    assert data.hex() == "55aa0001020304ff" + "81"


def test_unpack_refuses_wrong_length_and_large_values():
    prime = DEFAULT.primes[0]
    data = bytearray(pack_words(np.zeros(64, dtype=np.uint64), prime))
    with pytest.raises(FormatError, match="wrong length"):
        unpack_words(bytes(data[:-1]), 64, prime)
    with pytest.raises(FormatError, match="not below its prime"):
        unpack_words(b"\xff" * len(data), 64, prime)
