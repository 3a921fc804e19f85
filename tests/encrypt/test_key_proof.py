"""Proofs that a public key is well formed: complete, sound, zero-knowledge; hostile bytes."""

import dataclasses
import hashlib
import math
import os

import numpy as np
import pytest

from linalign_lite.encrypt import key_proof
from linalign_lite.encrypt.key_proof import NOISE, OPENED, ROUNDS, SMALL, Box, Statement
from linalign_lite.encrypt.keys import PublicKey, keygen
from linalign_lite.encrypt.modular import pack_seeded
from linalign_lite.encrypt.parameters import PRIVATE, TRUSTED
from linalign_lite.errors import FormatError, InputError, LinalignError, MismatchError

N = TRUSTED.degree
SEEDS_START = 32
ANSWERS_START = SEEDS_START + 32 * (ROUNDS - OPENED)
Z_S_SIZE, Z_E_SIZE = N * 18 // 8, N * 22 // 8


@pytest.fixture(scope="module")
def pair():
    return keygen(TRUSTED)


@pytest.fixture(scope="module")
def proof(pair):
    return key_proof.prove(*pair)


def refused(public, proof):
    """Check that a proof is refused, with a message that says nothing else."""
    with pytest.raises(FormatError) as caught:
        key_proof.verify(public, proof)
    assert str(caught.value) == "the proof of a public key does not verify"


def with_first(public, first):
    """A public key with another p0."""
    return PublicKey(
        public.parameters, pack_seeded(first, public.seed, public.parameters.data_primes)
    )


def shifted(public, shift):
    """A public key whose p0 is larger by ``shift``: (N,), or (primes, N)."""
    moduli = np.array(public.parameters.data_primes, dtype=np.int64)[:, None]
    first = (public.components()[0].view(np.int64) + shift) % moduli
    return with_first(public, first.view(np.uint64))


