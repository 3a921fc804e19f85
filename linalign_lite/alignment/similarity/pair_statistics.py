"""All measures of one pair of models, from the statistics of each and the products of both."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from linalign_lite.alignment.moments import Float64
from linalign_lite.alignment.similarity import cross_validation
from linalign_lite.alignment.similarity.measures import hsic, mean_correlation
from linalign_lite.alignment.similarity.model_statistics import Ints, ModelStatistics, chunks
from linalign_lite.alignment.similarity.neighbours import overlap
from linalign_lite.alignment.similarity.results import DIRECTED

MeasureValues = dict[str, float]


@dataclass(frozen=True, eq=False)
class CrossProducts:
    """Products of two models' rows, about the means of all rows."""

    folds: Float64  # shape: (folds, d_x, d_y)  XᵀY of each fold
    squares: float  # Σ |x|²|y|²


def cross_products(
    x: ModelStatistics, y: ModelStatistics, order: Ints | None = None
) -> CrossProducts:
    """Compute the products in one pass; row i of x is paired with row order[i] of y.

    ``order`` must keep every row in its fold, or y's own products would change with it.
    """
    found = np.zeros((len(x.folds), x.states.shape[1], y.states.shape[1]))
    for i, fold in enumerate(x.folds):
        for part in chunks(fold):
            found[i] += x.rows(part).T @ y.rows(part if order is None else order[part])
    b = y.own.squares
    return CrossProducts(found, float(x.own.squares @ (b if order is None else b[order])))


def pair_measures(
    x: ModelStatistics, y: ModelStatistics, wanted: Collection[str], order: Ints | None = None
) -> tuple[MeasureValues, MeasureValues]:
    """Compute every wanted measure, and the directed ones from y to x."""
    forth: MeasureValues = {}
    back: MeasureValues = {}
    if "mutual_knn" in wanted:
        forth["mutual_knn"] = overlap(x.neighbours, y.neighbours, order)
    if not set(wanted) - {"mutual_knn"}:
        return forth, back
    products = cross_products(x, y, order)
    total = products.folds.sum(axis=0)
    square = float(np.einsum("ij,ij->", total, total))
    if "cka" in wanted:
        forth["cka"] = square / (x.gram_norm * y.gram_norm)
    if "cka_debiased" in wanted:
        spreads = float(x.own.squares.sum()), float(y.own.squares.sum())
        both = hsic(square, products.squares, *spreads, len(x))
        forth["cka_debiased"] = both / float(np.sqrt(x.hsic * y.hsic))
    if "svcca" in wanted:
        forth["svcca"] = mean_correlation(x.whitener, total, y.whitener)
    if set(wanted) & set(DIRECTED):
        there, home = _directed(x, y, products.folds, wanted, order)
        forth |= there
        back |= home
    return forth, back


def _directed(
    x: ModelStatistics,
    y: ModelStatistics,
    cross: Float64,
    wanted: Collection[str],
    order: Ints | None,
) -> tuple[MeasureValues, MeasureValues]:
    parts = cross_validation.splits(x, y, cross)
    forth, back = (
        cross_validation.fit_maps(x, y, parts),
        cross_validation.fit_maps(y, x, parts.turned),
    )
    there, home = {"r2": forth.r2}, {"r2": back.r2}
    if "cosine" in wanted:
        there["cosine"] = cross_validation.held_out_cosine(forth, order)
        home["cosine"] = cross_validation.held_out_cosine(
            back, None if order is None else np.argsort(order)
        )
    if "cycle" in wanted:
        there["cycle"], home["cycle"] = (
            cross_validation.cycle_error(forth, back),
            cross_validation.cycle_error(back, forth),
        )
    if "r2" not in wanted:
        del there["r2"], home["r2"]
    return there, home
