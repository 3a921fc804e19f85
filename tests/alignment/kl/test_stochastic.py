"""Stochastic steps against the exact minimum, and fits that take them."""

from __future__ import annotations

import numpy as np
import pytest
from kl_cases import blind_spot, make_case
from test_optimizer import make_problem

from linalign_lite.alignment.kl import divergence_fit, stochastic
from linalign_lite.alignment.kl import problem as choice
from linalign_lite.alignment.kl.checkpoint import Checkpoint
from linalign_lite.alignment.kl.divergence_fit import fit_kl
from linalign_lite.alignment.kl.objective import block_divergence, distillation_data, divergence
from linalign_lite.alignment.kl.optimizer import minimise_divergence
from linalign_lite.alignment.kl.softmax import reduce_head
from linalign_lite.core.head import Head

CASES = {
    "tokens": make_case(23, 6, n=2000),
    "weighted, sharpened, with the truth": make_case(
        23, 6, n=2000, weighted=True, temperature=0.5, truth=0.2
    ),
    "capped": make_case(23, 6, n=2000, softcap=1.5),
    "classes": make_case(4, 7, n=2000),
}


def loss_of(problem, affine) -> float:
    softmax, data, reparam, *_ = problem
    value, _, _ = divergence(softmax, data, affine.weight, affine.bias)
    return value + reparam.penalty(reparam.theta(affine))


def descended(problem, epochs, watch=lambda *_: False):
    softmax, data, reparam, *_ = problem
    return stochastic.descend(softmax, data, reparam, reparam.start, epochs=epochs, watch=watch)


@pytest.mark.parametrize("name", CASES)
def test_it_comes_close_to_the_exact_minimum(name):
    problem = make_problem(CASES[name], 0.01)
    softmax, data, reparam, *_ = problem
    exact, _ = minimise_divergence(
        softmax, data, reparam, reparam.start, iterations=500, tolerance=1e-9,
        watch=lambda *_: False,
    )  # fmt: skip
    start, best, found = (
        loss_of(problem, a) for a in (reparam.start, exact, descended(problem, 60))
    )
    assert name == "capped" or best <= found + 1e-6  # with a soft cap L is not convex
    assert found - best < 0.01 * (start - best)


def test_every_row_is_read_once_an_epoch():
    batches = stochastic._batches(1000, np.random.default_rng(1))
    assert {len(b) for b in batches} <= {333, 334}
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), np.arange(1000))
    assert len(stochastic._batches(5, np.random.default_rng(1))) == 1  # fewer rows than a batch


def many_outputs(monkeypatch):
    """A case whose rare outputs are drawn from."""
    monkeypatch.setattr(stochastic, "DRAWN", 16)
    monkeypatch.setattr(stochastic, "REST", 0.2)
    return make_problem(make_case(300, 6, n=2000), 0.01)


def test_drawn_outputs_stand_for_the_rest(monkeypatch):
    softmax, data, reparam, *_ = many_outputs(monkeypatch)
    rows = data.rows(slice(0, 200))
    zeta = (rows.source @ reparam.start.weight.T + reparam.start.bias).astype(np.float32)
    outputs = stochastic._Outputs.of(softmax, zeta)
    common = softmax.probabilities(zeta)[0].mean(axis=0)
    common[outputs.rest] = 0
    assert 0.8 <= common.sum() < 0.9
    rng = np.random.default_rng(0)
    losses, gradients = zip(
        *(block_divergence(outputs.draw(softmax, rng), rows, zeta) for _ in range(400)), strict=True
    )
    loss, gradient = block_divergence(softmax, rows, zeta)
    assert len(outputs.draw(softmax, rng).factor) == 300 - len(outputs.rest) + 16
    # the logarithm of an estimate is on average below that of what it estimates
    np.testing.assert_allclose(np.mean(losses), loss.mean(), rtol=0.03)
    assert np.abs(np.mean(gradients, axis=0) - gradient).mean() < 0.02 * np.abs(gradient).mean()


def test_with_drawn_outputs_it_comes_close_to_the_exact_minimum(monkeypatch):
    problem = many_outputs(monkeypatch)
    softmax, data, reparam, *_ = problem
    exact, _ = minimise_divergence(
        softmax, data, reparam, reparam.start, iterations=500, tolerance=1e-9,
        watch=lambda *_: False,
    )  # fmt: skip
    found = descended(problem, 60)
    start, best, end = (loss_of(problem, a) for a in (reparam.start, exact, found))
    assert best <= end + 1e-6
    assert end - best < 0.05 * (start - best)


def test_the_watch_sees_the_loss_fall_and_may_end_it():
    seen: list[tuple[int, float]] = []

    def watch(step, loss, current):
        seen.append((step, loss))
        return step >= 200

    problem = make_problem(CASES["tokens"], 0.01)
    found = descended(problem, 60, watch)
    assert [step for step, _ in seen] == list(range(10, 201, 10))
    assert seen[-1][1] < seen[0][1]
    assert loss_of(problem, found) < loss_of(problem, problem[2].start)


