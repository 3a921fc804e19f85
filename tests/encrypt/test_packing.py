"""Packing against dense oracles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite.encrypt.packing import (
    MAX_RETURNED,
    Layout,
    fewest_chunks,
    largest_norm,
    pack_rows,
    pack_states,
    score_positions,
)
from linalign_lite.encrypt.ring import coefficients, spectrum
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
    return coefficients(spectrum(left) * spectrum(right))


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
    many=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_product_holds_every_inner_product(degree, dim, batch, extra, n_outputs, many, seed):
    batch = min(batch, degree, MAX_RETURNED)
    chunks = min(fewest_chunks(degree, dim, batch) + extra, dim)
    layout = Layout(degree, dim, chunks, batch, many)
    rng = np.random.default_rng(seed)
    weight = rng.integers(-50, 50, (n_outputs, dim)).astype(float)
    states = rng.integers(-50, 50, (int(rng.integers(1, batch + 1)), dim)).astype(float)
    got = scores_by(exact_product, layout, weight, states)
    assert np.array_equal(got, states @ weight.T)
    assert len(list(pack_rows(layout, weight))) == layout.products(n_outputs)
    used = score_positions(layout, layout.rows)
    assert len(np.unique(used)) == used.size
    assert used.max() < degree
    assert layout.columns or many or used.size <= MAX_RETURNED
    if many:
        assert layout.rows == degree // (layout.width * batch)
    norms = [np.linalg.norm(rows) for rows in pack_rows(layout, weight)]
    assert largest_norm(weight, layout.rows) == pytest.approx(max(norms))


@pytest.mark.parametrize(
    ("dim", "n", "chunks", "batch"),
    [(1, 3, 1, 1), (64, 10, 1, 1), (384, 150, 3, 1), (768, 7, 20, 100), (5000, 2, 2, 1),
     (24, 5, 24, 4096), (40, 3, 40, 2048), (20, 200, 2, 1)],
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


def test_a_product_returns_few_coefficients_except_in_columns():
    assert Layout(4096, 20, 2).rows == MAX_RETURNED
    assert Layout(4096, 20, 2, 100).rows == 1
    with pytest.raises(InputError, match=r"share.*got 129.*expected 1 to 128, or up to 4096"):
        Layout(4096, 20, 19, 129)
    assert Layout(4096, 20, 20, 4096).columns


@pytest.mark.parametrize(
    ("width", "batch", "rows"),
    [
        (1, 1, 4096),
        (1, 4096, 1),
        (1, 3, 1365),
        (2, 1, 2048),
        (8, 1, 512),
        (8, 129, 3),
        (31, 1, 132),
    ],
)
def test_many_rows_share_a_product(width, batch, rows):
    layout = Layout(4096, 5 * width, 5, batch, many=True)
    assert (layout.width, layout.rows, layout.packing) == (width, rows, "many")
    rng = np.random.default_rng(width)
    weight = rng.normal(size=(rows + 5, 5 * width))
    states = rng.normal(size=(min(batch, 9), 5 * width))
    found = scores_by(negacyclic, layout, weight, states)
    np.testing.assert_allclose(found, states @ weight.T, atol=1e-9)
    assert layout.products(len(weight)) == -(-len(weight) // rows)


@seeded
@given(
    dim=st.integers(1, 40),
    batch=st.integers(1, 8),
    extra=st.integers(0, 8),
    n_outputs=st.integers(1, 12),
    many=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_coefficients_outside_the_window_reach_no_score(dim, batch, extra, n_outputs, many, seed):
    """Replaced by noise, they change nothing that is returned; each inside changes something."""
    degree = 128
    chunks = min(fewest_chunks(degree, dim, batch) + extra, dim)
    layout, rng = Layout(degree, dim, chunks, batch, many), np.random.default_rng(seed)
    weight = rng.integers(1, 50, (n_outputs, dim)).astype(float)
    first = rng.integers(-50, 50, degree).astype(float)
    start, count = layout.window(n_outputs)
    assert layout.window(None) == (0, degree)
    outside = np.ones(degree, dtype=bool)
    outside[np.arange(start, start + count)] = False
    assert count == degree or count % 8 == 0
    other = np.where(outside, rng.integers(-50, 50, degree), first)
    for k, rows in enumerate(pack_rows(layout, weight)):
        few = min(layout.rows, n_outputs - k * layout.rows)
        places = score_positions(layout, few).ravel()
        for row in rows:
            assert np.array_equal(
                exact_product(first, row)[places], exact_product(other, row)[places]
            )
