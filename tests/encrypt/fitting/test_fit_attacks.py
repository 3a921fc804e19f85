"""A dishonest client: the states that it gets from an encrypted fit, and their price."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
from made_fit import PROVEN, PUBLIC, SECRET, Exchange, states, two_models

from linalign_lite import (
    Budget,
    BudgetError,
    FormatError,
    HiddenStates,
    InputError,
    MismatchError,
    SignatureError,
    SigningKey,
    answer_fit,
    keygen,
)
from linalign_lite.encrypt import key_proof, wire
from linalign_lite.encrypt.fitting import offer as offering
from linalign_lite.encrypt.fitting.descriptions import AnswerInfo, told_bits
from linalign_lite.encrypt.fitting.finish import decrypt_moments
from linalign_lite.encrypt.fitting.shape import FitShape, choose_folds, least_texts
from linalign_lite.encrypt.keys import PublicKey
from linalign_lite.encrypt.modular import pack_seeded
from linalign_lite.encrypt.parameters import PRIVATE
from linalign_lite.encrypt.wire import Kind, open_framed


@pytest.fixture(scope="module")
def models():
    return two_models()


@pytest.fixture(scope="module")
def account():
    """A signing key, and a proven pair of keys of its account."""
    signer = SigningKey.generate()
    secret, public = keygen(account=signer)
    return signer, secret, key_proof.proven(secret, public)


# --- few texts ----------------------------------------------------------------------------------


def known(x, y):
    """The provider's rows as far as means and products with the client's columns tell them."""
    centred, mean = x - x.mean(axis=0), y.mean(axis=0)
    u = np.linalg.svd(centred, full_matrices=False)[0]
    return mean + u @ (u.T @ (y - mean))


def test_few_texts_give_the_states_away_and_many_do_not():
    """The rule: of what no map predicts, a share of (m + 1)/n is told; all of it for n = m + 1."""
    rng, m = np.random.default_rng(0), 20
    shares = {}
    for n in (m + 1, 2 * (m + 1), least_texts(m)):
        x, unpredictable = rng.normal(size=(n, m)), rng.normal(size=(n, 300))
        gap = unpredictable - known(x, unpredictable)
        shares[n] = 1 - (gap**2).sum() / (unpredictable**2).sum()
    assert shares[m + 1] == pytest.approx(1, abs=1e-9)
    assert shares[2 * (m + 1)] == pytest.approx(1 / 2, abs=0.03)
    assert shares[least_texts(m)] == pytest.approx(1 / 4, abs=0.03)


def test_few_texts_are_refused_by_both_sides(tmp_path, monkeypatch):
    x, y = two_models(n=130)  # of 136 that 16 columns take
    exchange = Exchange(tmp_path)
    with pytest.raises(InputError, match="give the provider's states away"):
        exchange.offer(x)
    with pytest.raises(InputError, match="a fold of 65 texts for 16 columns"):
        exchange.offer(x, folds=2)
    monkeypatch.setattr(FitShape, "require_enough", lambda *_: None)  # a client without the rule
    exchange.offer(x, folds=2)
    monkeypatch.undo()
    with pytest.raises(InputError, match="a fold of 65 texts for 16 columns"):
        exchange.answer(y)
    assert not exchange.answer_at.exists()


def test_repeated_texts_do_not_count(tmp_path, monkeypatch):
    """400 texts, of which 100 differ: their states would follow from 5 times 16 products."""
    few = two_models(n=100)
    x, y = (states(np.tile(s.states, (4, 1))) for s in few)
    exchange = Exchange(tmp_path)
    with pytest.raises(InputError, match="different texts for 16 columns"):
        exchange.offer(x)
    monkeypatch.setattr(offering, "count_distinct", lambda *_: (10**6,))  # a dishonest client
    exchange.offer(x)
    with pytest.raises(InputError, match="different texts for 16 columns"):
        exchange.answer(y)
    assert not exchange.answer_at.exists()


# --- columns of a client's choice ---------------------------------------------------------------


def one_hot(exchange, n, columns, rows, secret=SECRET, **options):
    """Offer columns that are 1 at one text of each fold: ``rows``, (folds, columns)."""

    class Chosen:
        scale = np.ones(columns)

        def __call__(self, folds, some):
            texts = some[:, 0].astype(int)  # each row says which text it is
            return (texts[:, None] == rows[folds]).astype(float)

    numbered = np.repeat(np.arange(n, dtype=np.float32)[:, None], columns, axis=1)

    class Unkept:
        def __init__(self, *_):
            pass

        def save(self, _):
            pass

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(offering, "choose_columns", lambda *_: Chosen())
        patched.setattr(offering, "KeptOffer", Unkept)
        offer = offering.write_offer
        return offer(exchange.offer_at, exchange.kept_at, states(numbered), secret, **options)


def decrypted(path, secret=SECRET):
    from linalign_lite.encrypt.fitting.finish import _decrypted

    with open_framed(path, Kind.ANSWER) as reader:
        info = AnswerInfo.from_header(reader.header, reader.name)
        payloads = (record.payload for record in reader)
        return info, *_decrypted(info, payloads, secret, reader.name, None)


def test_one_hot_columns_read_as_many_states_as_there_are_columns(models, tmp_path):
    """A dishonest client reads m texts of each fold, a quarter at most, and nothing of others."""
    _, y = models
    n, m = len(y), 16
    folds = choose_folds(n, m)
    shape = FitShape(n, folds, 0, m, PRIVATE.degree)
    rows = np.stack([np.flatnonzero(shape.fold_of_text == k)[:m] for k in range(folds)])
    exchange = Exchange(tmp_path)
    one_hot(exchange, n, m, rows)
    exchange.answer(y)
    info, products, means, squares = decrypted(exchange.answer_at)
    read = means + products.transpose(2, 0, 1) * np.sqrt(squares)  # (m, d_target, folds)
    for k in range(folds):
        true = y.states[rows[k]].astype(float)
        gap = np.abs(read[:, :, k] - true) / np.sqrt(squares[:, k])
        assert gap.max() <= info.error
    assert rows.size <= n / 4
    # every word sent is counted: the rest of a product is masked and not sent
    numbers = folds * (PRIVATE.degree + m) * 3 + folds * 16
    assert len(exchange.answer_at.read_bytes()) - 12 * (numbers + 32) < 1000


def test_what_is_told_is_charged_and_a_second_offer_refused(models, tmp_path, account):
    signer, secret, public = account
    x, y = models
    exchange = Exchange(tmp_path)
    budget = Budget(tmp_path / "clients.sqlite", 18 * 5)
    offering.write_offer(exchange.offer_at, exchange.kept_at, x, secret, account=signer)
    info = exchange.answer(y, keys=[public], budget=budget)
    [usage] = budget.usage()
    assert (usage.used, usage.pending, usage.bits) == (18 * 5, 0, told_bits(info))
    assert told_bits(info) >= 18 * 5 * 12 * 16
    first = exchange.answer_at.read_bytes()
    exchange.answer(y, keys=[public], budget=budget)  # sent again: the same, free
    assert exchange.answer_at.read_bytes() == first
    assert budget.usage() == (usage,)
    again = Exchange(tmp_path / "again")
    again.folder.mkdir()
    offering.write_offer(again.offer_at, again.kept_at, x, secret, account=signer)
    with pytest.raises(BudgetError, match="is used up: got 90 states"):
        again.answer(y, keys=[public], budget=budget)
    assert not again.answer_at.exists()
    assert budget.usage() == (usage,)


def test_bits_of_states_are_limited_too(models, tmp_path, account):
    signer, secret, public = account
    exchange = Exchange(tmp_path)
    offering.write_offer(exchange.offer_at, exchange.kept_at, models[0], secret, account=signer)
    budget = Budget(tmp_path / "clients.sqlite", 10**6, bits=10_000)
    with pytest.raises(BudgetError, match="more bits of scores than are left"):
        exchange.answer(models[1], keys=[public], budget=budget)
    assert not budget.usage()


def test_an_offer_must_be_signed_by_the_account_of_its_key(models, tmp_path, account):
    signer, secret, public = account
    exchange = Exchange(tmp_path)
    budget = Budget(tmp_path / "clients.sqlite", 10**6)
    for other in (None, SigningKey.generate()):
        exchange.offer(models[0], secret, account=other)
        with pytest.raises(SignatureError):
            exchange.answer(models[1], keys=[public], budget=budget)
    exchange.offer(models[0])  # a key of no account
    with pytest.raises(MismatchError, match="belongs to no account"):
        exchange.answer(models[1], budget=budget)
    exchange.offer(models[0], account=signer)
    with pytest.raises(SignatureError):
        exchange.answer(models[1])
    assert not budget.usage()
    assert not exchange.answer_at.exists()


def test_only_named_accounts_are_answered(models, tmp_path, account):
    signer, secret, public = account
    exchange = Exchange(tmp_path)
    exchange.offer(models[0], secret, account=signer)
    other = SigningKey.generate().public
    with pytest.raises(SignatureError, match="the account of this offer may not ask"):
        exchange.answer(models[1], keys=[public], accounts=[other])
    exchange.answer(models[1], keys=[public], accounts=[other, signer.public])
    exchange.offer(models[0])  # of no account
    with pytest.raises(SignatureError, match="an offer of no account"):
        exchange.answer(models[1], accounts=[signer.public])


# --- keys and ciphertexts that are made up ------------------------------------------------------


def test_a_made_up_key_is_refused(models, tmp_path):
    """Its owner would read masks from returned coefficients, and so the states from the rest."""
    rng = np.random.default_rng(0)
    primes, degree = PRIVATE.data_primes, PRIVATE.degree
    first = np.stack([rng.integers(0, p, degree, np.uint64) for p in primes])
    made_up = PublicKey(PRIVATE, pack_seeded(first, os.urandom(64), primes))
    exchange = Exchange(tmp_path)
    exchange.offer(models[0])
    raw = rekeyed(exchange.offer_at, made_up.digest)
    exchange.offer_at.write_bytes(raw)
    with pytest.raises(MismatchError, match="its key has no proof"):
        exchange.answer(models[1], keys=[made_up])
    stolen = dataclasses.replace(made_up, proof=PROVEN.proof)  # the proof of another key
    with pytest.raises(FormatError, match="proof of a public key does not verify"):
        exchange.answer(models[1], keys=[stolen])
    assert not exchange.answer_at.exists()


def rekeyed(path, digest):
    with open_framed(path, Kind.OFFER) as reader:
        payloads = [record.payload for record in reader]
        return wire.framed_bytes(dataclasses.replace(reader.header, key=digest), payloads)


def reframed(path, change):
    """The same offer with other payloads, and digests made anew."""
    with open_framed(path, Kind.OFFER) as reader:
        payloads = change([record.payload for record in reader])
        path.write_bytes(wire.framed_bytes(reader.header, payloads))


def test_no_seed_may_occur_twice(models, tmp_path):
    exchange = Exchange(tmp_path)
    for change in (lambda p: [p[0], *p[:-1]], lambda p: [p[0][:-64] + PUBLIC.seed, *p[1:]]):
        exchange.offer(models[0])
        reframed(exchange.offer_at, change)
        with pytest.raises(FormatError, match="uses a seed twice"):
            exchange.answer(models[1])


def test_residues_that_are_none_are_refused_before_anything_is_charged(models, tmp_path, account):
    signer, secret, public = account
    exchange = Exchange(tmp_path)
    offering.write_offer(exchange.offer_at, exchange.kept_at, models[0], secret, account=signer)
    with open_framed(exchange.offer_at, Kind.OFFER) as reader:
        payloads = [record.payload for record in reader]
        payloads[-1] = b"\xff" * (len(payloads[-1]) - 64) + payloads[-1][-64:]
        raw = wire.framed_bytes(
            reader.header, payloads, lambda name: signer.sign(offering.signed_bytes(name))
        )
    exchange.offer_at.write_bytes(raw)
    budget = Budget(tmp_path / "clients.sqlite", 10**6)
    with pytest.raises(FormatError, match="not below its prime"):
        exchange.answer(models[1], keys=[public], budget=budget)
    assert not budget.usage()


def test_an_offer_altered_while_it_is_answered_is_not_answered(models, tmp_path):
    exchange = Exchange(tmp_path)
    exchange.offer(models[0])
    changed = exchange.offer_at.read_bytes()
    other = changed[:-300] + bytes(8) + changed[-292:]

    def progress(_):
        with exchange.offer_at.open("r+b") as f:
            f.write(other)

    with pytest.raises(FormatError):
        exchange.answer(models[1], progress=progress)
    assert not exchange.answer_at.exists()


# --- what the provider sends --------------------------------------------------------------------


def test_masks_and_flooding_are_drawn_anew(models, tmp_path):
    """Two answers to one offer share no product: their difference would be of masks alone."""
    exchange = Exchange(tmp_path)
    exchange.offer(models[0])
    answers = []
    for _ in range(2):
        exchange.answer(models[1])
        with open_framed(exchange.answer_at, Kind.ANSWER) as reader:
            answers.append([record.payload for record in reader])
    for one, two in zip(*answers, strict=True):
        a, b = (np.frombuffer(p[:-80], np.uint8) for p in (one, two))
        assert (a == b).mean() < 0.006  # 1/256 by chance
        assert one[-80:] == two[-80:]  # means and sums of squares


def test_second_components_are_as_random_for_zeros(tmp_path, models):
    """Products of nothing but zeros are masked: their words are uniform."""
    exchange = Exchange(tmp_path)
    exchange.offer(models[0])
    flat = HiddenStates(
        np.hstack([models[1].states[:, :1], np.ones((400, 2), np.float32)]),
        text_digest=models[1].text_digest,
    )
    answer_fit(exchange.offer_at, exchange.answer_at, flat, [PROVEN])
    with open_framed(exchange.answer_at, Kind.ANSWER) as reader:
        payloads = [record.payload for record in reader]
    counts = np.bincount(np.frombuffer(payloads[1][:-80], np.uint8), minlength=256)
    expected = counts.sum() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 256 + 8 * np.sqrt(2 * 256)
    moments = decrypt_moments(exchange.answer_at, exchange.kept())
    assert not moments.moments.total.xy[:, 1:].any()
