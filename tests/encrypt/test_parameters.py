"""Parameter sets stay inside 128 bits of security; scales leave no room for an overflow."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite.encrypt.key_proof import slack
from linalign_lite.encrypt.noise_flooding import (
    HIDING_BITS,
    flood_bits,
    most_flood_bits,
    product_noise,
)
from linalign_lite.encrypt.packing import Layout
from linalign_lite.encrypt.parameters import (
    MODULUS_BITS,
    PRIVATE,
    PROFILES,
    SEAL_BITS,
    TRUSTED,
    Parameters,
    by_id,
    by_name,
)
from linalign_lite.encrypt.precision import (
    MAX_NORM_BITS,
    MIN_NORM_BITS,
    choose_scales,
    factors,
    head_scale,
    largest_norm,
    least_norm_bits,
    precision_bits,
    query_scale,
    rounding_step,
    score_error,
)
from linalign_lite.encrypt.ring import limb_bits
from linalign_lite.errors import FormatError, InputError, PrecisionError

BOTH = [PRIVATE, TRUSTED]
seeded = settings(derandomize=True, deadline=None, max_examples=200)


def is_prime(n):
    """Miller–Rabin with bases that decide every n below 3.3e24."""
    d, s = n - 1, 0
    while d % 2 == 0:
        d, s = d // 2, s + 1
    for a in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41):
        x = pow(a, d, n)
        if x in (1, n - 1):
            continue
        for _ in range(s - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


@pytest.mark.parametrize("parameters", BOTH, ids=lambda p: p.name)
def test_sets_are_sound(parameters):
    assert all(is_prime(p) and p % (2 * parameters.degree) == 1 for p in parameters.primes)
    assert parameters.modulus.bit_length() <= MODULUS_BITS[parameters.degree]
    assert sum(p.bit_length() for p in parameters.primes) <= SEAL_BITS[parameters.degree]
    assert len(set(parameters.primes)) == len(parameters.primes)
    assert by_id(parameters.id) is parameters
    assert by_name(parameters.name) is parameters


def block_size(degree, modulus_bits):
    """BKZ block size of the primal attack on ring-LWE: uSVP, Bai–Galbraith embedding.

    Least β over the number of samples m with σ√β ≤ δ(β)^(2β−d−1)·(q^m ν^N)^(1/d), d = m + N + 1,
    ν = σ/√(2/3) for a ternary secret, σ = √10.5; δ(β) = ((πβ)^(1/β)·β/(2πe))^(1/(2(β−1))).
    """
    sigma, found = math.sqrt(10.5), []
    for m in range(degree // 4, 2 * degree + 1, degree // 64):
        d = m + degree + 1
        volume = (m * modulus_bits + degree * math.log2(sigma / math.sqrt(2 / 3))) / d

        def succeeds(beta, d=d, volume=volume):
            delta = ((math.pi * beta) ** (1 / beta) * beta / (2 * math.pi * math.e)) ** (
                1 / (2 * (beta - 1))
            )
            return (
                math.log2(sigma * math.sqrt(beta)) <= (2 * beta - d - 1) * math.log2(delta) + volume
            )

        low, high = 50, 2 * degree
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if succeeds(middle) else (middle + 1, high)
        found.append(low)
    return min(found)


def test_sets_are_as_hard_as_the_rows_of_the_standard():
    """Core-SVP, 0.292·β classical and 0.265·β quantum, beside the standard's row for N = 1024."""
    row = block_size(1024, 27)
    assert round(0.292 * row) == 101
    hard = {p.name: block_size(p.degree, p.data_bits) for p in BOTH}
    assert min(hard.values()) > row
    assert [round(0.292 * hard[n]) for n in ("private", "trusted")] == [126, 107]
    assert [round(0.265 * hard[n]) for n in ("private", "trusted")] == [114, 97]


