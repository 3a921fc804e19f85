"""AUROC, AUPR, FPR and the ROC curve, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as oracle

from linalign_lite import InputError, report_scores
from linalign_lite.core.metrics import aupr_in, aupr_out, auroc, auroc_interval, fpr_at, roc_curve

TIED = hnp.arrays(np.float64, st.integers(1, 40), elements=st.integers(-4, 4).map(float))


def both(low, high):
    return np.repeat([0, 1], [len(low), len(high)]), np.concatenate([low, high])


@given(TIED, TIED)
@settings(max_examples=150, deadline=None)
def test_they_are_scikit_learns_with_many_ties(low, high):
    truth, scores = both(low, high)
    assert auroc(low, high) == pytest.approx(oracle.roc_auc_score(truth, scores))
    assert aupr_out(low, high) == pytest.approx(oracle.average_precision_score(truth, scores))
    assert aupr_in(low, high) == pytest.approx(oracle.average_precision_score(1 - truth, -scores))
    fpr, tpr, _ = oracle.roc_curve(1 - truth, -scores, drop_intermediate=False)
    for share in (0.5, 0.95, 1.0):
        assert fpr_at(low, high, share) == pytest.approx(fpr[tpr >= share - 1e-12].min())
    x, y, _ = oracle.roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc_curve(low, high), np.column_stack([x, y]))


def test_the_curve_is_thinned_evenly_and_keeps_its_ends(rng):
    low, high = rng.normal(size=5000), rng.normal(1.5, size=3000)
    curve = np.array(roc_curve(low, high))
    assert 150 < len(curve) <= 200
    assert tuple(curve[0]) == (0, 0)
    assert tuple(curve[-1]) == (1, 1)
    assert (np.diff(curve, axis=0) >= 0).all()
    assert np.diff(curve.sum(axis=1)).max() < 0.03
    assert np.trapezoid(curve[:, 1], curve[:, 0]) == pytest.approx(auroc(low, high), abs=1e-3)


def test_the_interval_covers(rng):
    """In 300 samples with a known AUROC, about 95 % of the intervals contain it."""
    truth, hits = 0.7602, 0  # Φ(1/√2)
    for _ in range(300):
        found = auroc_interval(rng.normal(size=80), rng.normal(1, size=50))
        hits += found.low <= truth <= found.high
    assert 272 <= hits <= 299


def test_the_variance_is_that_of_all_pairs(rng):
    """DeLong's variance by its definition over all pairs."""
    low, high = rng.normal(size=30).round(1), rng.normal(1, size=20).round(1)
    wins = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    variance = wins.mean(1).var(ddof=1) / 20 + wins.mean(0).var(ddof=1) / 30
    found = auroc_interval(low, high)
    assert found.value == pytest.approx(wins.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * variance**0.5, rel=1e-5)


def test_a_report_has_them_all(rng):
    low, high = rng.normal(size=400), rng.normal(2, size=300)
    found = report_scores(low, high, threshold=1.0)
    assert found.auroc.value == auroc(low, high)
    assert found.fpr_at_95 == fpr_at(low, high, 0.95)
    assert found.kept == (low <= 1).mean()
    assert found.caught == (high > 1).mean()
    assert (found.n_in, found.n_out) == (400, 300)
    assert report_scores(low, high).kept is None
    perfect = report_scores(np.zeros(3), np.ones(2))
    assert (perfect.auroc.value, perfect.aupr_in, perfect.aupr_out) == (1, 1, 1)
    assert perfect.fpr_at_95 == 0


def test_what_cannot_be_used_is_named():
    for low, high in ((np.zeros(0), np.ones(2)), (np.ones(2), np.array([np.inf]))):
        with pytest.raises(InputError, match="scores are not usable"):
            report_scores(low, high)
    with pytest.raises(InputError, match="share to keep"):
        fpr_at(np.ones(2), np.ones(2), 0)
