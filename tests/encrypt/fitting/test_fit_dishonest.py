"""A dishonest provider reads the client's key from a map; a dishonest client reads coarse states.

Attacks that the documentation states, and the refusals that are there against them.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil

import numpy as np
import pytest
from made_fit import PROVEN, PUBLIC, SECRET, Exchange, states, two_models

from linalign_lite import FormatError, InputError, OutputExistsError, answer_fit, fit
from linalign_lite.encrypt import wire
from linalign_lite.encrypt.fitting import finish, products
from linalign_lite.encrypt.fitting.descriptions import (
    UNIT,
    WORD,
    AnswerInfo,
    OfferInfo,
    told_states,
)
from linalign_lite.encrypt.fitting.finish import solve_fit
from linalign_lite.encrypt.fitting.offer import write_offer
from linalign_lite.encrypt.fitting.products import FoldSums, limit_held
from linalign_lite.encrypt.fitting.shape import FitShape, require_fine
from linalign_lite.encrypt.modular import pack_seeded
from linalign_lite.encrypt.parameters import PRIVATE
from linalign_lite.encrypt.response_encoding import decode_products, decrypt_products, encode_words
from linalign_lite.encrypt.ring import spectrum
from linalign_lite.encrypt.seal.secret_side import SecretSide
from linalign_lite.encrypt.wire import Kind, open_framed
from linalign_lite.storage.atomic import write_new

SIDE = SecretSide(PRIVATE, SECRET.material)


# --- a dishonest provider -----------------------------------------------------------------------


def test_the_map_of_a_made_up_answer_has_the_secret_key(tmp_path):
    """The map, its R² and a refusal never go to the provider: docs/PRIVATE_FIT.md.

    Products in m dimensions are unit vectors e_r; in further ones they are coefficients of the
    secret s, m at a time. A map's rows are linear in them: M·e_r and M·s, from which s follows.
    """
    x, _ = two_models()
    degree, m = PRIVATE.degree, 16
    y = states(np.random.default_rng(0).normal(size=(400, m + degree // m)))
    exchange = Exchange(tmp_path)
    assert exchange.offer(x).columns == m
    info = exchange.answer(y)
    one = 1 << 12  # so small that nothing looks odd

    def payloads():
        moments = np.tile([0.0, 1.0], info.folds).astype("<f8").tobytes()
        for j in range(m + degree // m):
            second, first = np.zeros(degree, np.int64), np.zeros(m, np.int64)
            if j < m:
                first[j] = one
            else:  # coefficient r of X^(−i·m)·s is s_(i·m + r)
                i = (j - m) * m
                second[-i] = -one if i else one
            words = (encode_words((v & 0xFFFFFF).astype(np.uint32), WORD) for v in (second, first))
            yield b"".join(words) * info.folds + moments

    exchange.answer_at.write_bytes(wire.framed_bytes(info.header(), list(payloads())))
    found, report = exchange.finish()
    assert report.held_out_r2 <= 1  # nothing to see
    rows = found.weight.astype(float)
    read = np.linalg.lstsq(rows[:m].T, rows[m:].T, rcond=None)[0].T.ravel()
    assert (np.rint(read) == SIDE.secret).all()


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    """An answer of states that the client's predict exactly."""
    x, y = two_models(noise=0, condition=1)
    exchange = Exchange(tmp_path_factory.mktemp("exact"))
    exchange.offer(states(x.states * 1e-4))
    exchange.answer(y)
    return exchange


def test_products_that_no_states_have_together_are_refused(exact, monkeypatch):
    """Each is possible, and all of them are not: Bessel's inequality; and no R² is above 1."""
    true, raw = finish.decrypt_products, exact.kept_at.read_bytes()
    for forge in (lambda p: 0 * p + UNIT, lambda p: 1.04 * p):
        monkeypatch.setattr(finish, "decrypt_products", lambda *a, f=forge: f(true(*a)))
        with pytest.raises(FormatError, match="products that no states have") as refusal:
            exact.finish()
        assert "to yourself" in str(refusal.value)
        assert not exact.kept_at.exists()  # a second refusal under one key would tell more of it
        write_new(exact.kept_at, raw, private=True)
    monkeypatch.undo()
    assert exact.finish()[1].held_out_r2 == pytest.approx(1, abs=1e-4)


