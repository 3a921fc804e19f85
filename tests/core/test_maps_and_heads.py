"""Affine maps and heads: application, composition, and inputs that are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite.core import affine_map
from linalign_lite.core import head as head_module
from linalign_lite.core.affine_map import AffineMap
from linalign_lite.core.head import Head
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.core.space import Space
from linalign_lite.errors import InputError, MismatchError

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
    with pytest.raises(MismatchError, match="these maps do not compose"):
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
    with pytest.raises(InputError, match="values beyond float32"):
        head(np.full((1, 2), 1e3, dtype=np.float32))
    assert np.isfinite(head(np.full((1, 2), 1e3))).all()


def test_what_both_sides_know_must_agree_though_the_model_is_unknown():
    assert not Space(3, pooling="mean").agrees(Space(3, pooling="cls"))


# --- the highest scores, and products in blocks ---------------------------------------------------


def best_of(scores, k):
    """Return the indices of the k highest scores of each row, of equal ones the earlier first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


@given(
    st.integers(1, 30), st.integers(1, 4), st.integers(1, 6), st.data(), st.integers(0, 2**32 - 1)
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_the_highest_scores_are_those_of_a_full_sort(outputs, dim, n, data, seed):
    """The values are integers, so that many scores are equal; blocks have every size."""
    rng = np.random.default_rng(seed)
    weight = rng.integers(-1, 2, size=(outputs, dim)).astype(np.float32)
    head = Head(weight, rng.integers(-1, 2, size=outputs).astype(np.float32))
    z = rng.integers(-2, 3, size=(n, dim)).astype(np.float32)
    k, block = data.draw(st.integers(1, outputs)), data.draw(st.integers(1, outputs))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(affine_map, "BLOCK", 8 * dim * block)
        assert len(list(affine_map.row_blocks(weight))) == -(-outputs // block)
        index, scores = head.top(z, k)
    wanted = best_of(head(z), k)
    np.testing.assert_array_equal(index, wanted)
    np.testing.assert_array_equal(scores, np.take_along_axis(head(z), wanted, axis=1))
    np.testing.assert_array_equal(index[:, 0], head.predict(z))
    assert scores.dtype == head(z).dtype == np.float32


def test_the_highest_scores_are_capped_as_the_others_are(rng):
    head = Head(rng.normal(size=(9, 3)), rng.normal(size=9), softcap=1.5)
    z = rng.normal(size=(4, 3))
    index, scores = head.top(z, 9)
    np.testing.assert_allclose(scores, np.take_along_axis(head(z), index, axis=1), rtol=1e-12)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert np.abs(scores).max() <= 1.5


def test_the_highest_scores_never_need_all_scores_at_once(monkeypatch):
    monkeypatch.setattr(affine_map, "BLOCK", 8 * 2 * 100)
    widest = []
    plain = head_module.apply_affine

    def watched(weight, bias, states, what):
        widest.append(len(weight))
        return plain(weight, bias, states, what)

    monkeypatch.setattr(head_module, "apply_affine", watched)
    head = Head(np.arange(2000.0).reshape(1000, 2), np.zeros(1000))
    index, _ = head.top(np.ones((3, 2)), 2)
    np.testing.assert_array_equal(index, [[999, 998]] * 3)
    assert max(widest) == 100


@pytest.mark.parametrize("k", [0, -1, 6])
def test_k_beyond_the_outputs_is_refused(k):
    with pytest.raises(InputError, match=f"got {k}, expected 1 to 5"):
        Head(np.zeros((5, 2)), np.zeros(5)).top(np.zeros((1, 2)), k)


@pytest.mark.parametrize("shape", [(2,), (2, 3), (1, 2, 2), ()])
def test_the_highest_scores_are_of_rows_that_fit(shape):
    with pytest.raises(InputError, match="states do not fit this head"):
        Head(np.zeros((5, 2)), np.zeros(5)).top(np.zeros(shape), 1)


def test_what_is_no_array_of_finite_numbers_is_named():
    affine = AffineMap(np.eye(3), np.zeros(3))
    with pytest.raises(InputError, match=r"not finite: got 1 of 6 values"):
        affine(np.array([[1, 2, np.nan], [1, 2, 3]]))
    with pytest.raises(InputError, match=r"beyond float32 on these states"):
        AffineMap(np.full((3, 3), 1e38, np.float32), np.zeros(3))(np.full((1, 3), 9, np.float32))
    with pytest.raises(InputError, match=r"got HiddenStates.*pass their `.states`"):
        affine(HiddenStates(np.eye(3)))


def in_file(weight, path, lead=0):
    """Map the weight from a file, ``lead`` bytes away from an aligned offset."""
    path.write_bytes(bytes(lead) + weight.tobytes())
    return np.memmap(path, weight.dtype, "r", lead, weight.shape)


@pytest.mark.parametrize("block", [1, 40, 10**9])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("states", [np.float16, np.float32, np.float64])
def test_products_in_blocks_are_products(block, dtype, states, tmp_path, monkeypatch, rng):
    monkeypatch.setattr(affine_map, "BLOCK", block)
    weight, bias = rng.normal(size=(11, 5)).astype(dtype), rng.normal(size=11).astype(dtype)
    z = rng.normal(size=(7, 5)).astype(states)
    wanted = z.astype(float) @ weight.astype(float).T + bias.astype(float)
    exact = np.float64 if states is np.float64 else np.float32
    for held in (weight, in_file(weight, tmp_path / "even"), in_file(weight, tmp_path / "odd", 1)):
        for thing in (Head(held, bias), AffineMap(held, bias)):
            found = thing(z)
            assert found.dtype == exact
            np.testing.assert_allclose(found, wanted, atol=1e-12 if exact is np.float64 else 1e-5)
            np.testing.assert_allclose(thing(z[3]), found[3], atol=1e-5)


@pytest.mark.parametrize("block", [1, 100, 10**9])
def test_composing_in_blocks_is_composing(block, tmp_path, monkeypatch, rng):
    monkeypatch.setattr(affine_map, "BLOCK", block)
    weight, bias = (rng.normal(size=s).astype(np.float16) for s in ((23, 4), 23))
    first = AffineMap(*(rng.normal(size=s).astype(np.float32) for s in ((4, 3), 4)))
    product = weight.astype(float) @ first.weight.astype(float)
    moved = weight.astype(float) @ first.bias.astype(float) + bias.astype(float)
    for held in (weight, in_file(weight, tmp_path / "odd", 3)):
        for thing in (Head(held, bias), AffineMap(held, bias)):
            found = thing @ first
            assert found.weight.dtype == found.bias.dtype == np.float32
            np.testing.assert_allclose(found.weight, product, rtol=1e-6)  # BLAS may sum otherwise
            np.testing.assert_allclose(found.bias, moved, rtol=1e-6)


def test_a_weight_in_a_file_is_never_widened_whole(tmp_path, monkeypatch):
    """A float16 head has 8 blocks: a product allocates far less than its size as float32."""
    import tracemalloc

    weight = in_file(np.ones((4096, 256), np.float16), tmp_path / "w")
    head = Head(weight, np.zeros(4096, np.float16))
    monkeypatch.setattr(affine_map, "BLOCK", weight.nbytes // 8)
    affine = AffineMap(np.eye(256, 2, dtype=np.float32), np.zeros(256, np.float32))
    for use in (lambda: head(np.ones((1, 256))), lambda: head.top(np.ones((1, 256)), 3),
                lambda: head @ affine):  # fmt: skip
        tracemalloc.start()
        try:
            use()
            assert tracemalloc.get_traced_memory()[1] < weight.nbytes // 2
        finally:
            tracemalloc.stop()
