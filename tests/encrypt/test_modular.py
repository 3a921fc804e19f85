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
    flooding_integers,
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
    factor = int(rng.integers(0, min(prime, 2**40)))
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
@given(parameters=st.sampled_from([PRIVATE, TRUSTED]), seed=st.integers(0, 2**32 - 1))
def test_fractions_and_words(parameters, seed):
    rng, q = np.random.default_rng(seed), parameters.modulus
    values = [0, 1, q - 1, q // 2, q // 2 + 1, *(int(rng.integers(2**62)) * q >> 62 for _ in "abc")]
    rows = [np.array([v % p for v in values], dtype=np.uint64) for p in parameters.data_primes]
    got = modulus_fractions(rows, parameters.data_primes)
    exact = np.array([v / q for v in values])
    distance = np.abs(got - exact)
    assert np.minimum(distance, np.abs(distance - 1)).max() < 2.0**-50
    rounded = [round((v << 32) / q) % 2**32 for v in values]
    off = (switch_modulus(got).astype(np.int64) - np.array(rounded)) % 2**32
    assert np.isin(off, (0, 1, 2**32 - 1)).all()
    assert switch_modulus(np.array([-0.25, 1.25, 1 - 2.0**-40])).tolist() == [3 << 30, 1 << 30, 0]


@pytest.mark.parametrize("bits", [1, 5, 32, 33, 64, 70, 90])
def test_flooding_is_uniform_and_the_same_for_every_prime(bits):
    flood = FloodingNoise(20_000, bits)
    p0, p1 = PRIVATE.data_primes
    first, second = (flood.modulo(p).astype(object) for p in (p0, p1))
    whole = first + p0 * ((second - first) * pow(p0, -1, p1) % p1)
    q = PRIVATE.modulus
    require_uniform(np.where(whole > q // 2, whole - q, whole), bits)
    one_by_one = flooding_integers(20_000, bits)
    assert all(type(v) is int for v in one_by_one)
    require_uniform(np.array(one_by_one, dtype=object), bits)


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
    """The error that docs/SECURITY.md leaves out changes any of N words with p < 2^-43."""
    changes = (2 * 21 + 1) * 2**32 / PRIVATE.modulus  # a word changes at 2^32 of q places
    assert PRIVATE.degree * changes < 2.0**-43
    rng = np.random.default_rng(1)
    whole = [int(rng.integers(2**62)) * PRIVATE.modulus >> 62 for _ in range(4096)]
    moved = [
        (v + int(e)) % PRIVATE.modulus
        for v, e in zip(whole, rng.integers(-21, 22, 4096), strict=True)
    ]
    switched = []
    for values in (whole, moved):
        primes = PRIVATE.data_primes
        rows = [np.array([v % p for v in values], dtype=np.uint64) for p in primes]
        switched.append(switch_modulus(modulus_fractions(rows, primes)))
    assert np.array_equal(*switched)


def test_flooding_is_drawn_anew():
    p = PRIVATE.data_primes[0]
    assert not np.array_equal(FloodingNoise(8, 70).modulo(p), FloodingNoise(8, 70).modulo(p))
    assert flooding_integers(8, 70) != flooding_integers(8, 70)
    assert len(set(flooding_integers(8, 70))) == 8
    assert flooding_integers(3, 0) == [0, 0, 0]


# -- the parts of a response --------------------------------------------------------------------


@seeded
@given(
    degree=st.sampled_from([8, 64, 256]), wanted=st.integers(1, 200), seed=st.integers(0, 2**32 - 1)
)
def test_decryption_is_exact(degree, wanted, seed):
    rng = np.random.default_rng(seed)
    secret = rng.integers(-1, 2, degree).astype(np.int8)
    second = rng.integers(0, 2**32, degree, dtype=np.uint32)
    positions = rng.choice(degree, min(wanted, degree), replace=False)
    first = rng.integers(0, 2**32, len(positions), dtype=np.uint32)
    full = np.convolve(second.astype(object), secret.astype(object))
    product = full[:degree].copy()
    product[: degree - 1] -= full[degree:]
    total = [(int(f) + int(v)) % 2**32 for f, v in zip(first, product[positions], strict=True)]
    exact = [(t - 2**32 if t >= 2**31 else t) / 2**32 for t in total]
    assert response_encoding.decrypt_product(secret, second, first, positions).tolist() == exact
    assert np.array_equal(response_encoding._products_by_fft(secret, second), product.astype(float))


@pytest.mark.parametrize("parameters", [PRIVATE, TRUSTED], ids=lambda p: p.name)
def test_decryption_agrees_with_seals(parameters):
    """Decryption after modulus switching against SEAL's Decryptor on the whole ciphertext."""
    import tenseal.sealapi as api

    from linalign_lite.encrypt.keys import keygen
    from linalign_lite.encrypt.packing import from_slots
    from linalign_lite.encrypt.scheme import ReturnedCoefficients
    from linalign_lite.encrypt.seal.scheme import SealScheme
    from linalign_lite.encrypt.seal.server_side import SealServerSide

    secret, _ = keygen(parameters)
    scheme = SealScheme(parameters)
    side, server = scheme.secret_side(secret.material), SealServerSide(scheme)
    rng, n = np.random.default_rng(3), parameters.degree
    scale = parameters.query_bits
    payload = side.encrypt(rng.normal(size=n) / np.sqrt(n), scale)
    plain = api.Plaintext()
    api.Decryptor(scheme.context, scheme.secret_key(secret.material)[0]).decrypt(
        server.load_ciphertext(payload), plain
    )
    peer = from_slots(np.array(api.CKKSEncoder(scheme.context).decode_complex(plain)))
    returned = ReturnedCoefficients(np.arange(n), np.zeros(n), 0)
    reply = server.finalize(server.load_ciphertext(payload), returned, None)
    second, first = response_encoding.decode_product(reply, n)
    ours = response_encoding.decrypt_product(side.secret, second, first, np.arange(n))
    unit = 2.0**parameters.data_bits  # loaded at SEAL's scale 1
    assert np.abs(ours * unit - peer).max() < 7 * np.sqrt(n / 12) * unit / 2**32


@pytest.mark.parametrize("flood", [0, 60, 80])
def test_few_coefficients_are_returned_like_many(monkeypatch, flood):
    """Coefficients read one by one agree with those of whole polynomials."""
    from linalign_lite.encrypt.keys import keygen
    from linalign_lite.encrypt.scheme import ReturnedCoefficients
    from linalign_lite.encrypt.seal import server_side as module
    from linalign_lite.encrypt.seal.scheme import SealScheme

    secret, _ = keygen(PRIVATE)
    scheme, rng, n = SealScheme(PRIVATE), np.random.default_rng(6), PRIVATE.degree
    side, server = scheme.secret_side(secret.material), module.SealServerSide(scheme)
    loaded = server.load_ciphertext(
        side.encrypt(rng.normal(size=n) / np.sqrt(n), PRIVATE.query_bits)
    )
    row = server.encode(rng.normal(size=n), 10)
    positions = np.array([0, 7, 383, n - 1])
    returned = ReturnedCoefficients(positions, np.array([0.0, 0.25, -0.25, 0.125]), flood)
    replies = []
    for few in (256, 0):
        monkeypatch.setattr(module, "_MAX_ONE_BY_ONE", few)
        words_of = np.frombuffer(
            server.finalize(server.inner_product([loaded], [row]), returned, None), "<u4"
        )
        replies.append(words_of.astype(np.int64))
    off = (replies[0] - replies[1] + 2**31) % 2**32 - 2**31
    assert len(off) == n + len(positions)
    assert np.abs(off[:n]).max() <= 1
    # two floods of 60 of the modulus's 93 bits differ by less than a word, of 80 by up to 2^19
    assert np.abs(off[n:]).max() <= max(1, 2.0 ** (flood + 32 - 93) + 1)
    assert flood < 80 or np.abs(off[n:]).max() > 2**9


def test_padded_and_decoded_products():
    payload = response_encoding.encode_product(np.array([*range(8), 1, 2, 3, 4], dtype=np.uint32))
    second, first = response_encoding.decode_product(
        response_encoding.pad_product(payload, 8, 2, 3), 8
    )
    assert second.tolist() == list(range(8))
    assert first.tolist() == [1, 2, 0, 3, 4, 0]
    assert len(payload) == response_encoding.product_size(8, 4)
    for bad in (payload[:-1], payload[:28], b""):
        with pytest.raises(FormatError, match="wrong length"):
            response_encoding.decode_product(bad, 8)


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
