"""Scales, limits and products of encrypted search: precision as the card says, and memory."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from indexed import documents_in, index_of, made_keys

import linalign_lite as la
from linalign_lite.encrypt import planner
from linalign_lite.encrypt.chunk_products import ChunkProducts
from linalign_lite.encrypt.packing import Layout
from linalign_lite.encrypt.parameters import PRIVATE
from linalign_lite.encrypt.precision import rounding_step
from linalign_lite.encrypt.scores import Scores
from linalign_lite.errors import MismatchError, PrecisionError


@pytest.fixture(scope="module")
def keys():
    return made_keys(PRIVATE)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    return documents_in(tmp_path_factory.mktemp("i") / "docs")


@settings(max_examples=20, deadline=None)
@given(
    chunks=st.integers(1, 9),
    products=st.integers(1, 5),
    wide=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_sums_of_products_are_the_same_either_way(chunks, products, wide, seed):
    rng = np.random.default_rng(seed)
    whole = rng.integers(-99, 99, (2, chunks, 2, 2, 2, 8)) * [[[[[[1]]]]], [[[[[1j]]]]]]
    spectra = list(whole.sum(axis=0))
    factors = (rng.integers(-99, 99, (products, chunks, 8)) * (1 + 0j)).tolist()
    factors = [[np.array(f) for f in some] for some in factors]
    found = ChunkProducts(iter(spectra), chunks, 99 if wide else 1).sums(factors)
    for total, some in zip(found, factors, strict=True):
        assert np.array_equal(total, sum(s * f for s, f in zip(spectra, some, strict=True)))


def test_chunks_of_a_query_are_held_once():
    def spectra():
        for _ in range(16):
            yield np.ones((2, 2, 2, 2048), complex)

    tracemalloc.start()
    products = ChunkProducts(spectra(), 16, 99)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = 16 * 8 * 2048 * 16
    assert products.sums([[np.ones(2048, complex)] * 16])[0, 0, 0, 0, 0] == 16
    assert held < 1.1 * size
    assert peak < 1.3 * size


def test_layouts_that_take_much_memory_are_refused(documents, keys, monkeypatch):
    """A client may encrypt a query as it likes; layouts that are chosen take less."""
    client, provider = la.Client(keys[0], proven=True), la.Provider(documents, keys=[keys[2]])
    layout = Layout(4096, 24, 24, many=True)
    query = client.encrypt(np.ones((1, 24)), index=documents.card, layout=layout)
    size = planner.spectra_size(PRIVATE, layout, 3)
    assert size == 24 * 2 * 2 * 3 * 2048 * 16
    monkeypatch.setattr(planner, "MAX_SPECTRA", size - 1)
    with pytest.raises(MismatchError, match="takes too much memory"):
        provider.score(query)
    monkeypatch.setattr(planner, "MAX_SPECTRA", size)
    provider.score(query)
    planner.choose_layout.cache_clear()  # others plan without this limit
    planner.require_reasonable.cache_clear()
    chosen = planner.candidate_layouts(PRIVATE, 24, 5000, 1, proven=True)
    assert max(planner.spectra_size(PRIVATE, c.layout, 3) for c in chosen if c.layout.many) <= size


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_the_best_k_are_the_first_of_the_ranking(n_outputs, k, n, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 6, (n, n_outputs)).astype(float)  # many are equal
    best = np.array([rng.choice(np.flatnonzero(row == row.max())) for row in values])
    scores = Scores(values, best, (), 0, 0.5)
    assert np.array_equal(scores.top(k), scores.ranking()[:, :k])


def unit_vectors(n, d):
    vectors = np.random.default_rng(8).normal(size=(n, d)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[0] = np.full(d, np.float32(1 / math.sqrt(d)) * np.float32(1.0000002))
    return vectors


@pytest.mark.parametrize("norm_bits", [0, 1, 5])
@pytest.mark.parametrize("metric", ["dot", "cosine"])
@pytest.mark.parametrize("length", [1.0, 0.52, 1000.0])
def test_rows_are_rounded_as_the_card_says(tmp_path, length, metric, norm_bits):
    """Unit vectors in float32 are longer than 1, and clients may declare any bound."""
    index = index_of(tmp_path / "i", unit_vectors(300, 24) * length, metric=metric, row_bits=9)
    if length == 1:
        assert index.card.exponent == 0
        assert metric == "cosine" or index.card.largest_norm > 1
    scorer = la.Provider(index)._scorers.whole(PRIVATE)
    layout = Layout(4096, 24, 24, many=True)
    scales = scorer.scales(layout, norm_bits, True)
    assert scales.weight_scale == max(0, 9 - index.card.exponent)
    assert scales.word_bits == 24
    assert scales.imprecision < 5e-3
    if index.card.exponent <= 0:
        assert scorer.ring(layout, scales).limbs == 2


@pytest.mark.parametrize("length", [40.0, 2000.0])
def test_vectors_that_are_not_normalised_are_searched(keys, tmp_path, length):
    """By default limits: an index limits the error relative to its largest score."""
    vectors = unit_vectors(500, 24) * np.linspace(0.4, 1, 500)[:, None] * length
    index = index_of(tmp_path / "i", vectors, metric="dot")
    client = la.Client(keys[0], proven=True)
    query = client.encrypt(unit_vectors(3, 24) * 7, index=index.card)
    found = client.decrypt(la.Provider(index, keys=[keys[2]]).score(query), query)
    rows, scores = index.search(unit_vectors(3, 24) * 7, 5)
    kept = np.take_along_axis(found.values, rows, axis=1)
    assert np.abs(kept - scores).max() <= found.error + rounding_step(found.error)[0]
    assert found.error < 7e-3 * 8 * length
    assert np.array_equal(found.top(1), rows[:, :1])


def test_rows_too_short_for_the_scale_are_refused(keys, tmp_path):
    client = la.Client(keys[0], proven=True)
    for power in (-20, -45, -58):
        index = index_of(tmp_path / str(power), unit_vectors(9, 24) * 2.0**power, metric="dot")
        query = client.encrypt(np.ones((1, 24)) / 9, index=index.card)
        provider = la.Provider(index, keys=[keys[2]])
        if power == -20:
            provider.score(query)
            continue
        with pytest.raises(PrecisionError, match=r"this query is refused.*--metric cosine"):
            provider.score(query)


def test_rows_too_long_for_the_modulus_are_refused(keys, tmp_path):
    index = index_of(tmp_path / "i", np.full((3, 4), 1e9), metric="dot")
    client = la.Client(keys[0], proven=True)
    query = client.encrypt(np.ones((1, 4)) / 2, index=index.card)
    with pytest.raises(PrecisionError, match="this query is refused"):
        la.Provider(index, keys=[keys[2]]).score(query)