def test_what_columns_explain_is_no_longer_than_what_they_are_of(rng):
    """Bessel's inequality, with products as inexact as an answer's; exact where nothing is left."""
    u, y = rng.normal(size=(70, 16)), rng.normal(size=(70, 9))
    u, y = (v / np.linalg.norm(v, axis=0) for v in (u, y))
    u[:, 1] = u[:, 0]  # no inverse
    error = 6e-5
    inexact = y.T @ u + rng.uniform(-error, error, (9, 16))
    assert 0.1 < finish.explained(u.T @ u, inexact, error) < 1 + finish._ROOM
    within = u @ rng.normal(size=16)
    within /= np.linalg.norm(within)
    assert finish.explained(u.T @ u, (within @ u)[None], error) == pytest.approx(1, abs=0.05)
    assert finish.explained(np.eye(16), np.ones((1, 16)), error) == pytest.approx(4, abs=0.05)


@pytest.mark.parametrize(("square", "possible"), [(1e72, True), (1e80, False)])
def test_sums_of_squares_beyond_any_map_are_the_answers_fault(exact, tmp_path, square, possible):
    with open_framed(exact.answer_at, Kind.ANSWER) as reader:
        made, payloads = reader.header, [record.payload for record in reader]
    out, copy = tmp_path / "huge.answer", tmp_path / "m.kept.npz"
    shutil.copy(exact.kept_at, copy)
    payloads[0] = payloads[0][:-80] + np.tile([0, square], 5).astype("<f8").tobytes()
    out.write_bytes(wire.framed_bytes(made, payloads))
    refused = pytest.raises(FormatError, match=r"huge\.answer.*beyond float32")
    with np.errstate(all="raise"), contextlib.nullcontext() if possible else refused:
        solve_fit(out, copy)
    assert copy.exists() == possible


# --- a dishonest client -------------------------------------------------------------------------


def packed_offer(path, y, m, folds, multipliers):
    """Offer columns of several texts each, text j of a column times multipliers[j]."""
    info = OfferInfo(
        parameters=PRIVATE,
        key=PUBLIC.digest,
        n=len(y),
        folds=folds,
        seed=0,
        columns=m,
        text_digest=y.text_digest,
        identity=os.urandom(16).hex(),
    )
    shape = info.shape
    within = np.zeros(len(y), int)
    for k in range(folds):
        within[shape.fold_of_text == k] = np.arange(shape.sizes[k])

    def payloads():
        for _, rows in shape.chunked([within[:, None]]):
            zero, seed = SIDE.encrypt_zero()
            sent = zero[:, : shape.sent].copy()
            for i, (text,) in enumerate(rows):
                column, j = divmod(int(text), len(multipliers))
                if column < m:
                    for q, prime in enumerate(PRIVATE.data_primes):
                        at = i * m + column
                        sent[q, at] = (int(sent[q, at]) + multipliers[j]) % prime
            yield pack_seeded(sent, seed, PRIVATE.data_primes)

    path.write_bytes(wire.framed_bytes(info.header(), list(payloads())))
    return shape


def read_packed(path, y, shape, grid, multipliers):
    """The share of states that follow from the answer to a packed offer."""
    spectrum_of_key, q = spectrum(SIDE.secret), 2.0**PRIVATE.data_bits
    per, right = len(multipliers), 0
    every = np.array(np.meshgrid(*[np.arange(len(grid))] * per, indexing="ij")).reshape(per, -1)
    with open_framed(path, Kind.ANSWER) as reader:
        info = AnswerInfo.from_header(reader.header, reader.name)
        size = info.folds * info.product
        for dim, record in enumerate(reader):
            parts = decode_products(record.payload[:size], info.folds, PRIVATE.degree, WORD)
            found = decrypt_products(spectrum_of_key, *parts, np.arange(info.columns), WORD)
            moments = np.frombuffer(record.payload, "<f8", offset=size).reshape(-1, 2)
            for k, (mean, squares) in enumerate(moments):
                values = (grid - mean) / math.sqrt(squares) * 2**18
                sums = (
                    sum(values[e] * float(w) for e, w in zip(every, multipliers, strict=True)) / q
                )
                gaps = sums[:, None] - found[k]
                best = np.abs(gaps - np.rint(gaps)).argmin(axis=0)
                read = grid[every[:, best]].T.ravel()
                true = y.states[shape.fold_of_text == k, dim]
                count = min(len(read), len(true))
                right += int((np.abs(read[:count] - true[:count]) < 1e-3).sum())
    return right / y.states.size