def made_up(public, kind):
    """A public key that is not well formed, with the seed of an honest one."""
    primes, degree = public.parameters.data_primes, public.parameters.degree
    if kind == "random":
        rng = np.random.default_rng(5)
        return with_first(public, np.stack([rng.integers(0, p, degree, np.uint64) for p in primes]))
    # u·p0 then has the coefficients of u as digits: delta·Σ 3^i·X^(i·R)
    first = np.zeros((len(primes), degree), dtype=np.uint64)
    for row, prime in zip(first, primes, strict=True):
        for i in range(15):
            row[i * (degree // 16)] = (3**i << 20) % prime
    return with_first(public, first)


def uniform_answers(rng):
    """τ answers, uniform in their ranges."""
    return [
        tuple(rng.integers(b.margin - b.half, b.half - b.margin, N) for b in (SMALL, NOISE))
        for _ in range(OPENED)
    ]


def guessed(public, guess, answers):
    """Commit as a prover who can answer only the challenge ``guess``: digest and seeds."""
    statement, seeds = Statement(public), [os.urandom(32) for _ in range(ROUNDS)]
    commitments = [statement.commitment(i, statement.blinding(seeds[i])) for i in range(ROUNDS)]
    for i, answer in zip(guess, answers, strict=True):
        commitments[i] = statement.commitment(i, answer, answer=True)
    return statement.challenge(commitments), seeds


def without_aborts(public, s, e):
    """A proof by the honest protocol for any s and e, whatever the range of its answers."""
    statement, seeds = Statement(public), [os.urandom(32) for _ in range(ROUNDS)]
    blindings = [statement.blinding(seed) for seed in seeds]
    digest = statement.challenge([*map(statement.commitment, range(ROUNDS), blindings)])
    answers = [(blindings[i][0] + s, blindings[i][1] + e) for i in key_proof.subset(digest)]
    return key_proof.encode(digest, seeds, answers), answers


def deviations(values, half):
    """Deviations of χ² over 64 bins of [−half, half), and over the low 6 bits, from its mean."""
    for bins in ((values + half) * 64 // (2 * half), values % 64):
        counts, expected = np.bincount(bins.ravel(), minlength=64), values.size / 64
        yield abs(((counts - expected) ** 2 / expected).sum() - 63) / math.sqrt(2 * 63)


def in_range(answers):
    return all(SMALL.holds(z_s) and NOISE.holds(z_e) for z_s, z_e in answers)


# -- what is stated


def test_soundness_is_above_128_bits():
    bits = math.log2(math.comb(ROUNDS, OPENED))
    assert (ROUNDS, OPENED) == (1024, 20)
    assert bits > 128
    assert 138.65 < bits < 138.66
    assert "C(1024, 20) = 2^138.65" in key_proof.__doc__


def test_constants_are_those_stated():
    assert dataclasses.astuple(SMALL) == (2**17, 1)
    assert dataclasses.astuple(NOISE) == (2**21, 21)
    assert key_proof.proof_size(TRUSTED) == 236_960
    assert key_proof.proof_size(PRIVATE) == 441_760
    assert key_proof.slack(PRIVATE) == (2.0**24, 2.0**28)
    assert key_proof.slack(TRUSTED) == pytest.approx((2**23.5, 2**27.5))
    for degree, attempts in ((2048, 2.1), (4096, 4.2)):
        accepted = ((1 - 1 / SMALL.half) * (1 - 21 / NOISE.half)) ** (OPENED * degree)
        assert round(1 / accepted, 1) == attempts
        assert f"{attempts} " in key_proof.__doc__
    assert math.log2(1 - accepted) * key_proof.MAX_TRIES < -380
    few = math.log2(math.comb(ROUNDS, OPENED - 1)) + 8 * OPENED * math.log2((OPENED - 1) / ROUNDS)
    assert few < -700


# -- completeness


def test_an_honest_proof_verifies(pair, proof):
    assert len(proof) == key_proof.proof_size(TRUSTED)
    key_proof.verify(pair[1], proof)


def test_an_honest_proof_of_the_private_profile_verifies():
    secret, public = keygen(PRIVATE)
    tries = []
    proof = key_proof.prove(secret, public, tries.append)
    assert len(proof) == key_proof.proof_size(PRIVATE)
    assert set(tries) == {1}
    key_proof.verify(public, proof)
    flipped = bytearray(proof)
    flipped[-1] ^= 1
    refused(public, bytes(flipped))
    # p0 altered modulo one prime only: e modulo the two primes differ
    wrong = shifted(public, np.eye(1, PRIVATE.degree, dtype=np.int64) * [[0], [1]])
    with pytest.raises(InputError, match="not well formed"):
        key_proof.prove(dataclasses.replace(secret, digest=wrong.digest), wrong)


def test_proofs_differ_from_run_to_run(pair, proof):
    other = key_proof.prove(*pair)
    key_proof.verify(pair[1], other)
    seeds = [{p[k : k + 32] for k in range(SEEDS_START, ANSWERS_START, 32)} for p in (proof, other)]
    assert [len(s) for s in seeds] == [ROUNDS - OPENED] * 2
    assert not seeds[0] & seeds[1]


def test_commitments_are_of_the_stated_w(pair):
    """Schoolbook products of Python's integers; seeds expanded by the definition."""
    public, seed, (prime,) = pair[1], bytes(range(32)), TRUSTED.data_primes
    stream = hashlib.shake_256(b"linalign-lite key proof 1: blinding" + seed).digest(8 * N)
    words = [int.from_bytes(stream[k : k + 4], "little") for k in range(0, 8 * N, 4)]
    y_s = np.array([v % 2**18 - 2**17 for v in words[:N]], dtype=object)
    y_e = np.array([v % 2**22 - 2**21 for v in words[N:]], dtype=object)
    first, second = public.components()[:, 0].astype(object)
    full = np.convolve(second, y_s)
    product = full[:N].copy()
    product[: N - 1] -= full[N:]
    statement = Statement(public)
    for index, answer in ((7, False), (900, True)):
        w = (y_e - product - (first if answer else 0)) % prime
        data = index.to_bytes(4, "little") + b"".join(int(v).to_bytes(8, "little") for v in w)
        expected = hashlib.blake2b(data, digest_size=32, person=b"linalign key pf1").digest()
        blinding = statement.blinding(seed)
        assert statement.commitment(index, blinding, answer=answer) == expected
        assert statement.commitment(index + 1, blinding, answer=answer) != expected


# -- tampering


def _flips():
    answer = Z_S_SIZE + Z_E_SIZE
    last = ANSWERS_START + OPENED * answer
    return {
        "digest": 0,
        "end of the digest": 31,
        "first seed": SEEDS_START,
        "last seed": ANSWERS_START - 1,
        "first z_s": ANSWERS_START,
        "z_s, bit planes": ANSWERS_START + Z_S_SIZE - 1,
        "first z_e": ANSWERS_START + Z_S_SIZE,
        "z_e, bit planes": ANSWERS_START + answer - 1,
        "last z_s": last - answer,
        "end": last - 1,
    }


@pytest.mark.parametrize("place", _flips())
def test_a_flipped_bit_is_refused(pair, proof, place):
    changed = bytearray(proof)
    changed[_flips()[place]] ^= 1
    refused(pair[1], bytes(changed))


@pytest.mark.parametrize(
    "edit",
    [
        lambda p: p[:-1],
        lambda p: p[1:],
        lambda p: p + b"\0",
        lambda p: p + p,
        lambda p: p[: len(p) // 2],
        lambda p: b"",
    ],
)
def test_another_length_is_refused_before_anything_else(pair, proof, edit, monkeypatch):
    monkeypatch.setattr(key_proof, "Statement", None)
    monkeypatch.setattr(key_proof, "subset", None)
    refused(pair[1], edit(proof))


@pytest.mark.parametrize("fill", [b"\0", b"\xff"])
def test_answers_out_of_range_are_refused_before_anything_is_computed(
    pair, proof, fill, monkeypatch
):
    monkeypatch.setattr(key_proof, "Statement", None)
    refused(pair[1], proof[:ANSWERS_START] + fill * (len(proof) - ANSWERS_START))


def test_swapped_parts_are_refused(pair, proof):
    a, b = proof[SEEDS_START : SEEDS_START + 32], proof[SEEDS_START + 32 : SEEDS_START + 64]
    refused(pair[1], proof[:SEEDS_START] + b + a + proof[SEEDS_START + 64 :])
    size = Z_S_SIZE + Z_E_SIZE
    a, b = proof[-2 * size : -size], proof[-size:]
    refused(pair[1], proof[: -2 * size] + b + a)


def test_a_proof_is_of_one_public_key(pair, proof):
    other = keygen(TRUSTED)[1]
    refused(other, proof)
    refused(PublicKey(PRIVATE, keygen(PRIVATE)[1].payload), proof)
    # another p0 with a small error, which is well formed: the proof is not of this key
    refused(shifted(pair[1], np.eye(1, N, dtype=np.int64)), proof)


def test_a_damaged_public_key_is_refused(pair, proof):
    with pytest.raises(FormatError):
        key_proof.verify(PublicKey(TRUSTED, pair[1].payload[:-1]), proof)


def test_the_challenge_depends_on_all_that_it_binds(pair):
    statement, commitments = Statement(pair[1]), [bytes([i % 256]) * 32 for i in range(ROUNDS)]
    digests = {statement.challenge(commitments)}
    for i in (0, 500, ROUNDS - 1):
        changed = list(commitments)
        changed[i] = bytes(32 - len(b"changed")) + b"changed"
        digests.add(statement.challenge(changed))
    digests.add(Statement(shifted(pair[1], 1)).challenge(commitments))
    other = dataclasses.replace(TRUSTED, id=60)
    digests.add(Statement(PublicKey(other, pair[1].payload)).challenge(commitments))
    assert len(digests) == 6


# -- soundness


@pytest.mark.parametrize("kind", ["geometric", "random"])
def test_a_made_up_public_key_cannot_be_proved(pair, kind):
    secret, public = pair
    wrong = made_up(public, kind)
    with pytest.raises(InputError, match="not well formed"):
        key_proof.prove(dataclasses.replace(secret, digest=wrong.digest), wrong)


def test_keys_of_two_pairs_are_refused(pair):
    with pytest.raises(MismatchError, match="not of one pair"):
        key_proof.prove(pair[0], keygen(TRUSTED)[1])
    public = keygen(TRUSTED)[1]  # with its digest, but another secret
    with pytest.raises(InputError, match="not well formed"):
        key_proof.prove(dataclasses.replace(pair[0], digest=public.digest), public)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_error_is_21(pair, sign):
    secret, public = pair
    s, e = Statement(public).witness(secret)
    assert set(np.unique(s)) == {-1, 0, 1}
    assert np.abs(e).max() <= 21
    for size in (21, 22):
        key = shifted(public, np.eye(1, N, dtype=np.int64) * (sign * size - e[0]))
        owner = dataclasses.replace(secret, digest=key.digest)
        if size == 21:
            assert Statement(key).witness(owner)[1][0] == sign * 21
        else:
            with pytest.raises(InputError, match="not well formed"):
                Statement(key).witness(owner)


@pytest.mark.parametrize("kind", ["geometric", "random"])
def test_a_prover_who_guesses_the_challenge_fails_unless_the_guess_is_right(
    pair, kind, monkeypatch
):
    """Commitments that one challenge can open, for a key without a secret.

    When the random oracle is programmed with this challenge the proof verifies: this is the
    simulator of the zero-knowledge argument, and shows that nothing but the challenge fails.
    """
    public, rng = made_up(pair[1], kind), np.random.default_rng(8)
    guess = sorted(rng.choice(ROUNDS, OPENED, replace=False).tolist())
    answers = uniform_answers(rng)
    digest, seeds = guessed(public, guess, answers)
    opened = key_proof.subset(digest)
    assert opened != guess
    # the best for the challenge drawn: answers that are known, and others at random
    known = dict(zip(guess, answers, strict=True))
    best = [known.get(i, answers[0]) for i in opened]
    refused(public, key_proof.encode(digest, seeds, best))
    monkeypatch.setattr(key_proof, "subset", lambda _: guess)
    key_proof.verify(public, key_proof.encode(digest, seeds, answers))


@pytest.mark.parametrize(
    ("which", "value", "accepted"),
    [
        (0, -(2**17) + 1, True),
        (0, -(2**17), False),
        (0, 2**17 - 2, True),
        (0, 2**17 - 1, False),
        (1, -(2**21) + 21, True),
        (1, -(2**21) + 20, False),
        (1, 2**21 - 22, True),
        (1, 2**21 - 21, False),
    ],
)
def test_an_answer_out_of_range_is_refused_though_all_hashes_agree(
    pair, which, value, accepted, monkeypatch
):
    guess, answers = list(range(OPENED)), uniform_answers(np.random.default_rng(9))
    answers[11][which][N - 1] = value
    digest, seeds = guessed(pair[1], guess, answers)
    monkeypatch.setattr(key_proof, "subset", lambda _: guess)
    proof = key_proof.encode(digest, seeds, answers)
    if accepted:
        key_proof.verify(pair[1], proof)
    else:
        refused(pair[1], proof)


def test_a_proof_without_aborts_is_refused(pair):
    """An honest key, and an attempt that the prover must discard."""
    s, e = Statement(pair[1]).witness(pair[0])
    for _ in range(200):  # half of all attempts
        proof, answers = without_aborts(pair[1], s, e)
        if not in_range(answers):
            break
    assert not in_range(answers)
    refused(pair[1], proof)


def test_an_error_beyond_the_slack_is_refused_and_one_within_may_pass(pair):
    """Errors of 2^12 and of 2^23 in one coefficient, by a prover who does not check the key."""
    secret, public = pair
    s, e = Statement(public).witness(secret)
    large = np.eye(1, N, dtype=np.int64)[0]
    for _ in range(200):
        proof, answers = without_aborts(shifted(public, large << 12), s, e + (large << 12))
        if in_range(answers):
            break
    key_proof.verify(shifted(public, large << 12), proof)
    proof, answers = without_aborts(shifted(public, large << 23), s, e + (large << 23))
    assert not any(NOISE.holds(z_e) for _, z_e in answers)
    refused(shifted(public, large << 23), proof)


def test_challenges_are_uniform_sets():
    counts, draws = np.zeros(ROUNDS), 4000
    for i in range(draws):
        opened = key_proof.subset(i.to_bytes(32, "little"))
        assert len(set(opened)) == OPENED
        assert opened == sorted(opened)
        assert set(opened) <= set(range(ROUNDS))
        counts[opened] += 1
    expected = draws * OPENED / ROUNDS
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi2 - ROUNDS) < 6 * math.sqrt(2 * ROUNDS)


# -- zero knowledge


@pytest.mark.parametrize("margin", [1, 2, 5])
def test_accepted_answers_have_one_distribution_for_every_secret(margin):
    """Every blinding of a small box, for every secret value: each answer once, and all of them."""
    box = Box(16, margin)
    assert not box.holds(np.array([-16 - margin]))
    for value in range(-margin, margin + 1):
        answers = [y + value for y in range(-box.half, box.half)]
        accepted = [z for z in answers if box.holds(np.array([z]))]
        assert accepted == list(range(-box.half + margin, box.half - margin))


def test_accepted_answers_are_uniform_and_uncorrelated_with_the_secret(pair, proof):
    """Bins of the range, the low bits, and the correlation, within margins of 7 deviations."""
    s, e = Statement(pair[1]).witness(pair[0])
    _, _, answers = key_proof._decode(proof, N)
    assert len(answers) == OPENED
    for which, box, hidden in ((0, SMALL, s), (1, NOISE, e)):
        z = np.stack([answer[which] for answer in answers.values()])
        assert max(deviations(z, box.half)) < 7
        deviation = 2 * box.half / math.sqrt(12) * math.sqrt(OPENED) * np.linalg.norm(hidden)
        assert abs((z * hidden).sum()) < 7 * deviation


def test_blindings_are_uniform():
    statement = Statement(keygen(TRUSTED)[1])
    drawn = [statement.blinding(bytes([i]) * 32) for i in range(20)]
    for which, box in ((0, SMALL), (1, NOISE)):
        y = np.stack([pair[which] for pair in drawn])
        assert y.min() >= -box.half
        assert y.max() < box.half
        assert max(deviations(y, box.half)) < 6


def test_discarded_attempts_are_counted_and_bounded(pair, monkeypatch):
    monkeypatch.setattr(key_proof, "MAX_TRIES", 2)
    monkeypatch.setattr(Box, "holds", lambda *_: False)
    tries = []
    with pytest.raises(LinalignError, match="no attempt"):
        key_proof.prove(*pair, tries.append)
    assert tries == [1, 1]
