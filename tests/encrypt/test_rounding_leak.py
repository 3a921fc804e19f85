"""Rounded scores against the key: the attack of Li and Micciancio on a simulated index."""

import numpy as np
import pytest

from linalign_lite.encrypt.parameters import PRIVATE
from linalign_lite.encrypt.precision import query_scale, rounding_step, score_error

N = 4096


def recovered(step, products, head_scale, seed=1):
    """Share of the secret's coefficients that published scores and the true ones tell.

    Noise of a score is (rho*s)_k, rho what rounding modulo 2^24 leaves of the component that the
    provider knows: so the published scores correlated with rho give s.
    """
    rng = np.random.default_rng(seed)
    turn = np.exp(1j * np.pi * np.arange(N) / N)
    secret = rng.integers(-1, 2, N).astype(float)
    spectrum = np.fft.fft(secret * turn)
    unit = 2.0 ** (PRIVATE.data_bits - 24 - query_scale(PRIVATE, 0) - head_scale)
    total = np.zeros(N)
    for _ in range(products):
        rho = np.fft.fft(rng.uniform(-0.5, 0.5, N) * turn)
        noise = (np.fft.ifft(rho * spectrum) * turn.conj()).real * unit
        true = rng.normal(size=N) * 0.05
        published = np.rint((true + noise) / step) * step
        told = np.fft.fft((published - true) * turn)
        total += (np.fft.ifft(rho.conj() * told) * turn.conj()).real
    found = np.clip(np.rint(total / (products * N * unit / 12)), -1, 1)
    return (found == secret).mean()


def test_scores_rounded_to_the_noise_alone_give_the_key_away():
    """29 queries of 100,000 rows, had scores of an index the places that their noise allows."""
    head, rounding = 18, 9  # of an index of unit rows of 9 bits
    bounds = [
        score_error(PRIVATE, 0, head, rounding, N, 0, 24, encoded=encoded)
        for encoded in (True, False)
    ]
    fine, coarse = (rounding_step(bound)[0] for bound in bounds)
    assert fine <= 2e-4
    assert coarse == pytest.approx(5e-3)
    shares = [recovered(step, 29 * 100_000 // N, head) for step in (1e-4, coarse)]
    assert shares[0] == pytest.approx(0.97, abs=0.005)
    assert shares[1] < 0.4  # of coefficients -1, 0 and 1