def test_seal_accepts_and_would_have_chosen_these():
    import tenseal.sealapi as api

    from linalign_lite.encrypt.seal.context import SealContext

    for parameters in BOTH:
        context = SealContext(parameters).context
        data = context.key_context_data()
        assert data.qualifiers().sec_level == api.SEC_LEVEL_TYPE.TC128
        chosen = api.CoeffModulus.Create(
            parameters.degree, [p.bit_length() for p in parameters.primes]
        )
        assert tuple(m.value() for m in chosen) == parameters.primes
        limit = api.CoeffModulus.MaxBitCount(parameters.degree, api.SEC_LEVEL_TYPE.TC128)
        assert limit == SEAL_BITS[parameters.degree]


def test_unknown_profiles():
    with pytest.raises(InputError, match="unknown profile"):
        by_name("insecure-noop")
    for old in (3, 4, 77, 0xFFFF):
        with pytest.raises(FormatError, match="unknown parameter set"):
            by_id(old)
    assert set(PROFILES) == {"private", "trusted"}


@pytest.mark.parametrize(
    ("degree", "primes", "message"),
    [
        (2048, PRIVATE.data_primes, "too wide"),
        (4096, (2**52 + 2**13 * 3 + 1, 2**53 + 2**13 * 5 + 1), "too wide"),
        (4096, (134176771,), "must be 1 modulo"),
        (4096, (), "must be 1 modulo"),
        (4096, (40961, 65537, 114689), "at most two"),
        (4000, (134176769,), "not supported"),
    ],
)
def test_unsound_sets_are_refused(degree, primes, message):
    with pytest.raises(InputError, match=message):
        Parameters("x", 9, degree, primes, (), 40, private=True)


@seeded
@given(
    parameters=st.sampled_from(BOTH),
    largest=st.floats(0, 2.0**MAX_NORM_BITS),
    row_norm=st.floats(0, 1e9),
    bias=st.floats(0, 1e12),
)
def test_no_score_can_overflow(parameters, largest, row_norm, bias):
    bound = least_norm_bits(largest)
    assert largest <= largest_norm(bound)
    a = query_scale(parameters, bound)
    assert bound + a == parameters.query_bits
    q = math.prod(parameters.data_primes)
    try:
        b = head_scale(parameters, bound, row_norm, bias)
    except InputError:
        assert (2.0**bound * row_norm + bias) * 2.0**a > q * 15 / 32
        return
    assert (largest * row_norm + bias) * 2.0 ** (a + b) <= q * 61 / 128 * (1 + 1e-9)
    # flooding included, half of the modulus is not reached
    assert q * 61 / 128 + 2.0 ** (most_flood_bits(parameters) - 1) < q / 2
    assert 0 <= b <= parameters.data_bits - 2


@pytest.mark.parametrize("largest", [math.inf, math.nan, 2.0**MAX_NORM_BITS * 1.02])
def test_norms_out_of_range(largest):
    with pytest.raises(InputError, match="too large to encrypt"):
        least_norm_bits(largest)


def test_heads_out_of_range():
    for row_norm in (1e30, math.inf):
        with pytest.raises(InputError, match="overflow"):
            head_scale(PRIVATE, 4, row_norm, 0.0)


def test_small_norms_share_one_bound():
    assert {least_norm_bits(x) for x in (0.0, 1e-9, 1.0, 1.0156)} == {MIN_NORM_BITS} == {0}
    assert [least_norm_bits(x) for x in (1.016, 2.0, 2.03, 2.04, 16.01, 17.0)] == [1, 1, 1, 2, 4, 5]


@pytest.mark.parametrize("parameters", BOTH, ids=lambda p: p.name)
def test_stated_precision(parameters):
    """Unit states, ten head rows of norm 20 per product: errors far below 1e-3."""
    b = head_scale(parameters, 1, 20.0, 5.0)
    flood = flood_bits(parameters, b, 20.0 * math.sqrt(10), parameters.degree)
    for bits, most, places in ((24, 2e-3, 2), (32, 3e-4, 3)):
        error = score_error(parameters, 1, b, 0, 10, flood, bits)
        assert error < most
        assert rounding_step(error)[1] >= places


