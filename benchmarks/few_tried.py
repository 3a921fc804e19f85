"""Maps from few texts: variants that were tried, at one weight and one penalty each.

    python benchmarks/few_tried.py

CLINC150 and TREC, MiniLM to TinyStories-656K, 128 texts and 20,000 public sentences, three samples
of the few each: mean accuracy of the target's logistic head on the test texts. Every variant
changes one thing of the first: start from the ridge map of both sides at equal mass (penalty 1),
then the head's distribution on the few (penalty 3).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import few as bench
import numpy as np
from common import publish

from linalign_lite import AffineMap
from linalign_lite.alignment.kl.divergence_fit import FINAL_TOLERANCE
from linalign_lite.alignment.kl.objective import Teaching, distillation_data
from linalign_lite.alignment.kl.optimizer import (
    ReducedMap,
    Reparametrization,
    compute_eigenbases,
    expand_map,
    minimise_divergence,
    reduce_map,
    reparametrize,
)
from linalign_lite.alignment.kl.softmax import reduce_head
from linalign_lite.alignment.kl.validation import CLASSIFIER_TEACHING
from linalign_lite.alignment.moments import Float64, Moments, measure
from linalign_lite.alignment.ridge import ridge, spectrum

SOURCE, TARGET, COUNT, SAMPLES = "minilm", "656k", 128, 3
START, PENALTY = 1.0, 3.0
Rows = tuple[Float64, Float64]


class Case:
    """Public and few rows, a head, and the test texts of one sample."""

    def __init__(self, name: str, seed: int) -> None:
        self.head = bench.head_of(TARGET, name)
        self.softmax = reduce_head(self.head)
        many = (bench.states(m, f"generic{bench.PUBLIC}") for m in (SOURCE, TARGET))
        self.public: Rows = tuple(s.states.astype(float) for s in many)  # type: ignore[assignment]
        whole = [bench.states(m, f"{name}.train").states for m in (SOURCE, TARGET)]
        rows = np.random.default_rng(seed).permutation(len(whole[0]))[:COUNT]
        self.few: Rows = whole[0][rows].astype(float), whole[1][rows].astype(float)
        self.unpaired = whole[1].astype(float)  # the target's own training states
        self.test = bench.states(SOURCE, f"{name}.test")
        self.name = name
        self.rng = np.random.default_rng(seed)

    def start(self, weights: Float64 | None = None, few_mass: float = 1.0) -> Moments:
        return weighted(*self.public, weights).scaled(1 / few_mass) + weighted(*self.few)

    def fitted(
        self,
        start: Moments | AffineMap | None = None,
        rows: tuple[Float64, Float64, Float64] | None = None,
        temperature: float = CLASSIFIER_TEACHING.temperature,
        metric: Float64 | None = None,
        penalty: float = PENALTY,
    ) -> float:
        """Accuracy. rows: x, y and weights that are learnt from instead of the few."""
        begun = self.start() if start is None else start
        if isinstance(begun, Moments):
            begun = AffineMap(*ridge(spectrum(begun), START))
        origin = reduce_map(self.softmax, begun)
        x, y, mass = (*self.few, np.ones(COUNT)) if rows is None else rows
        data, _ = distillation_data(
            self.softmax,
            x.astype(np.float32),
            y.astype(np.float32),
            (mass / mass.mean()).astype(np.float32),
            teaching=Teaching(temperature),
        )
        few = [side.astype(np.float32) for side in self.few]
        _, curvature = distillation_data(
            self.softmax, few[0], few[1], teaching=Teaching(temperature)
        )
        own = measure(*few)
        eigenbases = compute_eigenbases(own.mean_x, own.xx / COUNT, curvature)
        reparam = reparametrize(eigenbases, origin, penalty)
        if metric is not None:
            reparam = with_metric(reparam, own.xx / COUNT, penalty * metric)
        end: ReducedMap = minimise_divergence(
            self.softmax,
            data,
            reparam,
            origin,
            iterations=100,
            tolerance=FINAL_TOLERANCE,
            watch=lambda *_: False,
        )[0]
        affine = AffineMap(*expand_map(self.softmax, begun, origin, end))
        return float(bench.right(self.head, self.test, affine).mean())

    def beside(self, x: Float64, y: Float64, mass: float) -> tuple[Float64, Float64, Float64]:
        """The few, and other rows that weigh ``mass`` times what the few do."""
        weights = np.r_[np.full(COUNT, 1 / COUNT), np.full(len(x), mass / len(x))]
        return np.vstack([self.few[0], x]), np.vstack([self.few[1], y]), weights


def weighted(x: Float64, y: Float64, weights: Float64 | None = None) -> Moments:
    """Moments of total mass 1."""
    w = np.full(len(x), 1 / len(x)) if weights is None else weights / weights.sum()
    mean_x, mean_y = w @ x, w @ y
    a, b = x - mean_x, y - mean_y
    return Moments(1.0, mean_x, mean_y, (a.T * w) @ a, (a.T * w) @ b, w @ b**2)


def with_metric(
    reparam: Reparametrization, covariance: Float64, metric: Float64
) -> Reparametrization:
    """The same reparam with another metric of the penalty on the source's side."""
    s, eigenbases = np.linalg.eigh(covariance + metric)
    right = eigenbases * np.where(s > 1e-10 * s[-1], 1 / np.sqrt(np.maximum(s, 1e-300)), 0.0)
    charge, turn = np.linalg.eigh(right.T @ metric @ right)
    return Reparametrization(
        reparam.start, reparam.mean, reparam.left, right @ turn, np.maximum(charge, 0)
    )


