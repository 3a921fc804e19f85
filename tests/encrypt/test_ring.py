"""Ring products against Python's integers and against SEAL's own."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite.encrypt.keys import seal_context
from linalign_lite.encrypt.modular import integer_residues
from linalign_lite.encrypt.parameters import PRIVATE, TRUSTED
from linalign_lite.encrypt.ring import Ring, coefficients, limb_bits, mean_square, spectrum
from linalign_lite.errors import FormatError, PrecisionError

seeded = settings(derandomize=True, deadline=None, max_examples=40)


def exact_product(left, right):
    """Schoolbook product of polynomials of Python's integers, modulo X^N + 1."""
    degree = len(left)
    full = np.convolve(left.astype(object), right.astype(object))
    out = full[:degree].copy()
    out[: degree - 1] -= full[degree:]
    return out


@pytest.mark.parametrize("degree", [8, 2048, 4096])
def test_spectra_round_trip(degree):
    p = np.random.default_rng(degree).normal(size=(3, degree))
    np.testing.assert_allclose(coefficients(spectrum(p)), p, atol=1e-12)


def test_a_spectrum_has_the_values_at_the_roots():
    p, degree = np.random.default_rng(3).normal(size=16), 16
    roots = np.exp(1j * np.pi * (4 * np.arange(degree // 2) + 1) / degree)
    np.testing.assert_allclose(spectrum(p), np.polyval(p[::-1], roots), atol=1e-10)


@seeded
@given(
    parameters=st.sampled_from([PRIVATE, TRUSTED]),
    degree=st.sampled_from([16, 64, 256]),
    terms=st.integers(1, 3),
    height=st.integers(0, 24),
    shift=st.integers(0, 12),
    extreme=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_products_are_exact(parameters, degree, terms, height, shift, extreme, seed):
    """Sums of products, shifted; residues and integers at random, or all of them the largest."""
    rng, primes = np.random.default_rng(seed), parameters.data_primes
    rows = rng.integers(-(2**height), 2**height + 1, (terms, degree)).astype(float)
    x = np.stack([rng.integers(0, p, (terms, degree), dtype=np.uint64) for p in primes], axis=1)
    if extreme:
        rows[:] = 2.0**height
        x[:] = 0  # as many of the largest as are accepted
        for i, prime in enumerate(primes):
            x[:, i, : int(mean_square(degree) * degree)] = prime // 2
    norm = float(np.linalg.norm(rows, axis=1).sum())
    ring = Ring(degree, primes, limb_bits(degree, norm, terms), shift)
    total = (ring.spectra(x) * spectrum(rows)[:, None, None]).sum(axis=0)
    got = ring.residues(total)
    for i, prime in enumerate(primes):
        exact = sum(exact_product(a, b) for a, b in zip(x[:, i], rows.astype(int), strict=True))
        assert (got[i].astype(object) == exact * 2**shift % prime).all()
    places = rng.choice(degree, 5)
    assert np.array_equal(ring.residues(total, places), got[:, places])


@pytest.mark.parametrize("parameters", [PRIVATE, TRUSTED], ids=lambda p: p.name)
def test_products_at_full_size_are_those_of_seal(parameters):
    """SEAL multiplies its own encryption by the same row of integers, modulo the same primes."""
    import tenseal.sealapi as api

    from linalign_lite.encrypt.keys import keygen
    from linalign_lite.encrypt.seal.secret_side import SecretSide

    seal, n = seal_context(parameters), parameters.degree
    zero, seed = SecretSide(parameters, keygen(parameters)[0].material).encrypt_zero()
    both = np.stack([zero, seal.grown(seed)])
    row = np.random.default_rng(1).integers(-30_000, 30_001, n)
    terms = [f"{row[k] % 65537:X}" + (f"x^{k}" if k else "") for k in reversed(range(n)) if row[k]]
    plain = api.Plaintext(" + ".join(terms))
    ring = Ring(n, parameters.data_primes, limb_bits(n, float(np.linalg.norm(row)), 1))
    ours = ring.residues(ring.spectra(both) * spectrum(row.astype(float)))
    theirs = api.Ciphertext()
    api.Evaluator(seal.context).multiply_plain(seal.load([*both[0], *both[1]]), plain, theirs)
    assert np.array_equal(ours, seal.residues(theirs))


def test_the_bound_leaves_room():
    """Errors of the largest products allowed, at full size, measured: far below one half."""
    n, rng = 4096, np.random.default_rng(2)
    for norm in (2.0**23, 2.0**20, 2.0**15):
        bits = limb_bits(n, norm, 1)
        digits = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) + 1, n).astype(float)
        digits *= np.sqrt(3 * mean_square(n))  # up to the limit
        digits = np.rint(digits)
        row = rng.normal(size=n)
        row = np.rint(row * norm / np.linalg.norm(row))
        values = coefficients(spectrum(digits) * spectrum(row))
        assert np.abs(values - np.rint(values)).max() < 0.05


@pytest.mark.parametrize("parameters", [PRIVATE, TRUSTED], ids=lambda p: p.name)
def test_polynomials_that_no_encryption_makes_are_refused(parameters):
    """Uniform ones are far from the limit; with large limbs everywhere, products may be wrong."""
    n, primes, rng = parameters.degree, parameters.data_primes, np.random.default_rng(5)
    ring = Ring(n, primes, 23 if len(primes) == 2 else 17)
    uniform = np.stack([rng.integers(0, p, (200, n), dtype=np.uint64) for p in primes], axis=1)
    half = 1 << (ring.bits - 1)
    assert ring.spectra(uniform).shape == (200, len(primes), ring.limbs, n // 2)
    largest = np.full((len(primes), n), half - 1, dtype=np.uint64)
    with pytest.raises(FormatError, match="none that encryption makes"):
        ring.spectra(largest)
    largest[:, int(mean_square(n) * n) :] = 0
    ring.spectra(largest)


def test_rows_too_large_for_doubles_are_refused():
    assert limb_bits(4096, 1.0, 1) == 26
    assert limb_bits(4096, 2.0**23, 4) == 17
    assert limb_bits(4096, 2.0**23, 1000) == 13
    with pytest.raises(PrecisionError, match="not exact in double precision"):
        limb_bits(4096, 2.0**40, 4)


@seeded
@given(bits=st.integers(0, 32), seed=st.integers(0, 2**32 - 1))
def test_integers_become_residues(bits, seed):
    values = np.random.default_rng(seed).integers(-(2**52), 2**52 + 1, 64)
    for prime in (*PRIVATE.data_primes, *TRUSTED.data_primes):
        exact = [(int(v) << bits) % prime for v in values]
        assert integer_residues(values, bits, prime).tolist() == exact
