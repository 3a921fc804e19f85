"""Packing against dense oracles, and slots against TenSEAL's own encoder."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite.encrypt.packing import (
    Layout,
    fewest_chunks,
    from_slots,
    pack_rows,
    pack_states,
    product_norm,
    score_positions,
    to_slots,
)
from linalign_lite.encrypt.parameters import PRIVATE, TRUSTED
from linalign_lite.errors import InputError

seeded = settings(derandomize=True, deadline=None, max_examples=40)


def exact_product(left, right):
    """Schoolbook product of integer polynomials modulo X^N + 1."""
    degree = len(left)
    full = np.convolve(left, right)
    out = full[:degree].copy()
    out[: degree - 1] -= full[degree:]
    return out


def negacyclic(left, right):
    return from_slots(to_slots(left) * to_slots(right))


def scores_by(product, layout, weight, states):
    """Scores (m, n_outputs) as a client reads them from products of packed polynomials."""
    chunks = list(pack_states(layout, states))
    got = []
    for rows in pack_rows(layout, weight):
        total = sum(product(x, w) for x, w in zip(chunks, rows, strict=True))
        got.append(total[score_positions(layout, layout.rows)])
    return np.concatenate(got)[: weight.shape[0], : len(states)].T


@seeded
@given(
    degree=st.sampled_from([4, 8, 16, 32]),
    dim=st.integers(1, 70),
    batch=st.integers(1, 32),
    extra=st.integers(0, 70),
    n_outputs=st.integers(1, 20),
    seed=st.integers(0, 2**32 - 1),
)
def test_product_holds_every_inner_product(degree, dim, batch, extra, n_outputs, seed):
    batch = min(batch, degree)
    chunks = min(fewest_chunks(degree, dim, batch) + extra, dim)
    layout = Layout(degree, dim, chunks, batch)
    rng = np.random.default_rng(seed)
    weight = rng.integers(-50, 50, (n_outputs, dim)).astype(float)
    states = rng.integers(-50, 50, (int(rng.integers(1, batch + 1)), dim)).astype(float)
    got = scores_by(exact_product, layout, weight, states)
    assert np.array_equal(got, states @ weight.T)
    assert len(list(pack_rows(layout, weight))) == layout.products(n_outputs)
    used = score_positions(layout, layout.rows)
    assert len(np.unique(used)) == used.size
    assert used.max() < degree
    norms = [np.linalg.norm(rows) for rows in pack_rows(layout, weight)]
    assert product_norm(layout, weight) == pytest.approx(max(norms))


@pytest.mark.parametrize(
    ("dim", "n", "chunks", "batch"),
    [(1, 3, 1, 1), (64, 10, 1, 1), (384, 150, 3, 1), (768, 7, 20, 100), (5000, 2, 2, 1),
     (24, 5, 24, 4096), (40, 3, 20, 2048)],
)  # fmt: skip
def test_full_size_products(dim, n, chunks, batch):
    rng = np.random.default_rng(dim)
    weight, states = rng.normal(size=(n, dim)), rng.normal(size=(min(batch, 50), dim))
    layout = Layout(4096, dim, chunks, batch)
    assert layout.packing == ("columns" if chunks == dim else "inner")
    np.testing.assert_allclose(
        scores_by(negacyclic, layout, weight, states), states @ weight.T, atol=1e-9
    )


def test_positions_are_kept_and_cannot_be_altered():
    layout = Layout(64, 5, 1, 3)
    positions = score_positions(layout, 2)
    assert positions.tolist() == [[12, 13, 14], [27, 28, 29]]
    assert score_positions(Layout(64, 5, 1, 3), 2) is positions
    assert score_positions(layout, 1).tolist() == [[12, 13, 14]]
    with pytest.raises(ValueError, match="read-only"):
        positions[0, 0] = 1


def test_blocks():
    layout = Layout(16, 4, 1, 4)
    assert [layout.blocks(n) for n in (1, 4, 5, 9)] == [1, 1, 2, 3]
    assert [layout.live(9, k) for k in range(3)] == [4, 4, 1]


def test_negacyclic_agrees_with_schoolbook():
    rng = np.random.default_rng(1)
    left, right = rng.integers(-99, 99, (2, 64)).astype(float)
    np.testing.assert_allclose(negacyclic(left, right), exact_product(left, right), atol=1e-6)


@pytest.mark.parametrize(("dim", "chunks"), [(0, 1), (10, 0), (10, 11), (33, 2)])
def test_layouts_that_cannot_be(dim, chunks):
    with pytest.raises(InputError, match="cannot be cut"):
        Layout(16, dim, chunks)


@pytest.mark.parametrize("batch", [0, -1, 17])
def test_batches_that_cannot_be(batch):
    with pytest.raises(InputError, match="cannot share"):
        Layout(16, 4, 4, batch)


@pytest.mark.parametrize("degree", [8, 2048, 4096])
def test_slots_round_trip(degree):
    p = np.random.default_rng(degree).normal(size=degree)
    np.testing.assert_allclose(from_slots(to_slots(p)), p, atol=1e-12)


def test_slots_are_values_at_the_roots():
    degree = 16
    p = np.random.default_rng(3).normal(size=degree)
    roots = np.exp(1j * np.pi * np.array([3**j for j in range(degree // 2)]) / degree)
    np.testing.assert_allclose(to_slots(p), np.polyval(p[::-1], roots), atol=1e-10)


@pytest.mark.parametrize("parameters", [PRIVATE, TRUSTED], ids=lambda p: p.name)
def test_slots_agree_with_tenseals_encoder(parameters):
    """Encode two polynomials given by coefficients, multiply in SEAL's ring, read coefficients."""
    import tenseal.sealapi as api

    from linalign_lite.encrypt.seal.scheme import SealScheme

    scheme = SealScheme(parameters)
    encoder, plain = api.CKKSEncoder(scheme.context), api.Plaintext()
    n, rng = parameters.degree, np.random.default_rng(5)
    p = np.round(rng.normal(size=n) * 1000)
    encoder.encode(to_slots(p).tolist(), 1.0, plain)
    # a constant polynomial has the same residue at every point, so it must encode to a constant
    constant, one = api.Plaintext(), np.zeros(n)
    one[0] = 7.0
    encoder.encode(to_slots(one).tolist(), 1.0, constant)
    assert {constant.data(i) for i in range(0, n, 97)} == {7}
    back = from_slots(np.array(encoder.decode_complex(plain)))
    assert np.array_equal(np.round(back), p)