def test_weights_are_as_short_as_the_error_allows():
    """Short ones, of which residues need two limbs, then whole ones, then long words."""
    layout = Layout(4096, 384, 2)
    found = []
    for max_error in (1e-2, 1e-3, 1e-4, 1e-9):
        norms = {"row_norm": 20.0, "bias": 1.0, "product_norm": 20.0 * math.sqrt(layout.rows)}
        scales = choose_scales(PRIVATE, layout, 150, 0, **norms, max_error=max_error)
        room = factors(layout, norms["product_norm"], scales.weight_scale)
        found.append((scales.rounding_bits > 0, limb_bits(4096, *room) >= 23, scales.word_bits))
        numbers = scales.head, scales.rounding_bits, layout.rows, scales.flood_bits
        assert scales.error == score_error(PRIVATE, 0, *numbers, scales.word_bits)
        assert scales.error <= max(max_error, 2e-4)
    assert found == [(True, True, 24), *[(False, False, 24)], *[(False, False, 32)] * 2]
    columns = choose_scales(PRIVATE, Layout(4096, 384, 384), 150, 0, **norms)
    assert columns.rounding_bits == 0  # rows are numbers there


@seeded
@given(
    row_norm=st.floats(1e-6, 1e6),
    rows=st.integers(1, 4096),
    chunks=st.integers(1, 64),
    bound=st.integers(MIN_NORM_BITS, MAX_NORM_BITS),
)
def test_flooding_hides_the_noise_to_40_bits(row_norm, rows, chunks, bound):
    """Statistical distance of a returned coefficient: a shift of δ among 2^k, and the tail of δ."""
    try:
        b = head_scale(PRIVATE, bound, row_norm, 0.0)
        norm = row_norm * math.sqrt(rows)
        k = flood_bits(PRIVATE, b, norm, PRIVATE.degree * chunks)
    except PrecisionError:
        return
    delta = product_noise(PRIVATE, b, norm, PRIVATE.degree * chunks)
    variance = 10.5 * (norm * 2.0**b) ** 2
    zero = delta - math.sqrt(2 * math.log(2.0**42) * 10.5) * (
        norm * 2.0**b + math.sqrt(PRIVATE.degree * chunks) / 2
    )
    tail = 2 * math.exp(-((delta - zero) ** 2) / (2 * variance))
    assert delta / 2.0**k + tail <= 2.0**-HIDING_BITS * (1 + 1e-9)
    # the flooding and the largest score together stay within half the modulus
    assert 2.0 ** (k - 1) + PRIVATE.modulus / 4 < PRIVATE.modulus / 2


@seeded
@given(
    row_norm=st.floats(1e-6, 1e6),
    rows=st.integers(1, 4096),
    chunks=st.integers(1, 400),
    bound=st.integers(0, MAX_NORM_BITS),
)
def test_flooding_under_a_proven_key_hides_what_the_proof_allows(row_norm, rows, chunks, bound):
    """Tails of W·e, u·e' and e1·s' and the shift, for the largest s' and e' of a proof.

    Up to the 4,096 rows that share a product in the packing many.
    """
    terms = chunks * PRIVATE.degree
    try:
        b = head_scale(PRIVATE, bound, row_norm, 0.0)
        norm = row_norm * math.sqrt(rows) * 2.0**b
        k = flood_bits(PRIVATE, b, row_norm * math.sqrt(rows), terms, proven=True)
    except PrecisionError:
        return
    delta = product_noise(PRIVATE, b, row_norm * math.sqrt(rows), terms, proven=True)
    secret, noise = slack(PRIVATE)
    rounding = math.sqrt(terms) / 2
    tails = 0.0
    # δ is a sum of three bounds, each λ with 2·exp(-λ²/(2v)): v is the variance proxy
    for share, deviation in (
        (math.sqrt(2 * math.log(2.0**42)), math.sqrt(10.5) * (norm + rounding)),
        (math.sqrt(2 * math.log(2.0**44)), noise),
        (math.sqrt(2 * math.log(2.0**44)), math.sqrt(10.5) * secret),
    ):
        delta -= share * deviation
        tails += 2 * math.exp(-(share**2) / 2)
    assert abs(delta) < 1e-6 * norm + 1.0
    whole = product_noise(PRIVATE, b, row_norm * math.sqrt(rows), terms, proven=True)
    assert whole / 2.0**k + tails <= 2.0**-HIDING_BITS * (1 + 1e-9)


