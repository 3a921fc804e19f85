"""Predicted against real sizes, and the chosen layout against its candidates."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite.core.head import Head
from linalign_lite.encrypt.client import Client
from linalign_lite.encrypt.keys import keygen
from linalign_lite.encrypt.messages import MAX_OUTPUTS
from linalign_lite.encrypt.packing import MAX_RETURNED, Layout
from linalign_lite.encrypt.parameters import PRIVATE, TRUSTED
from linalign_lite.encrypt.planner import (
    alternative_layouts,
    bytes_per_second,
    candidate_layouts,
    choose_layout,
    predict_cost,
    relative_error,
    require_reasonable,
)
from linalign_lite.encrypt.provider import Provider
from linalign_lite.encrypt.wire import MAX_RECORD
from linalign_lite.errors import InputError, MismatchError

BOTH = [PRIVATE, TRUSTED]


@pytest.fixture(scope="module", params=BOTH, ids=lambda p: p.name)
def parties(request):
    secret, public = keygen(request.param)
    return request.param, Client(secret), public


@pytest.mark.parametrize(
    ("dim", "classes", "n"),
    [
        (384, 2, 1),
        (384, 150, 1),
        (384, 150, 30),
        (64, 10, 500),
        (20, 5, 5000),
        (4096, 20, 1),
        (20, 3, 7),
    ],
)
def test_bytes_are_within_two_percent(parties, dim, classes, n):
    profile, client, public = parties
    rng = np.random.default_rng(dim)
    plan = choose_layout(profile, dim, classes, n)
    query = client.encrypt(rng.normal(size=(n, dim)) / dim, n_outputs=classes)
    assert query.info.layout == plan.layout
    head = Head(rng.normal(size=(classes, dim)), np.zeros(classes))
    response = Provider(head, accept=[profile], keys=[public], max_error=1.0).score(query)
    for predicted, thing in ((plan.query_bytes, query), (plan.response_bytes, response)):
        headers = len(thing.info.header().encoded)
        assert predicted + headers == len(thing.to_bytes())  # exact
        assert headers < max(0.02 * len(thing.to_bytes()), 700)
    assert plan.products == plan.layout.blocks(n) * plan.layout.products(classes)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    profile=st.sampled_from(BOTH),
    dim=st.integers(1, 8192),
    classes=st.integers(1, 3000),
    n=st.integers(1, 20_000),
)
def test_the_choice_is_the_best_candidate_and_can_be_made(profile, dim, classes, n):
    plan = choose_layout(profile, dim, classes, n)
    found = candidate_layouts(profile, dim, classes, n)
    assert plan.seconds(12.5e6) == min(p.seconds(12.5e6) for p in found)
    assert all(p.query_bytes <= MAX_RECORD * p.layout.blocks(n) for p in found)
    others = alternative_layouts(profile, dim, classes, n)
    assert others[0] == plan
    assert len({p.layout for p in others}) == len(others)
    most = 1e-3 if profile.private else 1e-4  # of the range
    assert 0 < relative_error(profile, plan.layout, classes) < most


def test_what_the_choice_depends_on():
    single, several, many = (choose_layout(PRIVATE, 384, 150, n).layout for n in (1, 10, 4500))
    assert (single.batch, single.packing) == (1, "inner")
    assert (several.batch, several.packing) == (10, "inner")
    assert (many.batch, many.packing) == (125, "inner")
    proven = choose_layout(PRIVATE, 384, 150, 4500, proven=True).layout
    assert (proven.batch, proven.packing) == (2250, "columns")
    trusting = choose_layout(TRUSTED, 384, 150, 4500).layout
    assert trusting.packing == "columns"
    # bytes count on a slow line, work on a fast one
    slow, fast = (choose_layout(PRIVATE, 384, 150, 1, rate) for rate in (1e4, 1e12))
    sent = [p.query_bytes + p.response_bytes for p in (slow, fast)]
    assert sent[0] <= sent[1]
    assert slow.ms >= fast.ms


@pytest.mark.parametrize("rows", [10_000, 100_000, 1_000_000])
def test_many_rows_have_packings_between_single_coefficients_and_few(rows):
    """For any link the best of all widths, which a proven key alone may use."""
    chosen = {}
    for mbit in (1, 10, 100, 1000, math.inf):
        rate = bytes_per_second(mbit)
        plan = choose_layout(PRIVATE, 384, rows, 1, rate, proven=True)
        every = [
            predict_cost(PRIVATE, Layout(4096, 384, -(-384 // w), 1, many=True), 1, rows)
            for w in range(1, 65)
        ]
        assert plan.seconds(rate) <= min(p.seconds(rate) for p in every)
        assert plan.layout.packing == "many"
        chosen[mbit] = plan
    sizes = [p.query_bytes + p.response_bytes for p in chosen.values()]
    assert sizes == sorted(sizes)
    times = [p.ms for p in chosen.values()]
    assert times == sorted(times, reverse=True)
    unproven = choose_layout(PRIVATE, 384, rows, 1, math.inf)
    assert unproven.layout.packing == "inner"
    assert unproven.layout.rows <= MAX_RETURNED
    for plan, proven in ((unproven, False), *((p, True) for p in chosen.values())):
        require_reasonable(PRIVATE, plan.layout, 1, rows, proven)
    single = predict_cost(PRIVATE, Layout(4096, 384, 384, 1, many=True), 1, rows)
    assert single.products == -(-rows // 4096)


def test_the_more_rows_the_narrower_the_chunks():
    widths = [
        choose_layout(PRIVATE, 384, 10**k, 1, math.inf, proven=True).layout.width
        for k in range(3, 8)
    ]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] >= 16
    assert widths[-1] <= 4


def test_bulk_needs_a_tenth_of_the_bytes_of_single_queries():
    bulk = choose_layout(PRIVATE, 384, 150, 4500, proven=True)
    single = choose_layout(PRIVATE, 384, 150, 1)
    assert bulk.response_bytes / 4500 < single.response_bytes / 10
    assert bulk.query_bytes / 4500 < single.query_bytes / 10


def test_sizes_that_were_promised():
    """A query of at most 52 kB for 4,096 dimensions, a response of 45 kB for ⌊4096/d⌋ classes."""
    for dim in (384, 768, 1024, 2048, 4096):
        plan = predict_cost(PRIVATE, Layout(4096, dim, 1), 1, 4096 // dim)
        assert plan.query_bytes < 52_000
        assert plan.response_bytes < 45_000 / 2
    assert len(keygen(PRIVATE)[1].to_bytes()) < 150_000


def test_a_layout_that_wastes_time_is_refused():
    """One state in as many chunks as dimensions: refused before it is charged or read."""
    require_reasonable(PRIVATE, Layout(4096, 768, 1), 1, 1000)
    require_reasonable(PRIVATE, Layout(4096, 768, 64), 1, 1000)
    require_reasonable(PRIVATE, choose_layout(PRIVATE, 768, None, 1).layout, 1, 1000)
    with pytest.raises(MismatchError, match=r"refused: its layout would take far longer"):
        require_reasonable(PRIVATE, Layout(4096, 768, 768, 4096), 1, 1000)


def test_nothing_fits():
    with pytest.raises(InputError, match="no layout"):
        choose_layout(PRIVATE, 1 << 20, MAX_OUTPUTS, 1)
