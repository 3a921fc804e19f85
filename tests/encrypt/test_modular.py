"""Modular arithmetic against Python's integers; packed residues; decryption against SEAL."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite.encrypt import response_encoding
from linalign_lite.encrypt.modular import (
    MAX_FEATURES,
    FloodingNoise,
    add_mod,
    matmul_mod,
    modulus_fractions,
    mul_mod,
    pack_residues,
    packed_size,
    random_ternary,
    shift_mod,
    switch_modulus,
    unpack_residues,
)
from linalign_lite.encrypt.parameters import PRIVATE, TRUSTED
from linalign_lite.encrypt.response_encoding import WORD_BITS
from linalign_lite.encrypt.ring import spectrum
from linalign_lite.errors import FormatError

seeded = settings(derandomize=True, deadline=None, max_examples=60)
PRIMES = sorted({*PRIVATE.primes, *TRUSTED.primes, 1152921504606830593})  # the last has 60 bits


def residues(rng, prime, count=64):
    drawn = rng.integers(0, prime, count, dtype=np.uint64)
    drawn[:4] = 0, 1, prime - 1, prime // 2
    return drawn


@seeded
@given(prime=st.sampled_from(PRIMES), seed=st.integers(0, 2**32 - 1), bits=st.integers(0, 32))
def test_arithmetic_is_exact(prime, seed, bits):
    rng = np.random.default_rng(seed)
    a, b = residues(rng, prime), residues(rng, prime)[::-1].copy()
    factor = int(rng.integers(0, prime if prime < 2**46 else 2**40))
    assert mul_mod(a, factor, prime).tolist() == [x * factor % prime for x in a.tolist()]
    assert shift_mod(a, bits, prime).tolist() == [(x << bits) % prime for x in a.tolist()]
    sums = [(x + y) % prime for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert add_mod(a, b, prime).tolist() == sums


@seeded
@given(prime=st.sampled_from(PRIMES), seed=st.integers(0, 2**32 - 1))
def test_matrix_products_are_exact(prime, seed):
    """Rows of the largest norm allowed; among the residues, all of the largest value."""
    rng = np.random.default_rng(seed)
    features = int(rng.choice([1, 7, MAX_FEATURES]))
    weight = rng.normal(size=(3, features))
    weight = np.rint(weight * (2.0**23 - 20) / np.linalg.norm(weight, axis=1, keepdims=True))
    values = np.stack([residues(rng, prime, 16) for _ in range(features)])
    values[:, -1] = prime - 1
    exact = weight.astype(int).astype(object) @ values.astype(object) % prime
    assert matmul_mod(weight, values, prime).tolist() == exact.tolist()


@seeded
@given(
    parameters=st.sampled_from([PRIVATE, TRUSTED]),
    bits=st.sampled_from(WORD_BITS),
    seed=st.integers(0, 2**32 - 1),
)
def test_fractions_and_words(parameters, bits, seed):
    rng, q = np.random.default_rng(seed), parameters.modulus
    values = [0, 1, q - 1, q // 2, q // 2 + 1, *(int(rng.integers(2**62)) * q >> 62 for _ in "abc")]
    got = modulus_fractions(residues_of(values, parameters), parameters.data_primes)
    exact = np.array([v / q for v in values])
    distance = np.abs(got - exact)
    assert np.minimum(distance, np.abs(distance - 1)).max() < 2.0**-50
    rounded = [round((v << bits) / q) % 2**bits for v in values]
    off = (switch_modulus(got, bits).astype(np.int64) - np.array(rounded)) % 2**bits
    assert np.isin(off, (0, 1, 2**bits - 1)).all()
    words = switch_modulus(np.array([-0.25, 1.25, 1 - 2.0**-40]), bits)
    assert words.tolist() == [3 << (bits - 2), 1 << (bits - 2), 0]


def residues_of(values, parameters):
    return np.array([[v % p for v in values] for p in parameters.data_primes], dtype=np.uint64)


@seeded
@given(parameters=st.sampled_from([PRIVATE, TRUSTED]), seed=st.integers(0, 2**32 - 1))
def test_fractions_grow_with_their_values(parameters, seed):
    """So words change at 2^w of q places and no others (docs/SECURITY.md). Neighbours, and far."""
    rng, q = np.random.default_rng(seed), parameters.modulus
    start = int(rng.integers(2**62)) * q >> 62
    step = 1 << int(rng.integers(0, 60))
    values = sorted((start + k * step) % q for k in range(64))
    fractions = modulus_fractions(residues_of(values, parameters), parameters.data_primes)
    assert (np.diff(fractions) >= 0).all()


@pytest.mark.parametrize("bits", [1, 5, 32, 33, 64, 70, 85])
def test_flooding_is_uniform_and_the_same_for_every_prime(bits):
    flood = FloodingNoise(20_000, bits)
    p0, p1 = PRIVATE.data_primes
    first, second = (flood.modulo(p).astype(object) for p in (p0, p1))
    whole = first + p0 * ((second - first) * pow(p0, -1, p1) % p1)
    q = PRIVATE.modulus
    require_uniform(np.where(whole > q // 2, whole - q, whole), bits)


def require_uniform(drawn, bits):
    assert drawn.min() >= -(1 << (bits - 1))
    assert drawn.max() < 1 << (bits - 1)
    scaled = drawn.astype(float) / 2.0**bits + 0.5
    counts = np.histogram(scaled, bins=min(16, 2**bits), range=(0, 1))[0]
    expected = 20_000 / len(counts)
    assert np.abs(counts - expected).max() < 6 * np.sqrt(expected)
    if bits > 1:
        odd = sum(int(v) & 1 for v in drawn)
        assert abs(odd - 10_000) < 6 * 71


def test_ternary_values_are_uniform_and_drawn_anew():
    drawn = random_ternary(60_000)
    assert set(drawn.tolist()) == {-1.0, 0.0, 1.0}
    counts = np.array([(drawn == v).sum() for v in (-1, 0, 1)])
    assert np.abs(counts - 20_000).max() < 6 * np.sqrt(20_000)
    assert not np.array_equal(random_ternary(64), random_ternary(64))


def test_an_error_on_the_second_component_would_drown_in_its_rounding():
    """The error that docs/SECURITY.md leaves out changes any of N words with p < 2^-40."""
    rng = np.random.default_rng(1)
    whole = [int(rng.integers(2**62)) * PRIVATE.modulus >> 62 for _ in range(4096)]
    noise = rng.integers(-21, 22, 4096).tolist()
    moved = [(v + e) % PRIVATE.modulus for v, e in zip(whole, noise, strict=True)]
    for bits, most in zip(WORD_BITS, (2.0**-48, 2.0**-40), strict=True):
        changes = (2 * 21 + 1) * 2**bits / PRIVATE.modulus  # a word changes at 2^bits of q places
        assert PRIVATE.degree * changes < most
        switched = [
            switch_modulus(modulus_fractions(residues_of(v, PRIVATE), PRIVATE.data_primes), bits)
            for v in (whole, moved)
        ]
        assert np.array_equal(*switched)


def test_flooding_is_drawn_anew():
    p = PRIVATE.data_primes[0]
    assert not np.array_equal(FloodingNoise(8, 70).modulo(p), FloodingNoise(8, 70).modulo(p))


# -- the parts of a response --------------------------------------------------------------------


@seeded
@given(
    degree=st.sampled_from([8, 64, 4096]),
    wanted=st.integers(1, 200),
    bits=st.sampled_from(WORD_BITS),
    extreme=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_decryption_is_exact(degree, wanted, bits, extreme, seed):
    rng = np.random.default_rng(seed)
    secret = rng.integers(-1, 2, degree).astype(np.int8)
    second = rng.integers(0, 2**bits, degree, dtype=np.uint32)
    if extreme:
        secret[:], second[:] = 1, 2 ** (bits - 1)
    positions = rng.choice(degree, min(wanted, degree), replace=False)
    first = rng.integers(0, 2**bits, len(positions), dtype=np.uint32)
    exact = []
    signed = np.concatenate([-second.astype(object), second.astype(object)])
    for f, k in zip(first, positions.tolist(), strict=True):
        product = int(np.dot(secret.astype(object), signed[k + degree : k : -1]))
        total = (int(f) + product) % 2**bits
        exact.append((total - 2**bits if total >= 2 ** (bits - 1) else total) / 2**bits)
    ours = response_encoding.decrypt_products(spectrum(secret), second, first, positions, bits)
    assert ours.tolist() == exact


def test_encoded_and_decoded_products():
    words = np.array([*range(20), 1, 2, 3, (1 << 24) - 1], dtype=np.uint32)
    for bits in WORD_BITS:
        payload = response_encoding.encode_words(words, bits)
        assert len(payload) == 2 * response_encoding.product_size(8, 4, bits) == 24 * bits // 8
        second, first = response_encoding.decode_products(payload, 2, 8, bits)
        assert np.concatenate([second, first], axis=1).ravel().tolist() == words.tolist()
        for bad in (payload[:-1], payload[: 14 * bits // 8], b""):
            with pytest.raises(FormatError, match="wrong length"):
                response_encoding.decode_products(bad, 2, 8, bits)


# -- bytes -----------------------------------------------------------------------------------------


@seeded
@given(prime=st.sampled_from(PRIMES), seed=st.integers(0, 2**32 - 1))
def test_words_round_trip(prime, seed):
    words = np.random.default_rng(seed).integers(0, prime, 64, dtype=np.uint64)
    words[:2] = 0, prime - 1
    data = pack_residues(words, prime)
    assert len(data) == packed_size(64, prime) == 64 * prime.bit_length() // 8
    assert np.array_equal(unpack_residues(data, 64, prime), words)


def test_packed_words_known_answer():
    words = np.array([0x155, 0x0AA, 0, 1, 2, 3, 4, 0x1FF], dtype=np.uint64)  # 9 bits of prime
    data = pack_residues(words, 0x1FF + 2 - 2)
    assert data.hex() == "55aa0001020304ff" + "81"


def test_unpack_refuses_wrong_length_and_large_values():
    prime = PRIVATE.primes[0]
    data = bytearray(pack_residues(np.zeros(64, dtype=np.uint64), prime))
    with pytest.raises(FormatError, match="size that its shape needs"):
        unpack_residues(bytes(data[:-1]), 64, prime)
    with pytest.raises(FormatError, match="not below its prime"):
        unpack_residues(b"\xff" * len(data), 64, prime)
