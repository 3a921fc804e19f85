"""Choose a map for search from held-out texts, without queries or judgements."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linalign_lite.alignment.report import not_new
from linalign_lite.core.affine_map import AffineMap, Array
from linalign_lite.core.choices import SEARCH_FOLDS, Metric, Use
from linalign_lite.core.hidden_states import HiddenStates, as_sides, as_states
from linalign_lite.errors import InputError
from linalign_lite.retrieval import measures
from linalign_lite.retrieval.fit_report import K, RetrievalFitReport
from linalign_lite.retrieval.fitting import (
    SHAPES,
    Float32,
    Float64,
    Pair,
    Shape,
    Spectra,
    mean,
    spectra,
)
from linalign_lite.retrieval.search import comparable, require_metric, search

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
SHARES = (0.0, 0.5, 1.0)  # g: how much of the target's mean mapped states keep
ASKED = 360  # held-out texts that are searched for, in all folds together
SEARCHED = 3_000  # documents among which they are searched
ALONE, BOTH = "documents", "documents and pseudo-queries"  # what a map is fitted on
LEAST = 30  # documents


def fit_retrieval(
    source: HiddenStates | Array,
    target: HiddenStates | Array,
    *,
    pseudo: tuple[HiddenStates | Array, HiddenStates | Array] | None = None,
    use: str = Use.queries,
    whole: bool = True,
    metric: str = Metric.cosine,
    folds: int = SEARCH_FOLDS,
    seed: int = 0,
) -> tuple[AffineMap, RetrievalFitReport]:
    """Fit the map from source to target that keeps the most of a search, chosen on held-out texts.

    source (n, d_source), target (n, d_target): states of the documents to search, or of a part of
    them, or of other texts where there are none; row i of both the same text. pseudo: states of
    pseudo-queries, as many of each document, in the documents' order (`Collection.pseudo_queries`).
    use: "queries", mapped queries will search the target's documents, or "documents", mapped
    documents will be searched by the target's queries. whole: these documents are all there are, so
    that only queries are new; False: other documents will come too.

    Every shape of `fitting` with every share g of the mean, on documents alone and with
    pseudo-queries, is fitted without the pseudo-queries of one fold (without its documents too
    unless ``whole``; without its texts where there are no pseudo-queries), which then search. The
    score is the mean of the reciprocal rank of the document that they are of and of the overlap
    with the target's own ranking. No query and no judgement is used.
    Returns the map, float32, fitted on all texts, and a report, which is in the map's card.

    Raises MismatchError for states of different texts, InputError for fewer than 30 documents,
    pseudo-queries that do not fit, an unknown use or metric, and fewer than 2 folds.
    """
    x, y = as_sides(source, target)
    x.require_same_texts(y)
    asked = None if pseudo is None else (as_states(pseudo[0]), as_states(pseudo[1]))
    _check(x, y, asked, use, folds)
    require_metric(metric)
    pairs = None if asked is None else (asked[0].states, asked[1].states)
    whole = whole and pairs is not None
    problem = _Problem((x.states, y.states), pairs, str(use), whole, str(metric))
    held = _folds(problem, folds, seed)
    bases = {on: _bases(problem, on, held) for on in ((ALONE,) if pairs is None else (ALONE, BOTH))}
    trials = _trials(problem, held, bases)
    best = max(trials, key=lambda trial: trial.score)
    ridge = max(t.score for t in trials if t.is_ridge)
    everything = problem.whole and best.fitted_on == ALONE  # was in the fit of every fold
    basis = bases[ALONE][0] if everything else spectra(problem.sets(best.fitted_on))
    weight = basis.weight(best.shape)
    of_source, of_target = problem.means()
    bias = best.share * of_target - weight @ of_source
    report = RetrievalFitReport(
        method=best.shape.describe(),
        fitted_on=best.fitted_on if pseudo is not None else "texts",
        use=str(use),
        metric=str(metric),
        mean_share=best.share,
        target_power=best.shape.target_power,
        source_power=best.shape.source_power,
        penalty=best.shape.penalty,
        score=best.score,
        found=best.found,
        overlap=best.overlap,
        ridge_score=ridge,
        recalibration=_recalibration(problem, held, bases[best.fitted_on], best),
        n=len(x),
        n_pseudo=0 if asked is None else len(asked[0]),
        folds=folds,
        normalized=metric == Metric.cosine,
        warnings=not_new(x, "the search of held-out texts"),
        curve=tuple((float(i), t.score) for i, t in enumerate(trials)),
    )
    card = {**report.as_card(), "objective": "retrieval"}
    card |= {"recalibration": list(report.recalibration)}
    card |= {"text_digest": x.text_digest or y.text_digest}
    made = AffineMap(weight.astype(np.float32), bias.astype(np.float32), x.space, y.space, card)
    return made, report


def _check(
    x: HiddenStates,
    y: HiddenStates,
    asked: tuple[HiddenStates, HiddenStates] | None,
    use: str,
    folds: int,
) -> None:
    if len(x) < LEAST:
        raise InputError("too few texts", got=str(len(x)), expected=f"{LEAST} or more")
    if not 2 <= folds <= LEAST // 3:
        raise InputError("folds do not fit", got=str(folds), expected=f"2 to {LEAST // 3}")
    if use not in list(Use):
        raise InputError("unknown use", got=str(use)[:40], expected=", ".join(Use))
    if asked is None:
        return
    asked[0].require_same_texts(asked[1])
    if len(asked[0]) % len(x):
        raise InputError(
            "the pseudo-queries do not fit the documents",
            got=f"{len(asked[0])} of {len(x)} documents",
            expected="as many of each document",
        )
    for states, pseudo_states, side in ((x, asked[0], "source"), (y, asked[1], "target")):
        what = f"the {side}'s documents and pseudo-queries are not of the same model"
        states.space.require(pseudo_states.space, what, any_prompt=True)


@dataclass(frozen=True, eq=False)
class _Problem:
    documents: Pair
    pseudo: Pair | None
    use: str
    whole: bool
    metric: str

    @property
    def asked(self) -> Pair:
        """Texts that stand for queries."""
        return self.documents if self.pseudo is None else self.pseudo

    def owners(self) -> Ints:
        """The document of each text that stands for a query."""
        n = len(self.documents[0])
        return np.arange(len(self.asked[0])) // (len(self.asked[0]) // n)

    def sets(self, fitted_on: str, held: Mask | None = None) -> list[Pair]:
        """Pairs to fit on, without those of the ``held`` documents."""
        documents, pseudo = self._kept(held)
        return [documents] if pseudo is None or fitted_on == ALONE else [documents, pseudo]

    def means(self, held: Mask | None = None) -> tuple[Float64, Float64]:
        """Means, source and target, of the kind of text that is mapped."""
        documents, pseudo = self._kept(held)
        queries = documents if pseudo is None else pseudo
        source, target = queries if self.use == Use.queries else documents
        return mean(source), mean(target)

    def _kept(self, held: Mask | None) -> tuple[Pair, Pair | None]:
        documents, pseudo = self.documents, self.pseudo
        if held is None:
            return documents, pseudo
        if not self.whole:
            documents = (documents[0][~held], documents[1][~held])
        if pseudo is not None:
            rows = ~held[self.owners()]
            pseudo = (pseudo[0][rows], pseudo[1][rows])
        return documents, pseudo


@dataclass(frozen=True, eq=False)
class _Fold:
    """Parts that the trials of one fold share."""

    held: Mask  # documents
    mapped: Float32  # shape: (m, d_s)  states to map, about the source's mean
    fixed: Float32  # shape: (k, d_t)  the target's states on the other side, as they are compared
    shift: Float32  # shape: (d_t,)  the target's mean
    owners: Ints  # of the asked texts, rows of the documents searched
    native: Ints  # the native ranking
    native_scores: Float32


@dataclass(frozen=True)
class _Trial:
    fitted_on: str
    shape: Shape
    share: float
    found: float
    overlap: float

    @property
    def score(self) -> float:
        return (self.found + self.overlap) / 2

    @property
    def is_ridge(self) -> bool:
        return (self.shape.target_power, self.shape.source_power, self.share) == (0, 1, 1)


def _folds(problem: _Problem, folds: int, seed: int) -> list[_Fold]:
    """Texts held out, and what they are searched among."""
    rng = np.random.default_rng(seed)
    n, owners = len(problem.documents[0]), problem.owners()
    fold = rng.permutation(np.arange(n) % folds)
    held = []
    for number in range(folds):
        mine = np.flatnonzero(fold[owners] == number)
        asked = np.sort(rng.permutation(mine)[: -(-ASKED // folds)])
        others = rng.permutation(np.setdiff1d(np.arange(n), owners[asked]))
        room = max(0, SEARCHED - len(np.unique(owners[asked])))
        searched = np.sort(np.concatenate([np.unique(owners[asked]), others[:room]]))
        held.append(_fold(problem, fold == number, asked, searched))
    return held


def _trials(
    problem: _Problem, held: list[_Fold], bases: Mapping[str, list[Spectra]]
) -> list[_Trial]:
    """Every shape and share, its measures averaged over folds."""
    totals: dict[tuple[str, Shape, float], Any] = {}
    for fitted_on, of_folds in bases.items():
        for basis, part in zip(of_folds, held, strict=True):
            turned = part.mapped @ basis.source_vectors.astype(np.float32)
            fixed = part.fixed @ basis.target_vectors.astype(np.float32)
            shift = part.shift @ basis.target_vectors.astype(np.float32)
            for shape in SHAPES:
                states = turned @ basis.core(shape).astype(np.float32).T
                for share in SHARES:
                    scores = _scores(problem, states + np.float32(share) * shift, fixed)
                    key = fitted_on, shape, share
                    totals[key] = totals.get(key, 0.0) + _measured(part, scores) / len(held)
    return [_Trial(*key, *map(float, value)) for key, value in totals.items()]


def _bases(problem: _Problem, fitted_on: str, held: list[_Fold]) -> list[Spectra]:
    """Spectra of each fold; those of all documents are the same in every one."""
    if problem.whole and fitted_on == ALONE:
        return [spectra(problem.sets(ALONE))] * len(held)
    return [spectra(problem.sets(fitted_on, part.held)) for part in held]


def _fold(problem: _Problem, held: Mask, asked: Ints, searched: Ints) -> _Fold:
    of_source, of_target = problem.means(held)
    queries, documents = problem.asked[1][asked], problem.documents[1][searched]
    mapped, fixed = problem.asked[0][asked], documents
    if problem.use == Use.documents:
        mapped, fixed = problem.documents[0][searched], queries
    native, scores = search(queries, documents, K, metric=problem.metric, library="numpy")
    return _Fold(
        held=held,
        mapped=(mapped - of_source).astype(np.float32),
        fixed=comparable(fixed, problem.metric),
        shift=of_target.astype(np.float32),
        owners=np.searchsorted(searched, problem.owners()[asked]),
        native=native,
        native_scores=scores,
    )


def _scores(problem: _Problem, states: Float32, fixed: Float32) -> Float32:
    """Scores of asked texts and documents, (asked, documents)."""
    mapped = comparable(states, problem.metric)
    return mapped @ fixed.T if problem.use == Use.queries else fixed @ mapped.T


def _measured(part: _Fold, scores: Float32) -> Float64:
    """Mean reciprocal rank of the own document, and mean overlap with the native ranking."""
    own = scores[np.arange(len(scores)), part.owners]
    ranks = (scores > own[:, None]).sum(axis=1) + 1
    k = part.native.shape[1]
    first = np.argpartition(scores, -k, axis=1)[:, -k:]
    return np.array([(1 / ranks).mean(), measures.overlap(first, part.native, k).mean()])


def _recalibration(
    problem: _Problem, held: list[_Fold], bases: list[Spectra], best: _Trial
) -> tuple[float, float]:
    """Least squares of native on mapped scores of the native ranking's documents, held out."""
    mapped, native = [], []
    for basis, part in zip(bases, held, strict=True):
        weight = basis.weight(best.shape).astype(np.float32)
        states = part.mapped @ weight.T + np.float32(best.share) * part.shift
        scores = _scores(problem, states, part.fixed)
        mapped.append(np.take_along_axis(scores, part.native, axis=1).ravel())
        native.append(part.native_scores.ravel())
    m, y = np.concatenate(mapped).astype(np.float64), np.concatenate(native).astype(np.float64)
    spread = float(((m - m.mean()) ** 2).sum())
    slope = float(((m - m.mean()) * (y - y.mean())).sum()) / spread if spread else 0.0
    return slope, float(y.mean() - slope * m.mean())
