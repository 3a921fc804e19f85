"""Parameter sets stay inside 128 bits of security; scales leave no room for an overflow."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linalign_lite.encrypt.parameters import (
    DEFAULT,
    INSECURE_NOOP,
    MAX_NORM_BITS,
    MODULUS_BITS,
    PROFILES,
    SMALL,
    Parameters,
    by_id,
    by_name,
    decimals,
    head_scale,
    norm_bits,
    precision_bits,
    query_scale,
    score_error,
)
from linalign_lite.errors import FormatError, InputError

BOTH = [DEFAULT, SMALL]
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
    assert sum(parameters.prime_bits) <= MODULUS_BITS[parameters.degree]
    assert len(set(parameters.primes)) == len(parameters.primes)
    assert by_id(parameters.id) is parameters
    assert by_name(parameters.name) is parameters


def test_seal_accepts_and_would_have_chosen_these():
    from linalign_lite.encrypt import seal

    for parameters in BOTH:
        context = seal.SealScheme(parameters).context
        data = context.key_context_data()
        assert data.qualifiers().sec_level == seal.api.SEC_LEVEL_TYPE.TC128
        chosen = seal.api.CoeffModulus.Create(parameters.degree, list(parameters.prime_bits))
        assert tuple(m.value() for m in chosen) == parameters.primes
        limit = seal.api.CoeffModulus.MaxBitCount(parameters.degree, seal.api.SEC_LEVEL_TYPE.TC128)
        assert limit == MODULUS_BITS[parameters.degree]


def test_insecure_twin_is_out_of_reach_by_name():
    assert INSECURE_NOOP.name not in PROFILES
    with pytest.raises(InputError, match="unknown parameter set"):
        by_name("insecure-noop")
    with pytest.raises(FormatError, match="unknown parameter set"):
        by_id(77)


@pytest.mark.parametrize(
    ("degree", "primes", "message"),
    [
        (2048, (2199022927873, 2199023190017), "too wide"),
        (4096, (134176771,), "must be 1 modulo"),
        (4096, (), "must be 1 modulo"),
        (4096, (40961, 65537, 114689), "at most two"),
        (4000, (134176769,), "not supported"),
    ],
)
def test_unsound_sets_are_refused(degree, primes, message):
    with pytest.raises(InputError, match=message):
        Parameters("x", 9, degree, primes, (), 40)


@seeded
@given(
    parameters=st.sampled_from(BOTH),
    largest=st.floats(0, 2.0**MAX_NORM_BITS),
    row_norm=st.floats(0, 1e9),
    bias=st.floats(0, 1e12),
)
def test_no_score_can_overflow(parameters, largest, row_norm, bias):
    bound = norm_bits(largest)
    assert largest <= 2.0**bound
    a = query_scale(parameters, bound)
    assert bound + a == parameters.query_bits
    q = math.prod(parameters.data_primes)
    try:
        b = head_scale(parameters, bound, row_norm, bias)
    except InputError:
        assert (2.0**bound * row_norm + bias) * 2.0**a > q / 4
        return
    assert (largest * row_norm + bias) * 2.0 ** (a + b) <= q / 4 * (1 + 1e-9)
    assert b >= 0
    assert 2.0 ** (a + b) <= q / 4


@pytest.mark.parametrize("largest", [math.inf, math.nan, 2.0**MAX_NORM_BITS * 1.01])
def test_norms_out_of_range(largest):
    with pytest.raises(InputError, match="too large to encrypt"):
        norm_bits(largest)


def test_heads_out_of_range():
    for row_norm in (1e30, math.inf):
        with pytest.raises(InputError, match="overflow"):
            head_scale(DEFAULT, 4, row_norm, 0.0)


def test_small_norms_share_one_bound():
    assert {norm_bits(x) for x in (0.0, 1e-9, 1.0, 10.0, 16.0)} == {4}
    assert norm_bits(16.01) == 5


def test_stated_precision_of_the_default_set():
    """States of norm up to 16, head rows of norm 100: the error stays below 1e-5."""
    b = head_scale(DEFAULT, 4, 100.0, 50.0)
    assert score_error(DEFAULT, 4, b, 10) < 1e-5
    assert decimals(score_error(DEFAULT, 4, b, 10)) >= 5


def test_decimals():
    assert [decimals(e) for e in (0.04, 4e-4, 1e-12, 3.0, 1e-20)] == [1, 3, 12, 0, 15]


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