def density(case: Case, penalty: float) -> Float64:
    """Estimate the density ratio of few to public texts, by logistic regression on the source."""
    from scipy.optimize import minimize

    x = np.vstack([case.few[0], case.public[0]])
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
    mine = np.arange(len(x)) < COUNT
    mass = np.where(mine, 0.5 / COUNT, 0.5 / (len(x) - COUNT))

    def loss(v: Float64) -> tuple[float, Float64]:
        z = x @ v[:-1] + v[-1]
        gap = mass * (1 / (1 + np.exp(-z)) - mine)
        value = mass @ (np.logaddexp(0, z) - mine * z) + penalty / 2 * v[:-1] @ v[:-1]
        return float(value), np.r_[x.T @ gap + penalty * v[:-1], gap.sum()]

    v = minimize(loss, np.zeros(x.shape[1] + 1), jac=True, options={"maxiter": 100}).x
    return np.asarray(np.exp(x[COUNT:] @ v[:-1] + v[-1]))


def nearness(case: Case, temperature: float) -> Float64:
    """exp(cosine of a public text and the nearest of the few / temperature)."""
    mean = case.public[0].mean(axis=0)
    a, b = ((x - mean) / np.linalg.norm(x - mean, axis=1)[:, None]
            for x in (case.public[0], case.few[0]))  # fmt: skip
    return np.asarray(np.exp((a @ b.T).max(axis=1) / temperature))


def some_public(case: Case, count: int = 4000) -> Rows:
    rows = case.rng.permutation(bench.PUBLIC)[:count]
    return case.public[0][rows], case.public[1][rows]


def mixed(case: Case, count: int = 1024) -> Rows:
    """Points between two of the few."""
    i, j = case.rng.integers(0, COUNT, (2, count))
    share = case.rng.beta(0.5, 0.5, count)[:, None]
    return tuple(share * s[i] + (1 - share) * s[j] for s in case.few)


def anchored(case: Case, share: float) -> Rows:
    """One of the few, moved as public texts differ from their mean."""
    rows, moves = case.rng.integers(0, COUNT, 4000), some_public(case)
    return tuple(f[rows] + share * (p - q.mean(axis=0))
                 for f, p, q in zip(case.few, moves, case.public, strict=True))  # fmt: skip


def mapped_back(case: Case) -> Rows:
    """Source states made up for the target's own training states: a map back, and its noise."""
    (px, py), (x, y) = case.public, case.few
    weight, bias = ridge(spectrum(weighted(py, px) + weighted(y, x)), 0.1)
    noise = np.cov((x - y @ weight.T - bias).T) + 1e-3 * np.eye(x.shape[1]) * x.var(axis=0).mean()
    own = case.unpaired[case.rng.permutation(len(case.unpaired))[:4000]]
    shift = x.mean(axis=0) - (y.mean(axis=0) @ weight.T + bias)
    made = own @ weight.T + bias + shift
    return made + case.rng.multivariate_normal(np.zeros(len(noise)), noise, len(own)), own


def variants(case: Case) -> Iterator[tuple[str, Callable[[], float]]]:
    public = weighted(*case.public)
    unit = np.trace(measure(*case.few).xx) / COUNT / case.few[0].shape[1]
    ratio = unit / (np.trace(public.xx) / len(public.xx))
    yield "as it is", case.fitted
    yield "start: the few alone", lambda: case.fitted(weighted(*case.few))
    yield (
        "start: public kl map",
        lambda: case.fitted(bench.public_map(SOURCE, TARGET, case.name)[1]),
    )
    yield "start: public ten times the few", lambda: case.fitted(case.start(None, 0.1))
    for t in (0.5, 1.0, 1.5):
        yield f"temperature {t}", lambda t=t: case.fitted(temperature=t)  # type: ignore[misc]
    yield "penalty in the public covariance", lambda: case.fitted(metric=ratio * public.xx)
    for p in (1.0, 0.1):
        yield (f"public texts weighted by density ratio, penalty {p}",
               lambda p=p: case.fitted(case.start(density(case, p))))  # type: ignore[misc]  # fmt: skip
    for t in (0.3, 0.1):
        yield (f"public texts weighted by nearness, temperature {t}",
               lambda t=t: case.fitted(case.start(nearness(case, t))))  # type: ignore[misc]  # fmt: skip
    for m in (0.1, 0.3, 1.0):
        yield (f"what the head says on 4,000 public texts, mass {m}",
               lambda m=m: case.fitted(rows=case.beside(*some_public(case), m)))  # type: ignore[misc]  # fmt: skip
    yield "points between the few, mass 1", lambda: case.fitted(rows=case.beside(*mixed(case), 1))
    yield ("the few moved as public texts differ, half as far, mass 1",
           lambda: case.fitted(rows=case.beside(*anchored(case, 0.5), 1)))  # fmt: skip
    yield ("the target's training states mapped back, mass 0.3",
           lambda: case.fitted(rows=case.beside(*mapped_back(case), 0.3)))  # fmt: skip


def main() -> None:
    rows: list[dict[str, Any]] = []
    for name in ("clinc150", "trec"):
        found: dict[str, list[float]] = {}
        for seed in range(SAMPLES):
            for variant, accuracy in variants(Case(name, seed)):
                found.setdefault(variant, []).append(accuracy())
                print(name, seed, variant, found[variant][-1], file=sys.stderr, flush=True)
        first = np.array(found["as it is"])
        rows += [{"data": name, "variant": v, "accuracy": float(np.mean(a)),
                  "gain": float(np.mean(np.array(a) - first)),
                  "gain_error": float((np.array(a) - first).std(ddof=1) / np.sqrt(SAMPLES))}
                 for v, a in found.items()]  # fmt: skip
    publish("few_tried", {"few": COUNT, "samples": SAMPLES, "rows": rows})


if __name__ == "__main__":
    main()