def test_columns_of_choice_read_all_coarse_states(tmp_path):
    """Five texts a column, of two values: all of a fold of 4·(m + 1). Such states are refused."""
    levels, per, m, folds = 2, 5, 16, 2
    texts = 4 * (m + 1)
    grid = (np.arange(levels) - (levels - 1) / 2) * 0.037 + 0.5
    y = states(grid[np.random.default_rng(1).integers(levels, size=(folds * texts, 20))])
    step = 2**18 / math.sqrt(texts * (levels**2 - 1) / 12)  # of a level, as it is encoded
    multipliers = [round(2**88.8 / (levels * 1.25) ** (j + 1) / step) for j in range(per)]
    offer, answer = tmp_path / "o", tmp_path / "a"
    shape = packed_offer(offer, y, m, folds, multipliers)
    with pytest.raises(InputError, match="few different values"):
        answer_fit(offer, answer, y, [PROVEN])
    assert not answer.exists()
    info = answer_fit(offer, answer, y, [PROVEN], coarse=True)
    assert told_states(info) < len(y) / 3  # what a budget counts is not what was read
    assert read_packed(answer, y, shape, grid, multipliers) > 0.98


def test_coarse_dimensions_are_found(rng):
    fine = rng.normal(size=(2000, 3))
    whole = np.rint(fine * 20)  # some 130 values
    flat = np.ones((2000, 1))
    require_fine([fine[:700], fine[700:]], 2000)
    require_fine([np.hstack([fine, flat])], 2000)
    require_fine([fine[:20]], 20)
    with pytest.raises(InputError, match="dimension 0 has"):
        require_fine([rng.integers(64, size=(136, 1)).astype(np.float32)], 136)
    for few in (np.hstack([fine, whole]), np.hstack([fine, fine > 0])):
        with pytest.raises(InputError, match="dimension 3 has"):
            require_fine([few[:1200], few[1200:]], 2000)


def test_what_waits_is_limited_over_all_folds(monkeypatch, rng):
    """A client chooses many folds and columns; sums are the same whenever they are made."""
    shape = FitShape(60, 6, 0, 16, 16)
    primes = PRIVATE.data_primes
    both = []
    for most in (1 << 20, 4000):
        monkeypatch.setattr(products, "MAX_HELD", most)
        sums, draw = [FoldSums(shape, primes, 2) for _ in range(6)], np.random.default_rng(0)
        held = []
        for text in range(60):
            pair = tuple(
                np.stack([draw.integers(0, p, 16, np.uint64) for p in primes]) for _ in range(2)
            )
            sums[text % 6].add(pair, draw.integers(-99, 99, (1, 2)).astype(float))
            limit_held(sums)
            held.append(sum(one.held for one in sums))
        assert max(held) <= most
        for one in sums:
            one.flush()
        assert sum(one.held for one in sums) == 0
        both.append([(one.first, one.second) for one in sums])
    np.testing.assert_array_equal(*both)


# --- the client's own files, and the accuracy that is stated ------------------------------------


def test_the_file_kept_of_an_offer_is_never_replaced(tmp_path):
    x, _ = two_models(n=200)
    exchange = Exchange(tmp_path)
    exchange.offer(x, columns=4)
    before = [p.read_bytes() for p in (exchange.offer_at, exchange.kept_at)]
    with pytest.raises(OutputExistsError, match=r"m\.kept\.npz is already there"):
        write_offer(exchange.offer_at, exchange.kept_at, x, SECRET, columns=4)
    assert before == [p.read_bytes() for p in (exchange.offer_at, exchange.kept_at)]


def test_an_offer_that_cannot_be_named_leaves_no_kept_file(tmp_path):
    exchange = Exchange(tmp_path)

    def take_its_name(_):
        exchange.offer_at.mkdir(exist_ok=True)

    with pytest.raises(OSError, match=r"m\.offer"):
        exchange.offer(two_models(n=200)[0], columns=4, progress=take_its_name)
    assert [p.name for p in tmp_path.iterdir()] == ["m.offer"]


@pytest.mark.parametrize("times", [1, 1000])
def test_an_outlying_text_changes_r2_by_less_than_stated(tmp_path, times):
    """docs/PRIVATE_FIT.md: 10⁻⁴, and 5·10⁻³ with a text a thousand times as large as others."""
    x, y = (s.states.copy() for s in two_models(n=700, condition=10))
    x[5], y[5] = 2 + (x[5] - 2) * times, -3 + (y[5] + 3) * times
    x, y = states(x), states(y)
    exchange = Exchange(tmp_path)
    exchange.offer(x)
    exchange.answer(y)
    _, report = exchange.finish()
    _, expected = fit(x, y, folds=report.folds)
    most = 1e-4 if times == 1 else 5e-3  # ten standard deviations of the noise
    assert report.held_out_r2 == pytest.approx(expected.held_out_r2, abs=most)