def test_heads_that_cannot_be_hidden():
    with pytest.raises(PrecisionError, match="cannot hold the noise that hides"):
        flood_bits(PRIVATE, 60, 1.0, 4096)
    assert flood_bits(TRUSTED, 60, 1.0, 2048) == 0


def test_an_encryption_of_zero_is_as_quiet_as_its_bound():
    """The part of δ that no draw exceeds, against measured noise."""
    from linalign_lite.encrypt.keys import keygen, seal_context
    from linalign_lite.encrypt.masks import Masks
    from linalign_lite.encrypt.modular import add_mod, centred
    from linalign_lite.encrypt.ring import Ring, spectrum

    secret, public = keygen(PRIVATE)
    s = spectrum(seal_context(PRIVATE).secret_key(secret.material)[1])
    ring, masks = Ring(PRIVATE.degree, PRIVATE.data_primes, 15), Masks(public)
    bound, largest = product_noise(PRIVATE, 0, 0.0, 0), 0
    for _ in range(8):
        first, second = ring.residues(masks.draw(ring))
        products = ring.residues(ring.spectra(second) * s)
        for row, product, prime in zip(first, products, PRIVATE.data_primes, strict=True):
            noise = np.abs(centred(add_mod(row, product, prime), prime))
            largest = max(largest, int(noise.max()))
    assert 0 < largest < bound


def test_seals_noise_is_what_the_bound_supposes():
    """Centred binomial of 42 coins: at most 21, variance 10.5."""
    from linalign_lite.core.head import Head
    from linalign_lite.encrypt.audit.report import _Attacker, _Query

    bench = _Attacker(Head(np.ones((1, 8)), np.zeros(1)), PRIVATE)
    noise = np.concatenate([bench.query_noise(_Query(bench, np.zeros(8))) for _ in range(10)])
    assert np.array_equal(noise, np.rint(noise))
    assert np.abs(noise).max() <= 21
    assert 9.8 < noise.var() < 11.2
    assert abs(noise.mean()) < 0.1


def test_steps_of_rounding():
    found = [rounding_step(e) for e in (0.04, 4e-4, 1.2e-3, 6e-3, 1e-12, 3.0, 70.0, 1e-20, 1e-3)]
    assert [places for _, places in found] == [2, 4, 3, 2, 12, 0, 0, 15, 3]
    steps = [0.05, 5e-4, 2e-3, 1e-2, 1e-12, 5.0, 100.0, 1e-15, 1e-3]
    assert [step for step, _ in found] == pytest.approx(steps, rel=1e-12)


@seeded
@given(error=st.floats(1e-14, 1e3))
def test_a_step_is_at_least_the_error_and_no_more_than_two_and_a_half_times(error):
    step, places = rounding_step(error)
    assert error <= step <= 2.5 * error * (1 + 1e-12)
    assert round(step, places) == pytest.approx(step, rel=1e-12)


def test_precision_bits():
    assert precision_bits([1.0, -4.0], [1.0, -4.0]) == math.inf
    assert precision_bits(np.array([4.0]), np.array([4.0 + 2**-8])) == pytest.approx(10)
    assert precision_bits([0.0], [1.0]) == -math.inf


def test_importing_the_package_loads_no_encryption_library():
    code = (
        "import sys, linalign_lite.encrypt, linalign_lite.encrypt.client,"
        " linalign_lite.encrypt.provider;"
        "bad = {m.split('.')[0] for m in sys.modules}"
        " & {'tenseal', '_sealapi_cpp', 'onnxruntime', 'scipy', 'torch'};"
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
