"""Detectors against scores of pytorch-ood, from benchmarks/peers/pytorch_ood_scores.py."""

from __future__ import annotations

import numpy as np
import pytest
from support import ROOT

from linalign_lite import Head, HiddenStates, fit_detector, outlyingness
from linalign_lite.core.metrics import auroc, fpr_at

with np.load(ROOT / "tests" / "golden" / "pytorch_ood.npz") as file:
    PEER = dict(file)
N = len(PEER["states"])


@pytest.fixture(scope="module")
def states() -> HiddenStates:
    names = tuple(f"{i}" for i in range(5))
    return HiddenStates(PEER["states"], labels=names, label_ids=PEER["ids"].astype(np.int32))


@pytest.mark.parametrize(
    ("name", "method", "temperature"),
    [("energy", "energy", 1), ("energy_t2", "energy", 2), ("msp", "msp", 1),
     ("max_logit", "max-logit", 1)],
)  # fmt: skip
def test_scores(name, method, temperature):
    scores = PEER["queries"] @ PEER["weight"].T + PEER["bias"]
    np.testing.assert_allclose(outlyingness(scores, method, temperature), PEER[name], rtol=1e-5)


def test_mahalanobis(states):
    """pytorch-ood divides by the sum of squares instead of the covariance, and by two."""
    got = fit_detector(states, method="mahalanobis", shrinkage=0).scores(PEER["queries"])
    np.testing.assert_allclose(got / N / 2, PEER["mahalanobis"], rtol=1e-3)
    got = fit_detector(states, method="relative-mahalanobis", shrinkage=0).scores(PEER["queries"])
    np.testing.assert_allclose(got / N, PEER["relative"], rtol=1e-3, atol=1e-5)


def test_knn(states):
    got = fit_detector(states, method="knn", k=3).scores(PEER["queries"])
    np.testing.assert_allclose(got, PEER["knn"], rtol=1e-6)


def test_vim(states):
    head = Head(PEER["weight"], PEER["bias"])
    got = fit_detector(states, method="vim", head=head, components=4).scores(PEER["queries"])
    np.testing.assert_allclose(got, PEER["vim"], rtol=1e-4)


def test_figures():
    """pytorch-ood takes the outlying class as positive for FPR at 95 %."""
    low, high = PEER["inlying"], PEER["outlying"]
    assert auroc(low, high) == pytest.approx(float(PEER["auroc"]))
    assert fpr_at(-high, -low) == pytest.approx(float(PEER["fpr"]))
