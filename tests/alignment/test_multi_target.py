"""Maps to several targets at once are those that `fit` gives one by one."""

from __future__ import annotations

import numpy as np
import pytest
from support import aligned_states

from linalign_lite.alignment.least_squares import fit
from linalign_lite.alignment.multi_target import fit_several
from linalign_lite.alignment.ridge import spectrum
from linalign_lite.core.hidden_states import HiddenStates
from linalign_lite.errors import InputError, MismatchError


@pytest.fixture
def three(rng):
    x, y = aligned_states(rng, n=300, d_source=12, d_target=9)
    z = HiddenStates(
        (x.states @ rng.normal(size=(12, 5)) + rng.normal(size=(300, 5)) * 9).astype("f4")
    )
    return x, {"y": y, "z": z}


def test_every_map_and_report_is_that_of_fit(three):
    x, targets = three
    found = fit_several(x, targets)
    for name, y in targets.items():
        affine, report = fit(x, y)
        np.testing.assert_allclose(found[name][0].weight, affine.weight, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found[name][0].bias, affine.bias, rtol=1e-5, atol=1e-5)
        ours = found[name][1]
        assert (ours.penalty, ours.n, ours.rank) == (report.penalty, report.n, report.rank)
        assert ours.held_out_r2 == pytest.approx(report.held_out_r2, rel=1e-9)
        np.testing.assert_allclose(ours.curve, report.curve, rtol=1e-8)
        assert (found[name][0].source, found[name][0].target) == (affine.source, affine.target)
    # or the test would not see penalties mixed up
    assert found["y"][1].penalty != found["z"][1].penalty


def test_the_source_is_decomposed_once_a_fold(three, monkeypatch):
    x, targets = three
    calls = []
    monkeypatch.setattr(
        "linalign_lite.alignment.multi_target.spectrum", lambda m: calls.append(1) or spectrum(m)
    )
    fit_several(x, targets, folds=5)
    assert len(calls) == 6  # five folds, and all the data


def test_what_does_not_belong_together_is_refused(three):
    x, targets = three
    with pytest.raises(InputError, match="no target"):
        fit_several(x, {})
    with pytest.raises(MismatchError, match="number of rows"):
        fit_several(x, {**targets, "short": HiddenStates(np.ones((3, 2), "f4"))})