def test_a_fit_by_steps_serves_the_head_as_the_exact_one_does(monkeypatch):
    head, x, y = blind_spot(30, seed=1)
    truth = head.predict(y[400:])
    _, exact_report = fit_kl(x[:400], y[:400], head)
    monkeypatch.setattr(choice, "STOCHASTIC", 0)
    monkeypatch.setattr(divergence_fit, "SEARCH_EPOCHS", 300)
    steps = []
    affine, report = fit_kl(x[:400], y[:400], head, iterations=1500, watch=steps.append)
    plain = report.start_divergence
    assert report.held_out_divergence < plain
    gained = plain - exact_report.held_out_divergence
    assert plain - report.held_out_divergence > 0.8 * gained
    assert np.mean(head.predict(affine(x[400:])) == truth) > 0.5
    assert {s.stage for s in steps} == {"penalty 1e+00", "penalty 1e-01", "penalty 1e-02",
                                        "penalty 1e-03", "400 rows",
                                        "400 rows, all outputs"}  # fmt: skip


def test_a_large_head_is_fitted_by_steps_however_few_the_rows(monkeypatch):
    head, x, y = blind_spot(10, seed=2)
    steps = []
    fit_kl(x[:300], y[:300], head, watch=steps.append)
    exact = {s.stage for s in steps}
    monkeypatch.setattr(choice, "LARGE_HEAD", 0)
    steps.clear()
    _, report = fit_kl(x[:300], y[:300], head, watch=steps.append)
    assert report.held_out_divergence < report.start_divergence
    last = {s.stage: s.iteration for s in steps}
    assert last.keys() == {"penalty 1e+00", "penalty 1e-01", "penalty 1e-02", "penalty 1e-03",
                           "300 rows", "300 rows, all outputs"} != exact  # fmt: skip
    assert last["300 rows"] == 200  # 240 steps, a step an epoch, at most as many as iterations
    assert last["300 rows, all outputs"] == choice.EXACT
    assert last["penalty 1e-01"] == 32


@pytest.mark.parametrize(("allowed", "made"), [(99, 5), (4.5, 4), (3, 3), (2.9, 0)])
def test_exact_passes_end_the_steps_if_their_work_is_allowed(allowed, made, monkeypatch):
    """allowed: in products of all rows and outputs."""
    head, x, y = blind_spot(10, seed=2)
    monkeypatch.setattr(choice, "STOCHASTIC", 0)
    monkeypatch.setattr(choice, "EXACT", 5)
    size = reduce_head(head).factor.size
    monkeypatch.setattr(choice, "EXACT_WORK", allowed * 400 * size * 1.001)
    steps = []
    _, report = fit_kl(x[:400], y[:400], head, penalty=0.01, watch=steps.append)
    last = {s.stage: s for s in steps}
    noisy, exact = last["400 rows"], last.get("400 rows, all outputs")
    assert noisy.iteration == 200
    search = last["penalty 1e-02"].iteration if "penalty 1e-02" in last else 0
    assert (exact.iteration if exact else 0) == made
    assert report.iterations == search + 200 + made
    if exact is not None:
        assert exact.loss < noisy.loss


def test_an_interrupted_fit_by_steps_resumes_to_the_same_map(tmp_path, monkeypatch):
    head, x, y = blind_spot(10, seed=2)
    monkeypatch.setattr(choice, "STOCHASTIC", 0)
    whole, _ = fit_kl(x[:400], y[:400], head)

    def stop(step):
        if step.stage == "penalty 1e-02":
            raise KeyboardInterrupt

    path = tmp_path / "fit.npz"
    with pytest.raises(KeyboardInterrupt):
        fit_kl(x[:400], y[:400], head, watch=stop, checkpoint=Checkpoint(path))
    assert path.exists()
    resumed, _ = fit_kl(x[:400], y[:400], head, checkpoint=Checkpoint(path))
    np.testing.assert_array_equal(whole.weight, resumed.weight)
    np.testing.assert_array_equal(whole.bias, resumed.bias)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"temperature": 0.5, "truth": 0.2},
                                     {"truth": 1.0}])  # fmt: skip
def test_statistics_of_rows_whose_probabilities_are_not_held_are_the_same(options):
    case = make_case(3000, 6, n=700, **options)
    softmax = reduce_head(Head(case.head.weight, np.zeros(3000, np.float32)))
    both = [
        distillation_data(
            softmax, case.x, case.y, teaching=case.teaching, next_token=case.next_token, sample=k
        )
        for k in (None, 100)
    ]
    (whole, curvature), (quick, estimate) = both
    np.testing.assert_allclose(quick.summary, whole.summary, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(quick.constant, whole.constant, rtol=1e-4, atol=1e-4)
    first, _ = distillation_data(
        softmax, case.x[:100], case.y[:100], teaching=case.teaching,
        next_token=None if case.next_token is None else case.next_token[:100],
    )  # fmt: skip
    np.testing.assert_array_equal(quick.summary[:100], first.summary)
    assert np.abs(estimate - curvature).max() < 0.5 * np.abs(curvature).max()
